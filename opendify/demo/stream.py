"""A streamed answer on the wire: headers with the first byte, pings, silence, and what breaks it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from opendify.demo.model import Break, Pause, Until
from opendify.demo.run import Frame, Run
from opendify.demo.wire import PING, frame

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GARBAGE = b'data: {"event": "message", "answer": "unfinished\n\n'
BIG_FRAME = 16 * 1024 * 1024
BIG_PIECE = 64 * 1024
NEVER = 1e6


class ConnectionCut(Exception):
    """Makes the server close the connection in the middle of an answer."""


class Stream:
    """The streamed answer of one run."""

    def __init__(self, run: Run, send: Send, headers: list[tuple[bytes, bytes]], ping_seconds: float) -> None:
        self.run = run
        self.send = send
        self.headers = headers
        self.ping_seconds = ping_seconds
        self.gone = asyncio.Event()
        self.opened = False
        self.closed = False
        self.broken = False
        self.written_at = time.monotonic()

    async def watch(self, receive: Receive) -> None:
        """Notice that the client left; most runs end with it."""
        await receive()  # the body was read before: the next message is the disconnect
        if not self.closed:
            self.gone.set()
            if not self.run.outlives_client:
                self.run.end("left")

    async def tell(self, frames: Iterable[Frame], stopped: Callable[[], Iterable[Frame]]) -> None:
        """Send the whole answer, with the end that fits."""
        if not await self.play(frames) and self.run.ending == "stopped":
            for event in stopped():
                await self.show(event)
        await self.close()

    async def play(self, frames: Iterable[Frame]) -> bool:
        """Send `frames`; False if somebody ended the run or a fault the stream before they were over."""
        for item in frames:
            await self.show(item)
            if self.run.ending or self.broken:
                return False
        return True

    async def show(self, item: Frame) -> None:
        """Do what one frame says."""
        if isinstance(item, dict):
            await self.write(frame(item))
        elif isinstance(item, bytes):
            await self.write(item)
        elif isinstance(item, Pause):
            await self.rest(item.seconds, self.run.wake)
        elif isinstance(item, Until):
            await self.rest(NEVER, item.event)
            self.broken = not item.event.is_set()
        else:
            await self.suffer(item)

    async def write(self, data: bytes) -> None:
        """Send a frame; the headers go out with the first one. Others get their turn in between."""
        if not self.opened:
            self.opened = True
            await self.send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await self.send({"type": "http.response.body", "body": data, "more_body": True})
        self.written_at = time.monotonic()
        await asyncio.sleep(0)

    async def rest(self, seconds: float, until: asyncio.Event) -> None:
        """Be silent but for pings until the time is over, `until` happens or the client leaves."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            ping_due = max(self.written_at + self.ping_seconds - time.monotonic(), 0)
            if await _first_of(min(left, ping_due), until, self.gone):
                return
            if ping_due <= left:
                await self.write(PING)

    async def suffer(self, fault: Break) -> None:
        """Do what a FAULT within the stream says."""
        match fault.kind:
            case "cut":
                raise ConnectionCut
            case "eof":
                self.broken = True
            case "drop":
                await self.drop()
            case "garbage":
                await self.write(GARBAGE)
            case "bigframe":
                await self.write_big()
            case "pingforever":
                await self.rest(NEVER, self.run.wake)
            case _:
                await self.silence()

    async def drop(self) -> None:
        """Close the connection without a byte, which only the server's own transport can do."""
        transport = getattr(getattr(self.send, "__self__", None), "transport", None)
        if transport is None:
            raise ConnectionCut
        transport.abort()
        await self.silence()

    async def silence(self) -> None:
        """Send nothing more and heed no stop, as if the worker had died."""
        await self.gone.wait()
        self.broken = True

    async def write_big(self) -> None:
        """A frame that no event needs."""
        await self.write(b'data: {"event": "message", "answer": "')
        for _ in range(BIG_FRAME // BIG_PIECE):
            await self.write(b"x" * BIG_PIECE)
        await self.write(b'"}\n\n')

    async def close(self) -> None:
        """End the body."""
        if not self.opened:
            await self.write(b"")
        self.closed = True
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


async def _first_of(seconds: float, *events: asyncio.Event) -> bool:
    """Whether one of `events` happens within so many seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return any(event.is_set() for event in events)
