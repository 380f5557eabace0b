"""GET /v1/dify-files/{token}/{name}: files that apps made, for whoever has the link. Browsers send no key for pictures.

What comes from Dify is somebody's file: it never runs as a page of this server.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterable
from typing import Any, Final

import structlog
from litestar import HttpMethod, Request, route
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from opendify.errors import ClientGone, OpenDifyError
from opendify.file_links import ROUTE
from opendify.file_proxy import FileProxy

DAY: Final = 86_400
# A client that reads nothing for so long holds one of the few places no more.
STALL_SECONDS: Final = 30.0
PDF: Final = "application/pdf"
# What a browser shows by itself without running anything in it.
SHOWN: Final = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "text/plain", PDF}
SHOWN_KINDS: Final = {"audio", "video"}
# For a browser that opens the file by itself: no scripts, no origin, nothing loaded but the picture or film it is.
POLICY: Final = b"sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)

log = structlog.get_logger("opendify.files")


@route(
    [f"{ROUTE}/{{token:str}}", f"{ROUTE}/{{token:str}}/{{name:path}}"],
    http_method=[HttpMethod.GET, HttpMethod.HEAD],
    summary="A file that an app made; the link is the key",
    tags=["Files"],
    security=[{}],
)
async def dify_file(
    token: FromPath[str],
    request: Request[Any, Any, Any],
    proxy: NamedDependency[FileProxy],
) -> ASGIApp:
    """The file, as it comes from Dify. The name at the end of the path is for people and programs that look at it."""
    span = None if "if-range" in request.headers else request.headers.get("range")
    return Sending(proxy, token, span, is_head=request.method == HttpMethod.HEAD)


class Sending:
    """One file on its way to a client, which may leave at any moment."""

    def __init__(self, proxy: FileProxy, token: str, span: str | None, *, is_head: bool) -> None:
        self._proxy = proxy
        self._token = token
        self._span = span
        self._is_head = is_head
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Send it, until it is all there or the client is not. Raises what goes wrong before the first byte."""
        work = asyncio.create_task(self._send(send))
        ear = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((work, ear), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, ear):
                task.cancel()
            await asyncio.wait((work, ear))
        if work.cancelled() and not self._started:
            raise ClientGone("The client closed the connection.")
        if not work.cancelled():
            work.result()

    async def _send(self, send: Send) -> None:
        try:
            async with self._proxy.open(self._token) as (file, link):
                seconds = max(min(int(link.note.expires - time.time()), DAY), 0)
                await self._answer(send, file.type, file.size, file.body, seconds)
        except OpenDifyError as error:
            if not self._started:
                raise
            # The client sees that the connection breaks off before the announced end.
            log.info("file_broken_off", problem=error.code)

    async def _answer(self, send: Send, kind: str, size: int | None, body: AsyncIterable[bytes], seconds: int) -> None:
        headers = [*headers_of(kind), (b"cache-control", b"private, max-age=%d" % seconds)]
        status, first, last = 200, 0, size
        if size is not None:
            headers.append((b"accept-ranges", b"bytes"))
            if span := span_of(self._span, size):
                (first, last), status = span, 206
                headers.append((b"content-range", b"bytes %d-%d/%d" % (first, last - 1, size)))
            headers.append((b"content-length", b"%d" % ((last or 0) - first)))
        self._started = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if not self._is_head:
            await _pump(send, body, first, last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pump(send: Send, body: AsyncIterable[bytes], first: int, last: int | None) -> None:
    """The bytes from `first` to before `last`. Raises ClientGone where the client does not read."""
    place = 0
    async for data in body:
        start, end = max(first - place, 0), len(data) if last is None else min(last - place, len(data))
        place += len(data)
        if start < end:
            await _send_soon(send, data[start:end])
        if last is not None and place >= last:
            return


async def _send_soon(send: Send, data: bytes) -> None:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await send({"type": "http.response.body", "body": data, "more_body": True})
    except TimeoutError:
        raise ClientGone("The client does not read.") from None


def headers_of(kind: str) -> list[tuple[bytes, bytes]]:
    """What keeps a file of this type from being more than a file."""
    name, _, parameters = kind.partition(";")
    name = name.strip().lower()
    name = name if _TYPE.fullmatch(name) else "application/octet-stream"
    shown = name in SHOWN or name.partition("/")[0] in SHOWN_KINDS
    charset = b"; charset=utf-8" if name.startswith("text/") and "utf-8" in parameters.lower() else b""
    headers = [
        (b"content-type", name.encode() + charset),
        (b"content-disposition", b"inline" if shown else b"attachment"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),  # the address is the key
        (b"cross-origin-resource-policy", b"cross-origin"),  # pages of chat programs show it
    ]
    # Browsers do not show a PDF within a sandbox; what runs in one runs in the viewer's own.
    return headers if name == PDF else [*headers, (b"content-security-policy", POLICY)]


def span_of(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range that is asked for, as slices count; None for the whole, also where the range makes no sense."""
    found = _RANGE.fullmatch(header or "")
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size
    else:
        first, last = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    return (first, last) if first < last else None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
