"""SIGTERM: no new answers, running ones get their time, then the server stops as it would have."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog

SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("opendify.shutdown")


@contextmanager
def draining_on_signals(drain: Callable[[float], Awaitable[None]], seconds: float) -> Iterator[None]:
    """Put `drain(seconds)` before the server's own handlers; a second signal does not wait any longer.

    The server's handlers stop its listener at once. Ours come first, so that requests meanwhile get a clear answer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread: a server in another one is stopped by whoever started it
        return
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}
    tasks: set[asyncio.Task[None]] = set()

    async def stop(number: int, wait: float) -> None:
        log.info("draining", signal=signal.Signals(number).name, seconds=wait)
        await drain(wait)
        signal.signal(number, before[number])
        signal.raise_signal(number)

    def begin(number: int) -> None:
        tasks.add(loop.create_task(stop(number, 0 if tasks else seconds)))

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's signature)
        loop.call_soon_threadsafe(begin, number)

    for number in map(int, SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as shells set it for what runs in the background
            before[number] = signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
