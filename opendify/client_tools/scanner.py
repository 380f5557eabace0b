"""An answer's text -> text and blocks, however it was cut.

Text goes through as it comes: no more of it is held back than may become a tag or the fence before one, and white
space at the very beginning. A block is held back until its JSON is complete, or a tag of ours ends it. What counts is
the opening tag with its nonce; what else stands around the JSON (the tag's end, a fence, a closing tag) may be missing.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from opendify.client_tools.reading import parse
from opendify.client_tools.tags import Tags

MAX_BLOCK: Final = 256 * 1024
MAX_BLOCKS: Final = 128
MAX_DEPTH: Final = 64
MAX_SPACE: Final = 64
MAX_LEAD: Final = 256

# A code fence that models put around a tag, or what may become one: each beginning of a match is a match as well.
_FENCE: Final = re.compile(r"(?:`{3,9}[a-zA-Z_]{0,12}[ \t]{0,4}\r?\n?[ \t\r\n]{0,8}|`{1,2})\Z")
_FENCE_CHARS: Final = 40
# What stands between blocks: commas of a list, fences, and a bracket too many.
_BETWEEN: Final = re.compile(r"[\s,;`}\]]+")
_TRAIL: Final = "` \t\r\n"
_CLOSER: Final = re.compile(r"</call[^<>]{0,64}>")
_CLOSER_BEGUN: Final = re.compile(r"<(?:/(?:c(?:a(?:l(?:l[^<>]{0,64})?)?)?)?)?")
_FIRST: Final = re.compile(r"[{\[]")
_OUTSIDE: Final = re.compile(r'["{}\[\]]')
_INSIDE: Final = re.compile(r'["\\]')


class Block(NamedTuple):
    """What stood in a block: its text, and the value of its JSON, None if it is none."""

    text: str
    value: Any


class After(NamedTuple):
    """Text after blocks: a model that goes on after a call invents what comes of it."""

    text: str


Said: TypeAlias = str | Block | After


class CallScanner:
    """Feed it text in pieces. Nothing is lost but tags, what stands between blocks, and the nonce."""

    __slots__ = (
        "_back",
        "_blocks",
        "_closed",
        "_easy",
        "_fresh",
        "_held",
        "_json",
        "_parts",
        "_size",
        "_state",
        "_tags",
        "_words",
    )

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._words = (tags.opening, tags.closing, tags.nonce)
        self._state: Callable[[str, int, list[Said]], int] = self._text
        self._held = ""
        self._easy = False  # in the middle of text, and nothing is held back
        self._fresh = True  # nothing but white space so far
        self._parts: list[str] = []  # of the block
        self._size = 0
        self._json = _Brackets()
        self._back = ""  # of a block that turns out to be text
        self._blocks = 0
        self._closed = False  # a closing tag ended the last block

    def feed(self, text: str) -> list[Said]:
        """What can be told by now, in order."""
        if self._easy and not ("<" in text or "z" in text or "`" in text or "Z" in text):
            return [text] if text else []
        text, self._held = self._held + text, ""
        said: list[Said] = []
        place = 0
        while place < len(text):
            place = self._state(text, place, said)
            if self._back:
                text, place, self._back = self._back + text[place:], 0, ""
        self._easy = self._state == self._text and not (self._held or self._fresh)
        return said

    def close(self) -> list[Said]:
        """What was held back."""
        said: list[Said] = []
        rest, self._held = self._held, ""
        if self._state == self._text:
            self._tell(rest, said)
        elif self._state == self._block:
            text = "".join((*self._parts, rest))
            said.append(Block(text, None))
        elif rest:
            said.append(After(rest))
        self._state = self._rest
        return said

    # -- text

    def _text(self, text: str, place: int, said: list[Said]) -> int:
        """Text up to the next opening tag."""
        opening = text.find(self._words[0], place)
        if opening < 0:
            end = self._begun(text, place)
            if self._is_blank(text[place:end]):
                end = place
            self._tell(text[place:end], said)
            self._held = text[end:]
            return len(text)
        before = text[place : _fence(text, place, opening)]
        if not self._is_blank(before):
            self._tell(before, said)
        self._begin_block()
        return opening + len(self._words[0])

    def _is_blank(self, text: str) -> bool:
        """Whether there is nothing but white space so far, which is dropped if a block follows."""
        self._fresh = self._fresh and len(text) <= MAX_SPACE and not text.strip()
        return self._fresh

    def _begun(self, text: str, place: int) -> int:
        """Where the end of the text may be the beginning of a tag, of the nonce, or of a fence before a tag."""
        end = len(text)
        opening, _, nonce = self._words
        angle = text.rfind("<", place)
        letter = max(text.rfind("z", place), text.rfind("Z", place))
        if angle >= 0 and opening.startswith(text[angle:]):
            end = angle
        elif letter >= 0 and nonce.startswith(text[letter : letter + len(nonce)].lower()):
            end = letter if len(text) - letter < len(nonce) else end
        return _fence(text, place, end)

    def _tell(self, text: str, said: list[Said]) -> None:
        if text:
            said.append(self._tags.hide(text))

    # -- a block

    def _begin_block(self) -> None:
        self._state, self._json, self._fresh = self._block, _Brackets(), False
        self._parts, self._size = [], 0

    def _block(self, text: str, place: int, said: list[Said]) -> int:
        """The block up to its end: that of its JSON, or a tag of ours."""
        limit = place + MAX_BLOCK - self._size
        end, tag = self._next_tag(text, place, limit)
        stop = self._json.end(text, place, min(end, limit))
        end = min(end, limit) if stop < 0 else stop
        self._parts.append(text[place:end])
        self._size += end - place
        if stop >= 0:
            self._end_block(said)
        elif end == limit:
            self._give_up(said)
        elif not tag:
            self._held = text[end:]
            return len(text)
        else:
            self._end_block(said, tag)
            return end + len(tag)
        return end

    def _next_tag(self, text: str, place: int, limit: int) -> tuple[int, str]:
        """Where the next tag of ours is, or may have begun, or the end of the text; not looked for behind the limit."""
        tags = self._words[:2]
        if found := [(at, tag) for tag in tags if (at := text.find(tag, place, limit + len(tag))) >= 0]:
            return min(found)
        angle = text.rfind("<", place)
        begun = angle >= 0 and any(tag.startswith(text[angle:]) for tag in tags)
        return (angle if begun else len(text)), ""

    def _end_block(self, said: list[Said], tag: str = "") -> None:
        """Tell the block. Without a tag it goes on if only its brackets match, and it is no JSON."""
        opening, closing, _ = self._words
        text = "".join(self._parts)
        value = self._json.value(text, mend=tag == closing)
        if value is None and not tag:
            return
        said.append(Block(text, value))
        self._blocks += 1
        self._state, self._closed = self._after, tag == closing
        if self._blocks == MAX_BLOCKS:
            self._state = self._rest
        elif tag == opening:
            self._begin_block()

    def _give_up(self, said: list[Said]) -> None:
        """A block that is too long is text."""
        self._tell(self._words[0], said)
        self._back = "".join(self._parts)
        self._state, self._parts = self._text, []

    # -- after a block

    def _after(self, text: str, place: int, _said: list[Said]) -> int:
        """The next block, if nothing but its tags stands before it."""
        if between := _BETWEEN.match(text, place):
            return between.end()
        opening = self._words[0]
        if text.startswith(opening, place):
            self._begin_block()
            return place + len(opening)
        if closer := _CLOSER.match(text, place):
            self._closed = True
            return closer.end()
        if text[place] in "{[" and not self._closed:
            self._begin_block()
            return place
        if opening.startswith(text[place:]) or _CLOSER_BEGUN.fullmatch(text, place):
            self._held = text[place:]
            return len(text)
        self._state = self._rest
        return place

    def _rest(self, text: str, place: int, said: list[Said]) -> int:
        said.append(After(text[place:]))
        return len(text)


def _fence(text: str, place: int, end: int) -> int:
    """Where the fence begins that ends here, or `end`."""
    found = _FENCE.search(text, max(place, end - _FENCE_CHARS), end)
    return found.start() if found else end


class _Brackets:
    """Where JSON ends, by its brackets: read once, whatever it holds."""

    __slots__ = ("_begun", "_escaped", "_lead", "_lost", "_open", "_quoted")

    def __init__(self) -> None:
        self._lead = 0  # characters before the first bracket
        self._begun = False
        self._open: list[str] = []  # what has to close, outermost first
        self._quoted = False
        self._escaped = False
        self._lost = False

    def end(self, text: str, place: int, stop: int) -> int:
        """The place after the value's last bracket, -1 if it is not there."""
        while place < stop and not self._lost:
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            marks = _INSIDE if self._quoted else _OUTSIDE if self._begun else _FIRST
            found = marks.search(text, place, stop)
            self._note_lead((found.start() if found else stop) - place)
            if not found or self._lost:
                break
            place = found.end()
            if self._read(found[0]):
                return place
        return -1

    def value(self, text: str, *, mend: bool) -> Any:
        """The value of the block's text, None if it is no JSON. `mend`: brackets that are missing at its end."""
        lost, self._lost = self._lost, True
        if lost or (self._open and (self._quoted or not mend)):
            return None
        missing = "".join(reversed(self._open))
        try:
            return parse(text[self._lead :].rstrip(_TRAIL) + missing)
        except ValueError:
            return None

    def _note_lead(self, size: int) -> None:
        if not self._begun:
            self._lead += size
            self._lost = self._lead > MAX_LEAD

    def _read(self, mark: str) -> bool:
        """Whether the mark completes the value."""
        if mark == '"':
            self._quoted = not self._quoted
        elif mark == "\\":
            self._escaped = True
        elif mark in "{[":
            self._begun = True
            self._open.append("}" if mark == "{" else "]")
            self._lost = len(self._open) > MAX_DEPTH
        else:
            self._lost = self._open.pop() != mark
            return not (self._open or self._lost)
        return False
