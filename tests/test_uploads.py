"""Uploads: each file once, per app, user and content; what Dify forgot is sent again."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from opendify.auth import Caller
from opendify.dialogue import Ahead, Event, Ids, Started, TextDelta
from opendify.dify.apps import Access, App, FileRule
from opendify.dify.files import PlannedFile, Upload
from opendify.dify.requests import RunPlan
from opendify.entries import AppConfig
from opendify.errors import InvalidRequest, Refused, Unreachable
from opendify.kept_files import KeptFile, KeptFiles
from opendify.store import Store
from opendify.uploads import NewFile, Sent, Uploads, app_for, start_held


class Dify:
    """A gateway that notes what is uploaded."""

    def __init__(self) -> None:
        self.uploads: list[tuple[str, str, Upload]] = []
        self.failures: dict[bytes, Exception] = {}
        self.under_way = 0
        self.most_under_way = 0

    async def upload(self, app: App, user: str, file: Upload) -> str:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0.01)
            if failure := self.failures.get(file.data):
                raise failure
        finally:
            self.under_way -= 1
        self.uploads.append((app.name, user, file))
        return f"up-{len(self.uploads)}"


def app_of(key: str = "app-a") -> App:
    """An app that takes pictures and documents."""
    config = AppConfig(key=SecretStr(key), base="http://dify/v1")
    rule = FileRule(None, frozenset(("image", "document")), frozenset(), frozenset())
    return App(
        access=Access("http://dify/v1", key), name=key, mode="chat", inputs=(), files=rule, size_limits={},
        moderated=False, config=config,
    )  # fmt: skip


APP = app_of()


def file(data: bytes = b"x", name: str = "a.txt", *, ahead: Ahead | None = None, param: str = "p") -> PlannedFile:
    """A file to send."""
    upload = Upload(name, "text/plain", data)
    return PlannedFile(kind="document", place=None, is_list=True, param=param, upload=upload, ahead=ahead)


LINK = PlannedFile(kind="image", place=None, is_list=True, param="p", url="https://h/a.png")


def known(key: str, upload_id: str = "up-old") -> PlannedFile:
    """A file sent ahead that Dify has."""
    return PlannedFile(kind="document", place=None, is_list=True, param="p", ahead=Ahead(key, upload_id))


class Sending:
    """Uploads on a gateway and a store of their own."""

    def __init__(self, **more: Any) -> None:
        self.dify = Dify()
        self.store = Store("mem://")
        self.uploads = Uploads(self.dify, self.store, **more)  # type: ignore[arg-type]

    async def send(self, *files: PlannedFile, app: App = APP, user: str = "ann") -> Sent:
        """What became of a plan's files."""
        sent = Sent([], [])
        await self.uploads.send(RunPlan(app, "", {}, list(files)), user, sent)
        return sent

    async def record(self, key: str, **more: Any) -> None:
        """A record of a file sent ahead."""
        await self.uploads.kept.put(key, KeptFile("a.txt", ".txt", "text/plain", 1, "x", 1, **more))


async def test_all_at_once_and_links_not_at_all() -> None:
    sending = Sending()
    sent = await sending.send(file(b"1"), LINK, file(b"2"), file(b"1"))
    first, link, second, again = sent.ids
    assert (link, again) == (None, first)
    assert {first, second} == {"up-1", "up-2"}
    assert sending.dify.most_under_way == 2
    assert sent.reused == []


@pytest.mark.parametrize(
    ("other", "uploads"),
    [
        ({}, 1),
        ({"user": "bob"}, 2),
        ({"app": app_of("app-b")}, 2),
    ],
)
async def test_once_per_app_user_and_content(other: dict[str, Any], uploads: int) -> None:
    sending = Sending()
    await sending.send(file())
    sent = await sending.send(file(), **other)
    assert len(sending.dify.uploads) == uploads
    assert bool(sent.reused) is (uploads == 1)


async def test_the_kind_counts_and_the_name_does_not() -> None:
    sending = Sending()
    for name in ("a.txt", "b.txt", "a.md"):
        await sending.send(file(name=name))
    assert [upload.name for _, _, upload in sending.dify.uploads] == ["a.txt", "a.md"]


async def test_for_so_many_hours() -> None:
    sending = Sending(hours=0.05 / 3600)
    await sending.send(file())
    await asyncio.sleep(0.06)
    await sending.send(file())
    assert len(sending.dify.uploads) == 2


async def test_what_dify_forgot_is_sent_again() -> None:
    sending = Sending()
    await sending.send(file(b"1"), file(b"2"))
    sent = await sending.send(file(b"1"), file(b"3"))
    assert len(sent.reused) == 1
    await sending.uploads.forget(sent)
    sent = await sending.send(file(b"1"), file(b"2"), file(b"3"))
    assert [upload.data for _, _, upload in sending.dify.uploads[2:]] == [b"3", b"1"]
    assert len(sent.reused) == 2


async def test_a_refusal_names_the_part_and_ends_the_others() -> None:
    sending = Sending()
    sending.dify.failures = {b"bad": Refused("no", code="file_too_large", status=413)}
    with pytest.raises(Refused) as caught:
        await sending.send(file(b"1"), file(b"bad", param="messages[0].content[1]"))
    assert caught.value.param == "messages[0].content[1]"
    sending.dify.failures = {b"bad": Unreachable("gone")}
    with pytest.raises(Unreachable):
        await sending.send(file(b"bad"))
    assert sending.dify.under_way == 0


