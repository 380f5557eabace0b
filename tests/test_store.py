"""JSON values with an end, in this process and in a real Redis: both do the same."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio as redis
from conftest import Told
from msgspec import Struct

from opendify.backends import Claim
from opendify.conversation import Record, Waits
from opendify.store import Store


class Thing(Struct):
    name: str
    size: int | None = None


class Stated(Struct):
    state: str | None = None
    name: str = ""


class Pointer(Struct):
    to: str


ONE, TWO = Claim("claim", b"one", 60), Claim("claim", b"two", 60)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (shutil.which("redis-server") or os.environ.get("REQUIRE_REDIS")):
        pytest.skip("needs redis-server (Debian: apt install redis-server)")
    place: Path = tmp_path_factory.mktemp("redis")
    path = place / "socket"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    arguments = ("--port", str(port), "--bind", "127.0.0.1", "--unixsocket", str(path), "--save", "")
    with subprocess.Popen(("redis-server", *arguments), cwd=place, stdout=subprocess.DEVNULL) as process:
        while not path.exists():
            time.sleep(0.01)
        yield f"redis://127.0.0.1:{port}/0"
        process.kill()


@pytest.fixture(params=["mem", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    url: str = "mem://" if request.param == "mem" else request.getfixturevalue("redis_url")
    store = Store(url)
    await store.delete("nothing")  # which makes the connection
    await store._cache.clear()
    yield store
    await store.close()


async def take(store: Store, claim: Claim, state: str = "") -> tuple[bool | None, Stated | None]:
    return await store.take(claim, "a", Stated, 60, state)


async def end(store: Store, claim: Claim, *states: str | None, **where: list[str]) -> bool:
    """With the value in the first of the states, or the second one otherwise."""
    value, otherwise = (None if state is None else Stated(state) for state in states)
    keys = where.get("leads", []), where.get("stale", [])
    return await store.end(claim, "a", value, otherwise, 60, Pointer("a"), *keys)


async def is_taken(store: Store) -> bool:
    return await store.has(["claim"])


async def test_values_come_back(store: Store) -> None:
    assert await store.get("a", Thing) is None
    assert await store.put("a", Thing("x", 3), 60)
    assert await store.get("a", Thing) == Thing("x", 3)
    assert await store.get_all(["b", "a"], Thing) == [None, Thing("x", 3)]
    assert (await store.has(["b", "a"]), await store.has(["b"])) == (True, False)
    assert await store.delete("a")
    assert await store.get("a", Thing) is None


async def test_values_are_nobody_elses(store: Store) -> None:
    thing = Thing("x")
    await store.put("a", thing, 60)
    thing.name = "y"
    found = await store.get("a", Thing)
    assert found == Thing("x")
    found.name = "z"
    assert await store.get("a", Thing) == Thing("x")


async def test_values_end(store: Store) -> None:
    await store.put("a", Thing("x"), 0.001)
    await store.put("b", Stated("s"), 60)
    assert await store.take(Claim("claim", b"one", 0.001), "b", Stated, 0.001) == (True, Stated("s"))
    await asyncio.sleep(0.01)
    assert await store.get_all(["a", "b"], Thing) == [None, None]
    assert not await is_taken(store)
    assert await take(store, TWO) == (True, None)


async def test_one_at_a_time_takes_a_value(store: Store) -> None:
    await store.put("a", Stated("s", "x"), 60)
    assert await take(store, ONE, "s") == (True, Stated("s", "x"))
    assert await store.get("a", Stated) == Stated(None, "x")
    assert await take(store, TWO, "s") == (False, Stated(None, "x"))
    assert await take(store, TWO) == (False, Stated(None, "x"))
    assert await store.unclaim(TWO)  # nothing of theirs is there
    assert await is_taken(store)
    assert await store.unclaim(ONE)
    assert await take(store, TWO, "s") == (False, Stated(None, "x"))  # in no state any more
    assert not await is_taken(store)
    assert await take(store, TWO) == (True, Stated(None, "x"))


async def test_a_value_is_taken_in_its_state_alone(store: Store) -> None:
    assert await take(store, ONE, "s") == (False, None)
    await store.put("a", Stated("other"), 60)
    assert await take(store, ONE, "s") == (False, Stated("other"))
    assert not await is_taken(store)
    assert await store.get("a", Stated) == Stated("other")
    assert await take(store, ONE) == (True, Stated("other"))
    assert await store.get("a", Stated) == Stated(None)


async def test_what_was_taken_is_given_back(store: Store) -> None:
    await store.put("was", Pointer("a"), 60)
    await store.put("anothers", Pointer("b"), 60)
    await store.put("a", Stated("s"), 60)
    await take(store, ONE, "s")
    assert await end(store, ONE, "t", "doubt", leads=["new", "chat"], stale=["was", "anothers"])
    assert await store.get("a", Stated) == Stated("t")
    known = await store.get_all(["new", "chat", "was", "anothers"], Pointer)
    assert known == [Pointer("a"), Pointer("a"), None, Pointer("b")]
    assert not await is_taken(store)
    assert await take(store, TWO, "t") == (True, Stated("t"))
    assert await end(store, TWO, None, None)
    assert not await store.has(["a", "claim"])


async def test_what_is_not_ours_any_more_is_not_given_back(store: Store) -> None:
    await store.put("a", Stated("s"), 60)
    await take(store, ONE)
    await store.delete("claim")
    await take(store, TWO)
    assert await end(store, ONE, "t", "doubt", leads=["new"])
    assert await store.get("a", Stated) == Stated("doubt")
    assert not await store.has(["new"])
    assert await is_taken(store)


async def test_a_claim_is_renewed_by_who_has_it(store: Store) -> None:
    short = Claim("claim", b"one", 0.05)
    await store.take(short, "a", Stated, 60)
    await store.renew(TWO)
    await asyncio.sleep(0.06)
    assert not await is_taken(store)
    await store.renew(ONE)
    assert not await is_taken(store)
    await store.take(short, "a", Stated, 60)
    await store.renew(ONE)
    await asyncio.sleep(0.06)
    assert await is_taken(store)


async def test_a_value_of_another_version_is_none(store: Store) -> None:
    await store.put("a", Thing("x"), 60)

    class Other(Struct):
        name: int

    assert await store.get("a", Other) is None
    await store._cache.write("a", b"no JSON", 60)
    assert await store.get("a", Thing) is None


async def test_values_of_earlier_versions_are_read(store: Store) -> None:
    waits = {"run_id": "r", "token": "t", "submitted": ["u"], "spoken": 3, "bad": 0}
    record = {"state": "s", "system": None, "message_id": "m", "next_at": 1.5, "salt": None, "rules": None}
    await store._cache.write("a", json.dumps(record | {"format": "f", "waits": waits, "new": 1}).encode(), 60)
    known = Record("s", message_id="m", next_at=1.5, format="f", waits=Waits("r", "t", ("u",), 3))
    assert await store.get("a", Record) == known
    assert await store.take(ONE, "a", Record, 60, "s") == (True, known)
    kept = await store.get("a", Record)
    assert (kept and kept.state, kept and kept.waits) == (None, known.waits)


async def test_values_are_json(store: Store) -> None:
    await store.put("a", Thing("x", 3), 60)
    (raw,) = await store._cache.read(["a"])
    assert json.loads(raw or "") == {"name": "x", "size": 3}


async def test_what_redis_did_before_it_could_say_so_is_not_done_twice(redis_url: str) -> None:
    """The connection breaks, and redis' client asks again."""
    store = Store(redis_url)
    await store.put("a", Stated("s"), 60)
    assert await take(store, ONE, "s") == (True, Stated("s"))
    assert await take(store, ONE, "s") == (True, Stated(None))
    for _ in range(2):
        assert await end(store, ONE, "t", "doubt", leads=["new"])
        assert await store.get("a", Stated) == Stated("t")
    await store.close()


