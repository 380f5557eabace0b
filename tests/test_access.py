"""Around every request: its id, and its line in the log."""

import asyncio
import re
from types import SimpleNamespace
from typing import Any

import pytest
from litestar.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from opendify.access import Access, request_id, server_send
from opendify.auth import Caller
from opendify.dialogue import Finished, Usage
from opendify.errors import BrokenUpstream, OpenDifyError

OURS = re.compile(r"req_[0-9a-f]{32}")


def scope_of(*headers: tuple[bytes, bytes], path: str = "/v1/chat/completions") -> Any:
    return {"type": "http", "method": "POST", "path": path, "query_string": b"key=sk-in-url", "headers": list(headers)}


@pytest.mark.parametrize(
    "given", [b"abc", b"req_123", b"a.b:c/d+e=f@g-h_i", b"0" * 128, b"5a1f7f3e-5d3a-4d57-9d5c-0d6ad4b8c6f4"]
)
def test_a_sane_id_of_the_client_is_kept(given: bytes) -> None:
    assert request_id(scope_of((b"accept", b"*/*"), (b"x-request-id", given))) == given.decode()


@pytest.mark.parametrize(
    "given",
    [b"", b"a b", b"a\r\nset-cookie: x", b"a\x00", b"a\n", b"\x1b[31m", b"0" * 129, "ü".encode(), b"\xff", b"<a>"],
)  # fmt: skip
def test_any_other_is_replaced(given: bytes) -> None:
    assert OURS.fullmatch(request_id(scope_of((b"x-request-id", given))))


def test_ours_are_unique() -> None:
    assert request_id(scope_of()) != request_id(scope_of())


async def serve(scope: Any, *, status: int = 200, state: Any = (), fails: bool = False) -> tuple[list[Any], list[Any]]:
    """Serve one request that an application answers; what was sent, and what was logged at any level."""
    sent: list[Any] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"].update(dict(state))
        if fails:
            raise RuntimeError("sk-secret")
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"secret text", "more_body": False})

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    with capture_logs() as lines:
        if fails:
            with pytest.raises(RuntimeError):
                await Access().observe(application, scope, receive, send)
        else:
            await Access().observe(application, scope, receive, send)
    return sent, [dict(line) for line in lines]


async def test_a_response_carries_the_id_that_the_log_has() -> None:
    sent, (line,) = await serve(scope_of((b"x-request-id", b"mine-1")), status=404)
    assert sent[0]["headers"] == [(b"content-type", b"text/plain"), (b"x-request-id", b"mine-1")]
    assert sent[1] == {"type": "http.response.body", "body": b"secret text", "more_body": False}
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request",
        "log_level": "info",
        "id": "mine-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 404,
    }


async def test_a_body_can_go_past_what_is_wrapped_around_the_start() -> None:
    wrapped: list[Message] = []
    scope = scope_of()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        async def wrapper(message: Message) -> None:
            wrapped.append(message)
            await send(message)

        await wrapper({"type": "http.response.start", "status": 200, "headers": []})
        own = server_send(scope, wrapper)
        await own({"type": "http.response.body", "body": b"text", "more_body": False})

    sent: list[Message] = []

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    with capture_logs() as lines:
        await Access().observe(application, scope, receive, send)
    assert [message["type"] for message in wrapped] == ["http.response.start"]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert lines[0]["status"] == 200
    assert server_send(scope, receive) is receive  # type: ignore[comparison-overlap, arg-type]


async def test_a_request_without_a_response_is_logged_too() -> None:
    sent, (line,) = await serve(scope_of(), fails=True)
    assert not sent
    assert line["status"] == 0
    assert OURS.fullmatch(line["id"])
    assert "sk-secret" not in repr(line)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_are_quiet(path: str) -> None:
    _, (line,) = await serve(scope_of(path=path))
    assert line["log_level"] == "debug"


async def test_the_key_is_logged_by_its_name() -> None:
    _, (line,) = await serve(scope_of(), state={"caller": Caller("team")})
    assert line["key"] == "team"
    assert "model" not in line


async def test_nothing_secret_is_logged() -> None:
    headers = ((b"authorization", b"Bearer sk-secret"), (b"cookie", b"session=secret"), (b"x-request-id", b"a"))
    _, lines = await serve(scope_of(*headers), state={"caller": Caller("team")})
    assert "secret" not in repr(lines)
    assert "sk-" not in repr(lines)


# -- answers


def answer(outcome: OpenDifyError | None = None, *, over: bool = True, **about: Any) -> Any:
    """As much of an Answer as the log looks at."""
    future: asyncio.Future[OpenDifyError | None] = asyncio.get_running_loop().create_future()
    if over:
        future.set_result(outcome)
    app = SimpleNamespace(name="my flow", mode="workflow")
    about = {"app": app, "finished": None, "first_text_at": None, "cut": None} | about
    return SimpleNamespace(outcome=future, task=None, user="ann", ids="secret", **about)


async def line_of(told: Any) -> dict[str, Any]:
    _, (line,) = await serve(scope_of(), state={"caller": Caller("team"), "answer": told})
    assert "secret" not in repr(line)
    assert "ann" not in repr(line)
    names = ("model", "mode", "first_token_seconds", "prompt_tokens", "completion_tokens", "finish")
    assert line.keys() >= set(names)
    return {name: line[name] for name in names}


async def test_a_whole_answer() -> None:
    first = asyncio.get_running_loop().time() + 60
    line = await line_of(answer(finished=Finished("length", Usage(3, 4, 7)), first_text_at=first))
    assert 59 < line.pop("first_token_seconds") <= 61
    assert line == {
        "model": "my flow",
        "mode": "workflow",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "finish": "length",
    }


@pytest.mark.parametrize(
    ("outcome", "over", "finish"),
    [(None, True, "stop"), (BrokenUpstream("secret"), True, "upstream_error"), (None, False, "client_gone")],
)
async def test_how_an_answer_can_end(outcome: OpenDifyError | None, over: bool, finish: str) -> None:
    line = await line_of(answer(outcome, over=over))
    assert line == {
        "model": "my flow",
        "mode": "workflow",
        "first_token_seconds": None,
        "prompt_tokens": None,
        "completion_tokens": None,
        "finish": finish,
    }


async def test_an_answer_that_found_no_app() -> None:
    line = await line_of(answer(app=None))
    assert (line["model"], line["mode"]) == (None, None)
