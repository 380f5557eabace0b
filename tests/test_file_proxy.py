"""The way of a file: with the signature that is known, else a new one, else from what was kept."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from test_file_links import APP, CONVERSATION, FLOW, IDS, MESSAGE, OTHER, TOOL, USER

from opendify.dialogue import Ids
from opendify.dify.apps import MEGABYTE, Access
from opendify.dify.downloads import RemoteFile
from opendify.dify_links import dify_file
from opendify.errors import Busy, LinkExpired, NoSuchLink, OpenDifyError, Refused, Unreachable
from opendify.file_links import FileLinks
from opendify.file_proxy import FRESH_LINKS, KEPT_AT_ONCE, FileProxy, Kept

NEW_SIGN = TOOL.replace("rERQ", "NEWS")


def status(code: int) -> Refused:
    return Refused("", code="x", status=code)


class Dify:
    """A gateway that serves what `answer` says for an address, and lists messages."""

    def __init__(self, answer: Callable[[str], bytes | OpenDifyError], listed: str | OpenDifyError = "") -> None:
        self.answer = answer
        self.listed = listed
        self.fetched: list[str] = []
        self.calls = 0
        self.open = 0
        self.most_open = 0

    @asynccontextmanager
    async def fetch(self, access: Access, path: str) -> AsyncIterator[RemoteFile]:
        self.fetched.append(path)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0.01)
            answer = self.answer(path)
            if isinstance(answer, OpenDifyError):
                raise answer
            yield RemoteFile("image/png", len(answer), in_pieces(answer))
        finally:
            self.open -= 1

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        self.calls += 1
        if isinstance(self.listed, OpenDifyError):
            raise self.listed
        return b'{"data":[{"id":"%b","answer":"%b"}]}' % (MESSAGE.encode(), self.listed.encode())


async def in_pieces(data: bytes) -> Any:
    for start in range(0, len(data), 4):
        yield data[start : start + 4]


def proxy(dify: Dify, **more: Any) -> FileProxy:
    return FileProxy(dify, FileLinks([APP.access, OTHER.access]), **more)  # type: ignore[arg-type]


def token(files: FileProxy, app: Any = APP, url: str = TOOL, ids: Ids = IDS) -> str:
    return files.link(app, USER, ids, url).split("/")[3]


async def opened(files: FileProxy, link: str) -> bytes:
    async with files.open(link) as (file, _):
        return b"".join([data async for data in file.body])


def only_new(address: str) -> bytes | OpenDifyError:
    return b"picture" if "NEWS" in address else status(403)


# -- signatures


async def test_the_known_one_is_tried_first() -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    assert await opened(files, token(files)) == b"picture"
    assert dify.fetched == [TOOL.replace("kM=", "kM%3D")]
    assert not dify.calls


async def test_a_new_one_serves_others_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    files = proxy(dify := Dify(only_new, f"![a](http://api:5001{NEW_SIGN})"))
    for link in (token(files), token(files)):
        assert await opened(files, link) == b"picture"
    assert (dify.calls, len(dify.fetched)) == (1, 3)
    monkeypatch.setattr("opendify.file_proxy.FRESH_SECONDS", -1.0)
    files = proxy(dify := Dify(only_new, NEW_SIGN))
    for link in (token(files), token(files)):
        assert await opened(files, link) == b"picture"
    assert (dify.calls, len(dify.fetched)) == (2, 4)


async def test_a_new_one_is_for_one_app() -> None:
    files = proxy(dify := Dify(only_new, NEW_SIGN))
    await opened(files, token(files))
    await opened(files, token(files, OTHER))
    assert dify.calls == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 415])
async def test_what_dify_does_not_hand_out(code: int) -> None:
    files = proxy(Dify(lambda _: status(code), NEW_SIGN))
    with pytest.raises(NoSuchLink):
        await opened(files, token(files))


OTHER_FILE = NEW_SIGN.replace("7690f33c", "00000000")


@pytest.mark.parametrize("listed", ["", "no link", OTHER_FILE, status(404)])
async def test_what_dify_does_not_sign_anew(listed: str | OpenDifyError) -> None:
    files = proxy(Dify(only_new, listed))
    with pytest.raises(LinkExpired):
        await opened(files, token(files))


@pytest.mark.parametrize("ids", [Ids(), Ids(CONVERSATION)])
async def test_without_a_message(ids: Ids) -> None:
    files = proxy(dify := Dify(only_new, NEW_SIGN))
    with pytest.raises(LinkExpired):
        await opened(files, token(files, ids=ids))
    assert not dify.calls


@pytest.mark.parametrize("error", [Unreachable("down"), status(429), status(503)])
async def test_other_failures_stay_what_they_are(error: OpenDifyError) -> None:
    files = proxy(Dify(lambda _: error))
    with pytest.raises(type(error)) as raised:
        await opened(files, token(files))
    assert raised.value is error
    files = proxy(Dify(only_new, error))
    with pytest.raises(type(error)):
        await opened(files, token(files))


async def test_known_signatures_are_bounded() -> None:
    files = proxy(Dify(lambda _: b""))
    file = dify_file(TOOL)
    assert file
    for number in range(FRESH_LINKS + 10):
        files._remember(str(number), file)
    assert len(files._fresh) == FRESH_LINKS
    assert "9" not in files._fresh


# -- places


async def test_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    links = [token(files) for _ in range(10)]
    assert await asyncio.gather(*(opened(files, link) for link in links)) == [b"picture"] * 10
    assert dify.most_open == 4
    monkeypatch.setattr("opendify.file_proxy.QUEUE_SECONDS", 0.05)
    async with files.open(links[0]), files.open(links[1]), files.open(links[2]), files.open(links[3]):
        with pytest.raises(Busy):
            await opened(files, links[4])
    assert await opened(files, links[4]) == b"picture"
    assert not dify.open


# -- what is kept


async def kept(files: FileProxy) -> None:
    """Wait until everything is fetched."""
    await asyncio.gather(*files._tasks.values())


@pytest.mark.parametrize("mode", ["workflow", "completion"])
async def test_files_of_apps_without_messages(mode: Any) -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    link = token(files, replace(APP, mode=mode))
    await kept(files)
    dify.answer = lambda _: status(403)
    for _ in range(2):
        assert await opened(files, link) == b"picture"
    assert len(dify.fetched) == 1


async def test_each_is_fetched_once_and_few_at_a_time() -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    for _ in range(3):
        token(files, FLOW)
    for number in range(KEPT_AT_ONCE + 10):
        token(files, FLOW, TOOL.replace("7690f33c", f"{number:08d}"))
    await kept(files)
    assert len(dify.fetched) == KEPT_AT_ONCE
    assert dify.most_open == 4


async def test_nothing_is_kept_of_others() -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    token(files)
    assert files.link(FLOW, USER, IDS, "https://example.com/a.png") == "https://example.com/a.png"
    nothing = proxy(dify, megabytes=0)
    token(nothing, FLOW)
    assert not files._tasks
    assert not nothing._tasks


@pytest.mark.parametrize("failure", [status(403), Unreachable("down")])
async def test_what_cannot_be_fetched_is_said(failure: OpenDifyError) -> None:
    files = proxy(Dify(lambda _: failure))
    with structlog.testing.capture_logs() as logs:
        token(files, FLOW)
        await kept(files)
    assert [(line["event"], line["problem"]) for line in logs] == [("file_not_kept", failure.code)]


async def test_what_is_too_large_is_not_kept() -> None:
    files = proxy(dify := Dify(lambda _: bytes(MEGABYTE // 4 + 1)), megabytes=1)
    with structlog.testing.capture_logs() as logs:
        token(files, FLOW)
        await kept(files)
    assert [line["event"] for line in logs] == ["file_too_large_to_keep"]
    assert not files._kept.taken
    assert not dify.open


async def test_the_end_of_the_server() -> None:
    files = proxy(dify := Dify(lambda _: b"picture"))
    await files.close()
    token(files, FLOW)
    await asyncio.sleep(0)
    await files.close()
    assert not files._tasks
    assert not dify.open


def test_the_oldest_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("opendify.file_proxy.time.time", lambda: now[0])
    room = Kept(100)
    room.put("large", "", bytes(26), 2000)
    for number in range(6):
        room.put(str(number), f"type/{number}", bytes(20), 2000 + number)
    room.put("5", "type/new", bytes(10), 3000)
    assert room.taken == 90
    assert [key for key in ("large", "0", "1", "2", "5") if room.get(key)] == ["1", "2", "5"]
    newest = room.get("5")
    assert newest
    assert (newest.type, newest.size) == ("type/new", 10)
    now[0] = 2003.5
    assert [key for key in "12345" if room.get(key)] == ["4", "5"]
    assert room.taken == 30
