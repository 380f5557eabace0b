"""Who asks, as Dify knows it: it keeps conversations, files and stops apart by its `user` and checks nothing."""

import hashlib
import hmac
import re
from functools import lru_cache
from typing import Final

from opendify.auth import Caller
from opendify.dify.apps import Access, App

USER_CHARS: Final = 255
# What a text column or a line of a log does not take as it is.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def readable(caller: Caller, user: str | None) -> str:
    """`<key name>:<end user>`: the same person behind the same key, always; people behind other keys are others.

    What headers vouch for goes before what the body says. A key's name holds neither `:` nor `#`, so that whatever
    end users are called, no two of them get one name. What Dify cannot store is `<key name>#<digest>`.
    """
    named = caller.user or user
    if not (named and named.strip()):
        return caller.name
    name = f"{caller.name}:{named}"
    if len(name) <= USER_CHARS and not _UNFIT.search(name):
        return name
    return f"{caller.name}#{hashlib.sha256(as_bytes(named)).hexdigest()}"


@lru_cache(1000)
def access_key(secret: str, access: Access, *purpose: str) -> bytes:
    """The key of what belongs to an app: by HASH_SECRET, else by the app's own Dify key. Each purpose has its own."""
    return hashlib.sha256("\n".join((secret or access.key, access.id, *purpose)).encode()).digest()


def digest_key(secret: str, app: App) -> bytes:
    """The key of every digest that belongs to an app."""
    return access_key(secret, app.access)


class Users:
    """Dify's `user` for a caller: readable, or an HMAC of that."""

    def __init__(self, *, hashed: bool = False, secret: str = "") -> None:
        self._hashed = hashed
        self._secret = secret

    def of(self, caller: Caller, user: str | None, app: App) -> str:
        """Dify's name for the caller's end user. With HASH_SECRET it outlives the app's Dify key, as people do."""
        name = readable(caller, user)
        if not self._hashed:
            return name
        secret = self._secret or app.access.key
        return hmac.new(secret.encode(), as_bytes(name), hashlib.sha256).hexdigest()


def as_bytes(text: str) -> bytes:
    """Any text: what JSON brings may hold half a surrogate pair, which is no UTF-8."""
    return text.encode("utf-8", "surrogatepass")
