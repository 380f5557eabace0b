"""Which HTTP client speaks to which Dify, and whether a request went over a connection that was used before.

Plain http goes through aiohttp below httpx's API: a third of httpx's own cost per event, and no linear search of
the pool once many idle connections are in it. https goes through httpx's own HTTP/2 transport, if allowed.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from msgspec import Struct

# httpcore lets at most 100 streams share an HTTP/2 connection and makes the next one wait: we open another first.
STREAMS_PER_CONNECTION = 90
KEEP_ALIVE_SECONDS = 60.0
WRAPPINGS = 10

# What a request can end with: httpx-aiohttp lets some of aiohttp's own errors through.
FAILURES = (httpx.TransportError, aiohttp.ClientError)

_reused: ContextVar[bool] = ContextVar("reused", default=False)


class Wire(Struct):
    """The clients of one Dify: a pooled one, and one that opens a new connection for each request."""

    pooled: httpx.AsyncClient
    fresh: httpx.AsyncClient
    open_runs: int = 0

    async def close(self) -> None:
        """Close every connection."""
        await self.pooled.aclose()
        await self.fresh.aclose()


def connect(base: str, *, http2: bool, connect_timeout: float, ca_file: Path | None) -> Wire:
    """The clients for one base address. Certificates are always verified, against `ca_file` too if given."""
    context = _tls(ca_file) if base.startswith("https:") else None
    make = _http2 if context and http2 else _aiohttp
    pooled, fresh = (
        httpx.AsyncClient(
            base_url=base,
            transport=make(context, keep),
            timeout=httpx.Timeout(None, connect=connect_timeout),
            headers={"accept-encoding": "identity", "user-agent": "opendify"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # none: the clients serve everyone
            trust_env=False,
        )
        for keep in (True, False)
    )
    return Wire(pooled, fresh)


def is_untrusted(error: BaseException | None) -> bool:
    """Whether the failure is about the server's certificate, however deep the libraries have wrapped it."""
    for _ in range(WRAPPINGS):
        if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
            return True
        error = error and (error.__cause__ or error.__context__)
    return False


async def listens(base: str, seconds: float) -> bool:
    """Whether a connection to the address can be made in this time."""
    url = httpx.URL(base)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(url.host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def was_reused() -> bool:
    """Whether the last request of this task was sent over a connection that had been used before."""
    return _reused.get()


def forget_reuse() -> None:
    """Call before each request."""
    _reused.set(False)


def never_sent(error: Exception) -> bool:
    """Whether the failure came before Dify could have seen the request.

    httpx-aiohttp calls every broken connection a ConnectTimeout, so that the cause has to tell.
    """
    told = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    if isinstance(told, aiohttp.ClientError):
        return isinstance(told, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    return isinstance(told, httpx.ConnectError | httpx.ConnectTimeout)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _aiohttp(context: ssl.SSLContext | None, keep: bool) -> httpx.AsyncBaseTransport:
    def session() -> aiohttp.ClientSession:
        options: dict[str, Any] = {"keepalive_timeout": KEEP_ALIVE_SECONDS} if keep else {"force_close": True}
        connector = aiohttp.TCPConnector(limit=0, ssl=context or True, **options)
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[trace], trust_env=False
        )

    return AiohttpTransport(client=session)


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:  # noqa: ARG001 (aiohttp's signature)
    _reused.set(True)


def _http2(context: ssl.SSLContext | None, keep: bool) -> httpx.AsyncBaseTransport:
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=None if keep else 0,
        keepalive_expiry=KEEP_ALIVE_SECONDS,
    )
    return SpreadTransport(
        lambda: httpx.AsyncHTTPTransport(verify=context or True, http2=True, limits=limits, trust_env=False)
    )


class SpreadTransport(httpx.AsyncBaseTransport):
    """Spreads requests over as many transports as keep each below the streams of one HTTP/2 connection."""

    def __init__(self, make: Callable[[], httpx.AsyncBaseTransport]) -> None:
        self._make = make
        self._shares: list[_Share] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send over the first transport with room; it is occupied until the response is closed."""
        _reused.set(True)
        request.extensions["trace"] = _note_connect
        share = next((share for share in self._shares if share.streams < STREAMS_PER_CONNECTION), None)
        if share is None:
            share = _Share(self._make())
            self._shares.append(share)
        share.streams += 1
        try:
            response = await share.transport.handle_async_request(request)
        except BaseException:
            share.streams -= 1
            raise
        response.stream = _SharedStream(response.stream, share)
        return response

    async def aclose(self) -> None:
        """Close every transport."""
        for share in self._shares:
            await share.transport.aclose()


async def _note_connect(event: str, info: object) -> None:  # noqa: ARG001 (httpcore's signature)
    if event == "connection.connect_tcp.started":
        _reused.set(False)


class _Share(Struct, eq=False):
    transport: httpx.AsyncBaseTransport
    streams: int = 0


class _SharedStream(httpx.AsyncByteStream):
    def __init__(self, stream: Any, share: _Share) -> None:
        self._stream = stream
        self._share: _Share | None = share

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            yield data

    async def aclose(self) -> None:
        if self._share:
            self._share.streams -= 1
            self._share = None
        await self._stream.aclose()
