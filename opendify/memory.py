"""Which Dify conversation a prompt continues, and what is kept of it: ids and digests.

A conversation's record says which state its history has reached. Whoever continues it takes it first: one turn at a
time, and until that turn has ended well the record names no state, so that nothing can continue what may be half a
turn. Every doubt ends the same way: a new conversation that is told the whole dialogue.
"""

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from msgspec.structs import replace

from opendify.auth import Caller
from opendify.conversation import Conversation, Pointer, Record, Topic, Waits, after
from opendify.dialogue import Event, Ids, Paused, Prompt
from opendify.dify.apps import App
from opendify.dify.transcript import answered, continues_reply
from opendify.errors import ConversationBusy, ConversationNotFound
from opendify.history import Listener
from opendify.hold import Holds
from opendify.human_input import open_form
from opendify.scope import Scope
from opendify.store import Store

DAY: Final = 24 * 3600.0
# A store that is away at the end of a turn is told later, this often.
SETTLE_SECONDS: Final = (1.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0)
# A longer dialogue is digested beside the event loop.
LONG_CHARS: Final = 200_000
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Owner(Protocol):
    """The gateway's part: whose conversations are whose, Dify itself knows best."""

    async def owns(self, app: App, user: str, conversation_id: str, /) -> bool: ...


