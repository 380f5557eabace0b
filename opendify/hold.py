"""One turn at a time: a hold on a conversation that other workers see."""

import asyncio
import secrets
from collections.abc import Sequence
from typing import Final, TypeVar

from msgspec import Struct

from opendify.backends import Claim
from opendify.conversation import Pointer, Record
from opendify.scope import Scope
from opendify.store import Store

S = TypeVar("S", bound=Struct)

# A worker that dies keeps a conversation to itself for this long; one that lives says so more often.
HOLD_SECONDS: Final = 90.0
RENEW_SECONDS: Final = 30.0


class Hold:
    """One turn's hold on what is kept at a key, said again and again until it ends."""

    def __init__(self, store: Store, claim: str, key: str, seconds: float) -> None:
        self._store = store
        self._claim = Claim(claim, secrets.token_bytes(16).hex().encode(), HOLD_SECONDS)
        self._key = key
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, schema: type[S], state: str) -> tuple[bool | None, S | None]:
        """Whether it is ours now, None where nobody can tell; and what is kept, which has to be in the state if any."""
        ours, value = await self._store.take(self._claim, self._key, schema, self._seconds, state)
        if ours:
            self._renew_later()
        return ours, value

    async def end(
        self,
        value: Struct | None,
        otherwise: Struct | None,
        pointer: Struct,
        leads: Sequence[str],
        stale: Sequence[str],
    ) -> bool:
        """Keep the value from now on, or `otherwise` if it was not ours to the end, and let others go on.

        The pointer is put where it `leads` there, and goes where it is `stale`. Whether the store knows all of it.
        """
        self._over()
        data = value, otherwise, self._seconds
        return await self._store.end(self._claim, self._key, *data, pointer, leads, stale)

    async def give_up(self) -> bool:
        """Let others go on; whether they can."""
        self._over()
        return await self._store.unclaim(self._claim)

    def _over(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._renewing:
            self._renewing.cancel()

    def _renew_later(self) -> None:
        """By a timer, for few turns are that long: a task that is cancelled each time costs more."""
        self._timer = asyncio.get_running_loop().call_later(RENEW_SECONDS, self._begin_renewing)

    def _begin_renewing(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        await self._store.renew(self._claim)
        self._renew_later()


class Holds:
    """What one turn has taken of one end user's conversations: at most one, and what it could not give back."""

    def __init__(self, store: Store, scope: Scope, seconds: float) -> None:
        self._store = store
        self._scope = scope
        self._seconds = seconds
        self._holds: dict[str, Hold] = {}

    @property
    def any(self) -> bool:
        """Whether there is anything to give back."""
        return bool(self._holds)

    async def take(self, conversation_id: str, state: str = "") -> tuple[bool | None, Record | None]:
        """Take a conversation that is in this state, or whatever it is in: whether it is ours, and what it was."""
        self._holds[conversation_id] = hold = self._hold(conversation_id)
        ours, record = await hold.take(Record, state)
        if ours is False:
            del self._holds[conversation_id]
        return ours, record

    async def end(
        self,
        conversation_id: str,
        record: Record | None,
        otherwise: Record | None,
        leads: Sequence[str],
        stale: Sequence[str],
    ) -> bool:
        """The turn is over: what is known of it from now on, or `otherwise` if others have taken it meanwhile.

        Pointers lead there from some keys, and from others no longer. Whether the store knows all of it.
        """
        hold = self._holds.get(conversation_id) or self._hold(conversation_id)
        if not await hold.end(record, otherwise, Pointer(conversation_id), leads, stale):
            return False
        self._holds.pop(conversation_id, None)
        return True

    async def let_go(self) -> bool:
        """Give everything back; whether the store knows it."""
        for conversation_id, hold in list(self._holds.items()):
            if await hold.give_up():
                del self._holds[conversation_id]
        return not self._holds

    async def knows(self, conversation_id: str) -> bool:
        """Whether it is one that is remembered, or that a turn is begun in."""
        return await self._store.has([self._key(conversation_id), self._turn(conversation_id)])

    def _hold(self, conversation_id: str) -> Hold:
        return Hold(self._store, self._turn(conversation_id), self._key(conversation_id), self._seconds)

    def _turn(self, conversation_id: str) -> str:
        return self._scope.key("turn", conversation_id)

    def _key(self, conversation_id: str) -> str:
        return self._scope.key("conversation", conversation_id)
