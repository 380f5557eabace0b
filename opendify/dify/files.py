"""Attachments of a prompt -> the places of an app that take them, checked against what `/parameters` allows."""

import binascii
import mimetypes
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, urlsplit

import puremagic
from msgspec import Struct

from opendify.dialogue import Ahead, Attachment
from opendify.dify.apps import MEGABYTE, App, FileRule
from opendify.errors import FileNotFound, InvalidRequest, RequestTooLarge

# Dify's own buckets by extension (its newest server). What is in none of them is `custom`.
KINDS: Final = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".gif", ".svg"},
    "audio": {".mp3", ".m4a", ".wav", ".amr", ".mpga"},
    "video": {".mp4", ".mov", ".mpeg", ".webm"},
    "document": {
        ".txt", ".markdown", ".md", ".mdx", ".pdf", ".html", ".htm", ".xlsx", ".xls", ".docx", ".csv", ".vtt",
        ".properties", ".doc", ".eml", ".msg", ".pptx", ".ppt", ".xml", ".epub",
    },
}  # fmt: skip
KIND_OF: Final = {extension: kind for kind, extensions in KINDS.items() for extension in extensions}
SIZE_LIMITS: Final = {kind: size * MEGABYTE for kind, size in {"image": 10, "audio": 50, "video": 100}.items()}
OTHER_LIMIT: Final = 15 * MEGABYTE
SNIFFED_BYTES: Final = 8192
# Office documents are left out: their first bytes are any zip's.
TELLING: Final = {".pdf", *KINDS["image"], *KINDS["audio"], *KINDS["video"]}
TYPES: Final = mimetypes.MimeTypes()
for _extension_, _type in {
    ".webp": "image/webp",  # what Python 3.11 does not know, or knows by a name that others do not
    ".m4a": "audio/m4a",
    ".amr": "audio/amr",
    ".wav": "audio/wav",
    ".md": "text/markdown",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".epub": "application/epub+zip",
}.items():
    TYPES.add_type(_type, _extension_)
NAME_CHARS: Final = 200
ANY_FILE: Final = FileRule(None, frozenset({*KINDS, "custom"}), frozenset(), frozenset())


class Upload(Struct, frozen=True):
    """Bytes to send to Dify before the run."""

    name: str
    mime_type: str
    data: bytes


class PlannedFile(Struct, frozen=True, kw_only=True):
    """An attachment with its place: an input's name, or None for the files beside the prompt.

    It is a link (`url`), bytes to send (`upload`), or one sent `ahead` that Dify has already.
    """

    kind: str
    place: str | None
    is_list: bool
    param: str
    url: str | None = None
    upload: Upload | None = None
    ahead: Ahead | None = None

    def reference(self, upload_id: str | None) -> dict[str, str]:
        """Dify's file object."""
        if upload_id is None:
            return {"type": self.kind, "transfer_method": "remote_url", "url": self.url or ""}
        return {"type": self.kind, "transfer_method": "local_file", "upload_file_id": upload_id}


class Place(Struct):
    """Where files can go, and how many already do."""

    name: str | None
    is_list: bool
    rule: FileRule
    taken: int = 0

    @property
    def has_room(self) -> bool:
        """Whether one more fits."""
        return self.rule.count is None or self.taken < self.rule.count


def plan(
    app: App, current: Sequence[Attachment], earlier: Sequence[Attachment], most: int, given: set[str]
) -> list[PlannedFile]:
    """Give each attachment its place; inputs in `given` are set by the client itself.

    Those of earlier turns get what the current ones leave, the newest first; they never make a request fail.
    Raises InvalidRequest or RequestTooLarge naming the part that the app does not take.
    """
    if len(current) > most:
        raise RequestTooLarge(f"At most {most} files fit one request, not {len(current)}.", param="messages")
    places = list(_places(app, given))
    planned = [_planned(app, attachment, places, number) for number, attachment in enumerate(current, 1)]
    for number, attachment in enumerate(reversed(earlier), len(current) + 1):
        if len(planned) == most or not any(place.has_room for place in places):
            break
        with suppress(InvalidRequest, RequestTooLarge, FileNotFound):
            planned.insert(0, _planned(app, attachment, places, number))
    return planned


def unplaced(app: App, attachments: Sequence[Attachment], most: int) -> list[PlannedFile]:
    """What is sent of attachments that have their place elsewhere. Raises InvalidRequest or RequestTooLarge."""
    if len(attachments) > most:
        raise RequestTooLarge(f"At most {most} files fit one request, not {len(attachments)}.", param="messages")
    anywhere = [Place(None, is_list=True, rule=ANY_FILE)]
    return [_planned(app, attachment, anywhere, number) for number, attachment in enumerate(attachments, 1)]


def _places(app: App, given: set[str]) -> Iterator[Place]:
    """Chat and completion apps take files beside the prompt first, workflows in their inputs first."""
    beside = [Place(None, is_list=True, rule=app.files)] if app.files else []
    inputs = [
        Place(declared.name, is_list=declared.control == "file-list", rule=declared.files)
        for declared in app.inputs
        if declared.files and declared.name not in given
    ]
    yield from (*inputs, *beside) if app.mode == "workflow" else (*beside, *inputs)


