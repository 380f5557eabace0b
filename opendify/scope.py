"""Whose memory it is: every key and digest of one end user behind one client key at one app."""

import hashlib
from collections.abc import Sequence

import msgspec

from opendify.auth import Caller
from opendify.dialogue import Turn
from opendify.dify.apps import App
from opendify.dify.transcript import instructions
from opendify.history import DIGEST_BYTES, Chain
from opendify.users import digest_key


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
        return self.told("system", instructions(turns))

    def told(self, kind: str, text: str) -> str | None:
        """The digest of something that a conversation is told once, None for nothing."""
        return self._digest(f"{kind}:{text}") if text else None

    def _digest(self, text: str) -> str:
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), key=self._key, digest_size=DIGEST_BYTES
        ).hexdigest()
