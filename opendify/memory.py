"""Which Dify conversation a prompt continues, and what is kept of it: ids and digests.

A conversation's record says which state its history has reached. Whoever continues it takes it first: one turn at a
time, and until that turn has ended well the record names no state, so that nothing can continue what may be half a
turn. Every doubt ends the same way: a new conversation that is told the whole dialogue.
"""

import asyncio
import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from opendify.auth import Caller
from opendify.dialogue import Event, Ids, Prompt, Turn
from opendify.dify.apps import App
from opendify.dify.transcript import answered, continues_reply, instructions
from opendify.errors import ConversationBusy, ConversationNotFound
from opendify.history import DIGEST_BYTES, Chain, Listener
from opendify.store import Store
from opendify.users import digest_key

DAY: Final = 24 * 3600.0
# Dify orders turns by whole seconds: one that follows within its predecessor's second may come before it.
TURN_SECONDS: Final = 1.0
# A worker that dies keeps a conversation to itself for this long; one that lives says so more often.
HOLD_SECONDS: Final = 90.0
RENEW_SECONDS: Final = 30.0
# A store that is away at the end of a turn is told later, this often.
SETTLE_SECONDS: Final = (1.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0)
# A longer dialogue is digested beside the event loop.
LONG_CHARS: Final = 200_000
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Record(Struct):
    """What is kept of a conversation. `next_at`: when its next turn may start, epoch seconds."""

    state: str | None = None
    system: str | None = None
    message_id: str | None = None
    next_at: float = 0.0


class Pointer(Struct):
    """From a chat's id or a state to the conversation that has it."""

    conversation_id: str


class Owner(Protocol):
    """The gateway's part: whose conversations are whose, Dify itself knows best."""

    async def owns(self, app: App, user: str, conversation_id: str, /) -> bool: ...


class Scope:
    """One end user behind one key, at one app: nothing is ever looked up across."""

    def __init__(self, secret: str, app: App, caller: Caller, user: str) -> None:
        names = msgspec.json.encode((caller.name, user))
        self._key = hashlib.blake2b(names, key=digest_key(secret, app)).digest()

    def key(self, kind: str, name: str) -> str:
        """The store's key for something of this user's."""
        return f"opendify:{kind}:{self._digest(f'{kind}:{name}')}"

    def chain(self) -> Chain:
        """A dialogue's state, from its beginning."""
        return Chain(self._key)

    def system(self, turns: Sequence[Turn]) -> str | None:
        """The digest of the instructions, None without any."""
        text = instructions(turns)
        return self._digest(f"system:{text}") if text else None

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=DIGEST_BYTES
        ).hexdigest()


class Conversation:
    """The conversation of one answer: none that is kept, a new one, or a known one.

    `id` is Dify's, None for a new one. `instructions`: whether the system text goes with this turn.
    `next_at`: this turn may not start before, epoch seconds.
    """

    id: str | None = None
    instructions = True
    next_at = 0.0

    async def find(self) -> None:
        """Look for it, and take it for this turn."""

    async def begun(self, ids: Ids) -> None:
        """The run has its ids: nobody else goes on with what it has begun."""

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one."""

    async def knows(self, conversation_id: str) -> bool:  # noqa: ARG002 (for those that are kept)
        """Whether it is one that we remember."""
        return False

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete, and Dify's history holds it. `started` is epoch seconds."""

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never ran changed nothing."""


class Hold:
    """One turn's hold on a conversation, said again and again until it ends."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._token = uuid.uuid4().hex
        self._renewing: asyncio.Task[None] | None = None

    async def take(self) -> bool | None:
        """Whether it is ours now; None where nobody can tell."""
        taken = await self._store.claim(self._key, self._token, HOLD_SECONDS)
        if taken:
            self._renewing = asyncio.create_task(self._renew())
        return taken

    async def is_ours(self) -> bool:
        """Whether it still is."""
        return await self._store.claims(self._key, self._token)

    async def give_up(self) -> bool:
        """Let others go on; whether they can."""
        if self._renewing:
            self._renewing.cancel()
        return await self._store.unclaim(self._key, self._token)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await self._store.renew_claim(self._key, self._token, HOLD_SECONDS)


class Kept(Conversation):
    """A conversation that later turns can find."""

    def __init__(self, memory: "Memory", prompt: Prompt, app: App, caller: Caller, user: str) -> None:
        self._memory, self._store = memory, memory.store
        self._scope = scope = Scope(memory.secret, app, caller, user)
        self._app, self._user = app, user
        self._turns = prompt.turns
        self._named = (caller.conversation_id or prompt.conversation_id or "").lower()
        self._chat_id = caller.chat_id
        self._system = self._said_before = None if app.system_input else scope.system(prompt.turns)
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
        if self._named:
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
        system = self._system or record.system
        told = Record(None, system, record.message_id, record.next_at)
        if not await self._put(conversation_id, told):
            return False
        self.id, self._taken = conversation_id, record
        self.instructions = self._system is not None and self._system != record.system
        self.next_at, self._said_before = record.next_at, system
        return True

    # -- one answer

    async def begun(self, ids: Ids) -> None:
        """The run has its ids: nobody else goes on with what it has begun."""
        if self.id is None and ids.conversation_id:
            self.id = ids.conversation_id
            await self._take_hold(self.id)
            await self._put(self.id, Record(None, self._said_before))

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""
        self._listener.hear(events)

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one. Raises ConversationNotFound where that would lose turns."""
        if self.id:
            await self._store.delete(self._key(self.id))
        await self._let_go()
        self.id, self.instructions, self.next_at, self._taken = None, True, 0.0, None
        self._said_before = self._system
        if not self._is_follow_up:
            raise ConversationNotFound
        self._exact = not self._is_reply

    async def knows(self, conversation_id: str) -> bool:
        """Whether it is one that we remember."""
        return await self._record(conversation_id) is not None

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete: the next turn can find it under the state it has reached."""
        if not self.id:
            return
        self._chain.add(self._turns[self._split :])
        self._chain.answer(self._listener.digest())
        is_ours = bool(self._holds) and await self._holds[-1].is_ours()
        state = self._chain.state() if self._exact and is_ours else None
        record = Record(state, self._said_before, ids.message_id, started + TURN_SECONDS)
        if not await self._put(self.id, record):
            return
        pointers = self._pointers(state) if state else []
        pointing = [self._point(kind, name) for kind, name in pointers]
        await asyncio.gather(*pointing, self._unpoint())
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
            record = Record(None, self._said_before, None, time.time() + TURN_SECONDS)
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
        if not app.converses or app.config.conversations == "off":
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
