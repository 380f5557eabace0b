"""Holds on conversations: said again by a timer, given back once."""

import asyncio
from typing import cast

import pytest

from opendify.conversation import Record
from opendify.hold import HOLD_SECONDS, Holds
from opendify.scope import Scope
from opendify.store import Store


class Names:
    """Keys that can be read."""

    def key(self, kind: str, name: str) -> str:
        return f"{kind}:{name}"


@pytest.fixture
def store() -> Store:
    return Store("mem://")


def holds_of(store: Store) -> Holds:
    return Holds(store, cast("Scope", Names()), 60)


async def ends(store: Store) -> float:
    """When the hold ends by itself, seconds since the epoch."""
    end: float = store._cache.store["turn:c"][0]  # type: ignore[attr-defined]
    return end


async def test_one_turn_holds_a_conversation(store: Store) -> None:
    one, two = holds_of(store), holds_of(store)
    await store.put("conversation:c", Record("s"), 60)
    assert await one.take("c", "s") == (True, Record("s"))
    assert await two.take("c", "s") == (False, Record())
    assert (one.any, two.any) == (True, False)
    assert await two.let_go()
    assert await store.has(["turn:c"])
    assert await one.end("c", Record("t"), Record(), ["state:t"], [])
    assert not one.any
    assert await two.take("c", "t") == (True, Record("t"))
    assert await two.let_go()
    assert not await store.has(["turn:c"])


async def test_a_long_turn_says_so_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.hold.RENEW_SECONDS", 0.01)
    holds = holds_of(store)
    await holds.take("c")
    first = await ends(store)
    await asyncio.sleep(0.05)
    second = await ends(store)
    await asyncio.sleep(0.05)
    assert first < second < await ends(store) < second + HOLD_SECONDS
    await holds.let_go()
    await asyncio.sleep(0.03)
    assert not await store.has(["turn:c"])
    assert len(asyncio.all_tasks()) == 1


async def test_a_short_turn_makes_no_task(store: Store) -> None:
    holds = holds_of(store)
    await holds.take("c")
    assert len(asyncio.all_tasks()) == 1
    assert await holds.end("c", Record("t"), Record(), [], [])


async def test_a_hold_that_was_lost_is_not_said_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.hold.RENEW_SECONDS", 0.01)
    holds = holds_of(store)
    await holds.take("c")
    await store.delete("turn:c")
    await asyncio.sleep(0.03)
    assert not await store.has(["turn:c"])
    assert await holds.end("c", Record("t"), Record("doubt"), ["state:t"], [])
    assert await store.get("conversation:c", Record) == Record("doubt")
    assert not await store.has(["state:t"])


async def test_a_turn_that_is_begun_is_known(store: Store) -> None:
    holds = holds_of(store)
    assert not await holds.knows("c")
    await holds.take("c")
    assert await holds_of(store).knows("c")
