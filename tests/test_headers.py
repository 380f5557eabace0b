"""What a request's headers say beside its key."""

from typing import Any

import jwt
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from opendify.auth import ANYONE, Caller
from opendify.errors import InvalidRequest, InvalidUserToken
from opendify.headers import HeaderNames, Introduction
from opendify.users import readable

SECRET = "0123456789abcdef0123456789abcdef"
NAMES = HeaderNames.of(["X-Chat-Id", "x-session-id"], ["X-User-Id", "X-OTHER-USER"], ["X-Task"])
TRUSTED = Caller("team", trusted=True)
DISTRUSTED = Caller("team", frozenset({"Helper"}))
CHAT, OTHER_CHAT, CONVERSATION = b"x-chat-id", b"x-session-id", b"x-dify-conversation-id"
USER, OTHER_USER, TASK, TOKEN = b"x-user-id", b"x-other-user", b"x-task", b"x-openwebui-user-jwt"

Headers = list[tuple[bytes, bytes]]


def introduced(*headers: tuple[bytes, bytes], caller: Caller = TRUSTED, secret: str = "") -> Caller:
    return Introduction(NAMES, secret).of(caller, headers)


def token(user: str = "ann", secret: str = SECRET, **changed: Any) -> bytes:
    claims = {"sub": user, "iss": "open-webui", "iat": 1_600_000_000, "exp": 4_000_000_000, **changed}
    return jwt.encode(claims, secret, "HS256").encode()


def test_names_are_kept_in_lower_case() -> None:
    assert HeaderNames((CHAT, OTHER_CHAT), (USER, OTHER_USER), (TASK,)) == NAMES
    assert HeaderNames.of([], [], []) == HeaderNames()


@pytest.mark.parametrize("caller", [TRUSTED, DISTRUSTED, ANYONE])
def test_without_such_headers_the_caller_stays_as_it_is(caller: Caller) -> None:
    headers = [(b"host", b"x"), (b"authorization", b"Bearer sk-1"), (b"x-user", b"ann"), (b"user", b"ann")]
    assert introduced(*headers, caller=caller, secret=SECRET) is caller


def test_a_trusted_key_may_say_everything() -> None:
    headers = [(CHAT, b"c-1"), (USER, b"ann"), (TASK, b"title_generation"), (CONVERSATION, b"d-1")]
    assert introduced(*headers) == Caller(
        "team", trusted=True, user="ann", chat_id="c-1", conversation_id="d-1", task="title_generation"
    )


def test_behind_another_key_names_of_users_and_chats_do_not_count() -> None:
    headers = [(CHAT, b"c-1"), (USER, b"ann"), (TASK, b"title_generation"), (CONVERSATION, b"d-1")]
    assert introduced(*headers, caller=DISTRUSTED) == Caller(
        "team", frozenset({"Helper"}), conversation_id="d-1", task="title_generation"
    )


def test_that_they_do_not_count_is_said_once_for_each_key() -> None:
    introduction = Introduction(NAMES)
    other = Caller("other")
    with structlog.testing.capture_logs() as lines:
        introduction.of(DISTRUSTED, [(CONVERSATION, b"d-1"), (TASK, b"x")])
        introduction.of(TRUSTED, [(USER, b"ann")])
        assert lines == []
        for caller in (DISTRUSTED, other, DISTRUSTED, other):
            introduction.of(caller, [(USER, b"secret name"), (CHAT, b"secret chat")])
    assert [(line["event"], line["key"]) for line in lines] == [
        ("headers_not_trusted", "team"),
        ("headers_not_trusted", "other"),
    ]
    assert "secret" not in str(lines)


@pytest.mark.parametrize(
    ("headers", "user", "chat"),
    [
        ([(OTHER_USER, b"bob"), (USER, b"ann")], "ann", None),
        ([(USER, b""), (OTHER_USER, b"bob")], "bob", None),
        ([(USER, b"{{LIBRECHAT_USER_ID}}"), (OTHER_USER, b"bob")], "bob", None),
        ([(OTHER_CHAT, b"two"), (CHAT, b"one")], None, "one"),
        ([(CHAT, b" \t"), (OTHER_CHAT, b"two")], None, "two"),
    ],
)
def test_the_first_header_that_holds_something_counts(headers: Headers, user: str | None, chat: str | None) -> None:
    caller = introduced(*headers)
    assert (caller.user, caller.chat_id) == (user, chat)


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b" ", b"\t \t", b"{{LIBRECHAT_USER_ID}}", b" {{USER_ID}} ", b"{{}}"),
        *(b"user-{{USER_ID}}", b"{{USER_ID}}@example.com", b"{{ user.id }}"),
    ],
)
@pytest.mark.parametrize("header", [USER, CHAT, CONVERSATION])
def test_what_nobody_filled_in_was_not_sent(header: bytes, value: bytes) -> None:
    assert introduced((header, value)) == TRUSTED


@pytest.mark.parametrize("value", ["{", "{{", "}}{{", "{x}", "{{x", "a{b}}"])
def test_other_braces_are_part_of_a_name(value: str) -> None:
    assert introduced((USER, value.encode())).user == value


def test_the_space_around_a_value_is_not_part_of_it() -> None:
    assert introduced((USER, b" \tann b \t")).user == "ann b"
    assert introduced((USER, "\u00a0ann".encode())).user == "\u00a0ann"
    assert introduced((USER, b"ann\n")).user == "ann\n"


