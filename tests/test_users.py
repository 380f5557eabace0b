"""Who asks: Open WebUI's token, and the name that Dify keeps people apart by."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pydantic import SecretStr

from opendify.auth import ANYONE, Caller
from opendify.dify.apps import Access, App
from opendify.entries import NAME_CHARS, AppConfig
from opendify.errors import InvalidUserToken
from opendify.user_tokens import LEEWAY_SECONDS, TOKEN_CHARS, verified_user
from opendify.users import USER_CHARS, Users, digest_key, readable

SECRET = "0123456789abcdef0123456789abcdef"
FAR = 4_000_000_000  # a time that no test sees
TEAM = Caller("team")
APP = App(
    access=Access("http://dify.test/v1", "app-0123456789"),
    name="Helper",
    mode="chat",
    inputs=(),
    files=None,
    size_limits={},
    moderated=False,
    config=AppConfig(key=SecretStr("app-0123456789"), base="http://dify.test/v1"),
)
OTHER_APP = replace(APP, access=Access("http://dify.test/v1", "app-another0123456789"))
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC_PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**changed: Any) -> dict[str, Any]:
    """What Open WebUI says of its user; a claim of None is left out."""
    said: dict[str, Any] = {
        "sub": "ann",
        "email": "ann@example.com",
        "name": "Ann",
        "role": "user",
        "iss": "open-webui",
    }
    said |= {"iat": 1_600_000_000, "exp": FAR} | changed
    return {name: value for name, value in said.items() if value is not None}


def token(secret: str = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm)


def handmade(secret: bytes, header: Any, payload: Any) -> str:
    """A token that no library would make, with a good HMAC-SHA256."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


# -- the token


def test_a_good_token_names_the_user() -> None:
    assert verified_user(token(), SECRET) == "ann"


def test_it_is_the_id_that_names_not_what_people_can_change() -> None:
    assert verified_user(token(sub="0f6c", name="Ann", email="ann@example.com"), SECRET) == "0f6c"


@pytest.mark.parametrize(
    "changed", [{"name": None, "email": None, "role": None, "iat": None}, {"groups": ["a"], "jti": "x"}]
)
def test_what_else_it_says_or_leaves_out_does_not_matter(changed: dict[str, Any]) -> None:
    assert verified_user(token(**changed), SECRET) == "ann"


def test_clocks_may_differ_a_little() -> None:
    now = time.time()
    ahead, behind = now + LEEWAY_SECONDS - 5, now - LEEWAY_SECONDS + 5
    assert verified_user(token(iat=int(ahead), exp=int(ahead) + 300), SECRET) == "ann"
    assert verified_user(token(exp=int(behind)), SECRET) == "ann"


@pytest.mark.parametrize("secret", ["short", "s", "a secret with spaces", "ключ"])
def test_a_short_secret_is_the_same_secret_as_open_webuis(secret: str) -> None:
    assert verified_user(handmade(secret.encode(), {"alg": "HS256", "typ": "JWT"}, claims()), secret) == "ann"


