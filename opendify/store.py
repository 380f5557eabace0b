"""Small JSON values with a time to live: in this process (mem://), or in a Redis that all workers share."""

import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
import structlog
from cashews import Cache
from cashews.exceptions import CacheError
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

S = TypeVar("S", bound=Struct)

# A conversation takes two or three entries: of the oldest ones, mem:// forgets those over this many.
MEMORY_ENTRIES: Final = 200_000
ANSWER_SECONDS: Final = 1.0
REST_SECONDS: Final = 2.0
CONNECTIONS: Final = 200
CROWDED: Final = "No connection available."
TROUBLES: Final = (CacheError, RedisError, OSError, TimeoutError)

log = structlog.get_logger("opendify.store")


class Claim(Struct):
    """Who has taken a key."""

    token: str


class Store:
    """What outlives a request. Values are JSON of Structs: ids and digests, never a text or a key.

    The one exception are files sent ahead: their names, types and purposes, which their owners ask for.

    While Redis does not answer, everything is unknown and nothing is kept: requests go on without it. That is logged
    once, and it is left alone for `REST_SECONDS` at a time.
    """

    def __init__(self, url: str) -> None:
        self._cache = Cache()
        self._resting_until = 0.0
        self._troubled = False
        self._local = url.startswith("mem://")
        if self._local:
            # Expired entries go when they are asked for or pushed out: cashews' own sweep stops the world every time.
            self._cache.setup(url, pickle_type="json", size=MEMORY_ENTRIES, check_interval=0)
        else:
            self._cache.setup(
                url,
                pickle_type="json",
                suppress=False,
                client_name="opendify",
                max_connections=CONNECTIONS,
                socket_timeout=ANSWER_SECONDS,
                socket_connect_timeout=ANSWER_SECONDS,
                wait_for_connection_timeout=ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 1),  # once: for a connection that Redis closed while it was idle
            )

    @property
    def is_away(self) -> bool:
        """Whether it does not answer just now, so that nothing is known for certain."""
        return time.monotonic() < self._resting_until

    async def get(self, key: str, schema: type[S]) -> S | None:
        """The value, None where there is none."""
        found = await self._try(lambda: self._cache.get(key), None)
        try:
            return None if found is None else msgspec.convert(found, schema)
        except msgspec.ValidationError:  # of another version of this program
            return None

    async def put(self, key: str, value: Struct, seconds: float) -> bool:
        """Keep the value for so long; whether that went well."""
        kept: bool = await self._try(lambda: self._cache.set(key, msgspec.to_builtins(value), expire=seconds), False)
        return kept

    async def claim(self, key: str, token: str, seconds: float) -> bool | None:
        """Take the key, which only one can at a time; whether it is ours now, None where nobody can tell."""
        if self._local:  # cashews' own memory lets go of an expired key only when somebody looks at it
            await self._try(lambda: self._cache.exists(key), False)
        claim = msgspec.to_builtins(Claim(token))
        claimed = await self._try(lambda: self._cache.set(key, claim, expire=seconds, exist=False), None)
        if claimed is False:  # by another, or by ourselves on a connection that broke before it said so
            return await self.claims(key, token)
        return None if claimed is None else True

    async def claims(self, key: str, token: str) -> bool:
        """Whether the key is taken with this token."""
        return await self.get(key, Claim) == Claim(token)

    async def renew_claim(self, key: str, token: str, seconds: float) -> None:
        """Keep it for longer, if it still is ours."""
        if await self.claims(key, token):
            await self.put(key, Claim(token), seconds)

    async def unclaim(self, key: str, token: str) -> bool:
        """Give it back, if it is ours; whether it is free of us now."""
        return await self.delete(key) if await self.claims(key, token) else not self.is_away

    async def delete(self, key: str) -> bool:
        """Forget it; whether that went well."""
        return await self._try(lambda: self._cache.delete(key), None) is not None

    async def close(self) -> None:
        """Close the connections."""
        with warnings.catch_warnings():  # cashews 7.6 closes redis' client by a name that redis has given up
            warnings.simplefilter("ignore", DeprecationWarning)
            await self._try(self._cache.close, None)

    async def _try(self, change: Callable[[], Awaitable[Any]], otherwise: Any) -> Any:
        if self.is_away:
            return otherwise
        try:
            result = await change()
        except TROUBLES as error:
            if str(error.__cause__) == CROWDED:  # it is there, and many ask at once
                log.warning("store_crowded")
                return otherwise
            self._resting_until = time.monotonic() + REST_SECONDS
            if not self._troubled:
                self._troubled = True
                log.warning("store_unreachable", problem=type(error.__cause__ or error).__name__)
            return otherwise
        if self._troubled:
            self._troubled = False
            log.info("store_back")
        return result
