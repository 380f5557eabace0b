"""Files sent ahead: who finds them, how long they last, what waits in this process."""

import asyncio
import time
from typing import Any

import pytest
from pydantic import SecretStr

from opendify.auth import Caller
from opendify.dialogue import Ahead, Attachment, Prompt, Turn
from opendify.dify.apps import Access, App
from opendify.entries import AppConfig
from opendify.errors import Busy, FileNotFound, InvalidRequest, OpenDifyError, RequestTooLarge
from opendify.kept_files import ID, OVERHEAD_BYTES, KeptFile, KeptFiles, Waiting, new_id
from opendify.store import Store

TEAM = Caller("team")
DAY = 24 * 3600
MEGABYTE = 1024 * 1024


def app_of(key: str = "app-a") -> App:
    """An app; those of other keys are others."""
    config = AppConfig(key=SecretStr(key), base="http://dify/v1")
    return App(
        access=Access("http://dify/v1", key), name="App", mode="chat", inputs=(), files=None, size_limits={},
        moderated=False, config=config,
    )  # fmt: skip


APP = app_of()


class Notes(Store):
    """A store that tells what it holds, and that can be out of order."""

    def __init__(self) -> None:
        super().__init__("mem://")
        self.held: dict[str, tuple[Any, float]] = {}
        self.works = True

    async def put(self, key: str, value: Any, seconds: float) -> bool:
        if self.works:
            self.held[key] = value, seconds
            await super().put(key, value, seconds)
        return self.works


def record(**more: Any) -> KeptFile:
    """A record of notes."""
    values: dict[str, Any] = {"filename": "notes.txt", "extension": ".txt", "mime_type": "text/plain", "size": 5}
    return KeptFile(**(values | {"purpose": "x", "created_at": 1} | more))


async def keep(kept: KeptFiles, caller: Caller = TEAM, user: str | None = None, **more: Any) -> str:
    """The id of a file: of one that waits, unless it has an app."""
    file_id = new_id()
    data = None if "app_id" in more else b"hello"
    await kept.put(kept.key(caller, user, file_id), record(**more), data)
    return file_id


def asks(*file_ids: str, user: str | None = None, before: tuple[str, ...] = ()) -> Prompt:
    """A prompt whose newest turn refers to these, an earlier one to those before."""
    turns = [Turn(role="user", text="look", attachments=refers(before, "earlier")), Turn(role="assistant", text="yes")]
    return Prompt(model="App", turns=(*turns, Turn(role="user", text="now", attachments=refers(file_ids))), user=user)


def refers(file_ids: tuple[str, ...], turn: str = "current") -> tuple[Attachment, ...]:
    """File parts."""
    return tuple(
        Attachment(media="file", param=f"{turn}[{place}]", file_id=file_id) for place, file_id in enumerate(file_ids)
    )


async def resolved(kept: KeptFiles, prompt: Prompt, *, most: int = 20, is_known: bool = False) -> list[Ahead | None]:
    """What is known of each file of a prompt."""
    found = await kept.resolve(prompt, TEAM, APP, most, is_known=is_known)
    return [attachment.ahead for turn in found.turns for attachment in turn.attachments]


async def refused(kept: KeptFiles, prompt: Prompt, app: App = APP, caller: Caller = TEAM) -> OpenDifyError:
    """Why a prompt's files cannot be used."""
    with pytest.raises(OpenDifyError) as caught:
        await kept.resolve(prompt, caller, app, 20, is_known=False)
    return caught.value


# -- records


def test_ids_are_hard_to_guess() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(ID.fullmatch(file_id) for file_id in ids)


def test_keys_tell_nothing_and_belong_to_key_user_and_secret() -> None:
    file_id = new_id()
    store = Store("mem://")
    keys = [
        KeptFiles(store, secret=secret).key(caller, user, file_id)
        for secret in ("", "s")
        for caller in (TEAM, Caller("other"), Caller("team", user="bob"))
        for user in (None, "ann", "anna", "\ud800")
    ]
    assert len(set(keys)) == 2 * (4 + 4 + 1)  # who a header names goes before who the body does
    assert all(key.startswith("opendify:file:") and len(key) == 46 for key in keys)
    assert not [key for key in keys if file_id[5:] in key or "ann" in key]


