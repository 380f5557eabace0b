"""Files on their way to Dify, each sent once: a picture that comes with every turn's history travels one time."""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec import Struct, field

from opendify.auth import Caller
from opendify.dialogue import Ahead, Attachment, Event, Started
from opendify.dify.apps import App
from opendify.dify.catalog import Catalog
from opendify.dify.files import PlannedFile, Upload, as_upload, extension_of, plan
from opendify.dify.gateway import Gateway
from opendify.dify.requests import RunPlan
from opendify.errors import OpenDifyError, Refused
from opendify.kept_files import KeptFile, KeptFiles
from opendify.store import Store
from opendify.users import digest_key

HOUR: Final = 3600.0


class Uploaded(Struct):
    """Dify's id of a file it has."""

    id: str


class Sent(Struct):
    """The ids of a run's files, None for those sent as links; under which keys some were found from earlier on.

    Those of `reused` that are `ahead` are records of files sent ahead.
    """

    ids: list[str | None]
    reused: list[str]
    ahead: set[str] = field(default_factory=set)


class NewFile(Struct, frozen=True):
    """A file that a client sends ahead of the chats that use it."""

    name: str
    mime_type: str
    data: bytes
    purpose: str


class Uploads:
    """Uploads the files of runs. Dify's ids are remembered per app, user and content, for `hours`."""

    def __init__(
        self, gateway: Gateway, store: Store, *, secret: str = "", hours: float = 24.0, kept: KeptFiles | None = None
    ) -> None:
        self._gateway = gateway
        self._store = store
        self._secret = secret
        self._seconds = hours * HOUR
        self.kept = kept or KeptFiles(store, secret=secret)

    async def send(self, plan: RunPlan, user: str, sent: Sent) -> None:
        """Bring the plan's files to Dify, all at once. Raises UpstreamError; a refusal names the file's `param`."""
        keys = [self._key(plan.app, user, file.upload) if file.upload else None for file in plan.files]
        pairs = list(zip(plan.files, keys, strict=True))
        files = {key: (file.upload, file.param) for file, key in reversed(pairs) if file.upload and key}
        # Of bytes that came ahead nothing stays here: an id that Dify may have forgotten would lose them.
        anew = {key for file, key in pairs if file.ahead}
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    key: group.create_task(self._send(plan.app, user, *file, key, None if key in anew else sent))
                    for key, file in files.items()
                }
        except* OpenDifyError as errors:  # what is raised in here, Python 3.11.2 wraps in a group again
            failure = errors.exceptions[0]
        if failure:
            raise failure
        sent.ids = [tasks[key].result() if key else _known(file) for file, key in pairs]
        await self._use_kept(plan, sent)

    async def forget(self, sent: Sent) -> None:
        """Dify does not know these any more: the next run sends them again, or says that nobody has them."""
        for key in sent.reused:
            if key in sent.ahead:
                await self.kept.lost(key)
            else:
                await self._store.delete(key)

    async def keep(self, file: NewFile, key: str, app: App | None, user: str) -> KeptFile:
        """Take a file that comes ahead, for the record `key`: to its app, or to wait here for one.

        Raises InvalidRequest, RequestTooLarge, Busy or UpstreamError.
        """
        ahead = Ahead(key, data=file.data)
        attachment = Attachment(media="file", param="file", ahead=ahead, name=file.name, mime_type=file.mime_type)
        upload = as_upload(file.data, attachment)
        record = _record(file, upload)
        if app is None:
            return await self.kept.put(key, record, file.data)
        plan(app, (attachment,), (), 1, set())
        record.app_id = app.access.id
        record.upload_id = await self._send(app, user, upload, attachment.param, self._key(app, user, upload), None)
        return await self.kept.put(key, record)

    async def _send(self, app: App, user: str, upload: Upload, param: str, key: str, sent: Sent | None) -> str:
        """Dify's id of the file: known, which `sent` is told, or new. Without `sent` always a new one."""
        if sent and (known := await self._store.get(key, Uploaded)):
            sent.reused.append(key)
            return known.id
        try:
            upload_id = await self._gateway.upload(app, user, upload)
        except Refused as error:
            error.param = param
            raise
        await self._store.put(key, Uploaded(upload_id), self._seconds)
        return upload_id

    async def _use_kept(self, plan: RunPlan, sent: Sent) -> None:
        """Note which files sent ahead are used. What Dify may not know is one of them, where it can be no other."""
        for file, upload_id in zip(plan.files, sent.ids, strict=True):
            if file.ahead and upload_id:
                await self.kept.used(file.ahead, plan.app, upload_id)
        sent.ahead = {file.ahead.key for file in plan.files if file.ahead and not file.upload}
        sent.reused = sent.reused or list(sent.ahead)

    def _key(self, app: App, user: str, upload: Upload) -> str:
        """By content and by what Dify tells a file's kind from: the ending of its name."""
        about = msgspec.json.encode((user, upload.mime_type, upload.name.rpartition(".")[2]))
        digest = hashlib.blake2b(about, key=digest_key(self._secret, app), digest_size=16)
        digest.update(upload.data)
        return f"opendify:upload:{digest.hexdigest()}"


async def app_for(catalog: Catalog, caller: Caller, model: str | None) -> App | None:
    """The app that a file is sent ahead for: of this model, else the only one the caller may use, else not known yet.

    One that Dify did not describe so far may be another. Raises ModelNotFound.
    """
    if model:
        return await catalog.find(model, caller.may_use)
    named = [(entry.app, entry.app.name if entry.app else entry.known_as) for entry in await catalog.entries()]
    possible = [app for app, name in named if name is None or caller.may_use(name)]
    return possible[0] if len(possible) == 1 else None


async def start_held(batches: AsyncGenerator[Sequence[Event], None]) -> AsyncGenerator[Sequence[Event], None]:
    """The events of a run, its start not before what follows: where Dify has forgotten a file, that is failure."""
    held: list[Event] = []
    async with aclosing(batches):
        async for events in batches:
            held += events
            if not isinstance(held[-1], Started):
                yield held
                held = []
    if held:
        yield held


def _known(file: PlannedFile) -> str | None:
    """Dify's id of a file that it has already, None for a link."""
    return file.ahead.upload_id if file.ahead else None


def _record(file: NewFile, upload: Upload) -> KeptFile:
    return KeptFile(
        filename=file.name,
        extension=extension_of(upload.name),
        mime_type=upload.mime_type,
        size=len(file.data),
        purpose=file.purpose,
        created_at=int(time.time()),
    )
