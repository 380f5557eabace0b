"""What the gateway asks of an HTTP client: to send a request, and to hand out the answer's bytes as they arrive."""

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextvars import ContextVar
from typing import Protocol

from msgspec import Struct

from opendify.errors import StreamLost

_reused: ContextVar[bool] = ContextVar("reused", default=False)


class Request(Struct, frozen=True):
    """One request. A body that comes in pieces can be iterated again, and the headers tell its length."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | AsyncIterable[bytes] | None = None


class Reply(AsyncIterator[bytes]):
    """An answer whose head has arrived, and the bytes of its body: as soon as they arrive, never by size.

    Its connection serves it alone until it is closed. Reading raises StreamLost.
    """

    __slots__ = ("status",)

    status: int

    @abstractmethod
    def header(self, name: str) -> str:
        """The header's value; empty where there is none."""

    @property
    @abstractmethod
    def at_end(self) -> bool:
        """Whether it is known already that nothing more is to be read."""

    @abstractmethod
    async def aclose(self) -> None:
        """Give the connection back, or close it where something is still to be read."""


class Line(Protocol):
    """Connections to one Dify."""

    async def ask(self, request: Request) -> Reply:
        """Send a request and wait for the head of its answer. Raises what the HTTP client raises."""

    async def aclose(self) -> None:
        """Close every connection."""


def lost() -> StreamLost:
    """The error of a reply that breaks."""
    return StreamLost("The connection to Dify broke in the middle of the answer.")


def was_reused() -> bool:
    """Whether the last request of this task was sent over a connection that had been used before."""
    return _reused.get()


def note_reuse(reused: bool) -> None:
    """Say so of the request under way; to be called with False before each request."""
    _reused.set(reused)
