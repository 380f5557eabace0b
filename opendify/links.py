"""A file that an app made, as its clients are shown it."""

import re
from typing import Final
from urllib.parse import quote

from opendify.dialogue import FileOut

# What a URL may hold: the rest is quoted, so that no name breaks out of its Markdown link.
URL_CHARS: Final = ":/?#[]@!$&'()*+,;=%-._~"


def markdown(file: FileOut) -> str:
    """A line of Markdown: the picture itself, or a link."""
    name = re.sub(r"[\[\]\x00-\x1f]+", " ", file.name)
    url = quote(file.url, safe=URL_CHARS)
    return f"\n\n{'!' if file.is_image else ''}[{name}](<{url}>)"