async def test_a_record_lasts_from_its_last_use() -> None:
    store = Notes()
    kept = KeptFiles(store, days=2, minutes=5)
    waits = kept.key(TEAM, None, await keep(kept))
    assert store.held[waits][1] == 300
    await kept.used(Ahead(waits), APP, "up-1")
    assert store.held[waits][1] == 2 * DAY
    found = await kept.get(waits)
    assert (found.app_id, found.upload_id) == (APP.access.id, "up-1")
    assert abs(found.expires_at - time.time() - 2 * DAY) < 10


async def test_records_hold_no_content() -> None:
    store = Notes()
    await keep(KeptFiles(store))
    assert "hello" not in repr(store.held)


async def test_nothing_is_promised_that_cannot_be_kept() -> None:
    store = Notes()
    kept = KeptFiles(store)
    store.works = False
    with pytest.raises(Busy, match="cannot be remembered") as caught:
        await keep(kept)
    assert caught.value.headers() == [("x-should-retry", "false")]
    assert kept.waiting.taken == 0


async def test_bytes_stay_where_their_use_cannot_be_noted() -> None:
    store = Notes()
    kept = KeptFiles(store)
    file_id = await keep(kept)
    store.works = False
    key = kept.key(TEAM, None, file_id)
    await kept.used(Ahead(key), APP, "up-1")
    assert kept.waiting.get(key) == b"hello"


async def test_what_was_deleted_meanwhile_does_not_come_back() -> None:
    kept = KeptFiles(Store("mem://"))
    key = kept.key(TEAM, None, await keep(kept))
    await kept.delete(key)
    await kept.used(Ahead(key), APP, "up-1")
    await kept.lost(key)
    for look in (kept.get, kept.delete):
        with pytest.raises(FileNotFound):
            await look(key)


# -- in prompts


async def test_a_prompt_without_files_is_left_as_it_is() -> None:
    prompt = asks()
    assert await KeptFiles(Store("mem://")).resolve(prompt, TEAM, APP, 20, is_known=False) is prompt


async def test_files_are_found_with_their_names() -> None:
    kept = KeptFiles(Store("mem://"))
    waits = await keep(kept)
    sent = await keep(kept, filename="photo", extension=".png", app_id=APP.access.id, upload_id="up-1")
    prompt = await kept.resolve(asks(waits, sent), TEAM, APP, 20, is_known=True)
    (first, second) = prompt.turns[-1].attachments
    assert first.ahead == Ahead(kept.key(TEAM, None, waits), None, b"hello")
    assert second.ahead == Ahead(kept.key(TEAM, None, sent), "up-1", None)
    assert [file.name for file in (first, second)] == ["notes.txt", "photo.png"]
    assert [file.file_id for file in (first, second)] == [waits, sent]


async def test_other_attachments_are_not_touched() -> None:
    kept = KeptFiles(Store("mem://"))
    file_id = await keep(kept)
    picture = Attachment(media="image", param="p", base64="aGVsbG8=")
    turn = Turn(role="user", text="x", attachments=(picture, *refers((file_id,))))
    (found,) = (await kept.resolve(Prompt(model="App", turns=(turn,)), TEAM, APP, 20, is_known=False)).turns
    assert found.attachments[0] is picture
    assert found.attachments[1].ahead


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"app_id": "another", "upload_id": "up-1"}, "file_elsewhere"),
        ({"app_id": APP.access.id}, "file_lost"),
        ({"app_id": "another"}, "file_lost"),
    ],
)
async def test_what_cannot_be_used_names_its_part(more: dict[str, Any], code: str) -> None:
    kept = KeptFiles(Store("mem://"))
    error = await refused(kept, asks(await keep(kept), await keep(kept, **more)))
    assert isinstance(error, InvalidRequest)
    assert (error.status, error.code, error.param) == (400, code, "current[1]")


