"""An answer's events with every link to a file at Dify replaced, wherever it stands."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from msgspec.structs import replace

from opendify.dialogue import Event, FileOut, TextDelta, TextReplaced, ToolResult
from opendify.dify_links import LinkRewriter

Make: TypeAlias = Callable[[str, str], str]
"""The address to show in place of one, and the file's name if it is known; other addresses come back as they are."""

WITH_LINKS: Final = (TextReplaced, FileOut, ToolResult)


class Linked:
    """One for each answer. Text is held back only where a link may have begun, and never past another event."""

    __slots__ = ("_make", "_text")

    def __init__(self, make: Make) -> None:
        self._make = make
        self._text = self._rewriter()

    def feed(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events as they are shown."""
        told: list[Event] = []
        for event in events:
            if type(event) is TextDelta:
                if text := self._text.feed(event.text):
                    told.append(event if text is event.text else TextDelta(text))
            elif self._text.held or isinstance(event, WITH_LINKS):
                told += self._shown(event)
            else:
                told.append(event)
        return told

    def close(self) -> Sequence[Event]:
        """The rest of the text, where no other event ended it."""
        rest = self._text.close()
        return (TextDelta(rest),) if rest else ()

    def _shown(self, event: Event) -> Iterator[Event]:
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
        make = self._make
        return LinkRewriter(lambda url: make(url, ""))  # of `self` it would make a circle

    def _whole(self, text: str) -> str:
        rewriter = self._rewriter()
        return rewriter.feed(text) + rewriter.close()
