"""Which HTTP client speaks to which Dify, how a request is sent over it, and what a failure of it means.

aiohttp does, but for https bases where HTTP/2 is wanted: that is spoken by httpx.
"""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Final

import aiohttp
import httpx
from msgspec import Struct

from opendify.dify import over_aiohttp, over_httpx
from opendify.dify.lines import Line, Reply, Request, note_reuse, was_reused
from opendify.dify.over_aiohttp import AiohttpLine
from opendify.dify.over_httpx import HttpxLine
from opendify.errors import BrokenUpstream, Unreachable, UpstreamError

KEEP_ALIVE_SECONDS: Final = 60.0
STALE_SECONDS = 0.5
WRAPPINGS: Final = 10
FAILURES: Final = (over_aiohttp.FAILURES, over_httpx.FAILURES)


class Wire(Struct):
    """The lines to one Dify: a pooled one, and one that opens a new connection for each request."""

    pooled: Line
    fresh: Line
    open_runs: int = 0

    async def send(self, request: Request) -> Reply:
        """Send a request; once more on a fresh connection if a used one broke at once, without an answer.

        Dify's own server closes idle connections after two seconds, so that a pooled one may just have died. That
        shows at once: a connection that breaks later, or in the middle of an answer, may have started a run.
        Raises Unreachable where no run can have started, BrokenUpstream.
        """
        note_reuse(False)
        sent_at = time.monotonic()
        try:
            return await self.pooled.ask(request)
        except FAILURES as error:
            at_once = time.monotonic() - sent_at < STALE_SECONDS
            if never_sent(error) or not (was_reused() and at_once and _is_dropped(error)):
                raise _lost(error) from error
        try:
            return await self.fresh.ask(request)
        except FAILURES as error:
            raise _lost(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self.pooled.aclose()
        await self.fresh.aclose()


def connect(base: str, *, http2: bool, connect_timeout: float, ca_file: Path | None) -> Wire:
    """The lines to one base address. Certificates are always verified, against `ca_file` too if given."""
    tls = _tls(ca_file) if base.startswith("https:") else None
    line = _http2 if tls and http2 else _http1
    return Wire(line(tls, connect_timeout, keep=True), line(tls, connect_timeout, keep=False))


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


def never_sent(error: Exception) -> bool:
    """Whether the failure came before Dify could have seen the request."""
    return isinstance(
        error,
        aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | httpx.ConnectError | httpx.ConnectTimeout,
    )


def _is_dropped(error: Exception) -> bool:
    return over_aiohttp.is_dropped(error) or over_httpx.is_dropped(error)


def _lost(error: Exception) -> UpstreamError:
    if is_untrusted(error):
        return Unreachable("Dify's certificate is not trusted: DIFY_CA_FILE can name the authority that signed it.")
    if never_sent(error):
        return Unreachable("Dify cannot be reached.")
    if _is_dropped(error):
        return BrokenUpstream("Dify closed the connection without an answer.")
    return BrokenUpstream("What came from Dify's address is not a whole answer in HTTP.")


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _http1(tls: ssl.SSLContext | None, connect_timeout: float, *, keep: bool) -> Line:
    seconds = KEEP_ALIVE_SECONDS if keep else None
    return AiohttpLine(tls, connect_timeout=connect_timeout, keep_alive_seconds=seconds)


def _http2(tls: ssl.SSLContext | None, connect_timeout: float, *, keep: bool) -> Line:
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=None if keep else 0,
        keepalive_expiry=KEEP_ALIVE_SECONDS,
    )
    return HttpxLine(
        lambda: httpx.AsyncHTTPTransport(verify=tls or True, http2=True, limits=limits, trust_env=False),
        connect_timeout=connect_timeout,
        keep_alive_seconds=KEEP_ALIVE_SECONDS,
    )
