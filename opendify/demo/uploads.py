"""Files from clients: multipart bodies, the upload route's checks, and file objects in requests."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from opendify.demo.apps import Control, SampleApp
from opendify.demo.media import file_dict
from opendify.demo.state import State, Upload
from opendify.demo.wire import Json, invalid, is_uuid, refuse

MIB = 1024 * 1024
MAX_NAME = 200
MAX_FILES = 3
BUCKETS = {
    "image": {"jpg", "jpeg", "png", "webp", "gif", "svg"},
    "audio": {"mp3", "m4a", "wav", "amr", "mpga"},
    "video": {"mp4", "mov", "mpeg", "webm"},
    "document": {
        "txt", "markdown", "md", "mdx", "pdf", "html", "htm", "xlsx", "xls", "docx", "csv", "vtt", "properties",
    },
}  # fmt: skip
LIMITS = {"image": 10 * MIB, "audio": 50 * MIB, "video": 100 * MIB}
OTHER_LIMIT = 15 * MIB
MAX_SPEECH = 30 * MIB
SPEECH_TYPES = {f"audio/{kind}" for kind in ("mp3", "m4a", "wav", "amr", "mpga")}
NAME = re.compile(rb'(?<![*\w])name="((?:[^"\\]|\\.)*)"')
FILENAME = re.compile(rb'filename="((?:[^"\\]|\\.)*)"')
ENCODED_FILENAME = re.compile(rb"filename\*=UTF-8''([^;\r\n]+)", re.IGNORECASE)
TYPE = re.compile(rb"^content-type: *([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a multipart body. `filename` is None in plain fields, `type` is "" if not given."""

    name: str
    filename: str | None
    type: str
    data: bytes


def parts(content_type: str, body: bytes) -> Iterator[Part]:
    """The parts of a multipart body."""
    boundary = BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or not boundary:
        return
    for piece in body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, data = piece.partition(b"\r\n\r\n")
        yield _part(head, data.removesuffix(b"\r\n"))


def _part(head: bytes, data: bytes) -> Part:
    name, kind = NAME.search(head), TYPE.search(head)
    return Part(_text(name[1]) if name else "", _filename(head), _text(kind[1]).strip() if kind else "", data)


def _filename(head: bytes) -> str | None:
    if encoded := ENCODED_FILENAME.search(head):
        return unquote(encoded[1].decode("latin-1"))
    plain = FILENAME.search(head)
    return _text(plain[1]).replace('\\"', '"').replace("%22", '"') if plain else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def only_file(form: Iterable[Part]) -> Part:
    """The one file of an upload, or a refusal."""
    files = [part for part in form if part.name == "file" and part.filename is not None]
    if not files:
        raise refuse(400, "no_file_uploaded", "Please upload your file.")
    if len(files) > 1:
        raise refuse(400, "too_many_files", "Only one file is allowed.")
    if not files[0].type:
        raise refuse(415, "unsupported_file_type", "File type not allowed.")
    if not files[0].filename:
        raise refuse(400, "filename_not_exists_error", "The specified filename does not exist.")
    return files[0]


def taken(part: Part, user: str, *, modern: bool) -> Upload:
    """The upload as it is remembered, or a refusal."""
    name = part.filename or ""
    if "/" in name or "\\" in name:
        raise invalid("Filename contains invalid characters")
    if len(part.data) > LIMITS.get(bucket(name), OTHER_LIMIT):
        raise refuse(413, "file_too_large", "" if modern else "File size exceeded. {message}")
    stem, dot, suffix = name.rpartition(".")
    if len(name) > MAX_NAME:
        name = f"{stem[:MAX_NAME]}.{suffix}" if dot else name[:MAX_NAME]
    return Upload(name, part.type, len(part.data), user, hashlib.sha256(part.data).hexdigest())


def described(upload_id: str, upload: Upload, link: str, created: int, *, modern: bool) -> Json:
    """The answer of the upload route; `link` is signed."""
    suffix = upload.name.rpartition(".")[2] if "." in upload.name else ""
    known: Json = {
        "name": upload.name,
        "size": upload.size,
        "extension": suffix,
        "mime_type": upload.mime_type,
    }
    known |= {"created_by": upload_id, "created_at": created, "preview_url": None}
    if not modern:
        return {"id": upload_id, **known}
    known["source_url"] = link
    nothing = dict.fromkeys(("original_url", "user_id", "tenant_id", "conversation_id", "file_key"))
    return {"id": upload_id, "reference": None, **known, **nothing}


