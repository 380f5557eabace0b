"""What a request's headers say beside its key: whose turn it is, in which chat, whether a program asks for itself."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import structlog
from msgspec import Struct
from msgspec.structs import replace

from opendify.auth import Caller
from opendify.errors import InvalidRequest, InvalidUserToken

CONVERSATION: Final = b"x-dify-conversation-id"
USER_TOKEN: Final = b"x-openwebui-user-jwt"
SECRET_BYTES: Final = 32
# Chat programs fill such places in; one that is left over says that they had nothing to put there.
PLACEHOLDER: Final = re.compile(r"\{\{[^{}]*\}\}")

SentHeaders: TypeAlias = Mapping[bytes, Sequence[str]]

log = structlog.get_logger("opendify.headers")


class HeaderNames(Struct, frozen=True):
    """The headers that are read, in lower case; the first of each kind that is sent counts."""

    chat: tuple[bytes, ...] = ()
    user: tuple[bytes, ...] = ()
    task: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, chat: Iterable[str], user: Iterable[str], task: Iterable[str]) -> "HeaderNames":
        """From the names as people write them."""
        return cls(*(tuple(name.lower().encode() for name in names) for names in (chat, user, task)))


class Introduction:
    """Adds to a caller what the headers of its request say. With `jwt_secret`, Open WebUI's user tokens are verified.

    Names of chats and users count for trusted keys only: behind another key anyone could write them. A user token
    proves itself, and whoever may name a Dify conversation is checked where it is used.
    """

    def __init__(self, names: HeaderNames, jwt_secret: str = "") -> None:
        self._names = names
        self._secret = jwt_secret
        self._known = {CONVERSATION, USER_TOKEN, *names.chat, *names.user, *names.task}
        self._distrusted: set[str] = set()
        if jwt_secret:
            from opendify.user_tokens import verified_user  # noqa: PLC0415 (9 MB that most servers need not load)

            self._verified_user = verified_user
        if jwt_secret and len(jwt_secret.encode()) < SECRET_BYTES:
            advice = "make one with `openssl rand -hex 32` and set it here and in Open WebUI"
            log.warning("weak_secret", setting="OPENWEBUI_JWT_SECRET", bytes_needed=SECRET_BYTES, advice=advice)

    def of(self, caller: Caller, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller as introduced. Raises InvalidUserToken, and InvalidRequest for two words on one thing."""
        sent: dict[bytes, list[str]] = {}
        for name, value in headers:
            if name in self._known:
                sent.setdefault(name, []).append(_text(value))
        if not sent:
            return caller
        return replace(
            caller,
            user=self._user(caller, sent),
            chat_id=self._trusted(caller, sent, self._names.chat),
            conversation_id=_first(sent, (CONVERSATION,)),
            task=_task(sent, self._names.task),
        )

    def _user(self, caller: Caller, sent: SentHeaders) -> str | None:
        """A token that is there has to verify: nothing weaker stands in for it."""
        if self._secret and (tokens := sent.get(USER_TOKEN)):
            if len(tokens) > 1:
                raise InvalidUserToken
            return self._verified_user(tokens[0], self._secret)
        return self._trusted(caller, sent, self._names.user)

    def _trusted(self, caller: Caller, sent: SentHeaders, names: Sequence[bytes]) -> str | None:
        if caller.trusted:
            return _first(sent, names)
        if caller.name not in self._distrusted and not sent.keys().isdisjoint(names):
            self._distrusted.add(caller.name)
            log.info("headers_not_trusted", key=caller.name, advice="set `trusted` for the key if they are to count")
        return None


def _text(value: bytes) -> str:
    """Each value as a text of its own, whatever its encoding: two users are never read as one."""
    return value.strip(b" \t").decode("utf-8", "surrogateescape")


def _first(sent: SentHeaders, names: Iterable[bytes]) -> str | None:
    """The value of the first of these headers that holds one. Raises InvalidRequest where it is there with two."""
    for name in names:
        values = {value for value in sent.get(name, ()) if value and not PLACEHOLDER.search(value)}
        if len(values) > 1:
            raise InvalidRequest(f"The header {name.decode()} is there more than once, with different values.")
        if values:
            return values.pop()
    return None


def _task(sent: SentHeaders, names: Sequence[bytes]) -> str | None:
    """The task's name. An empty header is a word too: Open WebUI's, that a person asks."""
    is_empty = any("" in sent.get(name, ()) for name in names)
    return _first(sent, names) or ("" if is_empty else None)
