"""JSON values with an end, here in this process; test_e2e_redis.py has the real Redis."""

import asyncio
import json

import pytest
from conftest import Told
from msgspec import Struct

from opendify.store import Store


class Thing(Struct):
    name: str
    size: int | None = None


@pytest.fixture
def store() -> Store:
    return Store("mem://")


async def test_values_come_back(store: Store) -> None:
    assert await store.get("a", Thing) is None
    assert await store.put("a", Thing("x", 3), 60)
    assert await store.get("a", Thing) == Thing("x", 3)
    await store.delete("a")
    assert await store.get("a", Thing) is None


async def test_values_end(store: Store) -> None:
    await store.put("a", Thing("x"), 0.001)
    await store.claim("b", "one", 0.001)
    await asyncio.sleep(0.01)
    assert await store.get("a", Thing) is None
    assert await store.claim("b", "two", 60)


async def test_one_at_a_time_claims_a_key(store: Store) -> None:
    assert await store.claim("a", "one", 60) is True
    assert await store.claim("a", "two", 60) is False
    assert await store.claim("a", "one", 60) is True  # asked twice, for a connection that broke
    assert await store.unclaim("a", "two") is True  # nothing of ours is there
    assert await store.claims("a", "one")
    assert await store.unclaim("a", "one") is True
    assert await store.claim("a", "two", 60) is True


async def test_a_claim_is_renewed_by_who_has_it(store: Store) -> None:
    await store.claim("a", "one", 0.05)
    await store.renew_claim("a", "two", 60)
    await asyncio.sleep(0.06)
    assert await store.claim("a", "one", 0.05) is True
    await store.renew_claim("a", "one", 60)
    await asyncio.sleep(0.06)
    assert await store.claims("a", "one")


async def test_a_value_of_another_version_is_none(store: Store) -> None:
    await store.put("a", Thing("x"), 60)

    class Other(Struct):
        name: int

    assert await store.get("a", Other) is None


async def test_values_are_json(store: Store) -> None:
    await store.put("a", Thing("x", 3), 60)
    _, raw = store._cache._get_backend("").store["a"]  # type: ignore[attr-defined]
    assert json.loads(raw) == {"name": "x", "size": 3}


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
        assert await store.claim("a", "one", 60) is None
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
