"""Which Dify conversation a prompt continues, and what is kept of it: ids and digests.

A conversation's record says which state its history has reached. Whoever continues it takes it first: one turn at a
time, and until that turn has ended well the record names no state, so that nothing can continue what may be half a
turn. Every doubt ends the same way: a new conversation that is told the whole dialogue.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

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
MARGIN_SECONDS: Final = 120.0
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


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
    `wait` is how long this turn has to wait for its second, in seconds.
    """

    id: str | None = None
    instructions = True
    wait = 0.0

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one."""

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete, and Dify's history holds it. `started` is epoch seconds."""

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never started changed nothing."""


class Kept(Conversation):
    """A conversation that later turns can find."""

    def __init__(self, memory: "Memory", scope: Scope, prompt: Prompt, app: App, caller: Caller) -> None:
        self._memory = memory
        self._store = memory.store
        self._scope = scope
        self._turns = prompt.turns
        self._chat_id = caller.chat_id
        self._turn_seconds = (app.config.max_run_seconds or memory.run_seconds) + MARGIN_SECONDS
        self._system = None if app.system_input else scope.system(prompt.turns)
        self._by_history = app.config.conversations == "auto"
        self._exact = not continues_reply(prompt.turns)
        self._chain = scope.chain()
        self._split = answered(prompt.turns)
        self._chain.add(prompt.turns[: self._split])
        self._listener = Listener()
        self.before = self._chain.state()
        self._taken: Record | None = None
        self._ended = False

    @property
    def is_follow_up(self) -> bool:
        """Whether there are earlier turns at all."""
        return self._chain.answered

    # -- finding it

    async def find(self) -> None:
        """By the client's chat, else by the history itself; both have to have reached this very state."""
        if not (self.is_follow_up and self._exact):
            return
        for kind, name in self._pointers(self.before):
            pointer = await self._store.get(self._scope.key(kind, name), Pointer)
            if pointer and await self._claim(pointer.conversation_id):
                return

    async def take(self, conversation_id: str, *, is_owned: bool) -> None:
        """The one that the client names, whatever it says of its history.

        Raises ConversationBusy or ConversationNotFound; a client with a history gets a new conversation while
        another turn is under way.
        """
        free = await self._store.claim(self._scope.key("turn", conversation_id), self._turn_seconds)
        if free is False:
            if not self.is_follow_up:
                raise ConversationBusy
            return
        self.id = conversation_id
        record = await self._record() if is_owned else None
        self._exact = self._exact and record is not None and record.state == self.before
        await self._begin(record or Record())

    def _pointers(self, state: str) -> list[tuple[str, str]]:
        """What leads to a conversation in this state."""
        chat = [("chat", self._chat_id)] if self._chat_id else []
        return [*chat, *([("state", state)] if self._by_history else [])]

    async def _claim(self, conversation_id: str) -> bool:
        """Take a conversation that is exactly where this dialogue is."""
        if not await self._store.claim(self._scope.key("turn", conversation_id), self._turn_seconds):
            return False
        self.id = conversation_id
        record = await self._record()
        fits = record and record.state == self.before and not (record.system and not self._system)
        if record and fits and await self._begin(record):
            return True
        await self._unlock()
        self.id = None
        return False

    async def _begin(self, record: Record) -> bool:
        """From now on, until the answer is complete, nothing else continues the conversation."""
        self.instructions = self._system is not None and self._system != record.system
        self._system = self._system or record.system
        self.wait = min(max(record.next_at - time.time(), 0.0), TURN_SECONDS)
        self._taken = record
        return await self._put(replace(record, state=None))

    # -- one answer

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""
        self._listener.hear(events)

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one. Raises ConversationNotFound where that would lose turns."""
        if self.id:
            await self._store.delete(self._key)
            await self._unlock()
        self.id, self.instructions, self.wait, self._taken = None, True, 0.0, None
        if not self.is_follow_up:
            raise ConversationNotFound
        self._exact = True

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete: the next turn can find it under the state it has reached."""
        self._ended = True
        self.id = ids.conversation_id or self.id
        if not self.id:
            return
        self._chain.add(self._turns[self._split :])
        self._chain.answer(self._listener.digest())
        state = self._chain.state() if self._exact else None
        await self._put(Record(state, self._system, ids.message_id, started + TURN_SECONDS))
        for kind, name in self._pointers(state) if state else ():
            await self._store.put(self._scope.key(kind, name), Pointer(self.id), self._memory.ttl)
        if self._by_history and self.is_follow_up:
            await self._store.delete(self._scope.key("state", self.before))
        await self._unlock()

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never ran changed nothing."""
        if self._ended:
            return
        self._ended = True
        self.id = self.id or ids.conversation_id
        if not self.id:
            return
        if ran:
            await self._put(Record(None, self._system, None, time.time() + TURN_SECONDS))
        elif self._taken:
            await self._put(self._taken)
        await self._unlock()

    # -- its record

    @property
    def _key(self) -> str:
        return self._scope.key("conversation", self.id or "")

    async def _record(self) -> Record | None:
        return await self._store.get(self._key, Record)

    async def _put(self, record: Record) -> bool:
        return await self._store.put(self._key, record, self._memory.ttl)

    async def _unlock(self) -> None:
        await self._store.delete(self._scope.key("turn", self.id or ""))


class Memory:
    """Finds the conversation of a prompt. One is kept for `days` after its last turn.

    `run_seconds` is the longest run: a little longer at most, a worker that died keeps a conversation to itself.
    """

    def __init__(
        self, store: Store, owner: Owner, *, secret: str = "", days: float = 30.0, run_seconds: float = 1200.0
    ) -> None:
        self.store = store
        self.ttl = days * DAY
        self.run_seconds = run_seconds
        self._owner = owner
        self._secret = secret

    async def recall(self, prompt: Prompt, app: App, caller: Caller, user: str) -> Conversation:
        """The conversation to go on with. Raises ConversationNotFound or ConversationBusy, or why Dify does not say."""
        if not app.converses or app.config.conversations == "off":
            return Conversation()
        scope = Scope(self._secret, app, caller, user)
        conversation = Kept(self, scope, prompt, app, caller)
        if named := (caller.conversation_id or prompt.conversation_id or "").lower():
            is_owned = await self._is_known(scope, named)
            if not is_owned and not await self._is_at_dify(app, user, named):
                raise ConversationNotFound
            await conversation.take(named, is_owned=is_owned)
        else:
            await conversation.find()
        return conversation

    async def last_message(self, app: App, caller: Caller, user: str) -> str | None:
        """The id of the newest answer in the client's chat."""
        scope = Scope(self._secret, app, caller, user)
        chat = await self.store.get(scope.key("chat", caller.chat_id), Pointer) if caller.chat_id else None
        record = await self.store.get(scope.key("conversation", chat.conversation_id), Record) if chat else None
        return record.message_id if record else None

    async def _is_known(self, scope: Scope, conversation_id: str) -> bool:
        return await self.store.get(scope.key("conversation", conversation_id), Record) is not None

    async def _is_at_dify(self, app: App, user: str, conversation_id: str) -> bool:
        """What we do not remember may still be this user's: Dify keeps conversations apart by user."""
        return bool(UUID.fullmatch(conversation_id)) and await self._owner.owns(app, user, conversation_id)
