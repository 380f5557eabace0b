"""The story of one answer, in order: resolve app -> recall conversation -> upload -> open -> events -> clean up.

An answer is read by one task, which also writes it to the client. Whoever listens to the client is another, and a
timer minds the limits: either may `leave` at any moment. Then Dify's stop is called, and the reader goes on reading
for a moment, since a run whose stream is dropped loses what it said.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from urllib.parse import urljoin

import structlog
from msgspec.structs import replace

from opendify import background
from opendify.auth import Caller
from opendify.background import Task
from opendify.conversation import Conversation
from opendify.dialogue import Event, Finished, Prompt, Started, TextDelta, ToolRun, Usage
from opendify.dify.apps import App
from opendify.dify.catalog import Catalog
from opendify.dify.gateway import Gateway
from opendify.error_answers import from_exception
from opendify.errors import (
    BrokenUpstream,
    Busy,
    OpenDifyError,
    Refused,
    ShutDown,
    UpstreamError,
)
from opendify.file_proxy import FileProxy
from opendify.limits import Limits
from opendify.linked import Linked
from opendify.memory import Memory
from opendify.presentation import Presenter, Style
from opendify.repeats import Repeats, answered_before
from opendify.resumes import Resumes
from opendify.run import LEAVE_SECONDS
from opendify.scope import Scope
from opendify.tasks import Tasks
from opendify.uploads import Uploads
from opendify.users import Users
from opendify.ways import style_of, with_tools

# A store that is away is not waited for at the end.
ASIDE_SECONDS = 1.0
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

log = structlog.get_logger("opendify.exchange")


class Exchange:
    """Makes answers, and ends them all when the server shuts down."""

    def __init__(
        self,
        gateway: Gateway,
        catalog: Catalog,
        memory: Memory,
        uploads: Uploads,
        users: Users,
        limits: Limits,
        proxy: FileProxy | None = None,
    ) -> None:
        self.gateway = gateway
        self.catalog = catalog
        self.memory = memory
        self.uploads = uploads
        self.users = users
        self.limits = limits
        self.proxy = proxy
        self.draining = False
        self._answers: set[Answer] = set()
        self.tasks = Tasks()

    def answer(self, prompt: Prompt, caller: Caller, base: str = "") -> "Answer":
        """A new answer; nothing happens before it is iterated. Raises Busy while the server shuts down.

        `base` is how the client reached us, for links to files.
        """
        if self.draining:
            raise Busy("The server is shutting down; try again in a moment.")
        return Answer(self, prompt, caller, base)

    def began(self, answer: "Answer") -> None:
        """Keep track of an answer that has begun."""
        self._answers.add(answer)

    def ended(self, answer: "Answer") -> None:
        """Forget an answer that is over, clean-up included."""
        self._answers.discard(answer)

    async def drain(self, seconds: float) -> None:
        """Refuse new answers, give those under way `seconds`, then end them with an error the client sees."""
        self.draining = True
        await self.tasks.wait(seconds)
        for answer in list(self._answers):
            answer.leave(ShutDown(started=answer.sent.done()))
        await self.tasks.wait(LEAVE_SECONDS + 1)
        await self.tasks.end(ASIDE_SECONDS)


class Answer(Resumes):
    """One answer under way. Iterate its events once, in one task; everything else may be called from any other.

    `sent` is resolved when the run is sent to Dify. `outcome` is resolved once nothing more is to be told: with None
    after the last event, else with the failure. The time limits are minded here for as long as the run is read.
    """

    def __init__(self, exchange: Exchange, prompt: Prompt, caller: Caller, base: str) -> None:
        super().__init__(
            exchange.gateway, exchange.uploads, exchange.tasks.spawn, exchange.limits, exchange.memory.secret
        )
        self._exchange = exchange
        self._prompt = prompt
        self._caller = caller
        self._base = base
        self.task = background.recognise(caller.task, prompt.turns)
        self.finished: Finished | None = None
        self.first_text_at: float | None = None
        self._style = Style()
        self._ran: str | None = None

    @property
    def reasoning_key(self) -> str:
        """The field of OpenAI's format that holds thinking."""
        return "reasoning" if self.app and self.app.config.reasoning == "reasoning" else "reasoning_content"

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
        self._style = style_of(app, prompt)
        if prompt.tools:
            self._prompt = prompt = with_tools(prompt, app)
        self.user = exchange.users.of(caller, prompt.user, app)
        if self.task and way == "local" and self.task not in background.WORTH_A_RUN:
            yield await self._answer_here(self.task, app)
            return
        if (last := answered_before(prompt.turns)) and (text := await self._repeats(app).text(last)):
            links = Linked(partial(self._link, app))
            self.finished = Finished("stop", Usage())
            yield [*links.feed([TextDelta(text)]), *links.close(), self.finished]
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
                self.spawn(self._forget(app, self.ids.conversation_id))

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
                suggestions = await self._gateway.suggestions(app, self.user, message_id)
            except OpenDifyError as error:  # no suggestions are no failure
                log.info("no_suggestions", app=app.name, problem=error.code)
        self.finished = Finished("stop", Usage())
        text = background.answer(task, self._prompt.turns, suggestions)
        return (TextDelta(text), self.finished) if text else (self.finished,)

    async def _answer_in(self, conversation: Conversation, app: App) -> AsyncGenerator[Sequence[Event], None]:
        """Hear what is said, so that the next turn finds this one: known before the client has its last word."""
        links, presenter = Linked(partial(self._link, app)), Presenter(self._style)
        prompt, caller = self._prompt, self._caller
        try:
            await conversation.find()
            asked = (prompt, caller, conversation, app)
            batches = self._resumed(conversation.waits, *asked) if conversation.waits else self._runs(*asked)
            async with aclosing(batches):
                async for said in batches:
                    if events := await self._shown(presenter.feed(links.feed(said)), conversation, app):
                        yield events
            if rest := presenter.feed(links.close()):
                yield rest
        except UpstreamError:
            if rest := presenter.feed(links.close()):
                yield rest
            raise
        finally:
            self._exchange.tasks.aside(conversation.release(self.ids, ran=self._may_have_run))

    async def _shown(self, events: Sequence[Event], conversation: Conversation, app: App) -> Sequence[Event]:
        """Note what is shown; with the last of it, the conversation can be gone on with."""
        conversation.hear(events)
        self._note(events)
        if self.finished and not (self.finished.stopped or self.cut or self._left):
            if self.finished.asks:
                conversation.doubt()
            if self._ran:
                self._exchange.tasks.aside(self._repeats(app).note(self._ran, self.ids))
            started = self._run.started if self._run else None
            await conversation.keep(self.ids, started or time.time())
            return await self._suggested(events, app)
        return events

    def _repeats(self, app: App) -> Repeats:
        memory = self._exchange.memory
        scope = Scope(memory.secret, app, self._caller, self.user)
        return Repeats(memory.store, scope, self._gateway, app, self.user)

    def _link(self, app: App, url: str, name: str) -> str:
        """The address to show for a file of the app."""
        if app.config.files == "link" or self._exchange.proxy is None:
            return urljoin(app.access.origin, url)
        return self._exchange.proxy.link(app, self.user, self.ids, url, base=self._base, name=name)

    def _note(self, events: Sequence[Event]) -> None:
        for event in events:
            self._told = self._told or not isinstance(event, Started)
            if self._ran is None and isinstance(event, ToolRun):
                self._ran = event.id
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
                asked = await self._gateway.suggestions(app, self.user, message_id)
        except (OpenDifyError, TimeoutError) as error:  # no suggestions are no failure
            log.info("no_suggestions", app=app.name, problem=type(error).__name__)
            return events
        self.finished = replace(self.finished, suggestions=tuple(asked))
        return [*events[:-1], self.finished]
