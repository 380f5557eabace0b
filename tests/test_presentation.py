"""Settings x events -> what a client is shown."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendify.dialogue import (
    Citation,
    Cited,
    Event,
    Finished,
    Ids,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolResult,
    ToolRun,
    Usage,
)
from opendify.presentation import Presenter, Style

RUN = ToolRun(id="c1", name="clock", arguments='{"zone": "UTC"}')
RESULT = ToolResult("c1", "12:00\nsharp")
SOURCE = Citation(title="A [page]", dataset_id="d 1", document_id="p/2", score=0.5, content="text")
LINKED = Citation(title="B", url="https://b.example.com/x y")
END = Finished("stop", Usage())


def shown(events: Sequence[Event], **style: Any) -> list[Event]:
    return list(Presenter(Style(**style)).feed(events))


def test_text_passes_untouched() -> None:
    events: list[Event] = [Started(Ids()), TextDelta("a"), TextDelta("b")]
    assert Presenter(Style()).feed(events) is events


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ({}, [ReasoningDelta("hm"), TextDelta("a"), END]),
        ({"reasoning": "reasoning"}, [ReasoningDelta("hm"), TextDelta("a"), END]),
        ({"reasoning": "drop"}, [TextDelta("a"), END]),
        ({"reasoning": "inline"}, [TextDelta("<think>\nhm"), TextDelta("\n</think>\n\n"), TextDelta("a"), END]),
    ],
)
def test_thinking(style: dict[str, Any], expected: list[Event]) -> None:
    assert shown([ReasoningDelta("hm"), TextDelta("a"), END], **style) == expected


def test_thinking_in_the_text_spans_what_comes_apart_and_is_closed() -> None:
    presenter = Presenter(Style(reasoning="inline"))
    events = [*presenter.feed([ReasoningDelta("h")]), *presenter.feed([ReasoningDelta("m")]), *presenter.feed([END])]
    assert events == [TextDelta("<think>\nh"), TextDelta("m"), TextDelta("\n</think>\n\n"), END]
    assert list(presenter.feed([TextDelta("a")])) == [TextDelta("a")]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ({}, [RUN, RESULT]),
        ({"agent_tools": "off"}, []),
        (
            {"agent_tools": "reasoning"},
            [ReasoningDelta('clock {"zone": "UTC"}\n'), ReasoningDelta("-> 12:00 sharp\n")],
        ),
        ({"agent_tools": "reasoning", "reasoning": "drop"}, []),
    ],
)
def test_runs_of_tools(style: dict[str, Any], expected: list[Event]) -> None:
    assert shown([RUN, RESULT], **style) == expected


def test_a_step_is_a_line_of_its_own() -> None:
    long = ToolResult("c1", "x" * 1000)
    events = shown([ReasoningDelta("Well"), RUN, ReasoningDelta("So"), long], agent_tools="reasoning")
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == [
        "Well",
        '\nclock {"zone": "UTC"}\n',
        "So",
        f"\n-> {'x' * 297}...\n",
    ]


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ({"progress": "status"}, [Progress("Search", done=False), Progress("Search", done=True)]),
        ({"progress": "reasoning"}, [ReasoningDelta("Search\n"), ReasoningDelta("Search: done\n")]),
    ],
)
def test_progress(style: dict[str, Any], expected: list[Event]) -> None:
    assert shown([Progress("Search", done=False), Progress("Search", done=True)], **style) == expected


def cited(*citations: Citation, **more: Any) -> Cited:
    return Cited(citations, **more)


NAMED = Citation(
    title="A [page]", url="dify://d%201/p%2F2", dataset_id="d 1", document_id="p/2", score=0.5, content="text"
)
NOTES = "\n\n---\n1. [A (page)](<dify://d%201/p%2F2>)\n2. [B](<https://b.example.com/x%20y>)"


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ({}, [cited(NAMED, LINKED)]),
        ({"citations": "footnotes"}, [TextDelta(NOTES), cited(NAMED, LINKED, annotated=False)]),
        ({"citations": "both"}, [TextDelta(NOTES), cited(NAMED, LINKED)]),
        ({"citations": "off"}, []),
    ],
)
def test_citations(style: dict[str, Any], expected: list[Event]) -> None:
    assert shown([cited(SOURCE, LINKED)], **style) == expected


def test_a_footnote_leads_where_its_source_says() -> None:
    source = Citation(title="a", url="http://[::1]:8080/it_(novel)?a=[1]>\n")
    (note, _) = shown([cited(source)], citations="footnotes")
    assert note == TextDelta("\n\n---\n1. [a](<http://[::1]:8080/it_(novel)?a=[1]%3E%0A>)")


def test_the_address_of_a_source_without_one() -> None:
    (event,) = shown(
        [cited(SOURCE)], citation_url="https://c.example.com/{dataset_id}?doc={document_id}&s={segment_id}"
    )
    assert isinstance(event, Cited)
    assert event.citations[0].url == "https://c.example.com/d%201?doc=p%2F2&s="


EVENTS = st.lists(st.sampled_from([TextDelta("a"), ReasoningDelta("b"), RUN, RESULT, cited(LINKED), END]))


@given(events=EVENTS, cut=st.integers(0, 10), reasoning=st.sampled_from(["reasoning_content", "inline", "drop"]))
def test_it_does_not_matter_what_comes_together(events: list[Event], cut: int, reasoning: Any) -> None:
    style = Style(reasoning=reasoning, agent_tools="reasoning", citations="both")
    whole, parts = Presenter(style), Presenter(style)
    assert list(whole.feed(events)) == [*parts.feed(events[:cut]), *parts.feed(events[cut:])]
