"""Turns -> digests: what counts as the same dialogue, and what does not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendify.dialogue import RUN_ID, Attachment, Event, FileOut, Ids, Started, TextDelta, TextReplaced, ToolCall, Turn
from opendify.history import PIECE_CHARS, AnswerDigest, Chain, Listener, answer_digest

KEY = b"k" * 32


def state(*turns: Turn, key: bytes = KEY) -> str:
    chain = Chain(key)
    chain.add(turns)
    return chain.state()


def said(text: str, *attachments: Attachment) -> Turn:
    return Turn(role="user", text=text, attachments=attachments)


def told(text: str, *calls: ToolCall) -> Turn:
    return Turn(role="assistant", text=text, calls=calls)


def heard(listener: Listener) -> str:
    chain = Chain(KEY)
    listener.tell(chain)
    return chain.state()


def picture(**content: str) -> Attachment:
    return Attachment(media="image", param="p", **content)  # type: ignore[arg-type]


# -- answers


@pytest.mark.parametrize(
    "text",
    [
        "one two",
        " one two\n",
        "one\r\n\n two",
        "<think>hm</think>one two",
        "<think>\nhm\n</think>\n\none two",
        "one <THINK>hm</THINK> two",
        '<details type="reasoning" done="true" duration="2">\n<summary>Thought</summary>\n> hm\n</details>\none two',
        'one <details type="tool_calls" done="true" id="c" name="clock">\n<summary>Ran</summary>\n</details> two',
    ],
)
def test_what_an_answer_looks_like_does_not_matter(text: str) -> None:
    assert answer_digest(text) == answer_digest("one two")


@pytest.mark.parametrize(
    "text", ["one", "onetwo", "One two", "one two.", "```\n<think>hm</think>\n```one two", "<details>one two</details>"]
)
def test_what_it_says_does(text: str) -> None:
    assert answer_digest(text) != answer_digest("one two")


@pytest.mark.parametrize("text", ["", " \n", "<think>hm</think>", "<think>never closed"])
def test_an_answer_that_shows_nothing(text: str) -> None:
    assert answer_digest(text) == b""


TEXT = st.lists(
    st.sampled_from(["a", "b ", " ", "\n", "<think>", "</think>", "`", "```\n", "<", "汉", "\ud800", "x" * 3000])
).map("".join)


@given(text=TEXT, cuts=st.lists(st.integers(0, 20000)))
def test_any_cutting_gives_the_same_digest(text: str, cuts: list[int]) -> None:
    digest = AnswerDigest()
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        digest.hear(text[start:end])
    assert digest.digest() == answer_digest(text)


def test_no_more_is_kept_than_a_piece() -> None:
    listener = Listener()
    for _ in range(10_000):
        listener.hear([TextDelta("word ")])
        assert len(listener._text) <= PIECE_CHARS
    assert heard(listener) == state(told("word " * 10_000))


def test_a_listener_hears_what_the_client_will_show() -> None:
    file = FileOut(url="http://dify/files/1", name="a.png", is_image=True)
    events: list[Event] = [Started(Ids()), TextDelta("one"), file]
    listener = Listener()
    listener.hear(events)
    assert heard(listener) == state(told("one\n\n![a.png](<http://dify/files/1>)"))
    listener = Listener()
    listener.hear([*events, TextReplaced("no"), TextDelta("pe")])
    assert heard(listener) == state(told("nope"))


# -- dialogues


def test_the_same_dialogue_has_the_same_state() -> None:
    call = ToolCall(f"{RUN_ID}c", "clock", "{}")
    assert state(said("hi"), told("yes"), said("go")) == state(
        Turn(role="system", text="Be brief."),
        said(" hi\n"),
        told("", call),
        Turn(role="tool", text="noon", call_id=call.id),
        told("\nyes ", call),
        said(""),
        said("go"),
    )


WEATHER = ToolCall("c1", "weather", '{"city": "Ulm", "days": 2}')
RESULT = Turn(role="tool", text="rain", call_id="c1")


def test_calls_of_the_client_count_however_they_are_written() -> None:
    again = ToolCall("c2", "weather", '{"days":2.0,"city":"\\u0055lm"}')
    expected = state(said("hi"), told("", WEATHER), RESULT, told("It rains."))
    assert expected == state(said("hi"), told(" ", again), Turn(role="tool", text="rain\n"), told("It rains."))
    listener = Listener()
    listener.hear([Started(Ids()), again])
    assert heard(listener) == state(told("", WEATHER))


@pytest.mark.parametrize(
    "turns",
    [
        (said("hi"), told("", ToolCall("c1", "weather", '{"city": "Bonn", "days": 2}')), RESULT),
        (said("hi"), told("", ToolCall("c1", "climate", WEATHER.arguments)), RESULT),
        (said("hi"), told("", WEATHER), Turn(role="tool", text="sun", call_id="c1")),
        (said("hi"), told("", WEATHER, WEATHER), RESULT),
        (said("hi"), told("I look.", WEATHER), RESULT),
        (said("hi"), RESULT),
    ],
)
def test_other_calls_and_results_are_another_dialogue(turns: tuple[Turn, ...]) -> None:
    assert state(*turns) != state(said("hi"), told("", WEATHER), RESULT)


def test_an_answer_that_is_told_again_counts_once() -> None:
    run = ToolCall(f"{RUN_ID}1", "clock", "{}")
    noon = Turn(role="tool", text="noon", call_id=run.id)
    once = state(said("hi"), told("It is noon."))
    assert state(said("hi"), told("It is noon.", run), noon, told("It is noon.")) == once
    assert state(said("hi"), told("It is noon.", run), noon, told("Midnight.")) != once
    assert state(said("hi"), told("It is noon."), told("It is noon.")) != once


@pytest.mark.parametrize(
    "turns",
    [
        (said("hi"), told("yes")),
        (said("hi"), told("yes"), told("go")),
        (told("hi"), said("yes"), said("go")),
        (said("hi"), said("go"), told("yes")),
        (said("h"), said("i"), told("yes"), said("go")),
        (said("hi"), told("yes"), said("go", picture(url="http://a/b.png"))),
        (said("hi  there"), told("yes"), said("go")),
    ],
)
def test_another_dialogue_has_another_state(turns: tuple[Turn, ...]) -> None:
    assert state(*turns) != state(said("hi"), told("yes"), said("go"))


def test_the_white_space_within_a_question_counts() -> None:
    assert state(said("a  b")) != state(said("a b"))


def test_attachments_count_by_what_they_hold_and_where() -> None:
    one, two = picture(base64="AAAA"), picture(base64="BBBB")
    states = [
        state(said("see")),
        state(said("see", one)),
        state(said("see", two)),
        state(said("see", one, two)),
        state(said("see", two, one)),
        state(said("see", picture(url="AAAB"))),
        state(said("see", picture(file_id="file-1"))),
        state(said("", one)),
    ]
    assert len(set(states)) == len(states)
    assert state(said("see", one)) == state(said("see", Attachment(media="file", param="other", base64="AAAA")))


def test_states_are_keyed() -> None:
    assert state(said("hi")) != state(said("hi"), key=b"o" * 32)


@pytest.mark.parametrize(
    "text",
    [
        '<details type="reasoning">' * 80_000,
        "<details " * 200_000,
        ("<details " + " " * 150) * 20_000,
        "<t" * 1_000_000,
    ],
)
def test_a_hostile_answer_does_not_hold_up_the_others(text: str) -> None:
    """What grows with the square of its length would not be done before the test's time is up."""
    assert answer_digest(text)


def test_what_is_never_unfolded_is_text() -> None:
    assert answer_digest('<details type="reasoning">two') != answer_digest("two")
