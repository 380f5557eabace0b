"""Files at Dify: where they are, and what an answer to a request for one brings."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from http import HTTPStatus
from typing import Final

from msgspec import Struct

from opendify.dify.apps import MEGABYTE, Access
from opendify.errors import BrokenUpstream, Refused

FILE_BYTES: Final = 512 * MEGABYTE
PREFIX: Final = "/v1"


class RemoteFile(Struct):
    """A file under way: its type as Dify calls it, its size in bytes where Dify says so, what arrives of it."""

    type: str
    size: int | None
    body: AsyncGenerator[bytes, None]


def address_of(access: Access, path: str) -> str:
    """Where a path of a file is: beside the API, whatever host a link named."""
    has_prefix = access.base.endswith(PREFIX)
    return (access.base.removesuffix(PREFIX) if has_prefix else access.origin) + path


def remote_file(status: int, header: Callable[[str], str], body: AsyncIterator[bytes]) -> RemoteFile:
    """The file that an answer brings. Raises Refused for the reasons of a client's side, else BrokenUpstream."""
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Refused("Dify does not hand out this file.", code="file_refused", status=status)
    if status != HTTPStatus.OK or header("content-encoding") not in {"", "identity"}:
        message = f"Dify answered the request for a file with status {status}."
        raise BrokenUpstream(message, upstream_status=status)
    length = header("content-length")
    size = int(length) if length.isdecimal() else None
    return RemoteFile(header("content-type"), size, _bounded(body, size))


async def _bounded(body: AsyncIterator[bytes], size: int | None) -> AsyncGenerator[bytes, None]:
    """The bytes, as many as were announced. Raises BrokenUpstream where there are more or fewer, or too many."""
    seen, most = 0, FILE_BYTES if size is None else min(size, FILE_BYTES)
    async for data in body:
        seen += len(data)
        if seen > most:
            raise BrokenUpstream(f"The file at Dify has more than {most} bytes.")
        yield data
    if size is not None and seen < size:
        raise BrokenUpstream("Dify broke off in the middle of a file.")


async def patient(body: AsyncIterator[bytes], seconds: float) -> AsyncGenerator[bytes, None]:
    """What arrives, each piece within so many seconds. Raises TimeoutError."""
    while True:
        async with asyncio.timeout(seconds):
            data = await anext(body, None)
        if data is None:
            return
        yield data
