"""A model's thinking, taken out of its text: `<think>`, `<thinking>` and Dify 0.15's `<details>`, however they are cut.

A tag inside Markdown code is text, and so is a closing tag without an opening one; the first closing tag ends a block.
The text is never looked at ahead of what has come, and never kept for the sake of Markdown: hence a code span that is
not closed lasts to the end of its line, where CommonMark would read the whole paragraph and take the mark for text.
"""

import re
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple, TypeAlias

Piece: TypeAlias = tuple[bool, str]  # whether it is thinking, and the text, never empty

MAX_HELD = 256  # no tag is longer, and no more than this is ever held back

# Where nothing waits, a piece of text without these says nothing but itself.
marked = re.compile("[<`~\r\n]").search

_MAX_EDGE = 128  # of the white space before a closing tag, only so much can be held back until the tag is seen
_GAP = r"\s{0,16}"
_ATTRIBUTES = r"(?:\s[^<>]{0,159})?"
_END = "(?<!/)>"  # nothing would close `<think />`: it is text


class _Tag:
    """A tag by its parts, any beginning of which may be the end of what has come so far."""

    __slots__ = ("begun", "whole")

    def __init__(self, *parts: str) -> None:
        flags = re.IGNORECASE | re.ASCII  # ASCII: the Kelvin sign is no k
        self.whole = re.compile("".join(parts), flags)
        self.begun = re.compile("(?:".join(parts) + ")?" * (len(parts) - 1), flags)


class _Block(NamedTuple):
    opening: _Tag
    closing: _Tag


_SUMMARY = (_GAP, *"<summary>", _GAP, *"Thinking", *(r"\.",) * 3, _GAP, *"</summary>")
_BLOCKS = (
    _Block(_Tag(*"<think", _ATTRIBUTES, _END), _Tag(*"</think", _GAP, ">")),
    _Block(_Tag(*"<thinking", _ATTRIBUTES, _END), _Tag(*"</thinking", _GAP, ">")),
    _Block(_Tag(*"<details", _ATTRIBUTES, _END, *_SUMMARY), _Tag(*"</details", _GAP, ">")),
)


