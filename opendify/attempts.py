"""Runs of one answer: mostly one; another where Dify has lost what it was thought to have."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus

import structlog

from opendify.auth import Caller
from opendify.conversation import TURN_SECONDS, Conversation
from opendify.dialogue import Event, Ids, Prompt
from opendify.dify.apps import App
from opendify.dify.gateway import Gateway
from opendify.dify.pauses import Resumed, is_open_question
from opendify.dify.requests import Told, build
from opendify.emulation import Emulation, emulation
from opendify.ending import Ending, Spawn
from opendify.errors import BrokenUpstream, OpenDifyError, Refused
from opendify.limits import Limits
from opendify.run import LEAVE_SECONDS, Run, resolve
from opendify.uploads import Sent, Uploads, start_held

# How many times a run is tried, the repairs included.
ATTEMPTS = 3
# Dify's ways of saying that it does not know a conversation, or a file: before a run, or as the reason of one that
# failed at once.
UNKNOWN_CONVERSATION = "Conversation Not Exists"
UNKNOWN_FILE = re.compile(r"(Invalid value for file input '[^']*': )?Invalid upload file")

log = structlog.get_logger("opendify.attempts")


class Elsewhere(BrokenUpstream):
    """Dify began another conversation in silence, because it does not know the one it was told to go on with."""

    def __init__(self) -> None:
        super().__init__("Dify began another conversation.")


class Attempts(Ending):
    """An answer whose run may take another attempt, as long as nothing was told; or a silent one after it.

    `secret` is what digests are keyed with.
    """

    def __init__(self, gateway: Gateway, uploads: Uploads, spawn: Spawn, limits: Limits, secret: str) -> None:
        super().__init__(gateway, spawn, limits)
        self._uploads = uploads
        self._secret = secret
        self._emulation: Emulation | None = None
        self._may_have_run = False
        self._told = False

    async def _runs(
        self, prompt: Prompt, caller: Caller, conversation: Conversation, app: App
    ) -> AsyncGenerator[Sequence[Event], None]:
        """One run; another one where Dify has lost what we thought it has, as long as nothing was told."""
        for mends_left in reversed(range(ATTEMPTS)):
            sent, ran_before = Sent([], []), self._may_have_run
            try:
                asked, told = await self._asked(prompt, caller, conversation, app)
                run, said = await self._sent(asked, told, conversation, app, sent)
                emulated, is_sure = self._emulation, False
                async with aclosing(said) as batches:
                    async for events in batches:
                        is_sure = is_sure or await self._is_sure(run, told, conversation, app)
                        yield emulated.feed(events) if emulated else events
            except OpenDifyError as error:
                if error.should_retry:  # which is said only where nothing can have run
                    self._may_have_run = ran_before
                if not (mends_left and await self._mended(error, conversation, sent)):
                    raise
            else:
                break
        if emulated and emulated.repair and not (self._left or self.cut or self.outcome.done()):
            yield await self._repaired(emulated, conversation, app)

    async def _asked(self, prompt: Prompt, caller: Caller, conversation: Conversation, app: App) -> tuple[Prompt, Told]:
        """The prompt in Dify's terms, and how much of it this conversation has yet to be told."""
        told = Told(is_known=conversation.id is not None, instructions=conversation.instructions)
        prompt = await self._uploads.kept.resolve(prompt, caller, app, self.limits.files, is_known=told.is_known)
        self._emulation = emulation(prompt, conversation, app, self._secret)
        return self._emulation.tell(told) if self._emulation else (prompt, told)

    async def _sent(
        self, prompt: Prompt, told: Told, conversation: Conversation, app: App, sent: Sent
    ) -> tuple[Run, AsyncGenerator[Sequence[Event], None]]:
        """A run that is about to begin, and what it says. Its files are sent, and its turn has come."""
        plan = build(prompt, app, self.limits.files, told)
        if plan.files:
            await self._uploads.send(plan, self.user, sent)
        if (seconds := conversation.next_at - time.time()) > 0:
            await asyncio.sleep(min(seconds, TURN_SECONDS))
        body = plan.body(self.user, sent.ids, conversation.id)
        run = self._begin(app)
        said = run.events(self._gateway.run(app.access, plan.path, body, wanted=lambda: not self._left))
        return run, start_held(said) if sent.reused else said

    async def _is_sure(self, run: Run, told: Told, conversation: Conversation, app: App) -> bool:
        """Whether Dify has said which conversation it is. Raises Elsewhere for another than the one to go on with."""
        if not told.is_known:
            if conversation.id is None:
                await conversation.begun(run.ids)
        elif is_elsewhere(run.ids, conversation):
            await self._abandon(run, conversation, app)
            raise Elsewhere
        return run.ids.conversation_id is not None or not app.converses

    async def _repaired(self, emulated: Emulation, conversation: Conversation, app: App) -> Sequence[Event]:
        """A silent run for calls or JSON that do not fit. Where it fails, the answer is what there was before."""
        first = self._run
        conversation.follow(first.started if first and first.started else time.time())
        until = (first.sent_at if first else self._loop.time()) + self.limits.run
        self._ids_before = self.ids
        self._forget_run()
        told: list[Event] = []
        try:
            async with asyncio.timeout_at(until) as self._patience:
                prompt, known = emulated.repair_prompt()
                run, said = await self._sent(prompt, known, conversation, app, Sent([], []))
                async with aclosing(said) as batches:
                    async for events in batches:
                        await self._is_sure(run, known, conversation, app)
                        told += emulated.feed(events)
        except (OpenDifyError, TimeoutError) as error:
            log.info("not_repaired", app=app.name, problem=getattr(error, "code", "timeout"))
            conversation.doubt()
            if self._run and not (self._run.reader.done or self._left):
                self.spawn(self._stop_at_dify(self._run, self._loop.time() + LEAVE_SECONDS))
            self._ids_before = self.ids
            self._forget_run()
        finally:
            self._patience = None
        return [*told, *emulated.close()]

    async def _abandon(self, run: Run, conversation: Conversation, app: App) -> None:
        """Stop what Dify began instead of going on, and leave nothing of it."""
        await self._stop_at_dify(run, self._loop.time() + LEAVE_SECONDS)
        stray = run.ids.conversation_id
        if stray and not await conversation.knows(stray):
            self.spawn(self._forget(app, stray))

    def _begin(self, app: App, resumed: Resumed | None = None) -> Run:
        self._run = run = Run(app, self.limits, resumed)
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
            await self._uploads.forget(sent)
        else:
            return False
        if self._left:
            return False
        self._forget_run()
        return True

    def _forget_run(self) -> None:
        """It is over, and the next one has not been sent: who leaves now leaves nothing at Dify."""
        if self._timer:
            self._timer.cancel()
        self._run = None

    async def _forget(self, app: App, conversation_id: str) -> None:
        """Delete a conversation that nobody goes on with."""
        try:
            await self._gateway.forget(app, self.user, conversation_id)
        except OpenDifyError as error:
            log.warning("conversation_not_deleted", app=app.name, problem=error.code)


def is_elsewhere(ids: Ids, conversation: Conversation) -> bool:
    """Whether Dify goes on in another conversation than it was told to."""
    return ids.conversation_id is not None and ids.conversation_id.lower() != conversation.id


def _is_gone(error: OpenDifyError) -> bool:
    """Whether Dify does not go on with the conversation that it was told to. It says so before any run."""
    if isinstance(error, Refused):
        is_unknown = error.upstream_status == HTTPStatus.NOT_FOUND and error.message.startswith(UNKNOWN_CONVERSATION)
        is_gone = not error.in_stream and (is_unknown or error.upstream_code == "conversation_completed")
        return is_gone or is_open_question(error)
    return isinstance(error, Elsewhere)
