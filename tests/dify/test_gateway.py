"""HTTP to Dify: what is sent, and what every kind of answer becomes."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from email import message_from_bytes
from email.message import Message
from typing import Any, TypeAlias

import httpx
import pytest
import respx
from app_samples import BASE, KEY, make_app

from opendify.dify import gateway as module
from opendify.dify import replies, transport
from opendify.dify.apps import Access
from opendify.dify.files import Upload
from opendify.dify.gateway import Gateway
from opendify.dify.lines import Reply, Request, note_reuse
from opendify.dify.over_httpx import HttpxLine
from opendify.dify.transport import Wire
from opendify.errors import (
    BrokenUpstream,
    Busy,
    OpenDifyError,
    Refused,
    Unreachable,
    UpstreamTimeout,
)

ACCESS = Access(BASE, KEY)
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
HTML = {"content-type": "text/html; charset=utf-8"}
FRAME = b'data: {"event":"message","answer":"hi"}\n\n'
CHAT = "/chat-messages"


class Stream(httpx.AsyncByteStream):
    """A streamed body that knows whether it was closed. An exception among the parts is raised in its place."""

    def __init__(self, *parts: bytes | Exception, hangs: bool = False) -> None:
        self.parts = parts
        self.hangs = hangs
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            yield part
        if self.hangs:
            await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.closed = True


class Mocked(httpx.AsyncBaseTransport):
    """A router's answers as a network brings them: unread, and over a new connection."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.router = router

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        await request.extensions["trace"]("connection.connect_tcp.started", {})
        answer = await self.router.async_handler(request)
        stream = answer.stream
        if isinstance(stream, httpx.ByteStream):
            stream = Stream(*stream)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)


def refused(http_status: int, **body: Any) -> httpx.Response:
    return httpx.Response(http_status, json=body)


def events(*parts: bytes | Exception, **more: Any) -> tuple[httpx.Response, Stream]:
    stream = Stream(*(parts or (FRAME,)), **more)
    return httpx.Response(200, headers=EVENTS, stream=stream), stream


@pytest.fixture
def dify() -> respx.MockRouter:
    """What Dify answers over pooled connections."""
    return respx.MockRouter(base_url=BASE, assert_all_called=False)


@pytest.fixture
def fresh() -> respx.MockRouter:
    """What it answers over fresh ones."""
    return respx.MockRouter(base_url=BASE, assert_all_called=False)


Make: TypeAlias = Callable[..., Gateway]


@pytest.fixture
async def make(dify: respx.MockRouter, fresh: respx.MockRouter, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """A gateway without sockets and without pauses."""
    gateways: list[Gateway] = []

    def connect(base: str, **options: Any) -> Wire:
        return Wire(
            HttpxLine(lambda: Mocked(dify), keep_alive_seconds=60.0),
            HttpxLine(lambda: Mocked(fresh), keep_alive_seconds=60.0),
        )

    def gateway(**options: Any) -> Gateway:
        gateways.append(Gateway([BASE], **({"timeout": 5.0} | options)))
        return gateways[-1]

    monkeypatch.setattr(transport, "connect", connect)
    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.0)
    yield gateway
    for made in gateways:
        await made.close()


@pytest.fixture
def gateway(make: Make) -> Gateway:
    return make()


async def run(gateway: Gateway, body: bytes = b"{}") -> list[bytes]:
    """The whole of a run."""
    async with gateway.run(ACCESS, CHAT, body) as stream:
        return [data async for data in stream]


def last(router: respx.MockRouter) -> httpx.Request:
    request = router.calls.last.request
    assert isinstance(request, httpx.Request)
    return request


# -- what is sent


