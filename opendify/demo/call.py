"""One request to the stand-in: what it says and who it comes from."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from opendify.demo import checks, uploads
from opendify.demo.apps import SampleApp
from opendify.demo.stream import Receive, Scope
from opendify.demo.wire import UNKNOWN_ERROR, Json, Refused, invalid, page, refuse

MAX_BODY = 100 * uploads.MIB
MAX_RECORDED = uploads.MIB // 4
UNREADABLE = "The browser (or proxy) sent a request that this server could not understand."
NOT_JSON = "Did not attempt to load JSON data because the request Content-Type was not 'application/json'."


class ClientLeft(Exception):
    """The client left before its request was complete."""


@dataclass(slots=True)
class Call:
    """A request with its whole body."""

    method: str
    path: str
    headers: dict[str, str]
    params: dict[str, str]
    raw: bytes
    scheme: str

    @property
    def key(self) -> str:
        """The bearer token, or nothing."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    @property
    def content_type(self) -> str:
        """The content type with its parameters."""
        return self.headers.get("content-type", "")

    @property
    def origin(self) -> str:
        """How the client reached this server, for absolute URLs."""
        return f"{self.scheme}://{self.headers.get('host', 'localhost')}"

    def json(self) -> Json:
        """The JSON object of the body, or a refusal."""
        if self.content_type.partition(";")[0].strip().lower() != "application/json":
            raise refuse(415, "unsupported_media_type", NOT_JSON)
        try:
            body = msgspec.json.decode(self.raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise refuse(400, "bad_request", UNREADABLE) from None
        if not isinstance(body, dict):
            raise Refused(UNKNOWN_ERROR)
        return body

    def parts(self) -> list[uploads.Part]:
        """The parts of a multipart body."""
        return list(uploads.parts(self.content_type, self.raw))

    def recorded_body(self) -> Any:
        """The body for the record: JSON, or the fields of a form with file names for files."""
        if len(self.raw) > MAX_RECORDED:
            return {"omitted_bytes": len(self.raw)}
        if fields := self.parts():
            plain = {part.name: part.data.decode("utf-8", "replace") for part in fields if part.filename is None}
            return plain | {part.name: part.filename for part in fields if part.filename is not None}
        try:
            return msgspec.json.decode(self.raw) if self.raw else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self.raw.decode("utf-8", "replace")


@dataclass(slots=True)
class AppCall:
    """A request with the app that its key opens."""

    call: Call
    app: SampleApp
    modern: bool

    def body_and_user(self) -> tuple[Json, str]:
        """The JSON body and the user it must name."""
        body = self.call.json()
        return body, required_user(body.get("user"))

    def body_of(self, kind: str) -> tuple[Json, str]:
        """The same for a route of one kind of app: chat, completion or workflow."""
        body, user = self.body_and_user()
        checks.right_mode(self.app, kind)
        return body, user


def required_user(value: object) -> str:
    """The end user, who must be named; names longer than the column break the server."""
    user = "" if value is None else str(value)
    if not user:
        raise invalid("Arg user must be provided.")
    if len(user) > checks.MAX_USER:
        raise Refused(UNKNOWN_ERROR)
    return user


async def read(scope: Scope, receive: Receive) -> Call:
    """Read a request; a body above the proxy's limit is refused."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    raw = await _body(receive)
    params = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
    return Call(scope["method"], scope["path"], headers, params, raw, scope.get("scheme", "http"))


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            raise Refused(page(413, "Request Entity Too Large"))
    return bytes(body)