async def test_a_turn_takes_three_round_trips(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leads to the conversation, the conversation itself, and what has become of it."""
    store = Store(redis_url)
    await take(store, ONE)
    await end(store, ONE, "s", None)  # Redis knows the scripts now
    sent: list[Any] = []
    send = redis.Connection.send_packed_command

    async def counted(connection: Any, command: Any, **options: Any) -> None:
        sent.append(command)
        await send(connection, command, **options)

    monkeypatch.setattr(redis.Connection, "send_packed_command", counted)
    await store.get_all(["chat", "state"], Pointer)
    await take(store, ONE, "s")
    await end(store, ONE, "t", None, leads=["chat", "state"], stale=["before"])
    assert len(sent) == 3
    await store.close()


async def test_scripts_that_redis_has_forgotten(redis_url: str) -> None:
    store = Store(redis_url)
    await take(store, ONE)
    async with redis.Redis.from_url(redis_url) as client:
        await client.script_flush()
    assert await end(store, ONE, "s", None)
    assert await take(store, TWO, "s") == (True, Stated("s"))
    await store.close()


@pytest.mark.parametrize(
    "odd", [b"", b"[]", b'{"state":1}', b'{"state":"\xff"}', b'\xff{"state":"s"}', b'{"state":"s"']
)
async def test_values_that_are_none_of_ours(odd: bytes, store: Store) -> None:
    await store._cache.write("a", odd, 60)
    assert await store.get("a", Stated) is None
    taken, value = await take(store, ONE, "s")
    assert taken in {True, False}
    assert value is None
    assert await store.put("a", Stated("s"), 60)


async def test_a_key_that_is_something_else_in_redis(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what needs that key goes without it, and nothing is claimed for good."""
    store = Store(redis_url)
    async with redis.Redis.from_url(redis_url) as client:
        await client.delete("a", "claim")
        await client.rpush("a", "x")
        for _ in range(3):
            assert await take(store, ONE, "s") == (None, None)
        assert not await client.exists("claim")
        assert await store.put("b", Thing("x"), 60)
        assert await store.get("b", Thing) == Thing("x")
        await client.delete("a")
    assert await take(store, TWO) == (True, None)
    await store.close()
    log = Told(capsys).log()
    assert log.count("store_refused") == 1
    assert "WRONGTYPE" in log
    assert "store_unreachable" not in log


async def test_a_redis_that_is_full(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is read from as before."""
    store = Store(redis_url)
    assert await store.put("b", Thing("x"), 60)
    async with redis.Redis.from_url(redis_url) as client:
        await client.config_set("maxmemory", "1")
        try:
            assert not store.is_unsure
            assert not await store.put("c", Thing("x"), 60)
            assert store.is_unsure
            assert await store.get("b", Thing) == Thing("x")
        finally:
            await client.config_set("maxmemory", "0")
    await store.close()
    assert "problem=OOM" in Told(capsys).log()


async def test_many_at_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than there are connections wait for one, and go without if that takes too long: Redis is not away."""
    monkeypatch.setattr("opendify.backends.CONNECTIONS", 1)
    monkeypatch.setattr("opendify.backends.ANSWER_SECONDS", 0.1)
    store = Store(redis_url)
    await store.put("b", Thing("x"), 60)

    async def occupy() -> None:
        pool = store._cache._client.connection_pool  # type: ignore[attr-defined]
        connection = await pool.get_connection()
        await asyncio.sleep(0.3)
        await pool.release(connection)

    occupied = asyncio.create_task(occupy())
    await asyncio.sleep(0.01)
    assert await store.get("b", Thing) is None
    assert store.is_unsure
    await occupied
    assert await store.get("b", Thing) == Thing("x")
    await store.close()
    assert "store_crowded" in Told(capsys).log()


async def test_the_oldest_values_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.store.MEMORY_ENTRIES", 10)
    store = Store("mem://")
    for number in range(20):
        await store.put(str(number), Thing("x"), 60)
    assert [bool(await store.get(str(number), Thing)) for number in range(20)] == [False] * 10 + [True] * 10


async def test_while_nothing_answers_everything_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("opendify.store.REST_SECONDS", 0.0)
    store = Store("redis://127.0.0.1:1/0")
    for _ in range(3):
        assert await store.get("a", Thing) is None
        assert await store.put("a", Thing("x"), 60) is False
        assert await take(store, ONE) == (None, None)
        assert await end(store, ONE, "s", None) is False
        assert await store.unclaim(ONE) is False
        assert await store.has(["a"]) is False
        assert await store.delete("a") is False
    await store.close()
    assert Told(capsys).log().count("store_unreachable") == 1


async def test_what_does_not_answer_is_left_alone_for_a_while() -> None:
    store = Store("redis://127.0.0.1:1/0")
    await store.get("a", Thing)
    tried = 0

    async def change() -> str:
        nonlocal tried
        tried += 1
        return "changed"

    assert await store._try(change, "otherwise") == "otherwise"
    assert not tried
    store._resting_until = 0.0
    assert await store._try(change, "otherwise") == "changed"
