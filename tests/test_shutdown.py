"""Signals, with several servers in one process."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from conftest import eventually

from opendify.shutdown import SIGNALS, draining_on_signals


@pytest.fixture(autouse=True)
def heard() -> Iterator[list[int]]:
    """The signals that reach whoever was there before."""
    numbers: list[int] = []
    before = {number: signal.signal(number, lambda number, _: numbers.append(number)) for number in SIGNALS}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_servers_that_end_in_another_order_than_they_began(heard: list[int]) -> None:
    drained: list[str] = []

    async def first(_: float) -> None:
        drained.append("first")

    async def second(_: float) -> None:
        drained.append("second")

    one, two = draining_on_signals(first, 1), draining_on_signals(second, 1)
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: heard == [signal.SIGTERM])
    assert drained == ["second"]
    two.__exit__(None, None, None)
    signal.raise_signal(signal.SIGINT)
    await asyncio.sleep(0)
    assert heard == [signal.SIGTERM, signal.SIGINT]
    assert drained == ["second"]