def refused(sent: str, secret: str = SECRET) -> str:
    """Why a token was refused, as the log tells it."""
    with structlog.testing.capture_logs() as lines, pytest.raises(InvalidUserToken) as caught:
        verified_user(sent, secret)
    assert (caught.value.status, caught.value.code) == (401, "invalid_user_token")
    assert caught.value.__cause__ is None
    [line] = lines
    assert line.keys() == {"event", "log_level", "problem"}  # nothing of the token
    return str(line["problem"])


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"exp": 1}, "ExpiredSignatureError"),
        ({"exp": int(time.time()) - LEEWAY_SECONDS - 60}, "ExpiredSignatureError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"exp": "never"}, "DecodeError"),
        ({"iat": FAR - 300}, "ImmatureSignatureError"),
        ({"nbf": FAR - 300}, "ImmatureSignatureError"),
        ({"iss": "somebody"}, "InvalidIssuerError"),
        ({"iss": "Open-WebUI"}, "InvalidIssuerError"),
        ({"iss": None}, "MissingRequiredClaimError"),
        ({"sub": None}, "MissingRequiredClaimError"),
        ({"sub": ""}, "MissingRequiredClaimError"),
        ({"sub": " \t"}, "MissingRequiredClaimError"),
        ({"aud": "another service"}, "InvalidAudienceError"),
    ],
)
def test_a_signed_token_that_says_something_else(changed: dict[str, Any], problem: str) -> None:
    assert refused(token(**changed)) == problem


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (token("another secret, as long as this one"), "InvalidSignatureError"),
        (token(SECRET.upper()), "InvalidSignatureError"),
        (token()[:-1], "InvalidSignatureError DecodeError"),
        (token(SECRET * 2, "HS512"), "InvalidAlgorithmError"),
        (token(SECRET * 2, "HS384"), "InvalidAlgorithmError"),
        (jwt.encode(claims(), RSA, "RS256"), "InvalidAlgorithmError"),
        (jwt.encode(claims(), "", "none"), "InvalidAlgorithmError"),
        (handmade(SECRET.encode(), {"alg": "none"}, claims()), "InvalidAlgorithmError"),
        (handmade(SECRET.encode(), {"alg": "hs256"}, claims()), "InvalidAlgorithmError"),
        (handmade(SECRET.encode(), {"alg": "RS256"}, claims()), "InvalidAlgorithmError"),
        (handmade(SECRET.encode(), {"alg": "HS256", "crit": ["exp"]}, claims()), "InvalidTokenError"),
        (handmade(SECRET.encode(), {"typ": "JWT"}, claims()), "InvalidAlgorithmError"),
        (handmade(SECRET.encode(), {"alg": "HS256"}, [1, 2]), "DecodeError"),
        (handmade(SECRET.encode(), {"alg": "HS256"}, claims(sub=7)), "InvalidSubjectError"),
        (handmade(b"", {"alg": "HS256"}, claims()), "InvalidSignatureError"),
        ("", "DecodeError"),
        ("garbage", "DecodeError"),
        ("a.b.c", "DecodeError"),
        (f"Bearer {token()}", "DecodeError"),
        (f"{token()}, {token()}", "DecodeError"),
        ("\udcff\udcfe", "UnicodeEncodeError"),
        ("{{OPENWEBUI_TOKEN}}", "DecodeError"),
        (token(name="x" * TOKEN_CHARS), "DecodeError"),
    ],
)
def test_a_token_that_does_not_verify(sent: str, problem: str) -> None:
    assert refused(sent) in problem.split()


def test_a_token_of_the_longest_length_is_still_read() -> None:
    sizes = {len(token(name="x" * length)): length for length in range(5700, 6000)}
    longest = max(size for size in sizes if size <= TOKEN_CHARS)
    assert longest >= TOKEN_CHARS - 2
    assert verified_user(token(name="x" * sizes[longest]), SECRET) == "ann"


def test_a_public_key_is_no_secret() -> None:
    """The confusion of algorithms: signed with what everybody knows, as if it were one."""
    assert refused(handmade(PUBLIC_PEM.encode(), {"alg": "HS256"}, claims()), PUBLIC_PEM) == "InvalidKeyError"


@given(st.one_of(st.text(), st.lists(st.text("abcXYZ019-_=", max_size=40), max_size=5).map(".".join)))
def test_any_other_text_is_refused_and_nothing_else(sent: str) -> None:
    assert refused(sent)


@given(st.integers(0, 400), st.characters(codec="ascii"))
def test_any_change_of_a_token_is_refused(place: int, letter: str) -> None:
    sent = handmade(SECRET.encode(), {"alg": "HS256"}, {"sub": "ann", "iss": "open-webui", "exp": FAR})
    place %= len(sent)
    changed = sent[:place] + letter + sent[place + 1 :]
    if changed == sent:
        assert verified_user(sent, SECRET) == "ann"
    else:
        assert refused(changed)


# -- the name


@pytest.mark.parametrize(
    ("caller", "user", "name"),
    [
        (TEAM, None, "team"),
        (TEAM, "", "team"),
        (TEAM, " \t\n", "team"),
        (TEAM, "ann", "team:ann"),
        (TEAM, " ann ", "team: ann "),
        (TEAM, "安娜", "team:安娜"),
        (TEAM, "山田\u3000太郎 👩‍🔬", "team:山田\u3000太郎 👩‍🔬"),
        (TEAM, "x:y", "team:x:y"),
        (TEAM, "ann@example.com", "team:ann@example.com"),
        (Caller("team", user="ann"), None, "team:ann"),
        (Caller("team", user="ann"), "bob", "team:ann"),
        (Caller("key-0a1b2c3d"), "ann", "key-0a1b2c3d:ann"),
        (ANYONE, None, "anonymous"),
        (ANYONE, "ann", "anonymous:ann"),
    ],
)
def test_dify_shows_a_readable_name(caller: Caller, user: str | None, name: str) -> None:
    assert readable(caller, user) == name
    assert Users().of(caller, user, APP) == name


