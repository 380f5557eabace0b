"""One turn at a time: a hold on a conversation that other workers see."""

import asyncio
import uuid
from typing import Final

from opendify.store import Store

# A worker that dies keeps a conversation to itself for this long; one that lives says so more often.
HOLD_SECONDS: Final = 90.0
RENEW_SECONDS: Final = 30.0


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
