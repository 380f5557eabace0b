"""The story of one answer, in order: resolve app -> recall conversation -> upload -> open -> events -> clean up.

An answer is read by one task, which also writes it to the client. Whoever listens to the client is another, and a
timer minds the limits: either may `leave` at any moment. Then Dify's stop is called, and the reader goes on reading
for a moment, since a run whose stream is dropped loses what it said.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import structlog
from msgspec.structs import replace

from opendify import background
from opendify.auth import Caller
from opendify.background import Task
from opendify.dialogue import Event, Finished, FinishReason, Ids, Prompt, Started, TextDelta, Usage
from opendify.dify.apps import App
from opendify.dify.catalog import Catalog
from opendify.dify.gateway import Gateway
from opendify.dify.requests import Told, build
from opendify.errors import (
    BrokenUpstream,
    Busy,
    ClientGone,
    OpenDifyError,
    Refused,
    ShutDown,
    UpstreamTimeout,
    from_exception,
)
from opendify.limits import Limits
from opendify.memory import TURN_SECONDS, Conversation, Memory
from opendify.presentation import Presenter, Style
from opendify.run import LEAVE_SECONDS, Run, resolve
from opendify.uploads import Sent, Uploads, start_held
from opendify.users import Users

# What Dify suggests to ask next is worth no longer wait.
SUGGESTION_SECONDS = 1.0
# Dify's ways of saying that an app is not what `/info` and `/parameters` said last.
APP_CHANGED = {
    "not_chat_app",
    "not_workflow_app",
    "app_unavailable",
    "agent_not_published",
    "invalid_param",
    "bad_request",
}

# ... that it does not know a conversation, or a file: before a run, or as the reason of one that failed at once.
UNKNOWN_CONVERSATION = "Conversation Not Exists"
UNKNOWN_FILE = re.compile(r"(Invalid value for file input '[^']*': )?Invalid upload file")

log = structlog.get_logger("opendify.exchange")


class Elsewhere(BrokenUpstream):
    """Dify began another conversation in silence, because it does not know the one it was told to go on with."""

    def __init__(self) -> None:
        super().__init__("Dify began another conversation.")


class Exchange:
    """Makes answers, and ends them all when the server shuts down."""

    def __init__(
        self, gateway: Gateway, catalog: Catalog, memory: Memory, uploads: Uploads, users: Users, limits: Limits
    ) -> None:
        self.gateway = gateway
        self.catalog = catalog
        self.memory = memory
        self.uploads = uploads
        self.users = users
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
        for task in self._tasks:
            task.cancel()

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
        self.task = background.recognise(caller.task, prompt.turns)
        self.user = ""
        self.app: App | None = None
        self.finished: Finished | None = None
        self.first_text_at: float | None = None
        self.cut: FinishReason | None = None
        self.sent: asyncio.Future[None] = self._loop.create_future()
        self.outcome: asyncio.Future[OpenDifyError | None] = self._loop.create_future()
        self._run: Run | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._may_have_run = False
        self._told = False
        self._left = False

    @property
    def ids(self) -> Ids:
        """Dify's names for this answer, as far as they are known."""
        return self._run.ids if self._run else Ids()

    @property
    def reasoning_key(self) -> str:
        """The field of OpenAI's format that holds thinking."""
        return "reasoning" if self.app and self.app.config.reasoning == "reasoning" else "reasoning_content"

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
        if self._left or (self._run and self._run.reader.done):
            return
        self._left = True
        if self._run:
            self._exchange.spawn(self._depart(self._run))
        elif self._reading:
            self._reading.cancel()

    async def _depart(self, run: Run) -> None:
        """Call Dify's stop as soon as the run can be named, then give the stream time to end by itself."""
        until = self._loop.time() + LEAVE_SECONDS
        try:
            await asyncio.wait((run.identified,), timeout=LEAVE_SECONDS)
            await self._stop_at_dify(run, until)
        finally:
            if self._reading:
                await asyncio.wait((self._reading,), timeout=max(until - self._loop.time(), 0))
                self._reading.cancel()

    async def _stop_at_dify(self, run: Run, until: float) -> None:
        if not (self.app and run.ids.task_id):
            return
        try:
            async with asyncio.timeout_at(until):
                await self._exchange.gateway.stop(self.app, run.ids.task_id, self.user)
        except (OpenDifyError, TimeoutError) as error:
            log.warning("stop_failed", app=self.app.name, problem=repr(error))

    # -- the clock: one timer per answer, set anew when it fires and not when something is read

    def _mind_the_time(self, run: Run) -> None:
        """End the answer if a time limit has passed, else look again when the next one can."""
        limits, now = self.limits, self._loop.time()
        due = [(run.sent_at + limits.run, f"The run took longer than {limits.run:g} seconds.")]
        if not run.identified.done():
            message = f"The run did not begin within {limits.first_event:g} seconds."
            due.append((run.sent_at + limits.first_event, message))
        silent_since = now if run.waiting_since is None else run.waiting_since
        due.append((silent_since + limits.silence, f"Dify was silent for {limits.silence:g} seconds."))
        moment, message = min(due)
        if moment <= now:
            self.leave(UpstreamTimeout(message))
        else:
            self._timer = self._loop.call_at(moment, self._mind_the_time, run)

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
            if self._timer:
                self._timer.cancel()

    async def _converse(self) -> AsyncGenerator[Sequence[Event], None]:
        exchange, prompt, caller = self._exchange, self._prompt, self._caller
        self.app = app = await exchange.catalog.find(prompt.model, caller.may_use)
        way = app.config.background_tasks or "isolated"
        if self.task and way.startswith("route:"):
            self.app = app = await self._other_app(app, way.removeprefix("route:"))
        self.limits = exchange.limits.of(app)
        self.user = exchange.users.of(caller, prompt.user, app)
        if self.task and way == "local" and self.task not in background.WORTH_A_RUN:
            yield await self._answer_here(self.task, app)
            return
        alone = self.task is not None and way != "pass"
        conversation = Conversation() if alone else exchange.memory.conversation(prompt, app, caller, self.user)
        try:
            async with aclosing(self._answer_in(conversation, app)) as batches:
                async for events in batches:
                    yield events
        except Refused as error:
            if error.upstream_code in APP_CHANGED and error.code != "rate_limit_exceeded":
                await exchange.catalog.changed(app)
            raise
        finally:
            if alone and app.converses and self.ids.conversation_id:
                exchange.spawn(self._forget(app, self.ids.conversation_id))

    async def _other_app(self, app: App, model: str) -> App:
        """The app that background tasks go to, with their words alone; for callers who may not use it, the same."""
        other = await self._exchange.catalog.named(model, lambda _: True)
        if not self._caller.may_use(other.name):
            return app
        turns = tuple(replace(turn, attachments=()) for turn in self._prompt.turns)
        self._prompt = replace(self._prompt, turns=turns, variables={}, metadata={})
        return other

    async def _answer_here(self, task: Task, app: App) -> Sequence[Event]:
        """What a background task is told without a run."""
        asks = task is Task.FOLLOW_UPS and app.suggests
        message_id = await self._exchange.memory.last_message(app, self._caller, self.user) if asks else None
        suggestions: list[str] = []
        if message_id:
            try:
                suggestions = await self._exchange.gateway.suggestions(app, self.user, message_id)
            except OpenDifyError as error:  # no suggestions are no failure
                log.info("no_suggestions", app=app.name, problem=error.code)
        self.finished = Finished("stop", Usage())
        text = background.answer(task, self._prompt.turns, suggestions)
        return (TextDelta(text), self.finished) if text else (self.finished,)

    async def _answer_in(self, conversation: Conversation, app: App) -> AsyncGenerator[Sequence[Event], None]:
        """Hear what is said, so that the next turn finds this one: known before the client has its last word."""
        presenter = Presenter(style_of(app))
        try:
            await conversation.find()
            async with aclosing(self._runs(conversation, app)) as batches:
                async for said in batches:
                    events = presenter.feed(said)
                    conversation.hear(events)
                    self._note(events)
                    if self._run and self.finished and not (self.finished.stopped or self.cut or self._left):
                        await conversation.keep(self._run.ids, self._run.started or time.time())
                        events = await self._suggested(events, app)
                    if events:
                        yield events
        finally:
            self._exchange.spawn(conversation.release(self.ids, ran=self._may_have_run))

    async def _runs(self, conversation: Conversation, app: App) -> AsyncGenerator[Sequence[Event], None]:
        """One run; another one where Dify has lost what we thought it has, as long as nothing was told."""
        for mends_left in reversed(range(3)):
            sent, ran_before = Sent([], []), self._may_have_run
            try:
                async with aclosing(self._attempt(conversation, app, sent)) as batches:
                    async for events in batches:
                        yield events
            except (Refused, Elsewhere) as error:
                if error.should_retry:
                    self._may_have_run = ran_before
                if not (mends_left and await self._mended(error, conversation, sent)):
                    raise
            except OpenDifyError as error:
                if error.should_retry:  # which is said only where nothing can have run
                    self._may_have_run = ran_before
                raise
            else:
                return

    async def _attempt(self, conversation: Conversation, app: App, sent: Sent) -> AsyncGenerator[Sequence[Event], None]:
        exchange = self._exchange
        told = Told(is_known=conversation.id is not None, instructions=conversation.instructions)
        resolve_kept, most = exchange.uploads.kept.resolve, self.limits.files
        prompt = await resolve_kept(self._prompt, self._caller, app, most, is_known=told.is_known)
        plan = build(prompt, app, most, told)
        await exchange.uploads.send(plan, self.user, sent)
        await asyncio.sleep(min(max(conversation.next_at - time.time(), 0.0), TURN_SECONDS))
        body = plan.body(self.user, sent.ids, conversation.id)
        run = self._begin(app)
        said = run.events(plan.path, body, wanted=lambda: not self._left)
        async with aclosing(start_held(said) if sent.reused else said) as batches:
            async for events in batches:
                if not told.is_known:
                    if conversation.id is None:
                        await conversation.begun(run.ids)
                elif is_elsewhere(run.ids, conversation):
                    await self._abandon(run, conversation, app)
                    raise Elsewhere
                yield events

    async def _abandon(self, run: Run, conversation: Conversation, app: App) -> None:
        """Stop what Dify began instead of going on, and leave nothing of it."""
        await self._stop_at_dify(run, self._loop.time() + LEAVE_SECONDS)
        stray = run.ids.conversation_id
        if stray and not await conversation.knows(stray):
            self._exchange.spawn(self._forget(app, stray))

    def _begin(self, app: App) -> Run:
        self._run = run = Run(self._exchange.gateway, app, self.limits)
        self._may_have_run = True
        resolve(self.sent, None)
        if self._timer:
            self._timer.cancel()
        self._mind_the_time(run)
        return run

    async def _mended(self, error: OpenDifyError, conversation: Conversation, sent: Sent) -> bool:
        """Whether another run can go better: in a new conversation, or with its files sent again."""
        if self._told or self._left:
            return False
        if self._timer:
            self._timer.cancel()
        if conversation.id and _is_gone(error):
            await conversation.renew()
        elif sent.reused and UNKNOWN_FILE.match(error.message):
            await self._exchange.uploads.forget(sent)
        else:
            return False
        if self._left:
            return False
        self._run = None
        return True

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            self._told = self._told or not isinstance(event, Started)
            if self.first_text_at is None and isinstance(event, TextDelta):
                self.first_text_at = self._loop.time()
        if events and isinstance(finished := events[-1], Finished):
            self.finished = finished

    async def _suggested(self, events: Sequence[Event], app: App) -> Sequence[Event]:
        """The last events with what Dify suggests to ask next, if it says so within a moment."""
        message_id = self.ids.message_id
        if not (app.config.suggestions == "on" and app.suggests and message_id and self.finished):
            return events
        try:
            async with asyncio.timeout(SUGGESTION_SECONDS):
                asked = await self._exchange.gateway.suggestions(app, self.user, message_id)
        except (OpenDifyError, TimeoutError) as error:  # no suggestions are no failure
            log.info("no_suggestions", app=app.name, problem=type(error).__name__)
            return events
        self.finished = replace(self.finished, suggestions=tuple(asked))
        return [*events[:-1], self.finished]

    async def _forget(self, app: App, conversation_id: str) -> None:
        """Delete a conversation that nobody goes on with."""
        try:
            await self._exchange.gateway.forget(app, self.user, conversation_id)
        except OpenDifyError as error:
            log.warning("conversation_not_deleted", app=app.name, problem=error.code)


def style_of(app: App) -> Style:
    """How this app's extras are shown."""
    own = app.config
    return Style(own.reasoning, own.agent_tools, own.citations, own.citation_url, own.progress)


def is_elsewhere(ids: Ids, conversation: Conversation) -> bool:
    """Whether Dify goes on in another conversation than it was told to."""
    return ids.conversation_id is not None and ids.conversation_id.lower() != conversation.id


def _is_gone(error: OpenDifyError) -> bool:
    """Whether Dify does not have the conversation that it was told to go on with. It says so before any run."""
    if isinstance(error, Refused):
        is_unknown = error.upstream_status == HTTPStatus.NOT_FOUND and error.message.startswith(UNKNOWN_CONVERSATION)
        return not error.in_stream and (is_unknown or error.upstream_code == "conversation_completed")
    return isinstance(error, Elsewhere)