# -- files sent ahead


async def test_a_file_that_dify_has_is_not_sent() -> None:
    sending = Sending()
    await sending.record("k", app_id=APP.access.id, upload_id="up-old")
    sent = await sending.send(known("k"), LINK)
    assert sent.ids == ["up-old", None]
    assert sent.reused == ["k"]  # that is what Dify may have forgotten
    assert sending.dify.uploads == []


async def test_bytes_that_wait_are_sent_whatever_is_remembered() -> None:
    sending = Sending()
    await sending.send(file())
    await sending.record("k")
    sent = await sending.send(file(ahead=Ahead("k", data=b"x")), file())
    assert sent.ids == ["up-2", "up-2"]
    assert sent.reused == []
    assert (await sending.uploads.kept.get("k")).upload_id == "up-2"
    assert (await sending.send(file())).ids == ["up-2"]


async def test_what_can_be_sent_again_is_suspected_first() -> None:
    sending = Sending()
    await sending.record("k", app_id=APP.access.id, upload_id="up-old")
    await sending.send(file())
    sent = await sending.send(known("k"), file())
    await sending.uploads.forget(sent)
    assert not (await sending.uploads.kept.get("k")).is_lost
    sent = await sending.send(known("k"), file())
    assert sent.reused == ["k"]
    await sending.uploads.forget(sent)
    assert (await sending.uploads.kept.get("k")).is_lost
    assert (await sending.send(file())).reused


def new(data: bytes = b"hello", name: str = "notes.md", mime_type: str = "") -> NewFile:
    """A file from a client."""
    return NewFile(name, mime_type, data, "user_data")


async def test_keeping_one_without_an_app() -> None:
    sending = Sending(kept=KeptFiles(Store("mem://")))
    record = await sending.uploads.keep(new(), "k", None, "")
    assert (record.filename, record.extension, record.mime_type, record.size) == ("notes.md", ".md", "text/markdown", 5)
    assert (record.app_id, record.upload_id) == (None, None)
    assert sending.uploads.kept.waiting.get("k") == b"hello"
    with pytest.raises(InvalidRequest, match="empty"):
        await sending.uploads.keep(new(b""), "k2", None, "")


async def test_keeping_one_with_its_app() -> None:
    sending = Sending()
    for number in (1, 2):  # always anew: nobody could mend an id that Dify has forgotten
        record = await sending.uploads.keep(new(), f"k{number}", APP, "ann")
        assert (record.app_id, record.upload_id) == (APP.access.id, f"up-{number}")
    assert sending.uploads.kept.waiting.taken == 0
    assert [(user, upload.name) for _, user, upload in sending.dify.uploads] == [("ann", "notes.md")] * 2
    with pytest.raises(InvalidRequest, match="does not take this file") as caught:
        await sending.uploads.keep(new(b"{}", "a.json"), "k3", APP, "ann")
    assert caught.value.param == "file"
    sending.dify.failures = {b"hello": Refused("no", code="file_too_large", status=413)}
    with pytest.raises(Refused) as refused:
        await sending.uploads.keep(new(), "k3", APP, "ann")
    assert refused.value.param == "file"


# -- which app


class Apps:
    """A catalogue: names of apps that are there, and of those in trouble (None: of no name yet)."""

    def __init__(self, *there: str, away: tuple[str | None, ...] = ()) -> None:
        apps = {name: SimpleNamespace(name=name) for name in there}
        self._entries = [SimpleNamespace(app=app, known_as=name) for name, app in apps.items()]
        self._entries += [SimpleNamespace(app=None, known_as=name) for name in away]

    async def entries(self) -> list[SimpleNamespace]:
        return self._entries

    async def find(self, model: str, allowed: Any) -> str:
        return f"found {model}"


@pytest.mark.parametrize(
    ("apps", "models", "name"),
    [
        (Apps("a"), None, "a"),
        (Apps("a", "b"), None, None),
        (Apps("a", "b"), {"b", "c"}, "b"),
        (Apps("a"), {"b"}, None),
        (Apps(), None, None),
        (Apps("a", away=("b",)), None, None),
        (Apps("a", away=("b",)), {"a"}, "a"),
        (Apps("a", away=(None,)), {"a"}, None),
        (Apps(away=("a",)), None, None),
    ],
)
async def test_the_only_app(apps: Any, models: set[str] | None, name: str | None) -> None:
    caller = Caller("team", None if models is None else frozenset(models))
    app = await app_for(apps, caller, None)
    assert (app and app.name) == name


async def test_a_named_app() -> None:
    found: Any = await app_for(Apps("a", "b"), Caller("team"), "b")  # type: ignore[arg-type]
    assert found == "found b"


# -- starts


async def test_a_start_comes_with_what_follows_it() -> None:
    start, text = Started(Ids()), TextDelta("x")

    async def run(*batches: Sequence[Event]) -> AsyncGenerator[Sequence[Event], None]:
        for batch in batches:
            yield batch

    async def heard(*batches: Sequence[Event]) -> list[Sequence[Event]]:
        return [list(batch) async for batch in start_held(run(*batches))]

    assert await heard([start], [text], [text, text]) == [[start, text], [text, text]]
    assert await heard([start, text], [text]) == [[start, text], [text]]
    assert await heard([start]) == [[start]]
    assert await heard() == []