class ThinkSplitter:
    """Feed it text in pieces; it tells thinking from text and holds back no more than what may become a tag.

    The white space at a block's edges vanishes, and with it blank blocks, and so do the newlines after a closing tag.
    `apart` stands before the thinking of a block that follows another one without text between.
    While it is `still`, a piece that is not `marked` is text, and need not be fed.
    """

    __slots__ = ("_apart", "_blank", "_block", "_code", "_fresh", "_held", "_quick", "_thought", "still")

    def __init__(self, apart: str = "") -> None:
        self._apart = apart
        self._thought = False  # what was told last was thinking; only kept where text is read
        self._code = _Code()
        self._held = ""
        self._block: _Block | None = None
        self._blank = True  # nothing of the block was told yet
        self._fresh = False  # a block has just ended
        self.still = False
        self._quick = True  # no code is open, and nothing is held back, counted or waited for

    def feed(self, text: str) -> list[Piece]:
        """What can be told by now, in order."""
        if self._quick and text and "<" not in text:
            if self._block:
                if not text[-1].isspace():
                    return [(True, text)]
            elif "`" not in text and "~" not in text:
                self._code.skip(text)
                self.still = self._code.still
                return [(False, text)]
        pieces = self._read(self._held + text)
        waits = bool(self._held) or self._fresh
        self._quick = not (waits or (self._blank if self._block else self._code.busy))
        self.still = not (waits or self._block) and self._code.still
        return pieces

    def close(self) -> list[Piece]:
        """What was held back: text, or thinking where a block was not closed."""
        rest, self._held = self._held, ""
        if self._block:
            rest = rest.rstrip()
            if rest and self._blank and self._thought:
                rest = self._apart + rest
        return [(self._block is not None, rest)] if rest else []

    def _read(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        place, self._held = 0, ""
        while place < len(text):
            thinking, begins = self._block is not None, self._blank
            start, end, place = self._think(self._block, text, place) if self._block else self._show(text, place)
            if start < end:
                if thinking and begins and self._thought and self._apart:
                    pieces.append((True, self._apart))
                pieces.append((thinking, text[start:end]))
                self._thought = thinking
        if len(pieces) < 2:
            return pieces
        return [(kind, "".join(piece for _, piece in run)) for kind, run in groupby(pieces, itemgetter(0))]

    def _show(self, text: str, place: int) -> tuple[int, int, int]:
        """From where to where there is text, and the place after the tag that ends it."""
        start = self._after_newlines(text, place) if self._fresh else place
        place = start
        while (place := self._code.find_angle(text, place)) < len(text):
            for block in _BLOCKS:
                if tag := block.opening.whole.match(text, place):
                    self._block, self._blank = block, True
                    return start, place, tag.end()
            if any(block.opening.begun.fullmatch(text, place) for block in _BLOCKS):
                self._held = text[place:]
                return start, place, len(text)
            self._code.skip("<")
            place += 1
        return start, place, place

    def _after_newlines(self, text: str, start: int) -> int:
        place = start
        while place < len(text) and text[place] in "\r\n":
            place += 1
        self._fresh = place == len(text)
        self._code.skip(text[start:place])  # not told, but the model did begin a line here
        return place

    def _think(self, block: _Block, text: str, start: int) -> tuple[int, int, int]:
        """From where to where there is thinking, and the place after the tag that ends it."""
        while self._blank and start < len(text) and text[start].isspace():
            start += 1
        if tag := block.closing.whole.search(text, start):
            self._block, self._fresh = None, True
            return start, _edge(text, start, tag.start()), tag.end()
        end = text.rfind("<", start)
        if end < 0 or not block.closing.begun.fullmatch(text, end):
            end = len(text)
        end = _edge(text, start, end)
        self._held = text[end:]
        self._blank = self._blank and start == end
        return start, end, len(text)


def _edge(text: str, start: int, end: int) -> int:
    """Where the white space before `end` begins."""
    start = max(start, end - _MAX_EDGE)
    return start + len(text[start:end].rstrip())


class _Code:
    """Whether Markdown code is open. It reads what is shown, once, and keeps lengths only, never text."""

    __slots__ = ("_closing", "_fence", "_info", "_mark", "_run", "_size", "indent")

    # Of the angles, only one that may begin a tag of ours stands alone.
    _TOKENS = re.compile(r"`+|~+|[\r\n]+|<(?![^tTdD])|(?:[^`~\r\n<]+|<(?=[^tTdD]))+")

    def __init__(self) -> None:
        self.indent = 0  # spaces since the line's start; -1 where no fence can start any more
        self._mark, self._run = "", 0  # the run of marks that was read last: it may go on
        self._size = 0  # of the run that opened the code, 0 outside
        self._fence = ""  # its mark, if the code is a fenced block
        self._info = False  # the line began with a fence: whether it is one is known at its end
        self._closing = False  # the line holds a fence's closing run, and nothing else so far

    @property
    def busy(self) -> bool:
        """Whether code is open, or may open with the next character."""
        return bool(self._size or self._run)

    @property
    def still(self) -> bool:
        """Whether text without marks and line ends changes nothing, inside code or outside."""
        return self.indent < 0 and not self._run and not self._closing

    def find_angle(self, text: str, place: int) -> int:
        """Read on to the next `<` outside code that may begin a tag, or to the end."""
        for token in self._TOKENS.finditer(text, place):
            found = token[0]
            if self._run and found[0] != self._mark:
                self._end_run()
            if found[0] in "`~":
                self._mark = found[0]
                self._run += len(found)
            elif found[0] in "\r\n":
                self._end_line()
            elif found == "<" and not self._size:
                return token.start()
            else:
                self._read(found)
        return len(text)

    def skip(self, text: str) -> None:
        """Read text without marks, outside code."""
        line = max(text.rfind("\n"), text.rfind("\r")) + 1
        if line:
            self.indent = 0
        if line < len(text):
            self._read(text[line:])

    def _read(self, text: str) -> None:
        self._closing = self._closing and not text.strip(" \t")
        if self.indent >= 0:
            indent = self.indent + len(text)
            self.indent = -1 if indent > 3 or text.strip(" ") else indent

    def _end_run(self) -> None:
        at_start, self.indent = self.indent >= 0, -1
        run, self._run = self._run, 0
        if self._fence:
            self._closing = at_start and self._mark == self._fence and run >= self._size
        elif self._size:
            if self._mark == "`":
                self._info = False  # a fence's info string holds no backtick: it is a span
                self._size = 0 if run == self._size else self._size
        elif self._mark == "`":
            self._size, self._info = run, at_start and run >= 3
        elif at_start and run >= 3:
            self._size, self._fence = run, "~"

    def _end_line(self) -> None:
        if self._info:
            self._fence, self._info = "`", False
        elif self._closing or not self._fence:
            self._size, self._fence, self._closing = 0, "", False
        self.indent = 0
