"""The story of one answer, in order: resolve app -> recall conversation -> upload -> open -> events -> clean up.

An answer is read by one task, which also writes it to the client. Whoever listens to the client is another, and a
timer minds the limits: either may `leave` at any moment. Then Dify's stop is called, and the reader goes on reading
for a moment, since a run whose stream is dropped loses what it said.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import structlog

from opendify import sse
from opendify.auth import Caller
from opendify.dialogue import Event, Failed, Finished, FinishReason, Ids, Prompt, Started, TextDelta
from opendify.dify.apps import App
from opendify.dify.catalog import Catalog
from opendify.dify.events import Malformed
from opendify.dify.files import PlannedFile
from opendify.dify.gateway import Gateway
from opendify.dify.reader import Reader
from opendify.dify.requests import RunPlan, build
from opendify.errors import (
    BrokenUpstream,
    Busy,
    ClientGone,
    OpenDifyError,
    Refused,
    ShutDown,
    UpstreamTimeout,
    from_exception,
    from_failed,
)
from opendify.limits import Limits
from opendify.memory import Memory
from opendify.users import end_user

# How long a stopped run is still read, and how long a chatflow's message_end may lag behind its workflow_finished.
LEAVE_SECONDS = 3.0
# Dify's ways of saying that an app is not what `/info` and `/parameters` said last.
APP_CHANGED = {
    "not_chat_app",
    "not_workflow_app",
    "app_unavailable",
    "agent_not_published",
    "invalid_param",
    "bad_request",
}

Told: TypeAlias = tuple[Sequence[Event], OpenDifyError | None]

log = structlog.get_logger("opendify.exchange")


class Exchange:
    """Makes answers, and ends them all when the server shuts down."""

    def __init__(self, gateway: Gateway, catalog: Catalog, memory: Memory, limits: Limits) -> None:
        self.gateway = gateway
        self.catalog = catalog
        self.memory = memory
        self.limits = limits
        self.draining = False
        self._answers: set[Answer] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, prompt: Prompt, caller: Caller) -> "Answer":
        """A new answer; nothing happens before it is iterated. Raises Busy while the server shuts down."""
        if self.draining:
            raise Busy("The server is shutting down; try again in a moment.")
        return Answer(self, prompt, caller)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that outlives its request, but not the server."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def began(self, answer: "Answer") -> None:
        """Keep track of an answer that has begun."""
        self._answers.add(answer)

    def ended(self, answer: "Answer") -> None:
        """Forget an answer that is over, clean-up included."""
        self._answers.discard(answer)

    async def drain(self, seconds: float) -> None:
        """Refuse new answers, give those under way `seconds`, then end them with an error the client sees."""
        self.draining = True
        await self._wait(seconds)
        for answer in list(self._answers):
            answer.leave(ShutDown(started=answer.sent.done()))
        await self._wait(LEAVE_SECONDS + 1)

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)


class Answer:
    """One answer under way. Iterate its events once, in one task; everything else may be called from any other.

    `sent` is resolved when the run is sent to Dify. `outcome` is resolved once nothing more is to be told: with None
    after the last event, else with the failure. The time limits are minded here for as long as the run is read.
    """

    def __init__(self, exchange: Exchange, prompt: Prompt, caller: Caller) -> None:
        self._exchange = exchange
        self._prompt = prompt
        self._caller = caller
        self._loop = asyncio.get_running_loop()
        self.limits = exchange.limits
        self.user = end_user(caller, prompt.user)
        self.app: App | None = None
        self.finished: Finished | None = None
        self.first_text_at: float | None = None
        self.cut: FinishReason | None = None
        self.sent: asyncio.Future[None] = self._loop.create_future()
        self.outcome: asyncio.Future[OpenDifyError | None] = self._loop.create_future()
        self._identified: asyncio.Future[None] = self._loop.create_future()
        self._reader: Reader | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent_at = 0.0
        self._waiting_since: float | None = None
        self._left = False

    @property
    def ids(self) -> Ids:
        """Dify's names for this answer, as far as they are known."""
        return self._reader.ids if self._reader else Ids()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that may outlive the request."""
        self._exchange.spawn(work)

    # -- ends: any task

    def complete(self) -> None:
        """The client has everything."""
        resolve(self.outcome, None)

    def enough(self, reason: FinishReason) -> None:
        """The client has all the text it gets: what becomes of the run is no failure of the answer any more."""
        self.cut = reason
        self._stop()

    def leave(self, error: OpenDifyError) -> None:
        """Nobody waits for the rest, because of `error`: end the answer with it, and the run at Dify."""
        self._fail(error)
        self._stop()

    def _fail(self, error: OpenDifyError) -> None:
        if self.cut is None or isinstance(error, ClientGone):
            resolve(self.outcome, error)

    def _stop(self) -> None:
        """Stop the run at Dify, once, and read on for a moment. Before it was sent, just do not send it."""
        if self._left or (self._reader and self._reader.done):
            return
        self._left = True
        if self.sent.done():
            self._exchange.spawn(self._depart())
        elif self._reading:
            self._reading.cancel()

    async def _depart(self) -> None:
        """Call Dify's stop as soon as the run can be named, then give the stream time to end by itself."""
        until = self._loop.time() + LEAVE_SECONDS
        try:
            await asyncio.wait((self._identified,), timeout=LEAVE_SECONDS)
            if self.app and self.ids.task_id:
                async with asyncio.timeout_at(until):
                    await self._exchange.gateway.stop(self.app, self.ids.task_id, self.user)
        except (OpenDifyError, TimeoutError) as error:
            log.warning("stop_failed", app=self.app and self.app.name, problem=repr(error))
        finally:
            if self._reading:
                await asyncio.wait((self._reading,), timeout=max(until - self._loop.time(), 0))
                self._reading.cancel()

    # -- the clock: one timer per answer, set anew when it fires and not when something is read

    def _mind_the_time(self) -> None:
        """End the answer if a time limit has passed, else look again when the next one can."""
        limits, now = self.limits, self._loop.time()
        due = [(self._sent_at + limits.run, f"The run took longer than {limits.run:g} seconds.")]
        if not self._identified.done():
            message = f"The run did not begin within {limits.first_event:g} seconds."
            due.append((self._sent_at + limits.first_event, message))
        silent_since = now if self._waiting_since is None else self._waiting_since
        due.append((silent_since + limits.silence, f"Dify was silent for {limits.silence:g} seconds."))
        moment, message = min(due)
        if moment <= now:
            self.leave(UpstreamTimeout(message))
        else:
            self._timer = self._loop.call_at(moment, self._mind_the_time)

    # -- reading: one task

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The events, those of one network read together. A failure resolves `outcome`, it is not raised."""
        if self._left:
            return
        self._reading = asyncio.current_task()
        self._exchange.began(self)
        try:
            async with aclosing(self._converse()) as batches:
                async for events in batches:
                    yield events
        except BrokenUpstream as error:  # the run may still be alive behind a broken connection
            self.leave(error)
        except OpenDifyError as error:
            self._fail(error)
        except Exception as error:
            log.exception("answer_failed")
            self.leave(from_exception(error))
        finally:
            self._exchange.ended(self)
            resolve(self._identified, None)
            if self._timer:
                self._timer.cancel()

    async def _converse(self) -> AsyncGenerator[Sequence[Event], None]:
        exchange, prompt = self._exchange, self._prompt
        self.app = app = await exchange.catalog.find(prompt.model, self._caller.may_use)
        self.limits = exchange.limits.of(app)
        plan = build(prompt, app, self.limits.files)
        conversation_id = await exchange.memory.recall(prompt, app, self._caller) if app.converses else None
        try:
            body = plan.body(self.user, await self._upload(plan), conversation_id)
            self._reader = Reader(app.mode, origin=app.access.origin, output=app.config.output, moderated=app.moderated)
            self._begin()
            async with exchange.gateway.run(app.access, plan.path, body, wanted=lambda: not self._left) as stream:
                async with aclosing(self._read_run(stream, self._reader)) as batches:
                    async for events in batches:
                        yield events
                await _exhaust(stream)
        except Refused as error:
            if error.upstream_code in APP_CHANGED and error.code != "rate_limit_exceeded":
                await exchange.catalog.changed(app)
            raise

    def _begin(self) -> None:
        self._sent_at = self._waiting_since = self._loop.time()
        resolve(self.sent, None)
        self._mind_the_time()

    async def _upload(self, plan: RunPlan) -> list[str | None]:
        """The ids of the files that are sent to Dify first, all at once; None for those sent as links."""

        async def upload(file: PlannedFile) -> str | None:
            try:
                return await self._exchange.gateway.upload(plan.app, self.user, file.upload) if file.upload else None
            except Refused as error:
                error.param = file.param
                raise

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(upload(file)) for file in plan.files]
        except* OpenDifyError as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _read_run(self, stream: AsyncIterator[bytes], reader: Reader) -> AsyncGenerator[Sequence[Event], None]:
        """What the reader says, until the run is over. What was said before a failure comes before it."""
        decoder = sse.Decoder()
        async with aclosing(self._arrivals(stream, reader)) as arrivals:
            async for data in arrivals:
                events, failure = self._read(data, decoder, reader)
                if events:
                    yield events
                if failure:
                    self.leave(failure)
                    return
        if not reader.done and not reader.closing:
            self._stop()  # the stream ended, the run perhaps did not
        events, failure = self._told(reader.close())
        if events:
            yield events
        if failure:
            self._fail(failure)

    async def _arrivals(self, stream: AsyncIterator[bytes], reader: Reader) -> AsyncGenerator[bytes, None]:
        """The stream's bytes, while they can matter: once a chatflow has finished, only for a moment."""
        async for data in stream:
            self._waiting_since = None
            yield data
            if reader.done or reader.closing:
                break
            self._waiting_since = self._loop.time()
        self._waiting_since = None
        until = self._loop.time() + LEAVE_SECONDS
        while reader.closing and not reader.done and (late := await _next(stream, until)):
            yield late

    def _read(self, data: bytes, decoder: sse.Decoder, reader: Reader) -> Told:
        events: list[Event] = []
        try:
            for frame in decoder.feed(data):
                events += reader.read(frame)
                if reader.done:
                    break
        except (Malformed, sse.FrameTooLong) as error:
            log.warning("malformed_event", app=self.app and self.app.name, problem=str(error))
            return self._told(events)[0], BrokenUpstream("Dify sent something that is not its protocol.")
        finally:
            if reader.ids.task_id:
                resolve(self._identified, None)
        if reader.spoken > self.limits.answer_chars:
            return (), BrokenUpstream(f"The answer is longer than {self.limits.answer_chars} characters.")
        return self._told(events)

    def _told(self, events: Sequence[Event]) -> Told:
        """What there is to tell; a start that is followed by failure at once is none of it."""
        if not events:
            return (), None
        if self.first_text_at is None and any(isinstance(event, TextDelta) for event in events):
            self.first_text_at = self._loop.time()
        match events[-1]:
            case Failed() as failed:
                return [event for event in events if not isinstance(event, Started | Failed)], from_failed(failed)
            case Finished() as finished:
                self.finished = finished
        return events, None


def resolve(future: asyncio.Future[Any], value: object) -> None:
    """The first to resolve it does."""
    if not future.done():
        future.set_result(value)


async def _next(stream: AsyncIterator[bytes], until: float) -> bytes | None:
    """The next bytes, or None at the end of the stream or of the patience."""
    try:
        async with asyncio.timeout_at(until):
            return await anext(stream, None)
    except TimeoutError:
        return None


async def _exhaust(stream: AsyncIterator[bytes]) -> None:
    """Read what follows the answer, for a moment: then the connection can serve the next run."""
    until = asyncio.get_running_loop().time() + LEAVE_SECONDS
    with suppress(BrokenUpstream):  # the answer is complete, whatever becomes of its connection
        while await _next(stream, until):
            continue
