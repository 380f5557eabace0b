"""Links in Markdown: the files that an app made as its clients are shown them, and what a link leads to."""

import re
from typing import Final
from urllib.parse import quote

from opendify.dialogue import FileOut

# What a URL may hold: the rest is quoted, so that nothing breaks out of its Markdown link.
URL_CHARS: Final = ":/?#[]@!$&'()*+,;=%-._~"


def markdown(file: FileOut) -> str:
    """A paragraph of Markdown: the picture itself, or a link."""
    name = re.sub(r"[\[\]\x00-\x1f]+", " ", file.name)
    return f"\n\n{'!' if file.is_image else ''}[{name}]({target(file.url)})\n\n"


def target(url: str) -> str:
    """Where a Markdown link leads."""
    return f"<{quote(url, safe=URL_CHARS)}>"
