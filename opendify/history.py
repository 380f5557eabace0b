"""A dialogue -> the keyed digest of its state. One way, so that no text outlives its request.

What clients send back of an answer is not what they were sent, byte by byte: it was trimmed, its thinking was folded
away or rewrapped, runs of the app's tools were added or left out. All of that is normalised away. What people wrote
counts as it is, but for white space at its ends; so do calls of the client's own tools, and what came of them.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from opendify.client_tools.reading import canonical
from opendify.dialogue import (
    Attachment,
    Event,
    FileOut,
    Paused,
    ReasoningDelta,
    TextDelta,
    TextReplaced,
    ToolCall,
    Turn,
)
from opendify.links import markdown
from opendify.thinking import ThinkSplitter

DIGEST_BYTES: Final = 16
# Text of an answer is hashed in pieces of about this many characters, not delta by delta.
PIECE_CHARS: Final = 512
# Beyond this many characters an answer's thinking counts as text: what tells them apart costs time.
SPLIT_CHARS: Final = 200_000
# Open WebUI keeps reasoning and tool runs of an answer as such blocks in its text.
_BLOCK: Final = "<details"
_BLOCK_END: Final = "</details>"
_FOLDED = re.compile(r'<details\s[^<>]{0,300}?\btype="(?:reasoning|tool_calls|code_interpreter)"[^<>]{0,300}>')


class AnswerDigest:
    """The digest of one answer's visible text, fed in any pieces; its state has a constant size."""

    __slots__ = ("_begun", "_gap", "_hash", "_left", "_splitter")

    def __init__(self) -> None:
        self._splitter = ThinkSplitter()
        self._hash = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._left = SPLIT_CHARS
        self._begun = False
        self._gap = False

    def hear(self, text: str) -> None:
        """The next piece."""
        split, rest = text[: self._left], text[self._left :]
        self._left -= len(split)
        self._see(self._splitter.feed(split))
        if rest:
            self._see(self._splitter.close())
            self._add(rest)

    def digest(self) -> bytes:
        """Of everything so far; nothing can follow."""
        self._see(self._splitter.close())
        return self._hash.digest() if self._begun else b""

    def _see(self, pieces: Iterable[tuple[bool, str]]) -> None:
        for is_thinking, text in pieces:
            if not is_thinking:
                self._add(text)

    def _add(self, text: str) -> None:
        """White space counts as one blank wherever it stands, at the ends as none."""
        words = text.split()
        if not words:
            self._gap = True
            return
        gap = self._begun and (self._gap or text[0].isspace())
        self._hash.update(f"{' ' if gap else ''}{' '.join(words)}".encode("utf-8", "surrogatepass"))
        self._begun, self._gap = True, text[-1].isspace()


def answer_digest(text: str) -> bytes:
    """The digest of an answer as a client sends it back; empty where nothing of it was visible."""
    digest = AnswerDigest()
    digest.hear("".join(_unfolded(text)))
    return digest.digest()


def _unfolded(text: str) -> Iterator[str]:
    """The parts of the text between the blocks of Open WebUI; one that is never closed is text."""
    place = 0
    while (start := text.find(_BLOCK, place)) >= 0:
        opening = _FOLDED.match(text, start)
        end = text.find(_BLOCK_END, opening.end()) if opening else start + len(_BLOCK)
        if end < 0:
            break
        yield text[place:start] if opening else text[place:end]
        place = end + len(_BLOCK_END) if opening else end
    yield text[place:]


class Chain:
    """The digest of a dialogue's state: turn after turn, keyed, so that it belongs to one user of one app."""

    def __init__(self, key: bytes) -> None:
        self._hash = hashlib.blake2b(key=key, digest_size=DIGEST_BYTES)
        self._last = b""
        self._repeats = False
        self.answered = False

    def add(self, turns: Sequence[Turn]) -> None:
        """Go on with these turns; instructions and what the app ran belong to nobody's side of the dialogue."""
        for turn in turns:
            if turn.role == "user":
                self.asked(turn)
            elif turn.role == "assistant":
                self.answer(answer_digest(turn.text), map(call_digest, turn.asked))
            elif turn.is_spent:
                self._repeats = True
            elif turn.role == "tool":
                self._hash.update(b"r" + _digest_of(turn))

    def asked(self, turn: Turn) -> None:
        """What a user said and attached."""
        self._repeats = False
        if turn.text.strip() or turn.attachments:
            self._hash.update(b"u" + _digest_of(turn))

    def answer(self, digest: bytes, calls: Iterable[bytes] = ()) -> None:
        """An answer, by the digests of its text and its calls; one without either is none.

        Who sends results of what the app has run itself is told the same answer again: it counts once.
        """
        if digest and not (self._repeats and digest == self._last):
            self.answered = True
            self._last = digest
            self._hash.update(b"a" + digest)
        for call in calls:
            self.answered = True
            self._hash.update(b"c" + call)

    def state(self) -> str:
        """The name of the state reached."""
        return self._hash.hexdigest()


class Listener:
    """Hears an answer as its client will show it, for its digest. `paused`: it ends with a question to a person."""

    __slots__ = ("_answer", "_calls", "_text", "paused")

    def __init__(self) -> None:
        self._answer = AnswerDigest()
        self._text = ""
        self._calls: list[bytes] = []
        self.paused: Paused | None = None

    def hear(self, events: Iterable[Event]) -> None:
        """The next events."""
        for event in events:
            if type(event) is TextDelta:
                self._text += event.text
            elif type(event) is not ReasoningDelta:
                self._heed(event)
        if len(self._text) > PIECE_CHARS:
            self._digest()

    def tell(self, chain: Chain) -> None:
        """Go on with what was heard; nothing can follow."""
        self._digest()
        chain.answer(self._answer.digest(), self._calls)

    def _heed(self, event: Event) -> None:
        match event:
            case FileOut():
                self._text += markdown(event)
            case ToolCall():
                self._calls.append(call_digest(event))
            case Paused(text=text):
                self.paused = event
                self._text += text
            case TextReplaced(text=text):
                self._answer = AnswerDigest()
                self._text = text

    def _digest(self) -> None:
        self._answer.hear(self._text)
        self._text = ""


def call_digest(call: ToolCall) -> bytes:
    """The digest of a call of one of the client's tools."""
    return _digest(f"{call.name} {canonical(call.arguments)}")


def _digest_of(turn: Turn) -> bytes:
    """The digest of what somebody said and attached."""
    parts = (turn.text.strip(), *map(_content, turn.attachments))
    return _digest(b"".join(_digest(part) for part in parts))


def _content(attachment: Attachment) -> str:
    return attachment.url or attachment.base64 or attachment.file_id or ""


def _digest(value: str | bytes) -> bytes:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