def speech(form: Iterable[Part], *, modern: bool) -> bytes:
    """The audio to transcribe, or a refusal."""
    for part in form:
        if part.name == "file" and part.filename is not None:
            return _speech(part)
    if modern:
        raise refuse(400, "no_audio_uploaded", "Please upload your audio.")
    text = "The browser (or proxy) sent a request that this server could not understand."
    raise refuse(400, "bad_request_key_error", text)


def _speech(part: Part) -> bytes:
    if part.type.lower() not in SPEECH_TYPES:
        raise refuse(415, "unsupported_audio_type", "Audio type not allowed.")
    if len(part.data) > MAX_SPEECH:
        raise refuse(413, "audio_too_large", "Audio size larger than 30 mb")
    return part.data


def bucket(name: str) -> str:
    """The type a server finds by extension."""
    suffix = PurePosixPath(name).suffix.lower().removeprefix(".")
    return next((kind for kind, suffixes in BUCKETS.items() if suffix in suffixes), "custom")


class Files:
    """Checks the file objects of one request and turns them into what the run carries."""

    def __init__(self, state: State, app: SampleApp, user: str, origin: str, *, modern: bool) -> None:
        self.state = state
        self.app = app
        self.user = user
        self.origin = origin
        self.modern = modern

    def of_message(self, given: object) -> list[Json]:
        """The message's files; apps without uploads ignore them silently."""
        if not self.app.upload_types or not isinstance(given, list):
            return []
        files = [file for item in given if (file := self.file(item, self.app.upload_types))]
        images = [file for file in files if file["type"] == "image"]
        for what, found in (("image files", images), ("files", files)):
            if len(found) > MAX_FILES:
                raise invalid(f"Number of {what} exceeds the maximum limit {MAX_FILES}")
        return files

    def of_inputs(self, given: Json) -> Json:
        """The inputs with their file objects replaced."""
        return {control.variable: self._input(control, given[control.variable]) for control in self.app.form}

    def _input(self, control: Control, value: object) -> object:
        if control.kind == "file" and isinstance(value, dict):
            return self.file(value, control.types)
        if control.kind == "file-list" and isinstance(value, list):
            return [file for item in value if (file := self.file(item, control.types))]
        return value

    def file(self, given: Json, types: tuple[str, ...]) -> Json | None:
        """One file object, or None for one that newer servers overlook."""
        method, declared = given.get("transfer_method"), given.get("type")
        if declared and declared not in {*BUCKETS, "custom"}:
            raise invalid(f"'{declared}' is not a valid FileType")
        file: Json | None = None
        if method == "local_file":
            file = self._uploaded(given)
        elif method == "remote_url":
            file = self._remote(given)
        elif not self.modern:
            raise invalid(f"No matching enum found for value '{method}'")
        if file:
            self._check_type(file, types)
        return file

    def _uploaded(self, given: Json) -> Json:
        upload_id = str(given.get("upload_file_id") or "")
        if not is_uuid(upload_id):
            raise invalid("Invalid upload file id format")
        upload = self.state.uploads.get(upload_id)
        if upload is None or (self.modern and upload.user != self.user):
            raise invalid("Invalid upload file")
        return file_dict(
            modern=self.modern, type=given.get("type") or "", method="local_file", name=upload.name,
            url=self.origin + self.state.signer.link(f"/files/{upload_id}/file-preview"), mime=upload.mime_type,
            size=upload.size, upload_id=upload_id,
        )  # fmt: skip

    def _remote(self, given: Json) -> Json | None:
        url = given.get("url")
        if not url:
            if self.modern:
                return None
            raise invalid("Invalid file url")
        if urlsplit(url).scheme not in {"http", "https"}:
            raise invalid(f"Reached maximum retries (3) for URL {url}")
        name = PurePosixPath(urlsplit(url).path).name or "file"
        return file_dict(
            modern=self.modern, type=given.get("type") or "", method="remote_url", url=url, name=name,
            mime="application/octet-stream", size=0, upload_id=None,
        )  # fmt: skip

    def _check_type(self, file: Json, types: tuple[str, ...]) -> None:
        declared = file["type"]
        if declared not in types:
            raise invalid(f"File validation failed for file: {file['filename']}")
        if self.app.mode == "workflow" and bucket(file["filename"]) not in {declared, "custom"}:
            raise invalid("Detected file type does not match the specified type. Please verify the file.")
