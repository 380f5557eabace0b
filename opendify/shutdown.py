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
    tasks: set[asyncio.Task[None]] = set()
    is_over = False

    async def stop(number: int, wait: float) -> None:
        log.info("draining", signal=signal.Signals(number).name, seconds=wait)
        await drain(wait)
        pass_on(number)

    def begin(number: int) -> None:
        tasks.add(loop.create_task(stop(number, 0 if tasks else seconds)))

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's signature)
        if is_over:  # another server of this process, which came later, has put it back
            pass_on(number)
        else:
            loop.call_soon_threadsafe(begin, number)

    def pass_on(number: int) -> None:
        signal.signal(number, before[number])
        signal.raise_signal(number)

    before = _installed(on_signal)
    try:
        yield
    finally:
        is_over = True
        for number, handler in before.items():
            if signal.getsignal(number) is on_signal:  # else another server's stand on ours by now
                signal.signal(number, handler)


def _installed(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """The handlers that this one took the place of. What shells let a program in the background ignore stays so."""
    numbers = [int(number) for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}
