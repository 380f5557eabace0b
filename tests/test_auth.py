"""Bearer key -> Caller."""

import hmac
from collections.abc import Iterable
from typing import Any

import pytest
from litestar.types import Message, Receive, Scope, Send
from pydantic import SecretStr

from opendify.auth import ANYONE, Authentication, Caller, Introduce, KeyRing
from opendify.entries import ClientKey
from opendify.errors import InvalidKey, InvalidUserToken

KEYS = [
    ClientKey(name="team", key=SecretStr("sk-team")),
    ClientKey(name="few", key=SecretStr("sk-few"), models=("helper", "my flow")),
    ClientKey(name="none", key=SecretStr("sk-none"), models=()),
    ClientKey(key=SecretStr("sk-nameless")),
    ClientKey(name="字", key=SecretStr("sk-汉字")),
]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"Bearer sk-team", "team"),
        (b"bearer sk-few", "few"),
        (b"BEARER sk-none", "none"),
        (b"Bearer   sk-team ", "team"),
        ("Bearer sk-汉字".encode(), "字"),
    ],
)
def test_a_known_key(header: bytes, name: str) -> None:
    assert KeyRing(KEYS).identify(header).name == name


def test_a_key_without_a_name_is_told_by_its_digest() -> None:
    name = KeyRing(KEYS).identify(b"Bearer sk-nameless").name
    assert name.startswith("key-")
    assert len(name) == 12
    assert "nameless" not in name
    assert KeyRing(KEYS[3:]).identify(b"Bearer sk-nameless").name == name


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "did not provide an API key"),
        (b"", "did not provide an API key"),
        (b"Bearer", "did not provide an API key"),
        (b"Bearer ", "did not provide an API key"),
        (b"Bearer    ", "did not provide an API key"),
        (b"sk-team", "did not provide an API key"),
        (b"Basic sk-team", "did not provide an API key"),
        (b"Bearersk-team", "did not provide an API key"),
        (b"Bearer\tsk-team", "did not provide an API key"),
        (b"Bearer sk-tea", "not one that this server knows"),
        (b"Bearer sk-teams", "not one that this server knows"),
        (b"Bearer SK-TEAM", "not one that this server knows"),
        (b"Bearer team:sk-team", "not one that this server knows"),
        (b"Bearer sk-team sk-few", "not one that this server knows"),
        (b"Bearer \xff\xfe", "not one that this server knows"),
    ],
)
def test_an_unknown_key(header: bytes | None, said: str) -> None:
    with pytest.raises(InvalidKey, match=said) as caught:
        KeyRing(KEYS).identify(header)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "sk-te" not in caught.value.message


@pytest.mark.parametrize("presented", [b"sk-team", b"sk-nameless", b"sk-unknown"])
def test_every_key_is_compared_in_constant_time(presented: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    try:
        KeyRing(KEYS).identify(b"Bearer " + presented)
    except InvalidKey:
        assert presented == b"sk-unknown"
    assert len(compared) == len(KEYS)
    assert {len(side) for pair in compared for side in pair} == {32}  # digests: the length tells nothing either


def test_no_key_is_kept_in_the_clear() -> None:
    kept = repr(vars(KeyRing(KEYS)))
    assert "sk-" not in kept
    assert "nameless" not in kept


def test_without_keys_everyone_is_welcome() -> None:
    for header in (None, b"", b"Bearer anything", b"Basic x"):
        assert KeyRing(()).identify(header) is ANYONE
    assert ANYONE.may_use("any model")


def test_a_restriction_in_the_file_holds_for_a_key_of_the_environment_too() -> None:
    ring = KeyRing([ClientKey(name="a", key=SecretStr("sk-1")), ClientKey(key=SecretStr("sk-1"), models=("helper",))])
    assert ring.identify(b"Bearer sk-1").models == frozenset({"helper"})


@pytest.mark.parametrize(
    ("key", "model", "allowed"),
    [
        (b"sk-team", "helper", True),
        (b"sk-few", "helper", True),
        (b"sk-few", "my flow", True),
        (b"sk-few", "Helper", False),
        (b"sk-few", "other", False),
        (b"sk-none", "helper", False),
    ],
)
def test_the_models_a_key_may_use(key: bytes, model: str, allowed: bool) -> None:
    assert KeyRing(KEYS).identify(b"Bearer " + key).may_use(model) is allowed


@pytest.mark.parametrize(
    ("said", "trusted"),
    [
        ([None], [True]),
        ([False], [False]),
        ([True], [True]),
        ([None, None], [False, False]),
        ([None, True], [False, True]),
        ([False, None, True], [False, False, True]),
    ],
)
def test_without_a_word_only_a_lone_key_is_trusted(said: list[bool | None], trusted: list[bool]) -> None:
    ring = KeyRing([ClientKey(key=SecretStr(f"sk-{place}"), trusted=word) for place, word in enumerate(said)])
    assert [ring.identify(f"Bearer sk-{place}".encode()).trusted for place in range(len(said))] == trusted


def test_without_keys_everyone_is_trusted() -> None:
    assert KeyRing(()).identify(None).trusted


# -- the middleware


async def pass_through(
    headers: list[tuple[bytes, bytes]], introduce: Introduce | None = None, state: dict[str, Any] | None = None
) -> list[Any]:
    """The callers that reach the application."""
    reached: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["state"]["caller"])

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        raise AssertionError("something was sent")

    scope: Any = {"type": "http", "headers": headers, "state": {} if state is None else state}
    middleware = Authentication(KeyRing(KEYS), introduce) if introduce else Authentication(KeyRing(KEYS))
    await middleware.around(application)(scope, receive, send)
    return reached


async def test_the_caller_is_named_before_the_body_is_read() -> None:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer sk-few"), (b"authorization", b"Bearer sk-team")]
    assert await pass_through(headers) == [Caller("few", frozenset({"helper", "my flow"}))]


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer no")], [(b"x-api-key", b"sk-team")]])
async def test_others_do_not_reach_the_application(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidKey):
        await pass_through(headers)


async def test_whoever_has_a_key_is_introduced() -> None:
    heard: list[Any] = []

    def introduce(caller: Caller, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        heard.append((caller, list(headers)))
        return Caller(caller.name, user="ann")

    headers = [(b"authorization", b"Bearer sk-team"), (b"x-user", b"ann")]
    assert await pass_through(headers, introduce) == [Caller("team", user="ann")]
    assert heard == [(Caller("team"), headers)]


async def test_the_log_can_name_the_key_of_one_whose_token_is_refused() -> None:
    def introduce(caller: Caller, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        raise InvalidUserToken

    state: dict[str, Any] = {}
    with pytest.raises(InvalidUserToken):
        await pass_through([(b"authorization", b"Bearer sk-team")], introduce, state)
    assert state == {"caller": Caller("team")}
