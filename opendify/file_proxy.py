"""Files that apps made, from Dify to whoever has a link of ours.

Dify signs its links for FILES_ACCESS_TIMEOUT (300 seconds by default), and only Dify can. What lives longer is where
it can be asked again: the message, whose links it signs anew on every read. Workflows and text generators have no
messages that could be read; their files are fetched at once and kept here.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

import structlog

from opendify.dialogue import Ids
from opendify.dify.apps import MEGABYTE, Access, App
from opendify.dify.downloads import RemoteFile
from opendify.dify.gateway import Gateway
from opendify.dify.messages import message_of
from opendify.dify_links import DifyFile, dify_file, dify_files
from opendify.errors import Busy, LinkExpired, NoSuchLink, OpenDifyError, Refused
from opendify.file_links import FileLinks, Link

# Dify answers ten requests at a time, by default, and most of them have to be runs.
AT_ONCE: Final = 4
QUEUE_SECONDS: Final = 20.0
# A signature that Dify gave just now serves the other viewers of a file as well.
FRESH_SECONDS: Final = 240.0
FRESH_LINKS: Final = 1000
KEPT_AT_ONCE: Final = 50
# How Dify says that a signature is no good any more, or that it does not have the file.
UNSIGNED: Final = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}

log = structlog.get_logger("opendify.files")


class Kept:
    """Files in this process, `room` bytes at most: the oldest make room for new ones."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._files: dict[str, tuple[str, bytes, float]] = {}
        self.taken = 0

    @property
    def largest(self) -> int:
        """The largest file that is kept, in bytes."""
        return self._room // 4

    def put(self, key: str, kind: str, data: bytes, until: float) -> None:
        """Keep a file until an epoch second."""
        self._drop(key)
        if len(data) > self.largest:
            return
        while self.taken + len(data) > self._room:
            self._drop(next(iter(self._files)))
        self._files[key] = kind, data, until
        self.taken += len(data)

    def get(self, key: str) -> RemoteFile | None:
        """The file, if it is here."""
        kind, data, until = self._files.get(key, ("", b"", 0.0))
        if until < time.time():
            self._drop(key)
            return None
        return RemoteFile(kind, len(data), _whole(data))

    def _drop(self, key: str) -> None:
        _, data, _ = self._files.pop(key, ("", b"", 0.0))
        self.taken -= len(data)


async def _whole(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


class FileProxy:
    """Makes links, and opens what they lead to. `megabytes` is the room for files that Dify does not sign anew."""

    def __init__(self, gateway: Gateway, links: FileLinks, *, megabytes: int = 50) -> None:
        self._gateway = gateway
        self._links = links
        self._kept = Kept(megabytes * MEGABYTE)
        self._fresh: dict[str, tuple[DifyFile, float]] = {}
        self._places: dict[str, asyncio.Semaphore] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def link(self, app: App, user: str, ids: Ids, url: str, *, base: str = "", name: str = "") -> str:
        """Our link in place of Dify's, as FileLinks makes it; what could not be had later is fetched now."""
        made = self._links.link(app, user, ids, url, base=base, name=name)
        file = dify_file(url)
        if file and self._kept.largest and not app.converses:
            self._spawn(_key(app.access, file), self._keep(app.access, file))
        return made

    @asynccontextmanager
    async def open(self, token: str) -> AsyncIterator[tuple[RemoteFile, Link]]:
        """The file that a link of ours leads to. Raises NoSuchLink, LinkExpired, Busy or UpstreamError."""
        link = self._links.read(token)
        key = _key(link.access, link.note.file)
        async with AsyncExitStack() as stack:
            yield self._kept.get(key) or await self._fetched(stack, link), link

    async def close(self) -> None:
        """Give up what is being fetched for later."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _fetched(self, stack: AsyncExitStack, link: Link) -> RemoteFile:
        """With the newest signature that is known: how long it is good only Dify can tell. Else with another one."""
        await stack.enter_async_context(self._place(link.access))
        known, until = self._fresh.get(_key(link.access, link.note.file), (link.note.file, 0.0))
        newest = known if until > time.monotonic() else link.note.file
        if fetched := await self._try(stack, link.access, newest):
            return fetched
        if fetched := await self._try(stack, link.access, await self._renewed(link)):
            return fetched
        raise NoSuchLink("Dify does not have this file any more.")

    async def _try(self, stack: AsyncExitStack, access: Access, file: DifyFile) -> RemoteFile | None:
        """The file; None where Dify does not accept the signature, or does not have it."""
        try:
            return await stack.enter_async_context(self._gateway.fetch(access, file.address))
        except Refused as error:
            if error.upstream_status not in UNSIGNED:
                raise
            log.debug("file_refused", app=access.id, status=error.upstream_status)
            return None

    async def _renewed(self, link: Link) -> DifyFile:
        """The file with a new signature of Dify's. Raises LinkExpired where Dify has none to give."""
        found = None
        for text in await self._signed_anew(link):
            for file in dify_files(text):
                self._remember(_key(link.access, file), file)
                found = file if file.identity == link.note.file.identity else found
        if found is None:
            raise LinkExpired("Dify's own link to this file is over, and Dify does not sign it anew.")
        return found

    async def _signed_anew(self, link: Link) -> Iterable[str]:
        """Texts of the message that the file belongs to; none where Dify has no such message, or not any more."""
        note = link.note
        if not (note.conversation_id and note.message_id):
            return ()
        names = note.user, str(note.conversation_id), str(note.message_id)
        try:
            message = await message_of(self._gateway, link.access, *names)
        except Refused as error:
            if error.upstream_status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                return ()
            raise
        return message.links if message else ()

    def _remember(self, key: str, file: DifyFile) -> None:
        self._fresh.pop(key, None)
        self._fresh[key] = file, time.monotonic() + FRESH_SECONDS
        if len(self._fresh) > FRESH_LINKS:
            del self._fresh[next(iter(self._fresh))]

    @asynccontextmanager
    async def _place(self, access: Access) -> AsyncIterator[None]:
        """One of the few places for files at a Dify. Raises Busy where none is free for too long."""
        place = self._places.setdefault(access.base, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await place.acquire()
        except TimeoutError:
            raise Busy("Too many files are being fetched; try again in a moment.") from None
        try:
            yield
        finally:
            place.release()

    # -- what Dify does not sign anew

    def _spawn(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        if key in self._tasks or len(self._tasks) >= KEPT_AT_ONCE:
            work.close()
            return
        self._tasks[key] = task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _keep(self, access: Access, file: DifyFile) -> None:
        """Fetch a file while its signature is good, and keep it as long as links hold."""
        parts, size = [], 0
        try:
            async with self._place(access), self._gateway.fetch(access, file.address) as remote:
                async for data in remote.body:
                    parts.append(data)
                    size += len(data)
                    if size > self._kept.largest:
                        log.info("file_too_large_to_keep", app=access.id, bytes=remote.size)
                        return
        except OpenDifyError as error:
            log.info("file_not_kept", app=access.id, problem=error.code)
            return
        self._kept.put(_key(access, file), remote.type, b"".join(parts), time.time() + self._links.seconds)


def _key(access: Access, file: DifyFile) -> str:
    return f"{access.id}/{file.identity}"
