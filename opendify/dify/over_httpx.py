"""Requests over httpx's transports, which speak HTTP/2, without the layers of its client; and its multipart forms."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, cast

import httpx

from opendify.dify.lines import Line, Reply, Request, lost, note_reuse

# What a request and its reply can end with.
FAILURES: Final = httpx.TransportError
# Of httpcore, which has no type of its own for it: over HTTP/1.1 it says more.
DROPPED: Final = "Server disconnected"

_url = lru_cache(256)(httpx.URL)


def is_dropped(error: Exception) -> bool:
    """Whether the connection broke before an answer came back, as far as the client tells."""
    if isinstance(error, httpx.RemoteProtocolError):
        return str(error).startswith(DROPPED)
    return isinstance(error, httpx.ReadError | httpx.WriteError)


class HttpxLine(Line):
    """One request at a time over each connection, though HTTP/2 lets many share one.

    httpcore 1.0 neither resets a stream that is left nor gives back the room that its bytes took, so that one reader
    who leaves early would block all the others for good; and when a server retires a connection, it ends them all.
    """

    def __init__(
        self,
        make: Callable[[], httpx.AsyncBaseTransport],
        *,
        keep_alive_seconds: float,
        connect_timeout: float | None = None,
    ) -> None:
        self._make = make
        self._keep_alive_seconds = keep_alive_seconds
        timeout = httpx.Timeout(None, connect=connect_timeout).as_dict()
        self._extensions: dict[str, Any] = {"timeout": timeout, "trace": _note_connect}
        self._idle: deque[tuple[float, httpx.AsyncBaseTransport]] = deque()  # since when; the newest last
        self._busy: set[httpx.AsyncBaseTransport] = set()

    async def ask(self, request: Request) -> "HttpxReply":
        """Send a request. Raises TransportError."""
        sent = httpx.Request(
            request.method,
            _url(request.url),
            headers=request.headers,
            content=request.body,
            extensions=self._extensions,
        )
        note_reuse(True)
        transport = self._idle.pop()[1] if self._idle else self._make()
        self._busy.add(transport)
        try:
            response = await transport.handle_async_request(sent)
        except BaseException:
            await self.give_back(transport, ended=False)
            raise
        del sent.extensions["trace"]  # or it would be told of every read
        return HttpxReply(response, partial(self.give_back, transport))

    async def give_back(self, transport: httpx.AsyncBaseTransport, *, ended: bool) -> None:
        """Use it for another request; close it where something of the answer has not ended, and those idle for long."""
        self._busy.discard(transport)
        now = time.monotonic()
        if ended:
            self._idle.append((now, transport))
        else:
            await transport.aclose()
        while self._idle and self._idle[0][0] < now - self._keep_alive_seconds:
            await self._idle.popleft()[1].aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in (*(idle for _, idle in self._idle), *self._busy):
            await transport.aclose()


class HttpxReply(Reply):
    """The answer to a request over httpx."""

    __slots__ = ("_ended", "_give_back", "_headers", "_parts", "_stream")

    def __init__(self, response: httpx.Response, give_back: Callable[..., Awaitable[None]]) -> None:
        self.status = response.status_code
        self._headers = response.headers
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._parts = aiter(self._stream)
        self._give_back: Callable[..., Awaitable[None]] | None = give_back
        self._ended = False

    def header(self, name: str) -> str:
        """The header's value; empty where there is none."""
        return str(self._headers.get(name, ""))

    @property
    def at_end(self) -> bool:
        """Whether the end was read: httpx tells it no sooner."""
        return self._ended

    async def __anext__(self) -> bytes:
        try:
            async for data in self._parts:
                if data:
                    return data
        except FAILURES as error:
            raise lost() from error
        self._ended = True
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give the connection back, or close it where something is still to be read."""
        give_back, self._give_back = self._give_back, None
        if give_back:
            try:
                await self._stream.aclose()
            finally:
                await give_back(ended=self._ended)


async def _note_connect(event: str, info: object) -> None:  # noqa: ARG001 (httpcore's signature)
    if event == "connection.connect_tcp.started":
        note_reuse(False)


def multipart(fields: Mapping[str, str], file: tuple[str, bytes, str]) -> tuple[dict[str, str], tuple[bytes, ...]]:
    """The headers and the parts of the body of a form with one file: its name, bytes and type."""
    form = httpx.Request("POST", "http://form", data=fields, files={"file": file})
    names = ("content-type", "content-length")
    return {name: form.headers[name] for name in names}, tuple(cast("httpx.SyncByteStream", form.stream))
