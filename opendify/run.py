"""One run at Dify: its stream read to the end, as events."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any

import structlog

from opendify import sse
from opendify.dialogue import Event, Failed, Ids, Started
from opendify.dify.apps import App
from opendify.dify.events import Malformed
from opendify.dify.lines import Reply
from opendify.dify.pauses import Resumed
from opendify.dify.reader import Reader
from opendify.errors import BrokenUpstream, OpenDifyError, StreamLost, from_failed
from opendify.limits import Limits

# How long a run is still read when nobody waits for more of it, and how long a chatflow's end may lag behind.
LEAVE_SECONDS = 3.0

log = structlog.get_logger("opendify.run")


class Run:
    """One run at Dify, or the rest of one that is `resumed`, and its stream.

    `identified` is resolved once it can be stopped, or never will be.
    `waiting_since`: since when Dify has been silent, in the loop's seconds; None while nobody waits for it.
    """

    def __init__(self, app: App, limits: Limits, resumed: Resumed | None = None) -> None:
        self._app = app
        self._answer_chars = limits.answer_chars
        self._loop = asyncio.get_running_loop()
        self.reader = reader_of(app, resumed)
        self.identified: asyncio.Future[None] = self._loop.create_future()
        self.sent_at = self._loop.time()
        self.started: float | None = None
        self._decoder = sse.Decoder()
        self._failure: OpenDifyError | None = None
        self.waiting_since: float | None = self.sent_at

    @property
    def ids(self) -> Ids:
        """Dify's names for it, as far as they are known."""
        return self.reader.ids

    async def events(self, opened: AbstractAsyncContextManager[Reply]) -> AsyncGenerator[Sequence[Event], None]:
        """What the run says, the events of one network read together. What was said before a failure comes before it.

        Raises UpstreamError: why it never began, how it failed, or that its end is missing (StreamLost).
        """
        reader = self.reader
        try:
            async with opened as stream:
                async for data in stream:
                    self.waiting_since = None
                    if events := self._taken(data):
                        yield events
                    if self._failure or reader.done or reader.closing:
                        break
                    self.waiting_since = self._loop.time()
                self.waiting_since = None
                if not reader.done:
                    async with aclosing(self._late(stream)) as late:
                        async for events in late:
                            yield events
                if self._failure:
                    raise self._failure
                await exhaust(stream)
        finally:
            resolve(self.identified, None)

    async def _late(self, stream: Reply) -> AsyncGenerator[Sequence[Event], None]:
        """What follows a chatflow's end, for a moment; then the end that is missing. Raises StreamLost."""
        reader = self.reader
        until = self._loop.time() + LEAVE_SECONDS
        while reader.closing and not (reader.done or self._failure) and (data := await _next(stream, until)):
            if events := self._taken(data):
                yield events
        if self._failure or reader.done:
            return
        if not reader.closing:
            raise StreamLost("Dify ended the answer in the middle.")
        if events := reader.close():
            yield events

    def _taken(self, data: bytes) -> Sequence[Event]:
        """The events of one read. What they end with, if that is a failure, is raised after them."""
        events: list[Event] = []
        reader, read = self.reader, self.reader.read
        try:
            for frame in self._decoder.feed(data):
                events += read(frame)
        except (Malformed, sse.FrameTooLong) as error:
            log.warning("malformed_event", app=self._app.name, problem=str(error))
            self._failure = BrokenUpstream("Dify sent something that is not its protocol.")
        if self.started is None and reader.ids.task_id:
            self.started = time.time()
            resolve(self.identified, None)
        if reader.told > self._answer_chars:
            self._failure = BrokenUpstream(f"The answer is longer than {self._answer_chars} characters.")
            return ()
        if events and isinstance(events[-1], Failed):
            told, self._failure = parted(events)
            return told
        return events


def reader_of(app: App, resumed: Resumed | None = None) -> Reader:
    """What reads the runs of an app."""
    return Reader(
        app.mode,
        origin=app.access.origin,
        output=app.config.output,
        moderated=app.moderated,
        progress=app.config.progress != "off",
        resumed=resumed,
    )


def parted(events: Sequence[Event]) -> tuple[Sequence[Event], OpenDifyError | None]:
    """The events, and the failure that they end with: a start that is followed by it at once is nothing to tell."""
    if events and isinstance(failed := events[-1], Failed):
        return [event for event in events if not isinstance(event, Started | Failed)], from_failed(failed)
    return events, None


def resolve(future: "asyncio.Future[Any]", value: object) -> None:
    """The first to resolve it does."""
    if not future.done():
        future.set_result(value)


async def _next(stream: Reply, until: float) -> bytes | None:
    """The next bytes, or None at the end of the stream or of the patience."""
    try:
        async with asyncio.timeout_at(until):
            return await anext(stream, None)
    except TimeoutError:
        return None


async def exhaust(stream: Reply) -> None:
    """Read what follows the answer, for a moment: then the connection can serve the next run."""
    if stream.at_end:
        return
    until = asyncio.get_running_loop().time() + LEAVE_SECONDS
    with suppress(BrokenUpstream):  # the answer is complete, whatever becomes of its connection
        while await _next(stream, until):
            continue