class Kept(Conversation):
    """A conversation that later turns can find."""

    def __init__(self, memory: "Memory", prompt: Prompt, app: App, caller: Caller, user: str) -> None:
        self._memory = memory
        self._scope = scope = Scope(memory.secret, app, caller, user)
        self._app, self._user = app, user
        self._turns = prompt.turns
        self._named = (caller.conversation_id or prompt.conversation_id or "").lower()
        self._chat_id = caller.chat_id
        self._system = None if app.system_input else scope.system(prompt.turns)
        self._noted = Record(system=self._system)
        self._told: dict[Topic, str | None] = {}
        self._by_history = app.config.conversations == "auto"
        self._is_reply = continues_reply(prompt.turns)
        self._exact = not self._is_reply
        self._chain = scope.chain()
        self._split = answered(prompt.turns)
        self._before = ""
        self._listener = Listener()
        self._holds = Holds(memory.store, scope, memory.ttl)
        self._taken: Record | None = None
        self._ended = False
        self.settled = False
        self.returns = app.converses or self._by_history or bool(caller.chat_id)

    @property
    def _is_follow_up(self) -> bool:
        """Whether there are earlier turns at all."""
        return self._chain.answered

    # -- finding it

    async def find(self) -> None:
        """By its name, else by the client's chat, else by the history; those two have to have reached this very state.

        Raises ConversationNotFound or ConversationBusy.
        """
        await self._digest_history()
        if self._named and self._app.converses:
            await self._take_named(self._named)
        elif self._is_follow_up and self._exact:
            known = await self._memory.store.get_all(self._pointers(self._before), Pointer)
            for conversation_id in dict.fromkeys(pointer.conversation_id for pointer in known if pointer):
                if await self._take_exact(conversation_id):
                    return

    async def _digest_history(self) -> None:
        earlier = self._turns[: self._split]
        if sum(len(turn.text) for turn in earlier) > LONG_CHARS:
            await asyncio.to_thread(self._chain.add, earlier)
        else:
            self._chain.add(earlier)
        self._before = self._chain.state()

    def _pointers(self, state: str) -> list[str]:
        """What leads to a conversation in this state."""
        chat = [("chat", self._chat_id)] if self._chat_id else []
        state_too = [("state", state)] if self._by_history else []
        return [self._scope.key(*pointer) for pointer in (*chat, *state_too)]

    async def _take_exact(self, conversation_id: str) -> bool:
        """Take a conversation that is exactly where this dialogue is."""
        ours, record = await self._holds.take(conversation_id, self._before)
        if not (ours and record):
            return False
        record = replace(record, state=self._before)
        self._begin(conversation_id, record)
        if record.system and not self._system:
            await self._settle(ran=False)
            self._begin_anew()
            return False
        return True

    async def _take_named(self, conversation_id: str) -> None:
        """The one that the client names, whatever it says of its history.

        A client with a history gets a new one while another turn is under way, or while nobody can tell.
        """
        ours, record = await self._holds.take(conversation_id)
        if record is None and not await self._memory.is_at_dify(self._app, self._user, conversation_id):
            raise ConversationNotFound
        if ours is False and not self._is_follow_up:
            raise ConversationBusy
        if not ours and self._is_follow_up:
            return
        if ours:
            self._begin(conversation_id, record or Record())
        self.id = conversation_id
        self._exact = self._exact and bool(ours) and record is not None and record.state == self._before

    def _begin(self, conversation_id: str, record: Record) -> None:
        """This turn goes on with it. Until the answer is complete, its record in the store names no state."""
        self.id, self._taken = conversation_id, record
        self._noted = replace(record, state=None, system=self._system or record.system)
        self.instructions = self._system is not None and self._system != record.system
        self.next_at, self.salt, self.waits = record.next_at, record.salt, record.waits
        self.submitted = record.waits.submitted if record.waits else ()

    def _begin_anew(self) -> None:
        """This turn goes on with none."""
        self.id, self._taken, self._noted = None, None, Record(system=self._system)
        self.instructions, self.next_at, self._ended = True, 0.0, False
        self.salt, self.waits, self.submitted = None, None, ()

    # -- one answer

    def lacks(self, kind: Topic, text: str) -> bool:
        """Whether its history has been told something else than this of the kind, or nothing."""
        known: str | None = getattr(self._noted, kind)
        return self._scope.told(kind, text) != known

    def tell(self, kind: Topic, text: str) -> None:
        """This turn tells it; that counts once the answer is complete."""
        self._told[kind] = self._scope.told(kind, text)

    async def begun(self, ids: Ids) -> None:
        """The run has its ids: nobody else goes on with what it has begun."""
        if self.id is None and ids.conversation_id:
            self.id = ids.conversation_id
            await self._holds.take(self.id)

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""
        self._listener.hear(events)

    def doubt(self) -> None:
        """What Dify's history holds of this turn may not be what the client was told."""
        self._exact = False

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one. Raises ConversationNotFound where that would lose turns."""
        if self.id:
            await self._end(None, None)
        await self._holds.let_go()
        self._begin_anew()
        if not self._is_follow_up:
            raise ConversationNotFound
        self._exact = not self._is_reply

    async def knows(self, conversation_id: str) -> bool:
        """Whether it is one that we remember."""
        return await self._holds.knows(conversation_id)

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete: the next turn can find it under the state it has reached."""
        if paused := self._listener.paused:
            self.waits = self._waiting(paused, ids)
        if not self._app.converses and self.waits and self.id is None:
            self.id = self.waits.run_id
            await self._holds.take(self.id)
        if self.id is None:
            self.settled = not self._holds.any
            return
        # A workflow converses only while its run waits for a person: then the run has the conversation's place.
        record = self._reached(ids, started) if self._app.converses or self.waits else None
        leads = self._pointers(record.state) if record and record.state else ()
        # The state before leads here no longer; another conversation that has it may still be found by it.
        is_stale = self._by_history and self._taken is not None and self._taken.state == self._before
        stale = [self._scope.key("state", self._before)] if is_stale else ()
        self.settled = await self._end(record, record and replace(record, state=None), leads, stale)

    def _reached(self, ids: Ids, started: float) -> Record:
        """What is to be known of the conversation after this answer."""
        self._chain.add(self._turns[self._split :])
        self._listener.tell(self._chain)
        return replace(
            self._noted,
            state=self._chain.state() if self._exact else None,
            message_id=ids.message_id,
            next_at=after(started),
            salt=self.salt,
            waits=self.waits,
            **self._told,
        )

    def _waiting(self, paused: Paused, ids: Ids) -> Waits | None:
        form = open_form(paused.forms)
        if not ids.workflow_run_id:
            return None
        return Waits(ids.workflow_run_id, form.token if form else None, self.submitted, paused.spoken)

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never ran changed nothing.

        What the store cannot be told now, it is told later.
        """
        if self.settled:
            return
        self.id = self.id or ids.conversation_id
        for seconds in (*SETTLE_SECONDS, 0.0):
            if await self._settle(ran=ran):
                return
            await asyncio.sleep(seconds)

    async def _settle(self, *, ran: bool) -> bool:
        if self.id and ran and not self._ended:
            record = replace(self._noted, message_id=None, next_at=after(time.time()), waits=self.waits)
            return await self._end(record, record)
        if self.id and self._taken and not self._ended:
            return await self._end(self._taken, replace(self._taken, state=None))
        return await self._holds.let_go()

    async def _end(
        self, record: Record | None, otherwise: Record | None, leads: Sequence[str] = (), stale: Sequence[str] = ()
    ) -> bool:
        """The turn is over. Whether the store knows all of it."""
        self._ended = await self._holds.end(self.id or "", record, otherwise, leads, stale)
        return self._ended and await self._holds.let_go()


class Memory:
    """Finds the conversation of a prompt. One is kept for `days` after its last turn."""

    def __init__(self, store: Store, owner: Owner, *, secret: str = "", days: float = 30.0) -> None:
        self.store = store
        self.secret = secret
        self.ttl = days * DAY
        self._owner = owner

    def conversation(self, prompt: Prompt, app: App, caller: Caller, user: str) -> Conversation:
        """The prompt's, still to be found."""
        if app.config.conversations == "off" or not (app.converses or app.mode == "workflow"):
            return Conversation()
        return Kept(self, prompt, app, caller, user)

    async def last_message(self, app: App, caller: Caller, user: str) -> str | None:
        """The id of the newest answer in the client's chat."""
        scope = Scope(self.secret, app, caller, user)
        chat = await self.store.get(scope.key("chat", caller.chat_id), Pointer) if caller.chat_id else None
        record = await self.store.get(scope.key("conversation", chat.conversation_id), Record) if chat else None
        return record.message_id if record else None

    async def is_at_dify(self, app: App, user: str, conversation_id: str) -> bool:
        """What we do not remember may still be this user's: Dify keeps conversations apart by user."""
        return bool(UUID.fullmatch(conversation_id)) and await self._owner.owns(app, user, conversation_id)
