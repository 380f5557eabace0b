"""multipart/form-data -> one file and a few short texts. In memory: a container may have no disk to write to."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

from litestar import Request
from msgspec import Struct
from multipart import (  # type: ignore[import-untyped]  # it has no types; Litestar's own parser stands on it
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
)

from opendify.errors import InvalidRequest
from opendify.openai.bodies import read_body

FILE: Final = "file"
MAX_PARTS: Final = 64
MAX_TEXT_BYTES: Final = 4096
PIECE_BYTES: Final = 256 * 1024
# What programs say of a file that they know nothing of.
NO_TYPE: Final = "application/octet-stream"


class FormFile(Struct, frozen=True):
    """The file of a form; `mime_type` is empty where its sender does not know."""

    name: str
    mime_type: str
    data: bytes


class Form(Struct, frozen=True):
    """A form's file, and those of its texts that were asked for and hold something."""

    file: FormFile
    texts: dict[str, str]


async def read_form(request: Request[Any, Any, Any], texts: Collection[str]) -> Form:
    """The form of a request, in bounded time. Raises InvalidRequest naming the field, or as `read_body` does."""
    kind, options = request.content_type
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise InvalidRequest("Send the file as multipart/form-data.", param=FILE)
    return await parse_form(await read_body(request), options["boundary"], texts)


async def parse_form(body: bytes, boundary: str, texts: Collection[str]) -> Form:
    """The form in a body. Raises InvalidRequest naming the field."""
    reader = _Reader(texts)
    try:
        with PushMultipartParser(boundary, max_segment_count=MAX_PARTS) as parser:
            for start in range(0, len(body), PIECE_BYTES):
                for event in parser.parse(body[start : start + PIECE_BYTES]):
                    reader.take(event)
                await asyncio.sleep(0)  # other requests get their turn
    except ParserLimitReached:
        raise InvalidRequest("The form has too many parts, or one with too long a header.") from None
    except MultipartError:
        raise InvalidRequest("The request body is not valid multipart/form-data.") from None
    return reader.form()


class _Reader:
    """Collects the parts of a form. Raises InvalidRequest naming the field."""

    def __init__(self, texts: Collection[str]) -> None:
        self._wanted = {FILE, *texts}
        self._texts: dict[str, str] = {}
        self._file: FormFile | None = None
        self._part: MultipartSegment | None = None
        self._pieces: list[bytes] = []

    def take(self, event: MultipartSegment | bytes | None) -> None:
        """A part's head, a piece of its content, or its end."""
        match event:
            case None:
                self._end()
            case bytes() | bytearray():
                self._add(bytes(event))
            case _:
                self._begin(event)

    def form(self) -> Form:
        """All of it."""
        if self._file is None:
            raise InvalidRequest("The form has no file: send one in the field 'file'.", param=FILE)
        return Form(self._file, self._texts)

    def _begin(self, part: MultipartSegment) -> None:
        self._part = part if part.name in self._wanted else None
        if part.name == FILE and not part.filename:
            raise InvalidRequest("The file needs a file name.", param=FILE)
        if part.name == FILE and self._file:
            raise InvalidRequest("One file at a time.", param=FILE)

    def _add(self, piece: bytes) -> None:
        if self._part is None:
            return
        self._pieces.append(piece)
        if self._part.name != FILE and self._part.bytes_received > MAX_TEXT_BYTES:
            raise InvalidRequest(f"This takes up to {MAX_TEXT_BYTES} bytes.", param=self._part.name)

    def _end(self) -> None:
        part, content = self._part, b"".join(self._pieces)
        self._pieces.clear()
        if part and part.name == FILE:
            mime_type = part.content_type or ""
            self._file = FormFile(part.filename, "" if mime_type == NO_TYPE else mime_type, content)
        elif part and content:
            self._texts[part.name] = _text(content, part.name)


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("This is not UTF-8 text.", param=name) from None
