"""Small JSON values with a time to live: in this process (mem://), or in a Redis that all workers share."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any, Final, TypeVar

import msgspec
import structlog
from cashews.exceptions import CacheError
from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from opendify.backends import Backend, Claim, End, InProcess, InRedis

S = TypeVar("S", bound=Struct)

# A conversation takes two or three entries: of the oldest ones, mem:// forgets those over this many.
MEMORY_ENTRIES: Final = 200_000
REST_SECONDS: Final = 2.0
CROWDED: Final = "No connection available."
TROUBLES: Final = (CacheError, RedisError, OSError, TimeoutError)

_encode = msgspec.json.Encoder().encode
log = structlog.get_logger("opendify.store")


class Store:
    """What outlives a request. Values are JSON of Structs: ids and digests, never a text or a key.

    The exceptions: the names, types and purposes of files sent ahead, which their owners ask for; and the token of the
    form that a run waits for, which is of use together with the app's key.

    While Redis does not answer, everything is unknown and nothing is kept: requests go on without it. That is logged
    once, and it is left alone for `REST_SECONDS` at a time.
    """

    def __init__(self, url: str) -> None:
        self._cache: Backend = InProcess(MEMORY_ENTRIES) if url.startswith("mem://") else InRedis(url)
        self._resting_until = self._unsure_until = 0.0
        self._troubled = False

    @property
    def is_unsure(self) -> bool:
        """Whether it did not tell what it was asked just now, so that nothing is known for certain."""
        return time.monotonic() < self._unsure_until

    async def get(self, key: str, schema: type[S]) -> S | None:
        """The value, None where there is none."""
        (value,) = await self.get_all([key], schema)
        return value

    async def get_all(self, keys: Sequence[str], schema: type[S]) -> list[S | None]:
        """The values, None where there is none."""
        found = await self._try(lambda: self._cache.read(keys), [None] * len(keys))
        return [_value(data, schema) for data in found]

    async def has(self, keys: Sequence[str]) -> bool:
        """Whether there is any of them."""
        found = await self._try(lambda: self._cache.read(keys), [])
        return any(data is not None for data in found)

    async def put(self, key: str, value: Struct, seconds: float) -> bool:
        """Keep the value for so long; whether that went well."""
        return await self._do(lambda: self._cache.write(key, _json(value), seconds))

    async def delete(self, key: str) -> bool:
        """Forget it; whether that went well."""
        return await self._do(lambda: self._cache.delete(key))

    # -- what one at a time has

    async def renew(self, claim: Claim) -> None:
        """Keep it for longer, if it still is ours."""
        await self._do(lambda: self._cache.renew(claim))

    async def unclaim(self, claim: Claim) -> bool:
        """Give it back, if it is ours; whether it is free of us now."""
        return await self._do(lambda: self._cache.unclaim(claim))

    async def take(
        self, claim: Claim, key: str, schema: type[S], seconds: float, state: str = ""
    ) -> tuple[bool | None, S | None]:
        """Take a value that is in this state; in whatever state, or not there at all, where none is named.

        Whether it is ours now, None where nobody can tell; and the value as it was: now it is kept without a state.
        """
        ours, data = await self._try(lambda: self._cache.take(claim, key, seconds, state), (None, None))
        return ours, _value(data, schema)

    async def end(
        self,
        claim: Claim,
        key: str,
        value: Struct | None,
        otherwise: Struct | None,
        seconds: float,
        pointer: Struct,
        leads: Sequence[str],
        stale: Sequence[str],
    ) -> bool:
        """Give back a value that was taken. Put it, and the pointer where it `leads` there; None deletes it.

        Put `otherwise` if it is not ours any more. Where the pointer is `stale`, it goes. Whether all that went well.
        """
        end = End(claim, key, _data(value), _data(otherwise), seconds, _json(pointer), leads, stale)
        return await self._do(lambda: self._cache.end(end))

    async def close(self) -> None:
        """Close the connections."""
        await self._do(self._cache.close)

    async def _do(self, change: Callable[[], Awaitable[Any]]) -> bool:
        return await self._try(change, self) is not self

    async def _try(self, change: Callable[[], Awaitable[Any]], otherwise: Any) -> Any:
        if time.monotonic() < self._resting_until:
            return otherwise
        try:
            if not self._cache.is_init:
                await self._cache.init()
            result = await change()
        except TROUBLES as error:
            self._note(error)
            return otherwise
        if self._troubled:
            self._troubled = False
            log.info("store_back")
        return result

    def _note(self, error: Exception) -> None:
        """Say what is wrong, once as long as it lasts; leave it alone for a while where it does not answer at all."""
        now, reasons = time.monotonic(), (error, error.__cause__)
        refusal = next((reason for reason in reasons if isinstance(reason, ResponseError)), None)
        is_news, self._unsure_until = now >= self._unsure_until, now + REST_SECONDS
        if refusal:  # it is full, or something else has this key
            if is_news:
                log.warning("store_refused", problem=refusal.status_code or str(refusal).partition(" ")[0])
        elif CROWDED in map(str, reasons):
            if is_news:
                log.warning("store_crowded")
        else:
            self._resting_until = now + REST_SECONDS
            if not self._troubled:
                self._troubled = True
                log.warning("store_unreachable", problem=type(error.__cause__ or error).__name__)


def _json(value: Struct) -> bytes:
    return bytes(memoryview(_encode(value)))  # which leaves room at the end


def _data(value: Struct | None) -> bytes:
    return b"" if value is None else _json(value)


@cache
def _decoder(schema: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(schema)


def _value(data: bytes | None, schema: type[S]) -> S | None:
    try:
        return None if data is None else _decoder(schema).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):  # of another version of this program
        return None
