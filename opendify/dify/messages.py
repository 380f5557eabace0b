"""What Dify keeps of a conversation: its messages, as they are read anew."""

from collections.abc import Iterator
from typing import Final, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from opendify.dify.apps import Access
from opendify.errors import BrokenUpstream

# The newest messages of a conversation are looked through: this many, then pages of that many.
FIRST_PAGE: Final = 20
PAGE: Final = 100
PAGES: Final = 6


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


async def message_of(dify: Lister, access: Access, user: str, conversation_id: str, message_id: str) -> Message | None:
    """A message as it is now, its links signed anew; None where Dify does not list it.

    Raises UpstreamError: Refused with status 404 where there is no such conversation any more.
    """
    query = {"conversation_id": conversation_id, "user": user, "limit": str(FIRST_PAGE)}
    for _ in range(PAGES):
        page = _page(await dify.call(access, "GET", f"/messages?{urlencode(query)}"))
        if found := next((message for message in page.data if message.id == message_id), None):
            return found
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
