"""The bytes of the Service API: event frames, JSON in Dify's two spellings, replies and refusals."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

Json = dict[str, Any]

PING = b"event: ping\n\n"
_compact = msgspec.json.Encoder().encode


def frame(event: Json) -> bytes:
    """One event as streams carry it: compact JSON with raw UTF-8."""
    return b"data: %b\n\n" % _compact(event)


def spaced(body: object, end: str = "\n") -> bytes:
    """JSON as plain answers carry it: spaced and ASCII only; most routes end it with a newline."""
    return (json.dumps(body) + end).encode()


def new_id() -> str:
    """A fresh UUID."""
    return str(uuid.uuid4())


def is_uuid(text: str) -> bool:
    """Whether Dify would take `text` for a UUID."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP answer. `bare` ones come from a proxy in front of Dify and lack Dify's headers."""

    body: bytes = b""
    status: int = 200
    type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    bare: bool = False


class Refused(Exception):
    """Ends the handling of a request with `reply`."""

    def __init__(self, reply: Reply, message: str = "") -> None:
        super().__init__(reply.status, message)
        self.reply = reply
        self.message = message


def answer(body: object, status: int = 200, end: str = "\n") -> Reply:
    """A JSON answer."""
    return Reply(spaced(body, end), status)


def refuse(status: int, code: str, message: str) -> Refused:
    """Dify's error envelope."""
    return Refused(answer({"code": code, "message": message, "status": status}, status), message)


def invalid(message: str) -> Refused:
    """The envelope that most refusals have."""
    return refuse(400, "invalid_param", message)


def not_found(message: str, path: str, *likewise: str) -> Refused:
    """A 404 with the router's advice, which names the path itself first when it has no variable part."""
    known = " or ".join(likewise)
    return refuse(404, "not_found", f"{message} You have requested this URI [{path}] but did you mean {known} ?")


def page(status: int, title: str) -> Reply:
    """An error page of the nginx in front of Dify."""
    html = (
        f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{status} {title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Reply(html.encode(), status, "text/html", bare=True)


UNKNOWN_ROUTE = Reply(
    b"<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n"
    b"<p>The requested URL was not found on the server. If you entered the URL manually please check your"
    b" spelling and try again.</p>\n",
    404,
    "text/html; charset=utf-8",
)
FRONT_END = Reply(
    b'<!DOCTYPE html><html lang="en-US"><head><title>Dify</title></head><body><div id="__next"></div></body></html>',
    200,
    "text/html; charset=utf-8",
    bare=True,
)
SERVER_CRASH = Reply(
    b"<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n"
    b"    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n",
    500,
    "text/html",
    bare=True,
)
UNKNOWN_ERROR = answer({"message": "Internal Server Error", "code": "unknown", "status": 500}, 500)
INTERNAL_ERROR = refuse(
    500,
    "internal_server_error",
    "The server encountered an internal error and was unable to complete your request. Either the server is"
    " overloaded or there is an error in the application.",
).reply
