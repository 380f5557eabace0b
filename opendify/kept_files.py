"""Files sent ahead with POST /v1/files: their records, and the bytes of those that have no app yet.

The file itself lives in Dify, with the app it was sent to. A record is found only by the key and user that sent it.
"""

import asyncio
import hashlib
import posixpath
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from opendify.auth import Caller
from opendify.dialogue import Ahead, Attachment, Prompt, Turn
from opendify.dify.apps import MEGABYTE, App
from opendify.dify.transcript import newest
from opendify.errors import Busy, FileNotFound, InvalidRequest, OpenDifyError, RequestTooLarge
from opendify.store import Store
from opendify.users import as_bytes, readable

MINUTE: Final = 60.0
DAY: Final = 24 * 60 * MINUTE
ID: Final = re.compile(r"file-[0-9a-f]{32}")
# What a waiting file counts beside its bytes, so that tiny ones are bounded as well.
OVERHEAD_BYTES: Final = 1024


class KeptFile(Struct):
    """What is kept of a file; times are epoch seconds. `extension` is the one that Dify sees.

    `app_id` is None while the bytes wait here for the first chat. With one, `upload_id` is Dify's id of the file,
    None once Dify says that it does not have it any more.
    """

    filename: str
    extension: str
    mime_type: str
    size: int
    purpose: str
    created_at: int
    expires_at: int = 0
    app_id: str | None = None
    upload_id: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether nobody has the file any more."""
        return self.app_id is not None and self.upload_id is None


def new_id() -> str:
    """A name that nobody guesses."""
    return f"file-{uuid.uuid4().hex}"


class Waiting:
    """Bytes that wait in this process: `room` at most in all, each for `seconds`."""

    def __init__(self, room: int, seconds: float) -> None:
        self._room = room
        self._seconds = seconds
        self._files: dict[str, tuple[bytes, asyncio.TimerHandle]] = {}
        self.taken = 0

    def get(self, key: str) -> bytes | None:
        """The bytes, None where they are not here, or not any more."""
        data, _ = self._files.get(key, (None, None))
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep them until their time is over. Raises RequestTooLarge or Busy: no file makes room for another."""
        weight = len(data) + OVERHEAD_BYTES
        if weight > self._room:
            message = f"Files of up to {self._room // MEGABYTE} MB wait here for a chat: name the `model` it is for."
            raise RequestTooLarge(message, param="file")
        if self.taken + weight > self._room:
            raise _Full("Too many files wait here for a chat: name the `model` it is for, or try again later.")
        self.taken += weight
        self._files[key] = data, asyncio.get_running_loop().call_later(self._seconds, self.drop, key)

    def drop(self, key: str) -> None:
        """Forget them."""
        if found := self._files.pop(key, None):
            data, timer = found
            timer.cancel()
            self.taken -= len(data) + OVERHEAD_BYTES


