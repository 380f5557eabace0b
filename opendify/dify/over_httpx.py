"""Requests over httpx's transports, which speak HTTP/2, without the layers of its client; and its multipart forms."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

import httpx
from msgspec import Struct

from opendify.dify.lines import Line, Reply, Request, lost, note_reuse

# httpcore lets at most 100 streams share an HTTP/2 connection and makes the next one wait: we open another first.
STREAMS_PER_CONNECTION = 90
# What a request and its reply can end with.
FAILURES: Final = httpx.TransportError

_url = lru_cache(256)(httpx.URL)


class HttpxLine(Line):
    """Spreads requests over as many transports as keep each below the streams of one HTTP/2 connection."""

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport], *, connect_timeout: float | None = None) -> None:
        self._make = make
        timeout = httpx.Timeout(None, connect=connect_timeout).as_dict()
        self._extensions: dict[str, Any] = {"timeout": timeout, "trace": _note_connect}
        self._shares: list[_Share] = []

    async def ask(self, request: Request) -> "HttpxReply":
        """Send over the first transport with room; it is occupied until the reply is closed. Raises TransportError."""
        sent = httpx.Request(
            request.method,
            _url(request.url),
            headers=request.headers,
            content=request.body,
            extensions=self._extensions,
        )
        note_reuse(True)
        share = next((share for share in self._shares if share.streams < STREAMS_PER_CONNECTION), None)
        if share is None:
            share = _Share(self._make())
            self._shares.append(share)
        share.streams += 1
        try:
            response = await share.transport.handle_async_request(sent)
        except BaseException:
            share.streams -= 1
            raise
        del sent.extensions["trace"]  # or it would be told of every read
        return HttpxReply(response, share)

    async def aclose(self) -> None:
        """Close every connection."""
        for share in self._shares:
            await share.transport.aclose()


class HttpxReply(Reply):
    """The answer to a request over httpx."""

    __slots__ = ("_ended", "_headers", "_parts", "_share", "_stream")

    def __init__(self, response: httpx.Response, share: "_Share") -> None:
        self.status = response.status_code
        self._headers = response.headers
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._parts = aiter(self._stream)
        self._share: _Share | None = share
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
        """Give back what it occupies."""
        if self._share:
            self._share.streams -= 1
            self._share = None
        await self._stream.aclose()


class _Share(Struct, eq=False):
    transport: httpx.AsyncBaseTransport
    streams: int = 0


async def _note_connect(event: str, info: object) -> None:  # noqa: ARG001 (httpcore's signature)
    if event == "connection.connect_tcp.started":
        note_reuse(False)


def multipart(fields: Mapping[str, str], file: tuple[str, bytes, str]) -> tuple[dict[str, str], tuple[bytes, ...]]:
    """The headers and the parts of the body of a form with one file: its name, bytes and type."""
    form = httpx.Request("POST", "http://form", data=fields, files={"file": file})
    names = ("content-type", "content-length")
    return {name: form.headers[name] for name in names}, tuple(cast("httpx.SyncByteStream", form.stream))
