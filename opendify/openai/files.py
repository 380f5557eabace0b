"""POST /v1/files, GET and DELETE /v1/files/{id}: files that are sent ahead of the chats that use them."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from litestar import Controller, Request, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIFormat, OpenAPIMediaType, OpenAPIType, Operation, RequestBody, Schema
from litestar.params import FromPath, FromQuery
from msgspec import Struct

from opendify.auth import Caller
from opendify.errors import InvalidRequest
from opendify.exchange import Exchange
from opendify.kept_files import KeptFile, new_id
from opendify.openai.forms import FILE, Form, read_form
from opendify.uploads import NewFile, app_for

TEXTS: Final = {
    "purpose": "Any text; it comes back as it is.",
    "model": "The model that the file is for, else the header X-Model. Without one the file waits for its first chat.",
    "user": "The end user, as in the chats that refer to the file.",
}
MODEL_HEADER: Final = "x-model"
PURPOSE: Final = "user_data"
NAME_CHARS: Final = 255
TEXT_CHARS: Final = 256


class FileObject(Struct):
    """A file; times are epoch seconds. Each chat that uses the file puts `expires_at` off."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed", "error"] = "processed"
    status_details: str | None = None
    object: Literal["file"] = "file"


class DeletedFile(Struct):
    """The answer to a deletion."""

    id: str
    deleted: bool = True
    object: Literal["file"] = "file"


@dataclass
class Described(Operation):
    """The upload in the OpenAPI document, since its route decodes the form itself."""

    def __post_init__(self) -> None:
        text = {name: Schema(type=OpenAPIType.STRING, description=meaning) for name, meaning in TEXTS.items()}
        file = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description="The file, with its name.")
        form = Schema(type=OpenAPIType.OBJECT, required=[FILE], properties={FILE: file, **text})
        self.request_body = RequestBody(content={"multipart/form-data": OpenAPIMediaType(schema=form)}, required=True)


class FilesController(Controller):
    """Files by their ids. They belong to the key and the end user that sent them: to others they do not exist."""

    path = "/v1/files"
    tags = ("Files",)

    @post(summary="Send a file ahead of the chats that use it", status_code=200, operation_class=Described)
    async def create(self, request: Request[Any, Any, Any], exchange: NamedDependency[Exchange]) -> FileObject:
        """Take the file to the app of its model; without a model it waits here for the first chat that uses it."""
        form = await read_form(request, TEXTS)
        file, user = _new_file(form), form.texts.get("user")
        caller: Caller = request.state.caller
        app = await app_for(exchange.catalog, caller, _short(form.texts.get("model") or _named(request), "model"))
        file_id = new_id()
        key = exchange.uploads.kept.key(caller, user, file_id)
        record = await exchange.uploads.keep(file, key, app, exchange.users.of(caller, user, app) if app else "")
        return _told(file_id, record)

    @get("/{file_id:str}", summary="Retrieve what is known of a file")
    async def retrieve(
        self,
        file_id: FromPath[str],
        request: Request[Any, Any, Any],
        exchange: NamedDependency[Exchange],
        user: FromQuery[str | None] = None,
    ) -> FileObject:
        """Its name, size and time; Dify keeps its content to itself."""
        kept = exchange.uploads.kept
        return _told(file_id, await kept.get(kept.key(request.state.caller, user, file_id)))

    @delete("/{file_id:str}", summary="Forget a file", status_code=200)
    async def forget(
        self,
        file_id: FromPath[str],
        request: Request[Any, Any, Any],
        exchange: NamedDependency[Exchange],
        user: FromQuery[str | None] = None,
    ) -> DeletedFile:
        """No chat can refer to it any more. What was sent to Dify stays there: it has no way to delete a file."""
        kept = exchange.uploads.kept
        await kept.delete(kept.key(request.state.caller, user, file_id))
        return DeletedFile(file_id)


def _new_file(form: Form) -> NewFile:
    """Raises InvalidRequest naming the field."""
    name = form.file.name
    if len(name) > NAME_CHARS:
        raise InvalidRequest(f"A file's name has at most {NAME_CHARS} characters.", param=FILE)
    return NewFile(name, form.file.mime_type, form.file.data, _short(form.texts.get("purpose"), "purpose") or PURPOSE)


def _named(request: Request[Any, Any, Any]) -> str | None:
    """The model that a header names, in whatever script: HTTP calls headers Latin-1, clients send UTF-8."""
    return request.headers.get(MODEL_HEADER, "").encode("latin-1").decode("utf-8", "replace").strip()


def _short(text: str | None, field: str) -> str | None:
    if text and len(text) > TEXT_CHARS:
        raise InvalidRequest(f"This takes up to {TEXT_CHARS} characters.", param=field)
    return text


def _told(file_id: str, record: KeptFile) -> FileObject:
    return FileObject(
        id=file_id,
        bytes=record.size,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
        status="error" if record.is_lost else "processed",
        status_details="Dify does not have it any more." if record.is_lost else None,
    )