class KeptFiles:
    """The records. One lasts `days` after its last use; a file without an app waits for `minutes`.

    `megabytes` is the room in this process for those that wait.
    """

    def __init__(
        self, store: Store, *, secret: str = "", days: float = 30.0, minutes: float = 60.0, megabytes: int = 100
    ) -> None:
        self._store = store
        self._secret = secret
        self._seconds = days * DAY
        self._waiting_seconds = minutes * MINUTE
        self.waiting = Waiting(megabytes * MEGABYTE, self._waiting_seconds)

    def key(self, caller: Caller, user: str | None, file_id: str) -> str:
        """Where the record is. The id is part of the digest's key: it is as hard to guess as any secret."""
        secret = hashlib.sha256(as_bytes(f"{self._secret}\n{file_id}")).digest()
        digest = hashlib.blake2b(as_bytes(f"{file_id}\n{readable(caller, user)}"), key=secret, digest_size=16)
        return f"opendify:file:{digest.hexdigest()}"

    # -- the client's side: send, look, delete

    async def put(self, key: str, record: KeptFile, data: bytes | None = None) -> KeptFile:
        """Keep a new record, with the `data` of a file that waits. Raises RequestTooLarge or Busy."""
        if data is not None:
            self.waiting.put(key, data)
        kept = await self._renew(key, record, self._seconds if data is None else self._waiting_seconds)
        if kept is None:
            self.waiting.drop(key)
            raise _Full("Files cannot be remembered at the moment: try again later.")
        return kept

    async def get(self, key: str) -> KeptFile:
        """The record. Raises FileNotFound, or Busy where nobody can tell."""
        if record := await self._store.get(key, KeptFile):
            return record
        raise self._missing(None)

    async def delete(self, key: str) -> None:
        """Forget a file. Dify has no way to delete what it has of it. Raises FileNotFound."""
        await self.get(key)
        self.waiting.drop(key)
        await self._store.delete(key)

    # -- the chat's side: find, use, lose

    async def resolve(self, prompt: Prompt, caller: Caller, app: App, most: int, *, is_known: bool) -> Prompt:
        """The prompt with what is known of its files sent ahead, of up to `most` of them.

        Those of the turn to reply to have to be usable: raises FileNotFound or InvalidRequest naming the part. Those
        of earlier turns do not, and in a conversation that `is_known` to Dify nobody asks for them.
        """
        place = newest(prompt.turns)
        found: dict[Attachment, Attachment] = {}
        for attachment in _sent_ahead(prompt.turns[place : place + 1])[:most]:
            found[attachment] = await self._found(attachment, prompt, caller, app)
        earlier = () if is_known else (*prompt.turns[:place], *prompt.turns[place + 1 :])
        for attachment in _sent_ahead(earlier)[::-1][:most]:
            with suppress(FileNotFound, InvalidRequest):
                found[attachment] = await self._found(attachment, prompt, caller, app)
        return replace(prompt, turns=tuple(_with(turn, found) for turn in prompt.turns)) if found else prompt

    async def used(self, ahead: Ahead, app: App, upload_id: str) -> None:
        """A run is about to use it: its time begins anew, and its bytes are not needed any more."""
        record = await self._store.get(ahead.key, KeptFile)
        if record is None:  # deleted meanwhile
            return
        if await self._renew(ahead.key, replace(record, app_id=app.access.id, upload_id=upload_id), self._seconds):
            self.waiting.drop(ahead.key)

    async def lost(self, key: str) -> None:
        """Dify does not have it any more."""
        if record := await self._store.get(key, KeptFile):
            await self._renew(key, replace(record, upload_id=None), self._waiting_seconds)

    async def _found(self, attachment: Attachment, prompt: Prompt, caller: Caller, app: App) -> Attachment:
        file_id = attachment.file_id or ""
        key = self.key(caller, prompt.user, file_id)
        record = await self._store.get(key, KeptFile) if ID.fullmatch(file_id) else None
        if record is None:
            raise self._missing(attachment.param)
        ahead = Ahead(key, record.upload_id, None if record.app_id else self.waiting.get(key))
        _check_usable(record, ahead, app, attachment.param)
        name = posixpath.splitext(record.filename)[0] + record.extension
        return replace(attachment, ahead=ahead, name=name, mime_type=record.mime_type)

    def _missing(self, param: str | None) -> OpenDifyError:
        if self._store.is_unsure:
            return Busy("The files sent ahead cannot be looked up just now; try again in a moment.", param=param)
        return FileNotFound(param) if param else FileNotFound()

    async def _renew(self, key: str, record: KeptFile, seconds: float) -> KeptFile | None:
        """Keep it for so long from now on; None where that did not go well."""
        record = replace(record, expires_at=int(time.time() + seconds))
        return record if await self._store.put(key, record, seconds) else None


def _check_usable(record: KeptFile, ahead: Ahead, app: App, param: str) -> None:
    """Raise InvalidRequest naming the part, with what its client can do."""
    if record.is_lost:
        message, code = "Dify does not have this file any more: upload it again.", "file_lost"
    elif record.app_id not in {None, app.access.id}:
        message, code = "This file was uploaded for another model: upload it again with this `model`.", "file_elsewhere"
    elif record.app_id is None and ahead.data is None:
        message = "This file does not wait in this process of the server, but in another: upload it again with `model`."
        code = "file_elsewhere"
    else:
        return
    raise InvalidRequest(message, code=code, param=param)


def _sent_ahead(turns: Sequence[Turn]) -> list[Attachment]:
    return [attachment for turn in turns for attachment in turn.attachments if attachment.file_id]


def _with(turn: Turn, found: dict[Attachment, Attachment]) -> Turn:
    """The turn with what was found; only files sent ahead are looked up, for hashing the others takes time."""
    attachments = (found.get(item, item) if item.file_id else item for item in turn.attachments)
    return replace(turn, attachments=tuple(attachments)) if turn.attachments else turn


class _Full(Busy):
    """No client is told to send a large file again at once."""

    should_retry = False
    retry_after = None
