"""What text an answer has told: enough of it to see whether another text goes on from it."""

import hashlib
from typing import Final

APART: Final = "\n\n"
# The New Agent repeats its last round in a closing message: this much of the stream's end is kept to notice.
TAIL_CHARS: Final = 8192


class Spoken:
    """One for each answer whose text may be told again as a whole. The text itself is not kept."""

    __slots__ = ("_chars", "_digest")

    def __init__(self) -> None:
        self._chars = 0
        self._digest = hashlib.blake2b()

    def add(self, text: str) -> None:
        """This was told too."""
        self._chars += len(text)
        self._digest.update(_bytes(text))

    def replace(self, text: str) -> None:
        """This was told instead."""
        self._chars = len(text)
        self._digest = hashlib.blake2b(_bytes(text))

    def goes_on(self, text: str) -> bool:
        """Whether a whole text begins with what was told."""
        return hashlib.blake2b(_bytes(text[: self._chars])).digest() == self._digest.digest()

    def rest(self, text: str) -> str:
        """What a whole text tells more; all of it, apart, where something else was told."""
        if self.goes_on(text):
            return text[self._chars :]
        return APART + text if text.strip() else ""


class Tail:
    """The end of what a New Agent has told."""

    __slots__ = ("_chars", "_parts")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._chars = 0

    def add(self, text: str) -> None:
        """This was told too."""
        self._parts.append(text)
        self._chars += len(text)
        if self._chars > 2 * TAIL_CHARS:
            self._parts = ["".join(self._parts)[-TAIL_CHARS:]]
            self._chars = TAIL_CHARS

    def repeats(self, text: str) -> bool:
        """Whether a closing text is only the end of the stream again."""
        told = "".join(self._parts)[-TAIL_CHARS:].rstrip()
        return bool(text and told) and told.endswith(text.rstrip()[-TAIL_CHARS:])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