@pytest.mark.parametrize("value", ["安娜", "Zoë", "👩‍🔬", "%E5%AE%89", "a:b#c"])
def test_names_are_read_as_utf8(value: str) -> None:
    assert introduced((USER, value.encode())).user == value


@given(st.lists(st.binary(min_size=1, max_size=600), min_size=2, max_size=2, unique=True))
def test_two_values_are_never_one_person_or_one_chat(values: list[bytes]) -> None:
    """Whatever their encoding, their length, the control characters in them."""
    sent = [value.strip(b" \t") for value in values]
    people = [introduced((USER, value), (CHAT, value)) for value in values]
    names = {readable(caller, None) for caller in people}
    chats = {caller.chat_id for caller in people}
    nobody = [value for value in sent if not value.decode("utf-8", "surrogateescape").strip() or b"{{" in value]
    if not nobody and len(set(sent)) == 2:
        assert len(names) == len(chats) == 2
    assert all(len(name) <= 255 for name in names)


def test_long_values_are_not_cut() -> None:
    for header in (USER, CHAT, CONVERSATION):
        one, other = introduced((header, b"x" * 5000 + b"a")), introduced((header, b"x" * 5000 + b"b"))
        assert one != other


@pytest.mark.parametrize("header", [USER, CHAT, CONVERSATION, TASK])
def test_two_words_on_one_thing_are_refused(header: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"header {header.decode()} is there more than once") as caught:
        introduced((header, b"ann"), (header, b"bob"))
    assert caught.value.status == 400
    assert "ann" not in caught.value.message


@pytest.mark.parametrize("header", [USER, CHAT, CONVERSATION, TASK])
def test_one_word_said_twice_is_one(header: bytes) -> None:
    assert introduced((header, b"ann"), (header, b" ann"), (header, b""), (header, b"{{X}}")) == introduced(
        (header, b"ann")
    )


def test_what_does_not_count_may_be_there_more_than_once() -> None:
    assert introduced((USER, b"ann"), (USER, b"bob"), caller=DISTRUSTED) == DISTRUSTED
    assert introduced((USER, b"ann"), (OTHER_USER, b"bob"), (OTHER_USER, b"eve")).user == "ann"


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([b"title_generation"], "title_generation"),
        ([b" tags_generation "], "tags_generation"),
        ([b""], ""),
        ([b"  "], ""),
        ([b"{{TASK}}"], None),
        ([b"", b"query_generation"], "query_generation"),
        ([], None),
    ],
)
@pytest.mark.parametrize("caller", [TRUSTED, DISTRUSTED])
def test_an_empty_task_is_a_word_too(caller: Caller, values: list[bytes], task: str | None) -> None:
    assert introduced(*((TASK, value) for value in values), caller=caller).task == task


# -- the user's token


def test_a_token_goes_before_a_users_header() -> None:
    headers = [(USER, b"bob"), (TOKEN, token()), (CHAT, b"c-1")]
    caller = introduced(*headers, secret=SECRET)
    assert (caller.user, caller.chat_id) == ("ann", "c-1")


def test_a_token_proves_itself_behind_any_key() -> None:
    caller = introduced((TOKEN, token()), (CHAT, b"c-1"), (USER, b"bob"), caller=DISTRUSTED, secret=SECRET)
    assert (caller.user, caller.chat_id) == ("ann", None)


@pytest.mark.parametrize("caller", [TRUSTED, DISTRUSTED])
@pytest.mark.parametrize(
    "headers",
    [
        [(TOKEN, b"")],
        [(TOKEN, b"{{TOKEN}}")],
        [(TOKEN, b"garbage")],
        [(TOKEN, b"\xff\xfe")],
        [(TOKEN, token(exp=1))],
        [(TOKEN, token(secret="f" * 32))],
        [(TOKEN, token()), (TOKEN, token("bob"))],
        [(TOKEN, token()), (TOKEN, token())],
        [(TOKEN, token()), (TOKEN, b"")],
    ],
)
def test_nothing_weaker_stands_in_for_a_token_that_does_not_verify(headers: Headers, caller: Caller) -> None:
    with pytest.raises(InvalidUserToken):
        introduced(*headers, (USER, b"bob"), caller=caller, secret=SECRET)


def test_without_a_token_the_users_header_counts() -> None:
    assert introduced((USER, b"bob"), secret=SECRET).user == "bob"
    assert introduced((USER, b"bob"), caller=DISTRUSTED, secret=SECRET).user is None


@pytest.mark.parametrize("value", [token(), b"", b"garbage"])
def test_without_a_secret_the_token_is_just_a_header(value: bytes) -> None:
    assert introduced((TOKEN, value), (USER, b"bob")).user == "bob"
    assert introduced((TOKEN, value)) == TRUSTED


@pytest.mark.parametrize(("secret", "weak"), [("", False), ("s" * 31, True), ("s" * 32, False), ("я" * 16, False)])
def test_a_secret_that_can_be_guessed_is_told_at_the_start(secret: str, weak: bool) -> None:
    with structlog.testing.capture_logs() as lines:
        Introduction(NAMES, secret)
    assert [line["event"] for line in lines] == ["weak_secret"] * weak
    assert not weak or (lines[0]["setting"] == "OPENWEBUI_JWT_SECRET" and "s" * 31 not in str(lines))