@pytest.mark.parametrize(
    "user",
    [
        *("a\x00b", "a\nb", "a\r\nb", "a\tb", "a\x1b[31mb", "a\x7fb", "a\x85b", "a\u2028b"),
        *("\ud800", "caf\udce9", "x" * 251, "x" * 10_000),
    ],
)
def test_what_dify_cannot_store_is_a_digest(user: str) -> None:
    name = readable(TEAM, user)
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
    assert name == f"team#{digest}"


def test_the_longest_names_fit_difys_column() -> None:
    assert readable(TEAM, "字" * 250) == f"team:{'字' * 250}"
    assert len(readable(TEAM, "字" * 250)) == USER_CHARS
    assert len(readable(Caller("字" * NAME_CHARS), "字" * 155)) == NAME_CHARS + 1 + 64


LONG = "x" * 600
LONG_DIGEST = hashlib.sha256(LONG.encode()).hexdigest()
NAMES = [
    *(None, "a", "A", " a", "b", "a:b", "b:a", ":", "#", "a#b", "a\n", "\udce9", "\ufffd"),
    *(LONG, f"{LONG}a", f"{LONG}b", LONG_DIGEST, f"{'x' * 190}:{LONG_DIGEST}"),
]
KEYS = ("a", "b", "a.b", "a@b", "team", "key-0a1b2c3d", "anonymous")


@pytest.mark.parametrize("users", [Users(), Users(hashed=True), Users(hashed=True, secret="s" * 32)])
def test_no_two_end_users_get_one_name(users: Users) -> None:
    named = {(key, name): users.of(Caller(key), name, APP) for key in KEYS for name in NAMES}
    assert len(set(named.values())) == len(KEYS) * len(NAMES)
    assert all(0 < len(name) <= USER_CHARS for name in named.values())


KEY_NAMES = st.from_regex(r"[\w.@-]{1,100}", fullmatch=True)
USERS = st.one_of(st.text(max_size=300), st.text("ab:#", max_size=4), st.integers(240, 300).map("x".__mul__))
PEOPLE = st.tuples(KEY_NAMES, USERS.filter(lambda user: bool(user.strip())))


@given(PEOPLE, PEOPLE)
def test_names_are_the_same_only_for_the_same_end_user(one: tuple[str, str], other: tuple[str, str]) -> None:
    names = {readable(Caller(key), user) for key, user in (one, other)}
    assert len(names) == len({one, other})
    assert all(len(name) <= USER_CHARS for name in names)


@given(PEOPLE)
def test_nobody_can_be_called_what_the_digest_of_another_is(person: tuple[str, str]) -> None:
    key, user = person
    name = readable(Caller(key), user)
    told = name.partition(":")[2] or name.partition("#")[2]
    if told != user:
        assert readable(Caller(key), told) != name
        assert readable(Caller(key), name) != name


# -- the digest


@pytest.mark.parametrize("secret", ["", "s" * 32])
def test_a_hashed_name_tells_nothing_and_stays(secret: str) -> None:
    name = Users(hashed=True, secret=secret).of(TEAM, "ann", APP)
    assert len(bytes.fromhex(name)) == 32
    assert name == Users(hashed=True, secret=secret).of(TEAM, "ann", APP)  # in another process too
    assert name == hmac.new((secret or APP.access.key).encode(), b"team:ann", hashlib.sha256).hexdigest()
    assert name == Users(hashed=True, secret=secret).of(Caller("team", user="ann"), "bob", APP)


def test_without_a_secret_each_app_has_its_own_digests() -> None:
    assert Users(hashed=True).of(TEAM, "ann", APP) != Users(hashed=True).of(TEAM, "ann", OTHER_APP)


def test_with_a_secret_a_person_outlives_the_apps_key() -> None:
    users = Users(hashed=True, secret="s" * 32)
    assert users.of(TEAM, "ann", APP) == users.of(TEAM, "ann", OTHER_APP)
    assert users.of(TEAM, "ann", APP) != Users(hashed=True, secret="t" * 32).of(TEAM, "ann", APP)


def test_who_does_not_name_a_user_is_hashed_too() -> None:
    assert "team" not in Users(hashed=True).of(TEAM, None, APP)


@pytest.mark.parametrize("secret", ["", "s" * 32])
def test_digests_of_two_apps_have_nothing_in_common(secret: str) -> None:
    apps: list[App] = [APP, OTHER_APP, replace(APP, access=Access("http://other.test/v1", APP.access.key))]
    assert len({digest_key(secret, app) for app in apps}) == len(apps)
    assert {len(digest_key(secret, app)) for app in apps} == {32}
    assert digest_key("s" * 32, APP) != digest_key("t" * 32, APP)
