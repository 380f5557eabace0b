"""The tags around calls and results, with the nonce that makes them ours."""

import hashlib
import re
import secrets
from typing import Final

from msgspec import Struct

HIDDEN: Final = "[hidden]"
SALT_BYTES: Final = 16

# `z` only at the start and a digit after it: an end of text that may be the nonce's beginning is found at once, and no
# word or tag of anybody's looks like it. Without `l` and `o`, which are read as digits. 8 * 31 ** 7 are 38 bits.
_LETTERS: Final = "abcdefghijkmnpqrstuvwxy23456789"
_DIGITS: Final = "23456789"
_FOLLOWING: Final = 7
_LOOK_ALIKE: Final = re.compile(
    r"<(?=\s{0,4}/?\s{0,4}(?:call|result)\s{0,4}[-_:]\s{0,4}z[0-9][a-z0-9]{7})", re.IGNORECASE | re.ASCII
)


def new_salt() -> str:
    """What a conversation's nonce is made of, to be kept with it; of no use without the key."""
    return secrets.token_hex(SALT_BYTES)


class Tags(Struct, frozen=True):
    """The tags of one conversation."""

    nonce: str

    @classmethod
    def of(cls, key: bytes, salt: str) -> "Tags":
        """The tags for a conversation's salt. `key` is secret, at most 64 bytes."""
        digest = hashlib.blake2b(f"call tags:{salt}".encode(), key=key, digest_size=16).digest()
        number, first = divmod(int.from_bytes(digest), len(_DIGITS))
        nonce = f"z{_DIGITS[first]}"
        for _ in range(_FOLLOWING):
            number, place = divmod(number, len(_LETTERS))
            nonce += _LETTERS[place]
        return cls(nonce)

    @property
    def opening(self) -> str:
        """What every call begins with. Models drop or add what follows, so the tag's own end does not count."""
        return f"<call-{self.nonce}"

    @property
    def closing(self) -> str:
        """The end of a call as the model is told to write it."""
        return f"</call-{self.nonce}>"

    def call(self, text: str) -> str:
        """A call as the model is to write it."""
        return f"{self.opening}>\n{text}\n{self.closing}"

    def result(self, text: str, number: int, name: str) -> str:
        """A result, of the call with this number in its answer. `text` is neutralised here."""
        inside = self.neutralise(text) or "(empty)"
        return f'<result-{self.nonce} call="{number}" tool="{name}">\n{inside}\n</result-{self.nonce}>'

    def neutralise(self, text: str) -> str:
        """Somebody's text, unable to pass for a call or a result; idempotent, and nothing else changes."""
        if "<" in text:
            text = _LOOK_ALIKE.sub("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", text)
        return self.hide(text)

    def hide(self, text: str) -> str:
        """Text without the nonce, in whatever case it is written."""
        if self.nonce not in text.lower():
            return text
        return re.sub(self.nonce, HIDDEN, text, flags=re.IGNORECASE | re.ASCII)


class Hider:
    """Text that comes in pieces, without the nonce; no more of it is held back than may become one."""

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be told by now."""
        text = self._tags.hide(self._held + text)
        begun = self._begun(text.lower())
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]

    def close(self) -> str:
        """What was held back."""
        rest, self._held = self._held, ""
        return rest

    def _begun(self, text: str) -> int:
        """The length of the longest end of the text that begins the nonce."""
        nonce = self._tags.nonce
        return next((size for size in range(len(nonce) - 1, 0, -1) if text.endswith(nonce[:size])), 0)
