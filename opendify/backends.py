"""cashews' own two backends, used without its layers, with what belongs together done in one step.

A value may name the `state` that it is in. Who takes such a value claims a key and empties the state at once: nobody
finds the value by its state again, unless whoever took it puts it back.
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any, Final, Protocol

from cashews.backends.memory import Memory
from cashews.backends.redis import Redis
from msgspec import Struct
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

ANSWER_SECONDS: Final = 1.0
CONNECTIONS: Final = 200
STATE: Final = re.compile(rb'"state":\s*"([^"]*)"')

# Redis runs each of these as one step. Asked again, on a connection that broke before it answered, it finds what it
# did the first time.
TAKE: Final = """
local value = redis.call('GET', KEYS[2])
local fresh = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if not fresh then return {redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0, value} end
local state = value and string.match(value, '"state":%s*"([^"]*)"')
if ARGV[4] ~= '' and state ~= ARGV[4] then
    redis.call('DEL', KEYS[1])
    return {0, value}
end
if state then
    redis.call('SET', KEYS[2], (string.gsub(value, '"state":%s*"[^"]*"', '"state":null', 1)), 'PX', ARGV[3])
end
return {1, value}
"""
END: Final = """
local ours = redis.call('GET', KEYS[1]) == ARGV[1]
if not ours and redis.call('GET', KEYS[2]) == ARGV[3] then return 1 end
local last = 2 + ARGV[6]
for i = last + 1, #KEYS do
    if redis.call('GET', KEYS[i]) == ARGV[5] then redis.call('DEL', KEYS[i]) end
end
local value = ours and ARGV[3] or ARGV[4]
if value == '' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], value, 'PX', ARGV[2]) end
if ours then
    for i = 3, last do redis.call('SET', KEYS[i], ARGV[5], 'PX', ARGV[2]) end
    redis.call('DEL', KEYS[1])
end
return 1
"""
RENEW: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2])"


class Claim(Struct, frozen=True):
    """A key that one at a time has, whoever put the token there, for `seconds` unless it is renewed."""

    key: str
    token: bytes
    seconds: float


class End(Struct, frozen=True):
    """The end of a claim on a value: what is put if it still was ours, else what is put `otherwise`; `b""` deletes it.

    If it was ours, the pointer is put where it `leads` there. Where it is `stale`, it goes.
    """

    claim: Claim
    key: str
    value: bytes
    otherwise: bytes
    seconds: float
    pointer: bytes
    leads: Sequence[str]
    stale: Sequence[str]


class Backend(Protocol):
    """Bytes by their keys, each with its end; every method is one step that no other comes between."""

    @property
    def is_init(self) -> bool: ...

    async def init(self) -> None: ...

    async def close(self) -> None: ...

    async def clear(self) -> None: ...

    async def delete(self, key: str) -> bool: ...

    async def read(self, keys: Sequence[str]) -> Sequence[bytes | None]: ...

    async def write(self, key: str, data: bytes, seconds: float) -> None: ...

    async def renew(self, claim: Claim) -> None:
        """Keep it for longer, if it still is ours."""

    async def unclaim(self, claim: Claim) -> None:
        """Give it back, if it is ours."""

    async def take(self, claim: Claim, key: str, seconds: float, state: str) -> tuple[bool, bytes | None]:
        """Take a value that is in this state; in whatever state, or not there at all, where none is named.

        Whether it is ours now, and the value as it was.
        """

    async def end(self, end: End) -> None:
        """Give it back, and leave what it comes to."""


class InProcess(Memory):
    """In this process. None of its steps ever waits."""

    def __init__(self, entries: int) -> None:
        # Expired entries go when they are asked for or pushed out: cashews' own sweep stops the world every time.
        super().__init__(size=entries, check_interval=0)

    async def read(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return [await self._get(key) for key in keys]

    async def write(self, key: str, data: bytes, seconds: float) -> None:
        self._set(key, data, seconds)

    async def renew(self, claim: Claim) -> None:
        if await self._get(claim.key) == claim.token:
            self._set(claim.key, claim.token, claim.seconds)

    async def unclaim(self, claim: Claim) -> None:
        await self._drop(claim.key, claim.token)

    async def take(self, claim: Claim, key: str, seconds: float, state: str) -> tuple[bool, bytes | None]:
        value: bytes | None = await self._get(key)
        found = STATE.search(value) if value else None
        if (state and not (found and found[1] == state.encode())) or await self._get(claim.key) is not None:
            return False, value
        self._set(claim.key, claim.token, claim.seconds)
        if value and found:
            self._set(key, b'%b"state":null%b' % (value[: found.start()], value[found.end() :]), seconds)
        return True, value

    async def end(self, end: End) -> None:
        for name in end.stale:
            await self._drop(name, end.pointer)
        ours = await self._get(end.claim.key) == end.claim.token
        if kept := end.value if ours else end.otherwise:
            self._set(end.key, kept, end.seconds)
        else:
            await self._delete(end.key)
        if ours:
            for name in end.leads:
                self._set(name, end.pointer, end.seconds)
            await self._delete(end.claim.key)

    async def _drop(self, key: str, said: bytes) -> None:
        if await self._get(key) == said:
            await self._delete(key)


class InRedis(Redis):
    """In a Redis that all workers share: one round trip a step."""

    def __init__(self, url: str) -> None:
        super().__init__(
            url,
            suppress=False,
            client_name="opendify",
            max_connections=CONNECTIONS,
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
            wait_for_connection_timeout=ANSWER_SECONDS,
            retry=Retry(NoBackoff(), 1),  # once: for a connection that Redis closed while it was idle
        )
        self._scripts: dict[str, Any] = {}

    async def close(self) -> None:
        with warnings.catch_warnings():  # cashews 7.6 closes redis' client by a name that redis has given up
            warnings.simplefilter("ignore", DeprecationWarning)
            await super().close()  # type: ignore[no-untyped-call]

    async def read(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        client: Any = self._client
        values: Sequence[bytes | None] = await client.mget(keys)
        return values

    async def write(self, key: str, data: bytes, seconds: float) -> None:
        await self.set_raw(key, data, px=_ms(seconds))

    async def renew(self, claim: Claim) -> None:
        await self._run(RENEW, [claim.key], claim.token, _ms(claim.seconds))

    async def unclaim(self, claim: Claim) -> None:
        await self.unlock(claim.key, claim.token)

    async def take(self, claim: Claim, key: str, seconds: float, state: str) -> tuple[bool, bytes | None]:
        asked = claim.token, _ms(claim.seconds), _ms(seconds), state
        taken, value = await self._run(TAKE, [claim.key, key], *asked)
        return bool(taken), value

    async def end(self, end: End) -> None:
        keys = [end.claim.key, end.key, *end.leads, *end.stale]
        said = end.claim.token, _ms(end.seconds), end.value, end.otherwise, end.pointer, len(end.leads)
        await self._run(END, keys, *said)

    async def _run(self, script: str, keys: Sequence[str], *args: bytes | str | int) -> Any:
        if (run := self._scripts.get(script)) is None:
            run = self._scripts[script] = self._client.register_script(script)
        return await run(keys, args)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
