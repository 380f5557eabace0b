"""Stop sequences, wherever the stream was cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendify.openai.stops import StopScanner


def scan(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """All that is shown, and whether a sequence was reached."""
    scanner, shown = StopScanner(stops), ""
    for piece in pieces:
        text, stopped = scanner.feed(piece)
        shown += text
        if stopped:
            assert not scanner.rest()
            return shown, True
    return shown + scanner.rest(), False


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """The definition: a model writes a character at a time and stops as soon as it has written a sequence."""
    for end in range(1, len(text) + 1):
        if starts := [end - len(stop) for stop in stops if text[:end].endswith(stop)]:
            return text[: min(starts)], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "pieces", "shown", "stopped"),
    [
        ([], ["all ", "of it"], "all of it", False),
        (["END"], ["hello END more"], "hello ", True),
        (["END"], ["hello E", "N", "D more"], "hello ", True),
        (["END"], ["hello E", "N", "O"], "hello ENO", False),
        (["END"], ["hello EN"], "hello EN", False),
        (["END"], ["END"], "", True),
        (["END"], ["EEND"], "E", True),
        (["\n\n"], ["a\n", "\nb"], "a", True),
        (["\n\n"], ["a\n", "b\n", "c"], "a\nb\nc", False),
        (["aab"], ["aa", "aab"], "aa", True),
        (["abc", "b"], ["ab"], "a", True),
        (["abcd", "bc"], ["abcd"], "a", True),
        (["bc", "abc"], ["abc"], "", True),
        (["x"], ["ab", "", "cx"], "abc", True),
        (["结束"], ["你好结", "束了"], "你好", True),
        (["👍🏽"], ["ok 👍", "🏽 so"], "ok ", True),
    ],
)
def test_the_text_ends_before_the_first_sequence(
    stops: list[str], pieces: list[str], shown: str, stopped: bool
) -> None:
    assert scan(stops, pieces) == (shown, stopped)


def test_only_what_may_begin_a_sequence_is_held_back() -> None:
    scanner = StopScanner(["<end>"])
    assert scanner.feed("hello <en") == ("hello ", False)
    assert scanner.feed("try>") == ("<entry>", False)
    assert scanner.feed(" a<b") == (" a<b", False)
    assert scanner.rest() == ""


def test_what_is_left_is_given_once() -> None:
    scanner = StopScanner(["END"])
    scanner.feed("E")
    assert scanner.rest() == "E"
    assert scanner.rest() == ""


LETTERS = st.text("abc", max_size=30)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=4), max_size=4), st.lists(LETTERS, max_size=12))
def test_any_cutting_gives_the_same_as_the_whole(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    assert scan(stops, pieces) == scan(stops, [whole]) == scan(stops, list(whole)) == expected(stops, whole)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=4), LETTERS)
def test_less_than_the_longest_sequence_is_held_back(stops: list[str], text: str) -> None:
    scanner, shown = StopScanner(stops), ""
    for place, letter in enumerate(text, 1):
        piece, stopped = scanner.feed(letter)
        shown += piece
        if stopped:
            break
        assert text.startswith(shown)
        assert place - len(shown) < max(map(len, stops))
