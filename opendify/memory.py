"""Which Dify conversation a prompt continues, and what is kept of it: ids and digests.

A conversation's record says which state its history has reached. Whoever continues it takes it first: one turn at a
time, and until that turn has ended well the record names no state, so that nothing can continue what may be half a
turn. Every doubt ends the same way: a new conversation that is told the whole dialogue.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from opendify.auth import Caller
from opendify.conversation import Conversation, Record, Rules, Waits, after
from opendify.dialogue import Event, Ids, Paused, Prompt
from opendify.dify.apps import App
from opendify.dify.transcript import answered, continues_reply
from opendify.errors import ConversationBusy, ConversationNotFound
from opendify.history import Listener
from opendify.hold import Hold
from opendify.human_input import open_form
from opendify.scope import Scope
from opendify.store import Store

DAY: Final = 24 * 3600.0
# A store that is away at the end of a turn is told later, this often.
SETTLE_SECONDS: Final = (1.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0)
# A longer dialogue is digested beside the event loop.
LONG_CHARS: Final = 200_000
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Pointer(Struct):
    """From a chat's id or a state to the conversation that has it."""

    conversation_id: str


class Owner(Protocol):
    """The gateway's part: whose conversations are whose, Dify itself knows best."""

    async def owns(self, app: App, user: str, conversation_id: str, /) -> bool: ...


