"""Events with every link replaced: in texts, beside them, in what tools said."""

import pytest
from test_file_links import TOOL

from opendify.dialogue import (
    Event,
    FileOut,
    Finished,
    Ids,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TextReplaced,
    ToolResult,
    Usage,
)
from opendify.linked import Linked

DONE = Finished("stop", Usage())


def linked() -> Linked:
    return Linked(lambda url, name: f"[{name}]" if "/files/" in url else url)


def picture(url: str = TOOL, name: str = "a.png") -> FileOut:
    return FileOut(url=url, name=name, is_image=True)


CASES: dict[str, tuple[list[Event], list[Event]]] = {
    "plain": ([Started(Ids()), TextDelta("a"), DONE], [Started(Ids()), TextDelta("a"), DONE]),
    "a file": ([picture(), DONE], [picture("[a.png]"), DONE]),
    "another address": ([picture("https://x.y/a.png"), DONE], [picture("https://x.y/a.png"), DONE]),
    "in the text": ([TextDelta(f"![a]({TOOL}) b"), DONE], [TextDelta("![a]([]) b"), DONE]),
    "at its end": ([TextDelta(TOOL), DONE], [TextDelta("[]"), DONE]),
    "before a file": ([TextDelta(TOOL), picture()], [TextDelta("[]"), picture("[a.png]")]),
    "never past another event": (
        [TextDelta("/fil"), ReasoningDelta("hm"), TextDelta("es/"), Progress("x", done=True)],
        [TextDelta("/fil"), ReasoningDelta("hm"), TextDelta("es/"), Progress("x", done=True)],
    ),
    "in what a tool said": ([ToolResult("1", f"![]({TOOL})")], [ToolResult("1", "![]([])")]),
    "replaced": (
        [TextDelta(f"a {TOOL}"), TextReplaced(f"see {TOOL}"), DONE],
        [TextDelta("a "), TextReplaced("see []"), DONE],
    ),
}


@pytest.mark.parametrize(("events", "expected"), CASES.values(), ids=CASES)
def test_events(events: list[Event], expected: list[Event]) -> None:
    assert list(linked().feed(events)) == expected
    alone = linked()
    assert [shown for event in events for shown in alone.feed([event])] == expected


def test_a_link_cut_in_two() -> None:
    links = linked()
    assert links.feed([TextDelta(f"a {TOOL[:50]}")]) == [TextDelta("a ")]
    assert links.feed([TextDelta(TOOL[50:])]) == []
    assert links.feed([TextDelta(") b")]) == [TextDelta("[]) b")]


def test_the_end_of_a_run_that_failed() -> None:
    links = linked()
    links.feed([TextDelta(f"a {TOOL}")])
    assert links.close() == (TextDelta("[]"),)
    assert links.close() == ()


def test_what_needs_no_change_is_not_made_anew() -> None:
    texts = ("Hello", " which", " a", "http", " is", "\nth")
    events: list[Event] = [ReasoningDelta("hm"), *map(TextDelta, texts), Progress("x", done=False)]
    assert all(one is other for one, other in zip(linked().feed(events), events, strict=True))
