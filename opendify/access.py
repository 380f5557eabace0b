"""Around every request: its id, and one line in the log when it is over."""

import re
import secrets
import time
from typing import Any, Final

import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from opendify.errors import ClientGone
from opendify.exchange import Answer
from opendify.file_links import ROUTE

SANE_ID: Final = re.compile(rb"[\w.:/+=@-]{1,128}", re.ASCII)
QUIET: Final = {"/healthz", "/readyz"}
_SEND: Final = "server_send"


def request_id(scope: Scope) -> str:
    """The client's id if it is sane, else one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if SANE_ID.fullmatch(value) else _new_id()
    return _new_id()


def _new_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def server_send(scope: Scope, send: Send) -> Send:
    """The server's own `send`, for the body of a response whose start went through `send`.

    What is wrapped around it looks at the start only, and would be called for each event of a stream.
    """
    own: Send = scope["state"].get(_SEND, send)
    return own


class Access:
    """Sees requests through, each with an id and a line. The log is that of the moment when this is made."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("opendify.access").bind()

    async def observe(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request with an `x-request-id` on its response, and log it once."""
        began, name = time.monotonic(), request_id(scope)
        state = scope.setdefault("state", {})
        state[_SEND] = send
        header = (b"x-request-id", name.encode())
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await app(scope, receive, send_with_id)
        finally:
            del state[_SEND]  # it leads back to the scope: a circle, which only the garbage collector would find
            write = self._log.debug if scope["path"] in QUIET else self._log.info
            write("request", id=name, **_line(scope, state, status, began))


def loggable(path: str) -> str:
    """A path without what would open a file for whoever reads the log."""
    return f"{ROUTE}/..." if path.startswith(ROUTE) else path


def _line(scope: Scope, state: dict[str, Any], status: int, began: float) -> dict[str, Any]:
    caller, answer = state.get("caller"), state.get("answer")
    line = {"method": scope.get("method"), "path": loggable(scope["path"]), "status": status}
    line["seconds"] = round(time.monotonic() - began, 3)
    if caller:
        line["key"] = caller.name
    return line | _about(answer, began) if answer else line


def _about(answer: Answer, began: float) -> dict[str, Any]:
    """What the answer was; no text of it, no user, no id that opens anything."""
    outcome = answer.outcome.result() if answer.outcome.done() else ClientGone("")
    usage = answer.finished.usage if answer.finished else None
    first = answer.first_text_at
    about = {"task": str(answer.task)} if answer.task else {}
    return about | {
        "model": answer.app.name if answer.app else None,
        "mode": answer.app.mode if answer.app else None,
        "first_token_seconds": None if first is None else round(first - began, 3),
        "prompt_tokens": usage.prompt_tokens if usage else None,
        "completion_tokens": usage.completion_tokens if usage else None,
        "finish": outcome.code if outcome else answer.cut or (answer.finished.reason if answer.finished else "stop"),
    }
