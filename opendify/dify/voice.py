"""What an app says: its text, and its thinking, whichever way Dify tells it."""

from collections.abc import Iterable, Sequence
from typing import Final

from opendify.dialogue import Event, ReasoningDelta, TextDelta
from opendify.thinking import Piece, ThinkSplitter, marked

APART: Final = "\n\n"  # between two thoughts
# Of the white space at the end of a thought so far, only so much is held back until more of it comes.
MAX_EDGE: Final = 128
# What a thought is known by that stands in the text, between tags; others have the names that Dify gives them.
TAGGED: Final = "<think>"
# ... and one from before the last cut, to which nothing belongs any more.
PAST: Final = "</think>"


class Voice:
    """One for each answer. A blank line stands between two thoughts, and no newlines between a thought and the text.

    Where a thought interrupts the text, a blank line keeps its two parts from running into each other.

    `spoken` counts the characters of the text as the model wrote it, `thought` those of thinking beside it.
    """

    __slots__ = ("_begun", "_edge", "_last", "_shown", "_source", "_splitter", "_thinks", "spoken", "thought")

    def __init__(self) -> None:
        self.spoken = 0
        self.thought = 0
        self._thinks = False  # whether any thought was told
        self._last: str | None = None  # the thought that was told last, None where it was text
        self._source: str | None = None  # the thought beside the text that goes on
        self._begun = False  # whether anything of it was told
        self._edge = ""
        self._shown = "\n"  # what was shown last of the text, of which the last character matters
        self._splitter = ThinkSplitter(APART)

    def say(self, text: str) -> Sequence[Event]:
        """The next piece of the text, as the model wrote it."""
        self.spoken += len(text)
        if self._last is None and self._splitter.still and not marked(text):  # as nearly all pieces are
            self._shown = text
            return (TextDelta(text),)
        return self._told(self._splitter.feed(text))

    def think(self, source: str, text: str) -> Sequence[Event]:
        """The next piece of a thought that Dify tells beside the text. White space at its edges vanishes."""
        self.thought += len(text)
        goes_on = self._begun and source == self._source == self._last and not self._edge
        if goes_on and text and not text[-1].isspace():  # as most pieces do
            return (ReasoningDelta(text),)
        if source != self._source:
            self._source, self._begun, self._edge = source, False, ""
        whole = self._edge + text if self._begun else text.lstrip()
        cut = max(len(whole.rstrip()), len(whole) - MAX_EDGE)
        told, self._edge = whole[:cut], whole[cut:]
        if not told:
            return ()
        is_next = self._thinks and (not self._begun or self._last not in {None, source})
        self._last, self._begun, self._thinks = source, True, True
        return (ReasoningDelta(APART + told if is_next else told),)

    def end_thought(self) -> None:
        """What is thought next is another thought."""
        self._source = None

    def restart(self) -> Sequence[Event]:
        """What comes now does not continue the text: no block or code is open any more."""
        rest = self.close()
        self._splitter = ThinkSplitter(APART)
        self._last = self._last and PAST
        return rest

    def replace(self, text: str) -> str:
        """Begin anew with this text; what is shown of it. Its thinking was told before."""
        self.restart()
        self.spoken = len(text)
        self._shown = "\n"
        pieces = self._splitter.feed(text)
        self._last = TAGGED if pieces and pieces[-1][0] else None
        return "".join(piece for thinking, piece in pieces if not thinking)

    def close(self) -> Sequence[Event]:
        """What was held back."""
        return self._told(self._splitter.close())

    def _told(self, pieces: Iterable[Piece]) -> list[Event]:
        events: list[Event] = []
        for thinking, text in pieces:
            if thinking:
                events.append(ReasoningDelta(self._after_another(text)))
                self._last, self._thinks = TAGGED, True
            elif shown := text.lstrip("\r\n") if self._last else text:
                events.append(TextDelta(self._after_thinking(shown)))
                self._last, self._shown = None, shown
        return events

    def _after_thinking(self, text: str) -> str:
        is_apart = self._last is None or self._shown[-1].isspace() or text[0].isspace()
        return text if is_apart else APART + text

    def _after_another(self, text: str) -> str:
        """The splitter parts the thoughts in the text from each other, but does not know of those beside it."""
        return text if not self._thinks or self._last == TAGGED or text.startswith(APART) else APART + text