async def test_several_workers_share_records_and_no_bytes() -> None:
    store = Store("mem://")
    here, there = KeptFiles(store), KeptFiles(store)
    file_id = await keep(here)
    error = await refused(there, asks(file_id))
    assert (error.status, error.code, error.param) == (400, "file_elsewhere", "current[0]")
    assert "`model`" in error.message
    key = here.key(TEAM, None, file_id)
    await here.used(Ahead(key), APP, "up-1")
    assert await resolved(there, asks(file_id)) == [Ahead(key, "up-1")]


async def test_others_find_nothing() -> None:
    kept = KeptFiles(Store("mem://"))
    file_id = await keep(kept, user="ann")
    assert await resolved(kept, asks(file_id, user="ann"))
    for prompt, caller in (
        (asks(file_id), TEAM),
        (asks(file_id, user="bob"), TEAM),
        (asks(file_id, user="ann"), Caller("other")),
        (asks(file_id, user="ann"), Caller("team", user="bob")),
        (asks("file-x"), TEAM),
    ):
        error = await refused(kept, prompt, caller=caller)
        assert (error.status, error.code, error.param) == (404, "file_not_found", "current[0]")


async def test_files_of_earlier_turns_are_found_if_anyone_asks_for_them() -> None:
    kept = KeptFiles(Store("mem://"))
    old, new = await keep(kept), await keep(kept)
    prompt = asks(new, before=(old, "file-unknown"))
    assert [bool(ahead) for ahead in await resolved(kept, prompt)] == [True, False, True]
    assert [bool(ahead) for ahead in await resolved(kept, prompt, is_known=True)] == [False, False, True]


async def test_only_so_many_are_looked_up() -> None:
    kept = KeptFiles(Store("mem://"))
    ids = [await keep(kept) for _ in range(3)]
    prompt = asks(*ids, before=tuple(ids))
    assert [bool(ahead) for ahead in await resolved(kept, prompt, most=2)] == [False, True, True, True, True, False]
    assert [bool(ahead) for ahead in await resolved(kept, prompt, most=0)] == [False] * 6


async def test_a_lost_file_is_lost_for_good_and_says_so() -> None:
    kept = KeptFiles(Store("mem://"))
    file_id = await keep(kept, app_id=APP.access.id, upload_id="up-1")
    key = kept.key(TEAM, None, file_id)
    await kept.lost(key)
    assert (await kept.get(key)).is_lost
    assert (await refused(kept, asks(file_id))).code == "file_lost"


# -- waiting


async def test_room_is_counted() -> None:
    waiting = Waiting(2 * OVERHEAD_BYTES + 10, 60)
    waiting.put("a", b"12345")
    waiting.put("b", b"12345")
    assert waiting.taken == 2 * OVERHEAD_BYTES + 10
    with pytest.raises(Busy, match="Too many files wait"):
        waiting.put("c", b"")
    assert waiting.get("a") == b"12345"
    waiting.drop("a")
    waiting.drop("a")
    waiting.put("c", b"12345")
    assert (waiting.get("a"), waiting.get("c")) == (None, b"12345")


async def test_one_that_never_fits() -> None:
    with pytest.raises(RequestTooLarge, match="Files of up to 1 MB wait") as caught:
        Waiting(MEGABYTE, 60).put("a", bytes(MEGABYTE))
    assert caught.value.param == "file"


async def test_each_has_its_time() -> None:
    waiting = Waiting(MEGABYTE, 0.05)
    waiting.put("a", b"1")
    await asyncio.sleep(0.03)
    waiting.put("b", b"2")
    await asyncio.sleep(0.03)
    assert (waiting.get("a"), waiting.get("b")) == (None, b"2")
    await asyncio.sleep(0.03)
    assert waiting.taken == 0
