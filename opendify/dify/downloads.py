"""Files at Dify: what an answer to a request for one brings, and the messages in which links are signed anew."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from opendify.dify.apps import MEGABYTE, Access
from opendify.errors import BrokenUpstream, Refused

FILE_BYTES: Final = 512 * MEGABYTE
PREFIX: Final = "/v1"
# The newest messages of a conversation are looked through: this many, then pages of that many.
FIRST_PAGE: Final = 20
PAGE: Final = 100
PAGES: Final = 6


class RemoteFile(Struct):
    """A file under way: its type as Dify calls it, its size in bytes where Dify says so, what arrives of it."""

    type: str
    size: int | None
    body: AsyncGenerator[bytes, None]


def address_of(access: Access, path: str) -> str:
    """Where a path of a file is: beside the API, whatever host a link named."""
    has_prefix = access.base.endswith(PREFIX)
    return (access.base.removesuffix(PREFIX) if has_prefix else access.origin) + path


def remote_file(status: int, headers: Mapping[str, str], body: AsyncIterator[bytes]) -> RemoteFile:
    """The file that an answer brings. Raises Refused for the reasons of a client's side, else BrokenUpstream."""
    if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Refused("Dify does not hand out this file.", code="file_refused", status=status)
    if status != HTTPStatus.OK or headers.get("content-encoding", "identity") != "identity":
        message = f"Dify answered the request for a file with status {status}."
        raise BrokenUpstream(message, upstream_status=status)
    length = headers.get("content-length", "")
    size = int(length) if length.isdecimal() else None
    return RemoteFile(headers.get("content-type", ""), size, _bounded(body, size))


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


class ListedFile(Struct):
    """The part of `message_files` that we read."""

    url: str | None = None


class Message(Struct):
    """A message of the list; links in both are signed when it is read."""

    id: str
    answer: str | None = None
    message_files: list[ListedFile] | None = None

    @property
    def links(self) -> Iterator[str]:
        """Texts that hold its links."""
        yield from (file.url for file in self.message_files or () if file.url)
        yield self.answer or ""


class Messages(Struct):
    """`GET /messages`: the oldest of a page comes first."""

    data: list[Message]
    has_more: bool | None = False


class Lister(Protocol):
    """What asks Dify."""

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes: ...


async def signed_anew(
    dify: Lister, access: Access, user: str, conversation_id: str, message_id: str
) -> Iterator[str] | None:
    """Texts that hold the links of a message, signed now; None where Dify does not list it.

    Raises UpstreamError: Refused with status 404 where there is no such conversation any more.
    """
    query = {"conversation_id": conversation_id, "user": user, "limit": str(FIRST_PAGE)}
    for _ in range(PAGES):
        page = _page(await dify.call(access, "GET", f"/messages?{urlencode(query)}"))
        if found := next((message for message in page.data if message.id == message_id), None):
            return found.links
        if not (page.has_more and page.data):
            break
        query |= {"first_id": page.data[0].id, "limit": str(PAGE)}
    return None


def _page(body: bytes) -> Messages:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BrokenUpstream("Dify's list of messages has another form than expected.") from None


_decode = msgspec.json.Decoder(Messages).decode
