"""The files of an answer: each is shown once."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import urljoin

from opendify.dialogue import FileOut
from opendify.dify.events import File

MAX_FILES: Final = 200
# A link cut in two is found again within this much of the text's end.
LINK_CHARS: Final = 512
_LINK = re.compile(r"/files/[^\s?)>\]]+(?=[?)>\]\s])")


class ShownFiles:
    """One for each answer. `origin` is Dify's address, for relative links."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._shown: set[str] = set()
        self.window = ""  # the text's end, if a link may have begun in it

    def note(self, text: str) -> None:
        """A flow's files may stand as links in its text already, perhaps cut in two."""
        seen = self.window + text
        if "/files/" in seen:
            self._shown.update(_LINK.findall(seen)[: MAX_FILES - len(self._shown)])
        end = seen[-LINK_CHARS:]
        self.window = end if "/" in end else ""

    def show(self, files: Iterable[File]) -> Iterator[FileOut]:
        """Each file once: Dify names most of them twice, with a new signature each time."""
        for file in files:
            link = _absolute(self._origin, file.url or file.remote_url)
            if not link or (known := _identity(link)) in self._shown or len(self._shown) >= MAX_FILES:
                continue
            self._shown.add(known)
            name = file.filename or posixpath.basename(link.partition("?")[0])
            kind = file.type or file.mime_type or ""
            yield FileOut(url=link, name=name, is_image=kind.startswith("image"))


def _absolute(origin: str, link: str | None) -> str | None:
    """The link as anyone can follow it; None where it is no address."""
    try:
        return urljoin(origin, link) if link else None
    except ValueError:
        return None


def _identity(link: str) -> str:
    """What two links to one file share: Dify's own differ in host and signature."""
    place = link.find("/files/")
    return link if place < 0 else link[place:].partition("?")[0]