async def test_a_plain_request(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get("/meta").respond(json={"tool_icons": {}})
    assert await gateway.call(ACCESS, "GET", "/meta") == b'{"tool_icons":{}}'
    request = last(dify)
    assert str(request.url) == f"{BASE}/meta"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert "content-type" not in request.headers
    assert request.content == b""


async def test_a_request_with_a_body(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post("/x").respond(json={})
    await gateway.call(ACCESS, "POST", "/x", b'{"user":"ann"}')
    assert last(dify).headers["content-type"] == "application/json"
    assert last(dify).content == b'{"user":"ann"}'


async def test_a_run(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(CHAT).mock(return_value=events(b"event: ping\n\n", FRAME[:7], FRAME[7:])[0])
    assert await run(gateway, b'{"query":"hi"}') == [b"event: ping\n\n", FRAME[:7], FRAME[7:]]
    request = last(dify)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.content == b'{"query":"hi"}'


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("chat", "/chat-messages/t1/stop"),
        ("completion", "/completion-messages/t1/stop"),
        ("workflow", "/workflows/tasks/t1/stop"),
    ],
)
async def test_a_stop(mode: Any, path: str, gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(path).respond(json={"result": "success"})
    await gateway.stop(make_app(mode), "t1", "team:ann")
    assert json.loads(last(dify).content) == {"user": "team:ann"}
    assert last(dify).headers["authorization"] == f"Bearer {KEY}"


async def test_ids_are_quoted_in_paths(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(url__startswith=BASE).respond(json={})
    await gateway.stop(make_app(), "a/../b?c#d e%2F", "ann")
    assert last(dify).url.raw_path == b"/v1/chat-messages/a%2F..%2Fb%3Fc%23d%20e%252F/stop"


def part_of(request: httpx.Request) -> dict[str, Message]:
    """The parts of a multipart request by name."""
    head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
    whole = message_from_bytes(head + request.content)
    return {
        str(part.get_param("name", header="content-disposition")): part for part in whole.walk() if part is not whole
    }


async def test_an_upload(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post("/files/upload").respond(201, json={"id": "up-1", "name": "a.png", "size": 3})
    assert await gateway.upload(make_app(), "team:ann", Upload("a b.png", "image/png", b"\x89P\r\nG")) == "up-1"
    request = last(dify)
    assert request.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    parts = part_of(request)
    assert parts.keys() == {"user", "file"}
    assert parts["user"].get_payload() == "team:ann"
    assert parts["file"].get_filename() == "a b.png"
    assert parts["file"].get_content_type() == "image/png"
    assert b"\r\n\r\n\x89P\r\nG\r\n--" in request.content


async def test_a_file_name_cannot_break_out_of_its_part(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post("/files/upload").respond(201, json={"id": "up-1"})
    await gateway.upload(make_app(), "ann", Upload('a"\r\nx: y.txt', "text/plain", b"hi"))
    assert part_of(last(dify)).keys() == {"user", "file"}
    assert b"\r\nx: y" not in last(dify).content


@pytest.mark.parametrize("more", [-1, 0, 1, module.PIECE_BYTES * 2])
async def test_a_large_body_arrives_whole_and_again(
    more: int, gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    body = bytes(range(256)) * (module.PIECE_BYTES // 256 + 1)
    body = (body * 3)[: module.PIECE_BYTES + more]
    dify.post("/x").mock(side_effect=stale(httpx.ReadError("reset")))
    fresh.post("/x").respond(json={})
    await gateway.call(ACCESS, "POST", "/x", body)
    for router in (dify, fresh):
        assert last(router).content == body
        assert last(router).headers["content-length"] == str(len(body))
        assert "transfer-encoding" not in last(router).headers


# -- what an app is


async def test_a_description(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get("/info").respond(json={"name": "Helper", "mode": "advanced-chat", "tags": []})
    dify.get("/parameters").respond(json={"user_input_form": [{"paragraph": {"variable": "v"}}]})
    description = await gateway.describe(ACCESS)
    assert (description.name, description.mode) == ("Helper", "advanced-chat")
    assert description.parameters.user_input_form
    assert description.parameters.user_input_form[0]["paragraph"].variable == "v"


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat", "completion", "workflow", "agent"])
async def test_a_mode_that_is_told_is_believed(mode: str, gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get("/info").respond(json={"name": "Helper", "mode": mode})
    dify.get("/parameters").respond(json={})
    assert (await gateway.describe(ACCESS)).mode == mode
    assert len(dify.calls) == 2


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (httpx.Response(200, json={"name": "Old", "description": ""}), "Old"),
        (httpx.Response(200, json={"name": "New", "mode": "mode-of-tomorrow"}), "New"),
        (httpx.Response(404, headers=HTML, text="<title>404 Not Found</title>"), ""),
    ],
)
async def test_a_mode_that_is_not_told_is_inferred(
    info: httpx.Response, name: str, gateway: Gateway, dify: respx.MockRouter
) -> None:
    dify.get("/info").mock(return_value=info)
    dify.get("/parameters").respond(json={})
    dify.get("/conversations").mock(return_value=refused(400, code="not_chat_app", message="", status=400))
    dify.post("/workflows/tasks/none/stop").respond(json={"result": "success"})
    description = await gateway.describe(ACCESS)
    assert (description.name, description.mode) == (name, "workflow")


@pytest.mark.parametrize(
    ("path", "answer", "error"),
    [
        ("/info", httpx.Response(200, headers=HTML, text="<html>Dify</html>"), BrokenUpstream),
        ("/info", httpx.Response(502, headers=HTML, text="<html>"), BrokenUpstream),
        ("/info", httpx.Response(200, json=[1]), BrokenUpstream),
        ("/info", refused(401, code="unauthorized", message="no", status=401), Refused),
        ("/parameters", httpx.Response(404, headers=HTML, text="<html>"), BrokenUpstream),
        ("/parameters", httpx.Response(200, json={"user_input_form": 5}), BrokenUpstream),
        ("/parameters", refused(400, code="app_unavailable", message="no", status=400), Refused),
    ],
)
async def test_a_description_that_cannot_be_had(
    path: str, answer: httpx.Response, error: type[OpenDifyError], gateway: Gateway, dify: respx.MockRouter
) -> None:
    dify.get("/info").respond(json={"name": "Helper", "mode": "chat"})
    dify.get("/parameters").respond(json={})
    dify.get(path).mock(return_value=answer)
    with pytest.raises(error):
        await gateway.describe(ACCESS)


async def test_whether_something_listens_is_asked_now_and_then(
    gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []
    answers = iter((True, False))

    async def listens(base: str, seconds: float) -> bool:
        asked.append((base, seconds))
        return next(answers)

    monkeypatch.setattr(transport, "listens", listens)
    assert [await gateway.reaches(BASE) for _ in range(3)] == [True, True, True]
    assert asked == [(BASE, 5.0)]
    gateway._reached.clear()
    assert not await gateway.reaches(BASE)
    assert not await gateway.reaches(BASE)
    assert len(asked) == 2
    assert not dify.calls
    assert not fresh.calls


async def hang(request: httpx.Request) -> httpx.Response:
    await asyncio.Event().wait()
    raise AssertionError


# -- what answers become


REFUSALS = [
    (refused(400, code="invalid_param", message="no query", status=400), (400, "invalid_param"), "no query"),
    (refused(400, code="not_chat_app", message="x"), (400, "not_chat_app"), "x"),
    (refused(404, code="not_found", message="Gone."), (404, "not_found"), "Gone."),
    (refused(401, code="unauthorized", message="x", status=401), (502, "upstream_auth_failed"), "refused the key"),
    (refused(413, code="file_too_large", message=""), (413, "file_too_large"), "no reason"),
    (refused(429, code="rate_limit_error", message="quota"), (429, "insufficient_quota"), "quota"),
    (refused(400, code="completion_request_error", message="x"), (502, "completion_request_error"), "x"),
    (refused(400, message="Arg user must be provided."), (400, "unknown"), "Arg user must be provided."),
    (refused(400, errors={"conversation_id": "abc is not a valid uuid."}, message="Input payload validation failed"),
     (400, "invalid_param"), "conversation_id: abc is not a valid uuid."),
    (refused(400, errors={"a": "one", "b": "two"}), (400, "invalid_param"), "a: one; b: two"),
    (refused(400), (400, "unknown"), "no reason"),
    (refused(400, code=None, message=None, params="query"), (400, "unknown"), "no reason"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["call", "run"])
@pytest.mark.parametrize(("answer", "expected", "said"), REFUSALS)
async def test_difys_own_errors(
    answer: httpx.Response, expected: tuple[int, str], said: str, method: str, gateway: Gateway, dify: respx.MockRouter
) -> None:
    route = dify.post(CHAT).mock(return_value=answer)
    with pytest.raises(Refused) as caught:
        await (run(gateway) if method == "run" else gateway.call(ACCESS, "POST", CHAT, b"{}"))
    assert (caught.value.status, caught.value.code) == expected
    assert said in caught.value.message
    assert route.call_count == 1


@pytest.mark.parametrize("method", ["call", "run"])
@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (200, HTML, "<html>Dify</html>", "status 200 and text/html instead of"),
        (404, HTML, "<title>404</title>", "status 404 and text/html"),
        (200, {}, "", "status 200 and no content type"),
        (200, {"content-type": "text/plain"}, "hi", "status 200 and text/plain"),
        (500, {"content-type": "application/json"}, '{"code":"internal_server_error"}', "status 500"),
        (524, HTML, "<html>timeout</html>", "status 524"),
        (400, {"content-type": "application/json"}, "[]", "another form than expected"),
        (400, {"content-type": "application/json"}, "{", "another form than expected"),
        (301, {"location": "https://other/v1"}, "", "DIFY_API_BASE has to name the final one"),
        (308, {"location": "/v1/", "content-type": "application/json"}, "{}", "DIFY_API_BASE has to name the final"),
    ],
)  # fmt: skip
async def test_what_is_not_difys_protocol(
    status: int,
    headers: dict[str, str],
    body: str,
    said: str,
    method: str,
    gateway: Gateway,
    dify: respx.MockRouter,
) -> None:
    route = dify.post(CHAT).respond(status, headers=headers, content=body)
    with pytest.raises(BrokenUpstream, match=said) as caught:
        await (run(gateway) if method == "run" else gateway.call(ACCESS, "POST", CHAT, b"{}"))
    error = caught.value
    assert (error.status, error.code, error.should_retry) == (502, "upstream_error", False)
    assert "<" not in error.message
    assert route.call_count == 1


@pytest.mark.parametrize(("method", "headers"), [("call", EVENTS), ("run", {"content-type": "application/json"})])
async def test_the_other_kind_of_success(
    method: str, headers: dict[str, str], gateway: Gateway, dify: respx.MockRouter
) -> None:
    dify.post(CHAT).respond(200, headers=headers, content=b"{}")
    with pytest.raises(BrokenUpstream, match="status 200 and"):
        await (run(gateway) if method == "run" else gateway.call(ACCESS, "POST", CHAT, b"{}"))


@pytest.mark.parametrize(
    "body", [b'{"secret": "\xff"}', b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"secret', b'{"id": 5}'], ids=range(4)
)
async def test_an_answer_that_cannot_be_read(body: bytes, gateway: Gateway, dify: respx.MockRouter) -> None:
    headers = {"content-type": "application/json"}
    dify.post("/files/upload").respond(201, headers=headers, content=body)
    with pytest.raises(BrokenUpstream, match="another form than expected") as caught:
        await gateway.upload(make_app(), "ann", Upload("a", "text/plain", b"x"))
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(("status", "limit"), [(400, replies.ERROR_BODY_BYTES), (200, replies.ANSWER_BYTES)])
async def test_bodies_are_bounded(status: int, limit: int, gateway: Gateway, dify: respx.MockRouter) -> None:
    half = b" " * (limit // 2)
    fits, too_long = Stream(b"{}", half, half[2:]), Stream(b"{}", half, half, half, half)
    route = dify.get("/x")
    headers = {"content-type": "application/json"}
    route.mock(side_effect=[httpx.Response(status, headers=headers, stream=stream) for stream in (fits, too_long)])
    if status == 200:
        assert len(await gateway.call(ACCESS, "GET", "/x")) == limit
    else:
        with pytest.raises(Refused):
            await gateway.call(ACCESS, "GET", "/x")
    with pytest.raises(BrokenUpstream, match=f"larger than {limit} bytes"):
        await gateway.call(ACCESS, "GET", "/x")
    assert fits.closed
    assert too_long.closed


async def test_no_answer_in_time(make: Make, dify: respx.MockRouter) -> None:
    dify.get("/x").mock(side_effect=hang)
    with pytest.raises(UpstreamTimeout, match=r"within 0.02 seconds") as caught:
        await make(timeout=0.02).call(ACCESS, "GET", "/x")
    assert (caught.value.status, caught.value.should_retry) == (504, False)


async def test_a_body_that_does_not_end_in_time(make: Make, dify: respx.MockRouter) -> None:
    stream = Stream(b"{", hangs=True)
    headers = {"content-type": "application/json"}
    dify.get("/x").mock(return_value=httpx.Response(200, headers=headers, stream=stream))
    with pytest.raises(UpstreamTimeout):
        await make(timeout=0.02).call(ACCESS, "GET", "/x")
    assert stream.closed


async def test_a_big_upload_gets_more_time(make: Make, dify: respx.MockRouter) -> None:
    async def late(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.05)
        return httpx.Response(201, json={"id": "up-1"})

    dify.post("/files/upload").mock(side_effect=late)
    gateway = make(timeout=0.01)
    assert await gateway.upload(make_app(), "ann", Upload("a", "text/plain", b" " * 1024 * 1024)) == "up-1"
    with pytest.raises(UpstreamTimeout):
        await gateway.upload(make_app(), "ann", Upload("a", "text/plain", b" "))


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (refused(413, code="file_too_large", message="big"), 413, "file_too_large"),
        (refused(415, code="unsupported_file_type", message="odd"), 400, "unsupported_file_type"),
        (httpx.Response(413, headers=HTML, text="<html>"), 413, "file_too_large"),
        (httpx.Response(201, json={"name": "a"}), 502, "upstream_error"),
    ],
)
async def test_an_upload_that_is_refused(
    answer: httpx.Response, status: int, code: str, gateway: Gateway, dify: respx.MockRouter
) -> None:
    dify.post("/files/upload").mock(return_value=answer)
    with pytest.raises(OpenDifyError) as caught:
        await gateway.upload(make_app(), "ann", Upload("a", "text/plain", b"x"))
    assert (caught.value.status, caught.value.code) == (status, code)


# -- sending again


LIMITED = refused(429, code="too_many_requests", message="Too many requests")
ALSO_LIMITED = refused(400, code="invalid_param", message="Too many requests. Please try again later.")
NO_CONNECTION = httpx.ConnectError("refused")


def page(status: int) -> httpx.Response:
    return httpx.Response(status, headers=HTML, text="<html>")


@pytest.mark.parametrize(
    "trouble",
    [
        [NO_CONNECTION],
        [NO_CONNECTION, NO_CONNECTION],
        [httpx.ConnectTimeout("slow")],
        [LIMITED],
        [ALSO_LIMITED, LIMITED],
        [page(502)],
        [page(503), page(504)],
        [NO_CONNECTION, page(503)],
    ],
)
async def test_a_run_is_sent_again_where_none_can_have_started(
    trouble: list[httpx.Response | Exception], gateway: Gateway, dify: respx.MockRouter
) -> None:
    route = dify.post(CHAT).mock(side_effect=[*trouble, events()[0]])
    assert await run(gateway, b'{"query":"hi"}') == [FRAME]
    assert route.call_count == len(trouble) + 1
    assert {call.request.content for call in route.calls} == {b'{"query":"hi"}'}


@pytest.mark.parametrize(
    ("trouble", "error", "said"),
    [
        (NO_CONNECTION, (503, "upstream_unreachable", True), "Dify cannot be reached."),
        (LIMITED, (429, "rate_limit_exceeded", True), "Too many requests"),
        (page(503), (502, "upstream_error", False), "Dify answered with status 503"),
    ],
)
async def test_at_most_twice(
    trouble: httpx.Response | Exception,
    error: tuple[int, str, bool],
    said: str,
    gateway: Gateway,
    dify: respx.MockRouter,
) -> None:
    route = dify.post(CHAT).mock(side_effect=[trouble] * 9)
    with pytest.raises(OpenDifyError) as caught:
        await run(gateway)
    assert (caught.value.status, caught.value.code, caught.value.should_retry) == error
    assert caught.value.message.startswith(said)
    assert route.call_count == 3


@pytest.mark.parametrize(
    "trouble",
    [
        page(500),
        page(404),
        httpx.Response(500, json={"code": "internal_server_error"}),
        refused(400, code="completion_request_error", message="rate limit of the provider"),
        refused(400, code="invalid_param", message="query is required"),
        refused(429, code="rate_limit_error", message="quota"),
        refused(401, code="unauthorized", message="no"),
        httpx.ReadError("dropped"),
        httpx.WriteError("dropped"),
        httpx.RemoteProtocolError("dropped"),
    ],
)
async def test_any_other_trouble_is_not_repeated(
    trouble: httpx.Response | Exception, gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    route = dify.post(CHAT).mock(side_effect=[trouble, events()[0]])
    with pytest.raises(OpenDifyError) as caught:
        await run(gateway)
    assert caught.value.should_retry is False
    assert route.call_count == 1
    assert not fresh.calls


async def test_plain_requests_are_not_repeated(gateway: Gateway, dify: respx.MockRouter) -> None:
    route = dify.get("/x").mock(side_effect=[page(503), httpx.Response(200, json={})])
    with pytest.raises(BrokenUpstream):
        await gateway.call(ACCESS, "GET", "/x")
    assert route.call_count == 1


async def test_the_pauses_grow_and_differ(
    gateway: Gateway, dify: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    monkeypatch.setattr(module, "BACKOFF_SECONDS", 0.25)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    dify.post(CHAT).mock(side_effect=[page(503), page(503), events()[0]])
    await run(gateway)
    first, second = pauses
    assert 0.25 <= first <= 0.5 <= second <= 1.0


def stale(error: httpx.TransportError) -> Callable[[httpx.Request], httpx.Response]:
    """A pooled connection that had been used before, and breaks."""

    def answer(request: httpx.Request) -> httpx.Response:
        note_reuse(True)
        raise error

    return answer


@pytest.mark.parametrize("method", ["call", "run"])
@pytest.mark.parametrize(
    "error",
    [
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        httpx.RemoteProtocolError("Server disconnected"),
        httpx.WriteError("x"),
    ],
)
async def test_a_stale_connection_is_tried_again_on_a_fresh_one(
    error: httpx.TransportError, method: str, gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    dify.post(CHAT).mock(side_effect=stale(error))
    if method == "run":
        fresh.post(CHAT).mock(return_value=events()[0])
        assert await run(gateway, b'{"query":"hi"}') == [FRAME]
    else:
        fresh.post(CHAT).respond(json={})
        assert await gateway.call(ACCESS, "POST", CHAT, b'{"query":"hi"}') == b"{}"
    assert (len(dify.calls), len(fresh.calls)) == (1, 1)
    assert last(fresh).content == b'{"query":"hi"}'
    assert last(fresh).headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("problem", ["<ConnectionTerminated error_code:0, last_stream_id:5>", "illegal status line"])
async def test_what_was_answered_in_any_way_is_not_asked_again(
    problem: str, gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    dify.post(CHAT).mock(side_effect=stale(httpx.RemoteProtocolError(problem)))
    with pytest.raises(BrokenUpstream, match="not a whole answer in HTTP"):
        await run(gateway)
    assert (len(dify.calls), len(fresh.calls)) == (1, 0)


@pytest.mark.parametrize("kind", ["Text/Event-Stream", "text/event-stream ;charset=utf-8"])
async def test_types_are_told_in_many_ways(kind: str, gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(CHAT).respond(headers={"content-type": kind}, content=FRAME)
    assert await run(gateway) == [FRAME]


async def test_a_used_connection_that_breaks_later_may_have_started_a_run(
    gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "STALE_SECONDS", 0.0)
    dify.post(CHAT).mock(side_effect=stale(httpx.ReadError("reset")))
    with pytest.raises(BrokenUpstream, match="without an answer"):
        await run(gateway)
    assert (len(dify.calls), len(fresh.calls)) == (1, 0)


async def test_nothing_is_repeated_for_a_client_that_left(gateway: Gateway, dify: respx.MockRouter) -> None:
    route = dify.post(CHAT).mock(side_effect=[page(503), events()[0]])
    with pytest.raises(BrokenUpstream):
        async with gateway.run(ACCESS, CHAT, b"{}", wanted=lambda: False):
            pass
    assert route.call_count == 1


async def test_the_parts_of_an_upload_are_sent_again_whole(
    gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    dify.post("/files/upload").mock(side_effect=stale(httpx.ReadError("reset")))
    fresh.post("/files/upload").respond(201, json={"id": "up-1"})
    assert await gateway.upload(make_app(), "ann", Upload("a.txt", "text/plain", b"hello")) == "up-1"
    assert part_of(last(fresh))["file"].get_payload() == "hello"


@pytest.mark.parametrize(
    ("error", "expected", "tries"),
    [
        (httpx.ReadError("reset"), BrokenUpstream, 1),
        (httpx.ConnectError("refused"), Unreachable, 3),
    ],
)
async def test_a_fresh_connection_that_breaks_as_well(
    error: httpx.TransportError,
    expected: type[OpenDifyError],
    tries: int,
    gateway: Gateway,
    dify: respx.MockRouter,
    fresh: respx.MockRouter,
) -> None:
    dify.post(CHAT).mock(side_effect=stale(httpx.ReadError("reset")))
    route = fresh.post(CHAT).mock(side_effect=error)
    with pytest.raises(expected):
        await run(gateway)
    assert route.call_count == tries


async def test_an_earlier_reuse_says_nothing_of_a_new_connection(
    gateway: Gateway, dify: respx.MockRouter, fresh: respx.MockRouter
) -> None:
    note_reuse(True)
    dify.post(CHAT).mock(side_effect=httpx.ReadError("dropped"))
    with pytest.raises(BrokenUpstream, match="closed the connection without an answer"):
        await run(gateway)
    assert not fresh.calls


# -- streams


async def test_a_stream_is_closed_at_its_end(gateway: Gateway, dify: respx.MockRouter) -> None:
    answer, stream = events()
    dify.post(CHAT).mock(return_value=answer)
    await run(gateway)
    assert stream.closed


async def test_a_stream_is_closed_when_left_early(gateway: Gateway, dify: respx.MockRouter) -> None:
    answer, stream = events(FRAME, hangs=True)
    dify.post(CHAT).mock(return_value=answer)
    async with gateway.run(ACCESS, CHAT, b"{}") as parts:
        assert await anext(parts) == FRAME
        assert not stream.closed
    assert stream.closed


async def test_a_stream_is_closed_when_its_reader_is_cancelled(gateway: Gateway, dify: respx.MockRouter) -> None:
    answer, stream = events(FRAME, hangs=True)
    dify.post(CHAT).mock(return_value=answer)
    task = asyncio.create_task(run(gateway))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait((task,))
    assert stream.closed


async def test_an_error_body_is_closed_when_its_reader_is_cancelled(gateway: Gateway, dify: respx.MockRouter) -> None:
    stream = Stream(b"{", hangs=True)
    headers = {"content-type": "application/json"}
    dify.post(CHAT).mock(return_value=httpx.Response(400, headers=headers, stream=stream))
    task = asyncio.create_task(run(gateway))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait((task,))
    assert stream.closed


@pytest.mark.parametrize("error", [httpx.ReadError("reset"), httpx.RemoteProtocolError("incomplete chunked read")])
async def test_a_stream_that_breaks(error: httpx.TransportError, gateway: Gateway, dify: respx.MockRouter) -> None:
    answer, stream = events(FRAME, error)
    route = dify.post(CHAT).mock(return_value=answer)
    got = []
    with pytest.raises(BrokenUpstream, match="in the middle of the answer"):
        async with gateway.run(ACCESS, CHAT, b"{}") as parts:
            got.extend([data async for data in parts])
    assert stream.closed
    assert route.call_count == 1


# -- the ceiling


async def test_over_the_ceiling_a_run_is_refused(make: Make, dify: respx.MockRouter) -> None:
    gateway = make(max_connections=2)
    answers = [events(FRAME, hangs=True)[0] for _ in range(3)]
    route = dify.post(CHAT).mock(side_effect=answers)
    async with gateway.run(ACCESS, CHAT, b"{}"), gateway.run(ACCESS, CHAT, b"{}"):
        with pytest.raises(Busy, match="connections") as caught:
            async with gateway.run(ACCESS, CHAT, b"{}"):
                pass
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
        assert route.call_count == 2
        dify.get("/meta").respond(json={})
        await gateway.call(ACCESS, "GET", "/meta")
    async with gateway.run(ACCESS, CHAT, b"{}"):
        assert route.call_count == 3


async def test_runs_that_fail_do_not_count(make: Make, dify: respx.MockRouter) -> None:
    gateway = make(max_connections=1)
    bad = refused(400, code="invalid_param", message="no")
    dify.post(CHAT).mock(side_effect=[bad, bad, httpx.ReadError("x"), events()[0]])
    for _ in range(3):
        with pytest.raises(OpenDifyError):
            await run(gateway)
    assert await run(gateway) == [FRAME]


class Closable:
    closed = False

    async def ask(self, request: Request) -> Reply:
        raise AssertionError

    async def aclose(self) -> None:
        self.closed = True


async def test_each_base_has_connections_of_its_own(
    dify: respx.MockRouter, fresh: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    options: list[dict[str, Any]] = []

    def connect(base: str, **given: Any) -> Wire:
        made.append(base)
        options.append(given)
        return Wire(Closable(), Closable())

    monkeypatch.setattr(transport, "connect", connect)
    gateway = Gateway(["https://a/v1", "https://b/v1", "https://a/v1"], timeout=1, connect_timeout=2, http2=False)
    assert made == ["https://a/v1", "https://b/v1"]
    assert options[0] == {"http2": False, "connect_timeout": 2, "ca_file": None}
    lines = [line for wire in gateway._wires.values() for line in (wire.pooled, wire.fresh)]
    await gateway.close()
    assert [line.closed for line in lines if isinstance(line, Closable)] == [True] * 4
