"""How the things that are no text are shown: events -> events, by the app's settings.

What has a place of its own in OpenAI's format passes; the rest becomes reasoning or text here, or nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from msgspec import Struct
from msgspec.structs import replace

from opendify import human_input
from opendify.dialogue import (
    Citation,
    Cited,
    Event,
    Finished,
    Paused,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    ToolResult,
    ToolRun,
    new_call_id,
)
from opendify.human_input import shown
from opendify.links import target

Reasoning: TypeAlias = Literal["reasoning_content", "reasoning", "inline", "drop"]
AgentTools: TypeAlias = Literal["tool_calls", "reasoning", "off"]
Citations: TypeAlias = Literal["annotations", "footnotes", "both", "off"]
ProgressShown: TypeAlias = Literal["off", "reasoning", "status"]

# A step among the reasoning is a line to glance at, not a record.
LINE_CHARS: Final = 300
PLAIN: Final = (TextDelta, Started)
THOUGHT: Final = (*PLAIN, ReasoningDelta)


class Style(Struct, frozen=True):
    """The settings of one app. `citation_url` is a template with the fields of a Citation in braces.

    `form_calls`: forms for a person are calls of the client's tool for them.
    """

    reasoning: Reasoning = "reasoning_content"
    agent_tools: AgentTools = "tool_calls"
    citations: Citations = "annotations"
    citation_url: str = ""
    progress: ProgressShown = "off"
    form_calls: bool = False


class Presenter:
    """Turns the events of one answer into those that its client is shown. `ran` is the id of a run that it is told.

    `returns`: whether a later turn can answer a form.
    """

    def __init__(self, style: Style, *, returns: bool = True) -> None:
        self._style = style
        self._returns = returns
        self._plain = THOUGHT if style.reasoning in {"reasoning_content", "reasoning"} else PLAIN
        self._thinking = False
        self._thought = ""  # what was told last of it
        self._asked = False
        self.ran: str | None = None

    def feed(self, events: Sequence[Event]) -> Sequence[Event]:
        """What is shown for events that came together. Text passes as it is, thinking where it has a place."""
        if not self._thinking:
            for event in events:
                if not isinstance(event, self._plain):
                    break
                if type(event) is ReasoningDelta:
                    self._thought = event.text
            else:
                return events
        return list(self._placed(self._shown(events)))

    # -- what becomes of each kind

    def _shown(self, events: Iterable[Event]) -> Iterator[Event]:
        style = self._style
        for event in events:
            match event:
                case ToolRun() | ToolResult():
                    yield from self._tool(event)
                case Progress() if style.progress == "reasoning":
                    yield self._line(f"{event.title}{': done' if event.done else ''}")
                case Cited():
                    yield from self._cited(event)
                case Paused():
                    yield from self._form(event)
                case Finished() if self._asked:
                    yield replace(event, reason="tool_calls")
                case ReasoningDelta(text=text):
                    self._thought = text
                    yield event
                case _:
                    yield event

    def _tool(self, event: ToolRun | ToolResult) -> Iterator[Event]:
        """What the app's own tools do."""
        if self._style.agent_tools == "tool_calls":
            self.ran = self.ran or event.id
            yield event
        elif self._style.agent_tools == "reasoning":
            told = f"{event.name} {event.arguments}" if isinstance(event, ToolRun) else f"-> {event.observation}"
            yield self._line(told)

    def _line(self, text: str) -> ReasoningDelta:
        """A line of its own among the reasoning."""
        line = " ".join(text.split())
        line = line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}..."
        begin = "\n" if self._thought and not self._thought.endswith("\n") else ""
        self._thought = f"{begin}{line}\n"
        return ReasoningDelta(self._thought)

    def _form(self, paused: Paused) -> Iterator[Event]:
        """What a person is asked, for people or for a program; and that they are."""
        if not self._returns:
            paused = replace(paused, forms=tuple(replace(form, token=None) for form in paused.forms))
        if self._style.form_calls and human_input.open_form(paused.forms):
            self._asked = True
            yield ToolCall(new_call_id(), human_input.TOOL, shown.call_arguments(paused.forms))
        else:
            begin = "\n\n" if paused.spoken else ""
            paused = replace(paused, text=begin + shown.markdown(paused.forms))
        yield paused

    def _cited(self, cited: Cited) -> Iterator[Event]:
        style = self._style
        if style.citations == "off":
            return
        citations = tuple(replace(citation, url=self._url(citation)) for citation in cited.citations)
        if style.citations != "annotations":
            yield TextDelta(footnotes(citations))
        yield Cited(citations, annotated=style.citations != "footnotes")

    def _url(self, citation: Citation) -> str:
        """The source's own address, else the configured page of it, else a name that is unique at least."""
        if citation.url:
            return citation.url
        fields = {name: quote(getattr(citation, name) or "", safe="") for name in PLACES}
        url = self._style.citation_url or "dify://{dataset_id}/{document_id}"
        for name, value in fields.items():
            url = url.replace(f"{{{name}}}", value)
        return url

    # -- where thinking goes

    def _placed(self, events: Iterable[Event]) -> Iterator[Event]:
        if self._style.reasoning == "inline":
            yield from self._inline(events)
        elif self._style.reasoning == "drop":
            yield from (event for event in events if not isinstance(event, ReasoningDelta))
        else:
            yield from events

    def _inline(self, events: Iterable[Event]) -> Iterator[Event]:
        """Thinking in the text, between the tags that models write themselves."""
        for event in events:
            if isinstance(event, ReasoningDelta):
                yield TextDelta(event.text if self._thinking else f"<think>\n{event.text}")
                self._thinking = True
            else:
                if self._thinking and not isinstance(event, Started):
                    self._thinking = False
                    yield TextDelta("\n</think>\n\n")
                yield event


PLACES: Final = ("dataset_id", "dataset_name", "document_id", "document_name", "segment_id")


def footnotes(citations: Sequence[Citation]) -> str:
    """The sources as Markdown, at the end of the text."""
    return "\n\n---\n" + "\n".join(f"{number}. {_link(citation)}" for number, citation in enumerate(citations, 1))


def _link(citation: Citation) -> str:
    name = " ".join(citation.title.replace("[", "(").replace("]", ")").split())
    return f"[{name}]({target(citation.url or '')})"
