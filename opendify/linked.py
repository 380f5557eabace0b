"""An answer's events with every link to a file at Dify replaced, wherever it stands."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from msgspec.structs import replace

from opendify.dialogue import Event, FileOut, TextDelta, TextReplaced, ToolResult
from opendify.dify_links import LinkRewriter

Make: TypeAlias = Callable[[str, str], str]
"""The address to show in place of one, and the file's name if it is known; other addresses come back as they are."""


class Linked:
    """One for each answer. Text is held back only where a link may have begun, and never past another event."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._text = self._rewriter()

    def feed(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events as they are shown."""
        if len(events) == 1 and isinstance(event := events[0], TextDelta):  # mostly, and then without ado
            text = self._text.feed(event.text)
            if text is event.text:
                return events
            return [TextDelta(text)] if text else []
        return [shown for event in events for shown in self._shown(event)]

    def close(self) -> Sequence[Event]:
        """The rest of the text, where no other event ended it."""
        rest = self._text.close()
        return (TextDelta(rest),) if rest else ()

    def _shown(self, event: Event) -> Iterator[Event]:
        if isinstance(event, TextDelta):
            text = self._text.feed(event.text)
            if text:
                yield event if text is event.text else TextDelta(text)
            return
        if isinstance(event, TextReplaced):
            self._text = self._rewriter()  # what is held back is withdrawn with the rest
            yield TextReplaced(self._whole(event.text))
            return
        yield from self.close()
        match event:
            case FileOut(url=url, name=name):
                yield replace(event, url=self._make(url, name))
            case ToolResult(observation=text):
                yield replace(event, observation=self._whole(text))
            case _:
                yield event

    def _rewriter(self) -> LinkRewriter:
        return LinkRewriter(lambda url: self._make(url, ""))

    def _whole(self, text: str) -> str:
        rewriter = self._rewriter()
        return rewriter.feed(text) + rewriter.close()
