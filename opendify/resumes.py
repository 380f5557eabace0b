"""A paused run goes on: a turn answers its form, and the answer is the rest of the run.

Nothing is submitted that does not fit, and a form is not lost: what is wrong is told back, and the next turn is read as
another reply.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final

import structlog
from msgspec.structs import replace

from opendify import human_input
from opendify.attempts import Attempts
from opendify.auth import Caller
from opendify.conversation import Conversation, Waits
from opendify.dialogue import Event, Finished, Form, Ids, Prompt, TextDelta, Turn, Usage
from opendify.dify import lines, resume
from opendify.dify.apps import App
from opendify.dify.files import unplaced
from opendify.dify.pauses import Resumed
from opendify.dify.requests import RunPlan
from opendify.dify.transcript import answered
from opendify.emulation import emulation
from opendify.errors import BrokenUpstream, Refused, StreamLost, UpstreamTimeout
from opendify.human_input.reading import NOTHING, BadReply
from opendify.human_input.replies import Reply, read_reply
from opendify.human_input.shown import CLOSED_FORMS, WAITING, told_back
from opendify.run import parted, reader_of
from opendify.uploads import Sent

# How long a run that takes no reply from here is asked for what has become of it.
LOOK_SECONDS: Final = 2.0
# A run that loops through a form is remembered by so many of its tokens.
MAX_SUBMITTED: Final = 50
STILL_WAITS: Final = "The app still waits for an answer to its form."
ALL_AGAIN: Final = "Please write all of the answer again."

log = structlog.get_logger("opendify.resumes")


class Resumes(Attempts):
    """An answer that may be the rest of a run which waits for a person."""

    async def _resumed(
        self, waits: Waits, prompt: Prompt, caller: Caller, conversation: Conversation, app: App
    ) -> AsyncGenerator[Sequence[Event], None]:
        """The rest of the run, or why it does not go on yet."""
        self._ids_before = Ids(conversation.id if app.converses else None, workflow_run_id=waits.run_id)
        self._emulation = emulated = emulation(prompt, conversation, app, self._secret)
        async with aclosing(self._gone_on(waits, prompt, caller, conversation, app)) as batches:
            async for events in batches:
                yield emulated.feed(events) if emulated else events
        if emulated and (rest := emulated.close()):
            yield rest

    async def _gone_on(
        self, waits: Waits, prompt: Prompt, caller: Caller, conversation: Conversation, app: App
    ) -> AsyncGenerator[Sequence[Event], None]:
        if waits.token is None:
            yield await self._look(waits, "", conversation, app)
            return
        try:
            form = await resume.form(self._gateway, app, waits.token)
            async with aclosing(self._answered(form, waits, prompt, caller, conversation, app)) as batches:
                async for events in batches:
                    yield events
        except (Refused, BrokenUpstream) as error:
            if (why := resume.closed(error)) is None:
                raise
            self._forget_run()
            yield await self._look(waits, CLOSED_FORMS[why], conversation, app)

    async def _answered(
        self, form: Form, waits: Waits, prompt: Prompt, caller: Caller, conversation: Conversation, app: App
    ) -> AsyncGenerator[Sequence[Event], None]:
        """The rest of the run, or what is wrong with the reply."""
        if not any(map(is_reply, prompt.turns[answered(prompt.turns) :])):  # but results of other tools
            yield [TextDelta(told_back(STILL_WAITS, form)), Finished("stop", Usage())]
            return
        try:
            reply = await self._reply(form, waits, prompt, caller, app)
            async with aclosing(self._rest(waits, reply, conversation, app)) as batches:
                async for events in batches:
                    yield events
        except BadReply as bad:
            problem = bad.problem
        except Refused as error:
            if not resume.is_bad_answer(error):
                raise
            problem = error.message
        else:
            return
        self._forget_run()
        conversation.waits = replace(waits, bad=waits.bad + 1)
        yield [TextDelta(told_back(problem, form)), Finished("stop", Usage())]

    async def _reply(self, form: Form, waits: Waits, prompt: Prompt, caller: Caller, app: App) -> Reply:
        """What this turn submits, with what earlier replies have said already. Raises BadReply."""
        most = self.limits.files
        prompt = await self._uploads.kept.resolve(prompt, caller, app, most, is_known=True)
        *earlier, reply = filter(is_reply, prompt.turns)
        known = NOTHING
        for turn in earlier[max(len(earlier) - waits.bad, 0) :]:
            try:
                read_reply(turn.text, form, known=known)
            except BadReply as bad:
                known = bad.inputs
        plan = RunPlan(app, "", {}, unplaced(app, reply.attachments, most))
        sent = Sent([], [])
        await self._uploads.send(plan, self.user, sent)
        files = [file.reference(upload_id) for file, upload_id in zip(plan.files, sent.ids, strict=True)]
        try:
            return read_reply(reply.text, form, files=files, known=known)
        except BadReply as bad:
            if not earlier:  # the next request will hold no more of the dialogue either
                bad.problem = f"{bad.problem} {ALL_AGAIN}"
            raise

    async def _rest(
        self, waits: Waits, reply: Reply, conversation: Conversation, app: App
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Submit the form, and read on; a stream that is lost is made up for by what Dify knows of the run."""
        token = waits.token or ""
        known = Resumed(frozenset((*waits.submitted, token)), waits.spoken)
        ran_before = self._may_have_run
        run = self._begin(app, known)
        opened = resume.resumed(
            self._gateway,
            app,
            self.user,
            waits.run_id,
            token,
            reply.action_id,
            reply.inputs,
            wanted=lambda: not self._left,
        )
        try:
            async with aclosing(run.events(_noted(opened, waits, conversation))) as batches:
                async for events in batches:
                    yield events
        except StreamLost:
            if self._left:
                raise
            run.waiting_since = None
            yield _or_failure(await resume.recovered(self._gateway, app, self.user, waits.run_id, run.reader, known))
        finally:
            if conversation.waits:  # nothing was submitted
                self._may_have_run = ran_before

    async def _look(self, waits: Waits, why: str, conversation: Conversation, app: App) -> Sequence[Event]:
        """What has become of a run that takes no reply from here: its rest, or that it still waits."""
        known = Resumed(frozenset(filter(None, (*waits.submitted, waits.token))), waits.spoken)
        reader = reader_of(app, known)
        looked = resume.recovered(self._gateway, app, self.user, waits.run_id, reader, known, seconds=LOOK_SECONDS)
        over = [Finished("stop", Usage())]
        try:
            rest, conversation.waits = await looked, None
        except UpstreamTimeout:
            rest, why = over, why or WAITING
            if waits.token:  # nobody can answer it any more: what the client knows of it goes on elsewhere
                conversation.waits = None
                conversation.doubt()
        except Refused:  # the run is gone
            rest, why, conversation.waits = over, why or CLOSED_FORMS["unknown"], None
            conversation.doubt()
        self._may_have_run = True
        told = _or_failure(rest)
        return [TextDelta(f"{why}\n\n"), *told] if why else told


@asynccontextmanager
async def _noted(
    opened: AbstractAsyncContextManager[lines.Reply], waits: Waits, conversation: Conversation
) -> AsyncIterator[lines.Reply]:
    """Once the stream is there, the form was submitted."""
    async with opened as stream:
        conversation.waits = None
        conversation.submitted = (*waits.submitted, waits.token or "")[-MAX_SUBMITTED:]
        yield stream


def is_reply(turn: Turn) -> bool:
    """Whether a turn may answer a form: a person's, or the result of the tool for forms."""
    return turn.role == "user" or (turn.role == "tool" and turn.name == human_input.TOOL)


def _or_failure(events: Sequence[Event]) -> Sequence[Event]:
    """The events. Raises the failure that they end with."""
    told, failure = parted(events)
    if failure:
        raise failure
    return told
