"""Requests over aiohttp: the cheapest client per request and per event, and its pool does not mind many connections."""

import asyncio
import ssl
from contextlib import suppress
from functools import partial
from typing import Final, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from opendify.dify.lines import Line, Reply, Request, lost, note_reuse

CLOSE_SECONDS = 2.0
# Of a line of a head, in bytes, and of lines: proxies add long policies and cookies.
HEAD_LINE: Final = 64 * 1024
HEAD_LINES: Final = 1000
# What a request and its reply can end with.
FAILURES: Final = aiohttp.ClientError


def is_dropped(error: Exception) -> bool:
    """Whether the connection broke before an answer came back, as far as the client tells."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a head that came
    return isinstance(error, aiohttp.ClientOSError)


class AiohttpLine(Line):
    """HTTP/1.1; `keep_alive_seconds` is how long an idle connection stays, None for a new one each time."""

    def __init__(self, tls: ssl.SSLContext | None, *, connect_timeout: float, keep_alive_seconds: float | None) -> None:
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._keep_alive_seconds = keep_alive_seconds
        self.session: aiohttp.ClientSession | None = None

    async def ask(self, request: Request) -> "AiohttpReply":
        """Send a request. Raises aiohttp.ClientError."""
        session = self.session or self._open()
        sent = session.request(
            request.method, request.url, headers=request.headers, data=request.body, allow_redirects=False
        )
        return AiohttpReply(await sent)

    async def aclose(self) -> None:
        """Close every connection; what Dify has not taken by then is not waited for."""
        if self.session:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.session.close()

    def _open(self) -> aiohttp.ClientSession:
        """The session, which needs a running loop."""
        self.session = aiohttp.ClientSession(
            connector=_Connector(self._tls, self._keep_alive_seconds),
            cookie_jar=aiohttp.DummyCookieJar(),  # none: the connections serve everyone
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
            max_line_size=HEAD_LINE,
            max_field_size=HEAD_LINE,
            max_headers=HEAD_LINES,
        )
        return self.session


class AiohttpReply(Reply):
    """The answer to a request over aiohttp."""

    __slots__ = ("_read", "_response")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self._response = response
        self._read = response.content.readany

    def header(self, name: str) -> str:
        """The header's value; what is not UTF-8 in it as if it were Latin-1."""
        value = self._response.headers.get(name, "")
        return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("latin-1")

    @property
    def at_end(self) -> bool:
        """Whether the end has arrived and everything before it was read."""
        return self._response.content.at_eof()

    async def __anext__(self) -> bytes:
        try:
            data = await self._read()
        except FAILURES as error:
            raise lost() from error
        if data:
            return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Give the connection back, or close it where something is still to be read."""
        if not self._response.closed:  # by its end
            self._response.release()
            await self._response.wait_for_close()  # a request body that is still being sent is given up


class _Connection(ResponseHandler):
    """One connection, which knows whether it served a request before."""

    __slots__ = ("used",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = False

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Whoever reads the answer learns of a failure too: of one in its framing aiohttp 3.14 tells nobody.

        An answer that has come to its end is whole, though it may not have been read yet.
        """
        super().set_exception(exc, exc_cause or exc)
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(aiohttp.ClientPayloadError("not HTTP"))

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on where reading was paused. aiohttp asks for that after each read, and parses nothing anew each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class _Connector(aiohttp.TCPConnector):
    """A pool that says whether a connection was used before: at a third of what aiohttp's tracing costs a request."""

    def __init__(self, tls: ssl.SSLContext | None, keep_alive_seconds: float | None) -> None:
        if keep_alive_seconds is None:
            super().__init__(limit=0, ssl=tls or True, force_close=True)
        else:
            super().__init__(limit=0, ssl=tls or True, keepalive_timeout=keep_alive_seconds)
        self._factory = cast("partial[ResponseHandler]", partial(_Connection, self._loop))

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 (aiohttp's signature)
    ) -> Connection:
        """A connection of the pool, or a new one."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = cast("_Connection", connection.protocol)  # it has none only once it is released
            if not (protocol.used and protocol.should_close):  # as one does over which more has come than was asked for
                break
            connection.close()
        note_reuse(protocol.used)
        protocol.used = True
        return connection
