"""What goes on beside requests: kept track of, so that nothing is dropped half done when the server shuts down."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Those that a server which shuts down gives their time, and those that are worth a moment only."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._asides: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives its request; a server that shuts down gives it its time."""
        return _kept_in(self._tasks, work)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that no server that shuts down waits for longer than a moment."""
        _kept_in(self._asides, work)

    async def wait(self, seconds: float) -> None:
        """Give the spawned ones at most so long."""
        await _wait(self._tasks, seconds)

    async def settled(self, seconds: float) -> None:
        """Give all of them at most so long."""
        await _wait(self._tasks | self._asides, seconds)

    async def end(self, seconds: float) -> None:
        """Give all of them at most so long, then cancel what is left."""
        await self.settled(seconds)
        for task in self._tasks | self._asides:
            task.cancel()


def _kept_in(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


async def _wait(tasks: set[asyncio.Task[None]], seconds: float) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
