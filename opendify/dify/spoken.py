"""How much of its text an answer has told, and whether another text goes on from it."""

import hashlib
from typing import Final

APART: Final = "\n\n"
# The New Agent repeats its last round in a closing message: this much of the stream's end is kept to notice.
TAIL_CHARS: Final = 8192


class Spoken:
    """One for each answer. Only one that is `remembered` can be compared; what was told is not kept."""

    def __init__(self, *, remembered: bool) -> None:
        self.chars = 0
        self._digest = hashlib.blake2b() if remembered else None

    def add(self, text: str) -> None:
        """This was told too."""
        self.chars += len(text)
        if self._digest:
            self._digest.update(_bytes(text))

    def replace(self, text: str) -> None:
        """This was told instead."""
        self.chars = len(text)
        if self._digest:
            self._digest = hashlib.blake2b(_bytes(text))

    def goes_on(self, text: str) -> bool:
        """Whether a whole text begins with what was told."""
        if not self.chars or self._digest is None:
            return not self.chars
        return hashlib.blake2b(_bytes(text[: self.chars])).digest() == self._digest.digest()

    def rest(self, text: str) -> str:
        """What a whole text tells more; all of it, apart, where something else was told."""
        if self.goes_on(text):
            return text[self.chars :]
        return APART + text if text.strip() else ""


class Tail:
    """The end of what a New Agent has told."""

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
