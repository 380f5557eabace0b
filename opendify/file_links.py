"""Links to files that apps made: ours in place of Dify's, which hold five minutes and may name inner hosts.

A link of ours holds all that is needed to find its file again, sealed with a key that every worker derives alike:
whoever has the link can open that one file until it expires, and read nothing in it.
"""

import binascii
import hmac
import posixpath
import re
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec
from msgspec import Struct

from opendify.dialogue import Ids
from opendify.dify.apps import Access, App
from opendify.dify_links import DifyFile, dify_file, is_file_path
from opendify.errors import LinkExpired, NoSuchLink
from opendify.users import access_key

ROUTE: Final = "/v1/dify-files"
PURPOSE: Final = "dify-files"
HOUR: Final = 3600
NAME_CHARS: Final = 80
ENDING_CHARS: Final = 16
ID_BYTES: Final = 6
TOKEN_CHARS: Final = 4096
_HOST = re.compile(r"(?:[\w.-]{1,255}|\[[0-9a-fA-F:.]{2,45}\])(?::\d{1,5})?", re.ASCII)


class Note(Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is sealed in a link. `expires` is epoch seconds.

    The message is the one that Dify can sign the file anew for; none without a conversation.
    """

    file: DifyFile
    expires: int
    user: str = ""
    conversation_id: UUID | None = None
    message_id: UUID | None = None


class Link(Struct, frozen=True):
    """A link that was read."""

    access: Access
    note: Note


class FileLinks:
    """Makes and reads our links. They hold for `hours`; `public_base` is where clients reach this server, if known."""

    def __init__(
        self, accesses: Iterable[Access], *, secret: str = "", public_base: str | None = None, hours: float = 24.0
    ) -> None:
        self._accesses = {bytes.fromhex(access.id): access for access in accesses}
        self._secret = secret
        self._base = (public_base or "").rstrip("/").removesuffix("/v1")
        self.seconds = int(hours * HOUR)

    def link(self, app: App, user: str, ids: Ids, url: str, *, base: str = "", name: str = "") -> str:
        """Our link in place of Dify's `url`; any other address as it is.

        `base` is how this client reaches us, for want of a public address; `name` the file's, for people.
        """
        file = dify_file(url)
        if file is None:
            return url
        note = Note(file, int(time.time()) + self.seconds)
        conversation_id, message_id = _uuid(ids.conversation_id), _uuid(ids.message_id)
        if app.converses and conversation_id and message_id:
            note = Note(file, note.expires, user, conversation_id, message_id)
        return f"{self._base or base}{ROUTE}/{self._sealed(app.access, note)}/{_shown_name(name, file)}"

    def read(self, token: str) -> Link:
        """What one of our links says. Raises NoSuchLink or LinkExpired."""
        data = _decoded(token)
        access = self._accesses.get(data[:ID_BYTES])
        opened = _opened(access_key(self._secret, access, PURPOSE), data[ID_BYTES:]) if access else None
        if access is None or opened is None:
            raise NoSuchLink
        try:
            note = _decode(opened)
        except msgspec.DecodeError:  # sealed by another version of this program
            raise NoSuchLink from None
        if not is_file_path(note.file.path):  # it was one when it was sealed: should the rule ever change
            raise NoSuchLink
        if note.expires < time.time():
            raise LinkExpired
        return Link(access, note)

    def _sealed(self, access: Access, note: Note) -> str:
        return _encoded(bytes.fromhex(access.id) + _closed(access_key(self._secret, access, PURPOSE), _encode(note)))


_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode = msgspec.msgpack.Decoder(Note).decode


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


# -- the seal: HMAC-SHA256 alone, as a synthetic IV (the tag of the text starts the stream that hides it)

TAG_BYTES: Final = 16


def _closed(key: bytes, data: bytes) -> bytes:
    tag = _tag(key, data)
    return tag + _hidden(key, tag, data)


def _opened(key: bytes, sealed: bytes) -> bytes | None:
    """What was sealed with this key, None for anything else."""
    tag = sealed[:TAG_BYTES]
    data = _hidden(key, tag, sealed[TAG_BYTES:])
    return data if hmac.compare_digest(tag, _tag(key, data)) else None


def _tag(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, b"tag" + data, "sha256")[:TAG_BYTES]


def _hidden(key: bytes, tag: bytes, data: bytes) -> bytes:
    """The data with the tag's key stream over it; doing it twice undoes it."""
    blocks = range(-(-len(data) // 32))
    stream = b"".join(hmac.digest(key, b"pad" + tag + number.to_bytes(4, "big"), "sha256") for number in blocks)
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream[: len(data)], "big")
    return mixed.to_bytes(len(data), "big")


def _encoded(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def _decoded(token: str) -> bytes:
    """The bytes of exactly what `_encoded` writes. Raises NoSuchLink."""
    try:
        text = token.encode("ascii")[: TOKEN_CHARS + 1]
        data = binascii.a2b_base64(text.translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        raise NoSuchLink from None
    if len(text) > TOKEN_CHARS or _encoded(data) != token:
        raise NoSuchLink
    return data


_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def _shown_name(name: str, file: DifyFile) -> str:
    """The end of a link: some programs tell a picture from a file by it. Nothing reads it here."""
    name = name.replace("\\", "/").rpartition("/")[2].strip(". ")
    stem, extension = posixpath.splitext(name or posixpath.basename(file.path))
    stem = "file" if _uuid(stem) or not name else stem
    return quote(stem[:NAME_CHARS] + extension[:ENDING_CHARS], safe="", errors="replace")


def request_base(scheme: str, host: str) -> str:
    """How a client reached us, as its request says; empty where that is no plain address.

    The Host header is the client's own word, and what comes of it goes to this client alone. X-Forwarded-Host is not
    read: anybody can send it.
    """
    return f"{scheme}://{host}" if scheme in {"http", "https"} and _HOST.fullmatch(host) else ""
