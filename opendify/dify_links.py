"""Dify's signed links to files: recognised, and replaced within a text that comes in pieces."""

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote, urlencode
from uuid import UUID

from msgspec import Struct

# The longest link that is seen in a text; Dify's have about 200 characters and the address of their host.
LINK_CHARS: Final = 640

# Nothing else of Dify's paths is ever fetched: they name one file, and Dify checks its signature.
_ID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PATH = rf"/files/(?:tools/(?P<tool>{_ID})(?P<extension>\.\w{{1,10}})?"
_PATH += rf"|(?P<upload>{_ID})(?P<route>/(?:file|image)-preview))"
_AND = r"&(?:amp;)?"
_SIGN = r"(?:[\w-]|%[0-9a-fA-F]{2}){1,128}={0,2}"
_QUERY = (
    rf"\?timestamp=(?P<timestamp>\d{{1,12}}){_AND}nonce=(?P<nonce>[0-9a-fA-F]{{32}}){_AND}sign=(?P<sign>{_SIGN})"
    rf"(?:{_AND}as_attachment=\w{{1,5}})?"
)
_STOPS = r"\s()<>\"'`\\|^{}"
_ORIGIN = rf"https?://[^/?#{_STOPS}]{{1,255}}(?:/[^/?#{_STOPS}]{{1,64}}){{0,4}}?"
_LINK = re.compile(rf"(?:{_ORIGIN})?(?P<path>{_PATH}){_QUERY}", re.ASCII)
_WHOLE_PATH = re.compile(_PATH, re.ASCII)
# A link begins where no other address is under way.
_BEFORE = r"(?<![\w./:%-])"
_START = re.compile(rf"{_BEFORE}(?:https?://|/files/)", re.ASCII)
_HALF_START = re.compile(rf"{_BEFORE}(?:h(?:t(?:t(?:p(?:s?(?::/?)?)?)?)?)?|/(?:f(?:i(?:l(?:es?)?)?)?)?)\Z", re.ASCII)
_HALF_CHARS = len("https:/")
_HALF_SCHEMES = ("h", "ht", "htt", "http", "https", "http:", "https:")
_STOP = re.compile(rf"[{_STOPS}]")


class DifyFile(Struct, frozen=True, array_like=True):
    """A file at Dify, and what Dify signed a link to it with; that holds for a while, whatever host it names.

    `ending` is what follows the id in its path: an extension for files of tools, a route for uploads.
    """

    id: UUID
    ending: str
    timestamp: int
    nonce: UUID
    sign: str

    @property
    def identity(self) -> str:
        """What all links to one file share, whatever their extension, route and signature."""
        return str(self.id) if self.ending.startswith("/") else f"tools/{self.id}"

    @property
    def path(self) -> str:
        """Where it is, below Dify's address."""
        return f"/files/{self.identity}{self.ending}"

    @property
    def address(self) -> str:
        """Its path with the signature."""
        signed = {"timestamp": self.timestamp, "nonce": self.nonce.hex, "sign": self.sign}
        return f"{self.path}?{urlencode(signed)}"


def dify_file(url: str) -> DifyFile | None:
    """The file that one of Dify's signed links leads to; None for any other address."""
    found = _LINK.match(url)
    return _file(found) if found else None


def dify_files(text: str) -> Iterator[DifyFile]:
    """The files that a text links to."""
    return map(_file, _LINK.finditer(text))


def _file(found: re.Match[str]) -> DifyFile:
    ending = found["route"] or found["extension"] or ""
    identity, nonce = UUID(found["tool"] or found["upload"]), UUID(found["nonce"])
    return DifyFile(identity, ending, int(found["timestamp"]), nonce, unquote(found["sign"]))


def is_file_path(path: str) -> bool:
    """Whether the path is one of a file at Dify, and nothing else."""
    return _WHOLE_PATH.fullmatch(path) is not None


class LinkRewriter:
    """Dify's signed links within an answer's text, each given to `make` and replaced; fed in any pieces.

    Only what may be the beginning of one is held back, never more than LINK_CHARS.
    """

    __slots__ = ("_last", "_make", "held")

    def __init__(self, make: Callable[[str], str]) -> None:
        self._make = make
        self.held = ""
        self._last = ""  # what was told last, of which the last character matters

    def feed(self, text: str) -> str:
        """What can be told of the text so far; mostly the very same."""
        if not (self.held or "/" in text or (text.endswith(_HALF_SCHEMES) and self._begins(text))):
            self._last = text or self._last
            return text
        return self._told(self.held + text, is_all=False)

    def close(self) -> str:
        """The rest: nothing follows."""
        return self._told(self.held, is_all=True)

    def _begins(self, text: str) -> bool:
        """Whether a link may have begun at its end."""
        return _HALF_START.search((self._last[-1:] + text)[-_HALF_CHARS - 1 :]) is not None

    def _told(self, text: str, *, is_all: bool) -> str:
        before = self._last[-1:]
        seen = before + text
        told: list[str] = []
        place = done = len(before)
        held = len(seen)
        while start := _START.search(seen, place):
            end = _end(seen, start.end(), start.start() + LINK_CHARS, is_all=is_all)
            if end is None:
                held = start.start()
                break
            place = start.end()
            if link := _LINK.match(seen, start.start(), end):
                told += (seen[done : start.start()], self._make(link[0]))
                place = done = link.end()
        else:
            half = None if is_all else _HALF_START.search(seen, max(place, len(seen) - _HALF_CHARS))
            held = half.start() if half else held
        self.held = seen[held:]
        self._last = seen[held - 1 : held] if held else ""
        return "".join((*told, seen[done:held]))


def _end(text: str, place: int, most: int, *, is_all: bool) -> int | None:
    """Where a link that may have begun is over at the latest; None while more can follow."""
    if stop := _STOP.search(text, place, most):
        return stop.start()
    return min(len(text), most) if is_all or len(text) >= most else None
