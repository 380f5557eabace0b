"""The story of one answer, in order: resolve app -> recall conversation -> upload -> open -> events -> clean up.

An answer is read by one task, which also writes it to the client. Whoever listens to the client is another, and a
timer minds the limits: either may `leave` at any moment. Then Dify's stop is called, and the reader goes on reading
for a moment, since a run whose stream is dropped loses what it said.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from urllib.parse import urljoin

import structlog
from msgspec.structs import replace

from opendify import background
from opendify.auth import Caller
from opendify.background import Task
from opendify.conversation import Conversation
from opendify.dialogue import Event, Finished, Prompt, Started, TextDelta, Usage
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
from opendify.suggestions import SUGGESTION_SECONDS, suggestions
from opendify.tasks import Tasks
from opendify.uploads import Uploads
from opendify.users import Users
from opendify.ways import style_of, with_tools

# A store that is away is not waited for at the end.
ASIDE_SECONDS = 1.0
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

    @property
    def reasoning_key(self) -> str:
        """The field of OpenAI's format that holds thinking."""
        return "reasoning" if self.app and self.app.config.reasoning == "reasoning" else "reasoning_content"

    # -- reading: one task

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """The events, those of one network read together. A failure resolves `outcome`, it is not raised."""
        if self._left:
            return
        with self._watched():
            app = await self._app_of_prompt()
            if known := await self._known(app):
                yield known
                return
            with self._conversing(app) as conversation:
                await conversation.find()
                links = Linked(partial(self._link, app))
                presenter = Presenter(self._style, returns=conversation.returns)
                failure: UpstreamError | None = None
                try:
                    async with aclosing(self._said(conversation, app)) as batches:
                        async for said in batches:
                            events = presenter.feed(links.feed(said))
                            conversation.hear(events)
                            if self.first_text_at is None or not (events and type(events[-1]) is TextDelta):
                                self._note(events)
                            if self.finished:
                                events = await self._ended(events, presenter.ran, conversation, app)
                            if events:
                                yield events
                except UpstreamError as error:
                    failure = error
                if rest := presenter.feed(links.close()):
                    yield rest
                if failure:
                    raise failure

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Count as under way, and end with what goes wrong."""
        self._reading = asyncio.current_task()
        self._exchange.began(self)
        try:
            yield
        except BrokenUpstream as error:  # the run may still be alive behind a broken connection
            self.leave(error)
        except OpenDifyError as error:
            self._fail(error)
        except Exception as error:
            log.exception("answer_failed")
            self.leave(from_exception(error))
        finally:
            self._exchange.ended(self)
            self._reading = None
            if self._timer:
                self._timer.cancel()

    async def _app_of_prompt(self) -> App:
        """The app that answers, and what its settings make of the prompt. Raises ModelNotFound, InvalidRequest."""
        exchange, prompt, caller = self._exchange, self._prompt, self._caller
        self.app = app = await exchange.catalog.find(prompt.model, caller.may_use)
        way = app.config.background_tasks or "isolated"
        if self.task and way.startswith("route:"):
            self.app = app = await self._other_app(app, way.removeprefix("route:"))
        self.limits = exchange.limits.of(app)
        self._style = style_of(app, prompt)
        if prompt.tools:
            self._prompt = prompt = with_tools(self._prompt, app)
        self.user = exchange.users.of(caller, prompt.user, app)
        return app

    async def _known(self, app: App) -> Sequence[Event]:
        """The whole answer, where it needs no run."""
        if self.task and app.config.background_tasks == "local" and self.task not in background.WORTH_A_RUN:
            return await self._answer_here(self.task, app)
        last = answered_before(self._prompt.turns)
        text = await self._repeats(app).text(last) if last else ""
        if not text:
            return ()
        links = Linked(partial(self._link, app))
        self.finished = Finished("stop", Usage())
        return [*links.feed([TextDelta(text)]), *links.close(), self.finished]

    @contextmanager
    def _conversing(self, app: App) -> Iterator[Conversation]:
        """The conversation of the answer; afterwards it is let go of, one for this answer alone deleted."""
        exchange, prompt, caller = self._exchange, self._prompt, self._caller
        alone = self.task is not None and app.config.background_tasks != "pass"
        conversation = Conversation() if alone else exchange.memory.conversation(prompt, app, caller, self.user)
        try:
            yield conversation
        except Refused as error:
            if error.upstream_code in APP_CHANGED and error.code != "rate_limit_exceeded":
                exchange.tasks.aside(exchange.catalog.changed(app))
            raise
        finally:
            if not conversation.settled:
                exchange.tasks.aside(conversation.release(self.ids, ran=self._may_have_run))
            if alone and app.converses and self.ids.conversation_id:
                self.spawn(self._forget(app, self.ids.conversation_id))

    def _said(self, conversation: Conversation, app: App) -> AsyncGenerator[Sequence[Event], None]:
        """What the app says: in a run, or in the rest of one that waited for a person."""
        prompt, caller = self._prompt, self._caller
        if conversation.waits:
            return self._resumed(conversation.waits, prompt, caller, conversation, app)
        return self._runs(prompt, caller, conversation, app)

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
        asked: tuple[str, ...] = ()
        if task is Task.FOLLOW_UPS and app.suggests:
            message_id = await self._exchange.memory.last_message(app, self._caller, self.user)
            asked = await suggestions(self._gateway, app, self.user, message_id)
        self.finished = Finished("stop", Usage())
        text = background.answer(task, self._prompt.turns, asked)
        return (TextDelta(text), self.finished) if text else (self.finished,)

    async def _ended(
        self, events: Sequence[Event], ran: str | None, conversation: Conversation, app: App
    ) -> Sequence[Event]:
        """The last events; with them, before the client has its last word, the conversation can be gone on with."""
        if self.finished is None or self.finished.stopped or self.cut or self._left:
            return events
        if self.finished.asks:
            conversation.doubt()
        if ran:
            self._exchange.tasks.aside(self._repeats(app).note(ran, self.ids))
        started = self._run.started if self._run else None
        await conversation.keep(self.ids, started or time.time())
        if app.config.suggestions == "on":
            asked = await suggestions(self._gateway, app, self.user, self.ids.message_id, SUGGESTION_SECONDS)
            self.finished = replace(self.finished, suggestions=asked)
            return [*events[:-1], self.finished]
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
        if self.first_text_at is None:
            self._told = self._told or not all(isinstance(event, Started) for event in events)
            if any(isinstance(event, TextDelta) for event in events):
                self.first_text_at = self._loop.time()
        if events and isinstance(finished := events[-1], Finished):
            self.finished = finished