def _planned(app: App, attachment: Attachment, places: Sequence[Place], number: int) -> PlannedFile:
    upload = upload_of(attachment, number)
    extension = extension_of(upload.name if upload else _path(attachment))
    natural = _kind(attachment, extension)
    place, kind = _fitting(app, attachment, places, natural, extension)
    if upload:
        _check_size(app, attachment, upload, natural)
    place.taken += 1
    return PlannedFile(
        kind=kind,
        place=place.name,
        is_list=place.is_list,
        param=attachment.param,
        url=attachment.url,
        upload=upload,
        ahead=attachment.ahead,
    )


def _path(attachment: Attachment) -> str:
    if attachment.ahead:
        return attachment.name or ""
    if attachment.url is None:  # of an earlier turn: those of the current one were found
        raise FileNotFound(attachment.param)
    try:
        return urlsplit(attachment.url).path
    except ValueError:
        raise InvalidRequest("This is not an address.", param=attachment.param) from None


def _kind(attachment: Attachment, extension: str) -> str:
    """The bucket of the extension; a link without a telling one is what the client calls it."""
    fallback = "custom" if attachment.media == "file" else attachment.media
    return KIND_OF.get(extension, fallback)


def _fitting(
    app: App, attachment: Attachment, places: Sequence[Place], natural: str, extension: str
) -> tuple[Place, str]:
    if not places:
        raise InvalidRequest(f"'{app.name}' takes no files.", param=attachment.param)
    method = "local_file" if attachment.url is None else "remote_url"
    reasons = []
    for place in places:
        kind = place.rule.kind_of(natural, extension)
        if kind is None:
            reasons.append(f"it takes {', '.join(sorted(place.rule.types)) or 'nothing'}, not {natural} files")
        elif place.rule.methods and method not in place.rule.methods:
            reasons.append("it takes uploads only" if method == "remote_url" else "it takes links only")
        elif not place.has_room:
            reasons.append(f"it takes at most {place.rule.count} files")
        else:
            return place, kind
    raise InvalidRequest(f"'{app.name}' does not take this file: {reasons[0]}.", param=attachment.param)


def _check_size(app: App, attachment: Attachment, upload: Upload, kind: str) -> None:
    limit = app.size_limits.get(kind) or SIZE_LIMITS.get(kind, OTHER_LIMIT)
    if len(upload.data) > limit:
        message = f"The file has {len(upload.data)} bytes; Dify takes at most {limit} of this kind."
        raise RequestTooLarge(message, param=attachment.param)


def upload_of(attachment: Attachment, number: int) -> Upload | None:
    """What is sent of an attachment; None for a link and for a file that Dify has. Raises InvalidRequest."""
    data = attachment.ahead.data if attachment.ahead else None
    if attachment.base64 is not None:
        data = decode_base64(attachment.base64, attachment.param)
    return None if data is None else as_upload(data, attachment, number)


def as_upload(data: bytes, attachment: Attachment, number: int = 1) -> Upload:
    """These bytes under the name and type that Dify is told. Raises InvalidRequest where there are none."""
    if not data:
        raise InvalidRequest("The file is empty.", param=attachment.param)
    mime_type, extension = _sniffed(data, attachment)
    return Upload(_file_name(attachment, number, extension), mime_type, data)


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of base64 text, standard or URL-safe, padded or not. Raises InvalidRequest naming the part."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        tidy = re.sub(r"\s+", "", text).translate(_URL_SAFE).rstrip("=")
    try:
        return binascii.a2b_base64(tidy + "=" * (-len(tidy) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("The data is not valid base64.", param=param) from None


_URL_SAFE = str.maketrans("-_", "+/")


def _sniffed(data: bytes, attachment: Attachment) -> tuple[str, str]:
    """MIME type and extension: what the bytes show, where they do, else what the client says."""
    named = re.sub(r"[^\w .+-]", "", extension_of((attachment.name or "").replace("\\", "/")))[:20].rstrip(". ")
    declared = (attachment.mime_type or "").partition(";")[0].strip().lower()
    declared = declared if re.fullmatch(r"[\w.+-]+/[\w.+-]+", declared, re.ASCII) else ""  # it becomes a header
    seen = _seen(data)
    extension = named if not seen or TYPES.guess_type(f"file{named}") == TYPES.guess_type(f"file{seen}") else seen
    extension = extension or TYPES.guess_extension(declared) or (".txt" if _is_text(data) else ".bin")
    mime_type = TYPES.guess_type(f"file{extension}")[0] or declared or "application/octet-stream"
    return mime_type, extension


def _seen(data: bytes) -> str:
    """The extension that the first bytes show beyond doubt, else nothing."""
    try:
        matches = puremagic.magic_string(data[:SNIFFED_BYTES])
    except puremagic.PureError:
        return ""
    return next((match.extension for match in matches if match.extension in TELLING), "")


def _is_text(data: bytes) -> bool:
    try:
        data[:SNIFFED_BYTES].decode("utf-8", "strict" if len(data) <= SNIFFED_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return b"\0" not in data[:SNIFFED_BYTES]


def _file_name(attachment: Attachment, number: int, extension: str) -> str:
    """A name Dify accepts: no path, no control characters, at most 200 characters, with its extension."""
    stem, named = posixpath.splitext((attachment.name or "").replace("\\", "/").rpartition("/")[2])
    stem = re.sub(r'[\x00-\x1f<>:"|?*]', "", stem).strip(". ") or f"{attachment.media}-{number}"
    ending = extension or named
    return stem[: NAME_CHARS - len(ending)] + ending


def extension_of(path: str) -> str:
    """What Dify tells a file's kind from, with its dot."""
    return posixpath.splitext(unquote(path))[1].lower()