class Kept(Conversation):
    """A conversation that later turns can find."""

    def __init__(self, memory: "Memory", prompt: Prompt, app: App, caller: Caller, user: str) -> None:
        self._memory, self._store = memory, memory.store
        self._scope = scope = Scope(memory.secret, app, caller, user)
        self._app, self._user = app, user
        self._turns = prompt.turns
        self._named = (caller.conversation_id or prompt.conversation_id or "").lower()
        self._chat_id = caller.chat_id
        self._system = None if app.system_input else scope.system(prompt.turns)
        self._noted = Record(system=self._system)
        self._told: dict[Rules, str | None] = {}
        self._by_history = app.config.conversations == "auto"
        self._is_reply = continues_reply(prompt.turns)
        self._exact = not self._is_reply
        self._chain = scope.chain()
        self._split = answered(prompt.turns)
        self._before = ""
        self._listener = Listener()
        self._holds: list[Hold] = []
        self._taken: Record | None = None
        self._settled = False

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
            await self._take(self._named)
        elif self._is_follow_up and self._exact:
            for kind, name in self._pointers(self._before):
                pointer = await self._store.get(self._scope.key(kind, name), Pointer)
                if pointer and await self._claim(pointer.conversation_id):
                    return

    async def _digest_history(self) -> None:
        earlier = self._turns[: self._split]
        if sum(len(turn.text) for turn in earlier) > LONG_CHARS:
            await asyncio.to_thread(self._chain.add, earlier)
        else:
            self._chain.add(earlier)
        self._before = self._chain.state()

    def _pointers(self, state: str) -> list[tuple[str, str]]:
        """What leads to a conversation in this state."""
        chat = [("chat", self._chat_id)] if self._chat_id else []
        return [*chat, *([("state", state)] if self._by_history else [])]

    async def _claim(self, conversation_id: str) -> bool:
        """Take a conversation that is exactly where this dialogue is."""
        if not await self._take_hold(conversation_id):
            await self._let_go()
            return False
        record = await self._record(conversation_id)
        fits = record and record.state == self._before and not (record.system and not self._system)
        if record and fits and await self._begin(conversation_id, record):
            return True
        await self._let_go()
        return False

    async def _take(self, conversation_id: str) -> None:
        """The one that the client names, whatever it says of its history.

        A client with a history gets a new one while another turn is under way, or while nobody can tell.
        """
        record = await self._record(conversation_id)
        if record is None and not await self._memory.is_at_dify(self._app, self._user, conversation_id):
            raise ConversationNotFound
        free = await self._take_hold(conversation_id)
        if free is False and not self._is_follow_up:
            raise ConversationBusy
        # Another turn may have ended since.
        record = await self._record(conversation_id) if record else Record()
        is_noted = bool(free) and await self._begin(conversation_id, record or Record())
        if not is_noted and self._is_follow_up:
            await self._let_go()
            return
        self.id = conversation_id
        self._exact = self._exact and is_noted and record is not None and record.state == self._before

    async def _begin(self, conversation_id: str, record: Record) -> bool:
        """From now on, until the answer is complete, nothing else continues the conversation."""
        noted = replace(record, state=None, system=self._system or record.system)
        if not await self._put(conversation_id, noted):
            return False
        self.id, self._taken, self._noted = conversation_id, record, noted
        self.instructions = self._system is not None and self._system != record.system
        self.next_at, self.salt, self.waits = record.next_at, record.salt, record.waits
        self.submitted = record.waits.submitted if record.waits else ()
        return True

    # -- one answer

    def lacks(self, kind: Rules, text: str) -> bool:
        """Whether its history has been told something else than this of the kind, or nothing."""
        known: str | None = getattr(self._noted, kind)
        return self._scope.told(kind, text) != known

    def tell(self, kind: Rules, text: str) -> None:
        """This turn tells it; that counts once the answer is complete."""
        self._told[kind] = self._scope.told(kind, text)

    async def begun(self, ids: Ids) -> None:
        """The run has its ids: nobody else goes on with what it has begun."""
        if self.id is None and ids.conversation_id:
            self.id = ids.conversation_id
            await self._take_hold(self.id)
            await self._put(self.id, self._noted)

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""
        self._listener.hear(events)

    def doubt(self) -> None:
        """What Dify's history holds of this turn may not be what the client was told."""
        self._exact = False

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one. Raises ConversationNotFound where that would lose turns."""
        if self.id:
            await self._store.delete(self._key(self.id))
        await self._let_go()
        self.id, self.instructions, self.next_at, self._taken = None, True, 0.0, None
        self.salt, self.waits = None, None
        self._noted = Record(system=self._system)
        if not self._is_follow_up:
            raise ConversationNotFound
        self._exact = not self._is_reply

    async def knows(self, conversation_id: str) -> bool:
        """Whether it is one that we remember."""
        return await self._record(conversation_id) is not None

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete: the next turn can find it under the state it has reached."""
        if paused := self._listener.paused:
            self.waits = self._waiting(paused, ids)
        if not self._app.converses:
            await self._keep_run()
        if not self.id or self._settled:
            return
        self._chain.add(self._turns[self._split :])
        self._listener.tell(self._chain)
        is_ours = bool(self._holds) and await self._holds[-1].is_ours()
        state = self._chain.state() if self._exact and is_ours else None
        record = replace(
            self._noted,
            state=state,
            message_id=ids.message_id,
            next_at=after(started),
            salt=self.salt,
            waits=self.waits,
            **self._told,
        )
        if not await self._put(self.id, record):
            return
        pointers = self._pointers(state) if state else []
        pointing = [self._point(kind, name) for kind, name in pointers]
        await asyncio.gather(*pointing, self._unpoint())
        self._settled = await self._let_go()

    def _waiting(self, paused: Paused, ids: Ids) -> Waits | None:
        form = open_form(paused.forms)
        if not ids.workflow_run_id:
            return None
        return Waits(ids.workflow_run_id, form.token if form else None, self.submitted, paused.spoken)

    async def _keep_run(self) -> None:
        """A workflow converses only while its run waits for a person: then the run has the conversation's place."""
        if self.waits and self.id is None:
            self.id = self.waits.run_id
            await self._take_hold(self.id)
        elif self.id and not self.waits:
            await self._unpoint()
            await self._store.delete(self._key(self.id))
            self._settled = await self._let_go()

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never ran changed nothing.

        What the store cannot be told now, it is told later.
        """
        if self._settled:
            return
        self.id = self.id or ids.conversation_id
        for seconds in (*SETTLE_SECONDS, 0.0):
            if await self._settle(ran=ran):
                return
            await asyncio.sleep(seconds)

    async def _settle(self, *, ran: bool) -> bool:
        if self.id and ran:
            record = replace(self._noted, message_id=None, next_at=after(time.time()), waits=self.waits)
            if not await self._put(self.id, record):
                return False
        elif self.id and self._taken and not await self._put(self.id, self._taken):
            return False
        return await self._let_go()

    # -- what the store knows of it

    async def _take_hold(self, conversation_id: str) -> bool | None:
        self._holds.append(hold := Hold(self._store, self._scope.key("turn", conversation_id)))
        return await hold.take()

    async def _let_go(self) -> bool:
        """Give up what was taken; whether the store knows it."""
        self._holds = [hold for hold in self._holds if not await hold.give_up()]
        return not self._holds

    async def _point(self, kind: str, name: str) -> None:
        await self._store.put(self._scope.key(kind, name), Pointer(self.id or ""), self._memory.ttl)

    async def _unpoint(self) -> None:
        """The state before leads here no longer; another conversation that has it may still be found by it."""
        if self._by_history and self._taken and self._taken.state == self._before:
            key = self._scope.key("state", self._before)
            pointer = await self._store.get(key, Pointer)
            if pointer and pointer.conversation_id == self.id:
                await self._store.delete(key)

    def _key(self, conversation_id: str) -> str:
        return self._scope.key("conversation", conversation_id)

    async def _record(self, conversation_id: str) -> Record | None:
        return await self._store.get(self._key(conversation_id), Record)

    async def _put(self, conversation_id: str, record: Record) -> bool:
        return await self._store.put(self._key(conversation_id), record, self._memory.ttl)


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
