"""Bearer key -> Caller, with what the other headers say of it."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec import Struct

from opendify.entries import ClientKey
from opendify.errors import InvalidKey


class Caller(Struct, frozen=True):
    """Who asks: the key's readable name, and the models it may use (None: all).

    The rest is what headers say, those of users and chats for `trusted` keys only: the end user, the client's chat,
    a Dify conversation, a background task.
    """

    name: str
    models: frozenset[str] | None = None
    trusted: bool = False
    user: str | None = None
    chat_id: str | None = None
    conversation_id: str | None = None
    task: str | None = None

    def may_use(self, model: str) -> bool:
        """Whether this caller sees the model at all."""
        return self.models is None or model in self.models


Introduce: TypeAlias = Callable[[Caller, Iterable[tuple[bytes, bytes]]], Caller]
ANYONE = Caller("anonymous", trusted=True)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _caller(key: ClientKey, *, alone: bool) -> Caller:
    trusted = alone if key.trusted is None else key.trusted
    return Caller(key.known_as, None if key.models is None else frozenset(key.models), trusted)


class KeyRing:
    """The client keys, as digests only. With no keys everyone is welcome (`AUTH=off`)."""

    def __init__(self, keys: Sequence[ClientKey]) -> None:
        alone = len(keys) == 1
        self._callers = [(_digest(key.key.get_secret_value().encode()), _caller(key, alone=alone)) for key in keys]

    def identify(self, authorization: bytes | None) -> Caller:
        """The caller behind an Authorization header, in the same time for each key. Raises InvalidKey."""
        if not self._callers:
            return ANYONE
        scheme, _, secret = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not secret.strip():
            raise InvalidKey("You did not provide an API key: send it as `Authorization: Bearer YOUR_KEY`.")
        presented = _digest(secret.strip())
        found = None
        for digest, caller in self._callers:
            if hmac.compare_digest(digest, presented):
                found = caller
        if found is None:
            raise InvalidKey("The API key is not one that this server knows.")
        return found


class Authentication:
    """Names the caller of each API request before its body is read."""

    def __init__(self, keys: KeyRing, introduce: Introduce = lambda caller, _: caller) -> None:
        self._keys = keys
        self._introduce = introduce

    def around(self, app: ASGIApp) -> ASGIApp:
        """A middleware: it puts the Caller into the request's state, or raises why there is none."""

        async def named(scope: Scope, receive: Receive, send: Send) -> None:
            state, headers = scope["state"], scope["headers"]
            header = next((value for name, value in headers if name == b"authorization"), None)
            caller = state["caller"] = self._keys.identify(header)  # the log names the key of one refused below
            state["caller"] = self._introduce(caller, headers)
            await app(scope, receive, send)

        return named
