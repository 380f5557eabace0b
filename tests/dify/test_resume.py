"""Paused runs that go on: what is sent, and what comes of it where something goes wrong."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import respx
from app_samples import BASE, make_app

from opendify.demo import SAMPLE_APPS, StandIn
from opendify.demo.serve import running as serving
from opendify.dialogue import Event, Failed, Finished, Form, Paused, Started, TextDelta
from opendify.dify import gateway as gateway_module
from opendify.dify import resume, transport
from opendify.dify.apps import Access, App
from opendify.dify.gateway import Gateway
from opendify.dify.over_httpx import HttpxLine
from opendify.dify.pauses import Resumed
from opendify.dify.reader import Reader
from opendify.dify.requests import RUN_PATH
from opendify.dify.transport import Wire
from opendify.errors import BrokenUpstream, Refused, Unreachable, UpstreamTimeout
from opendify.sse import Decoder

USER = "team:ann"
FILLED = {"note": "fine", "tone": "formal"}
DRAFT = "Draft: my draft\n"
both_flows = pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])


# -- against the stand-in


@dataclass
class Flow:
    """A flow of a stand-in, and its paused run."""

    dify: StandIn
    gateway: Gateway
    app: App
    run_id: str = ""
    pause: Paused = field(default_factory=lambda: Paused(()))

    @property
    def form(self) -> Form:
        return self.pause.forms[0]

    @property
    def token(self) -> str:
        return self.form.token or ""

    def reader(self, *before: str) -> Reader:
        known = Resumed(frozenset({*before, self.token}), self.pause.spoken)
        return Reader(self.app.mode, origin=self.app.access.origin, resumed=known)

    async def begin(self, words: str) -> list[Event]:
        """Start a run that is to pause."""
        text = f"{words} ECHO:my draft"
        body = {"inputs": {"text": text} if self.app.mode == "workflow" else {}, "query": text, "user": USER}
        reader = Reader(self.app.mode, origin=self.app.access.origin)
        data = json.dumps(body | {"response_mode": "streaming"}).encode()
        async with self.gateway.run(self.app.access, RUN_PATH.get(self.app.mode, "/chat-messages"), data) as stream:
            events = await told(reader, stream)
        self.note(events)
        self.run_id = reader.ids.workflow_run_id or ""
        return events

    def note(self, events: Sequence[Event]) -> None:
        self.pause = next((event for event in events if isinstance(event, Paused)), Paused(()))

    async def submit(self, reader: Reader, action: str = "approve", **values: object) -> list[Event]:
        """Submit the form and read the rest."""
        filled = {**FILLED, **values}
        async with resume.resumed(self.gateway, self.app, USER, self.run_id, self.token, action, filled) as stream:
            return await told(reader, stream)

    async def recover(self, reader: Reader, **more: Any) -> list[Event]:
        """The rest of a run whose stream was lost."""
        known = Resumed(frozenset({self.token}))
        return list(await resume.recovered(self.gateway, self.app, USER, self.run_id, reader, known, **more))


async def told(reader: Reader, stream: AsyncIterator[bytes]) -> list[Event]:
    """The events of a stream, as far as it goes."""
    decoder = Decoder()
    events = [event async for data in stream for frame in decoder.feed(data) for event in reader.read(frame)]
    return [event for event in events if not isinstance(event, Started)]


def said(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@asynccontextmanager
async def flow(mode: str, words: str = "PAUSE") -> AsyncIterator[Flow]:
    sample = next(app for app in SAMPLE_APPS if app.mode == mode)
    dify = StandIn([sample])
    async with serving(dify) as url:
        base = f"{url}/v1"
        app = make_app("workflow" if mode == "workflow" else "advanced-chat", base=base)
        app = App(**{name: getattr(app, name) for name in App.__struct_fields__} | {"access": Access(base, sample.key)})
        gateway = Gateway([base], timeout=5.0)
        try:
            made = Flow(dify, gateway, app)
            await made.begin(words)
            yield made
        finally:
            await gateway.close()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "FIRST_PAUSE_SECONDS", 0.01)


@both_flows
@pytest.mark.parametrize(("action", "text"), [("approve", "Approved: fine"), ("reject", "Rejected: fine")])
async def test_the_run_goes_on(mode: str, action: str, text: str) -> None:
    async with flow(mode) as made:
        assert made.pause.spoken == (len(DRAFT) if mode != "workflow" else 0)
        opened = await resume.form(made.gateway, made.app, made.token)
        assert (opened.token, opened.fields, opened.actions) == (made.token, made.form.fields, made.form.actions)
        events = await made.submit(made.reader(), action)
        assert said(events) == text
        assert isinstance(events[-1], Finished)
        asked = [request for request in made.dify.state.requests if "/events" in request.path]
        assert [(request.method, request.body) for request in asked] == [("GET", None)]
        submitted = made.dify.state.requests[-1]
        assert submitted.body == {"inputs": FILLED, "action": action, "user": USER}


@both_flows
async def test_two_pauses(mode: str) -> None:
    async with flow(mode, "PAUSE:twice") as made:
        first, reader = made.token, made.reader()
        events = await made.submit(reader)
        assert (said(events), reader.done) == ("Approved: fine\n", True)
        made.note(events)
        assert made.token not in {first, ""}
        assert made.pause.spoken == len("Approved: fine\n") + (len(DRAFT) if mode != "workflow" else 0)
        assert said(await made.submit(made.reader(first), "reject")) == "Rejected: fine"


@both_flows
async def test_a_lost_stream_is_recovered(mode: str) -> None:
    async with flow(mode, "PAUSE:lost") as made:
        reader = made.reader()
        assert (said(await made.submit(reader)), reader.done) == ("Approved: ", False)
        events = await made.recover(reader)
        assert (said(events), reader.done) == ("fine", True)
        assert isinstance(events[-1], Finished)


@both_flows
async def test_a_run_that_was_over_before_anybody_listened(mode: str) -> None:
    async with flow(mode) as made:
        await resume.submit(made.gateway, made.app, USER, made.token, "approve", FILLED)
        assert (await resume.run_detail(made.gateway, made.app, made.run_id)).status == "succeeded"
        reader = made.reader()
        async with made.gateway.run(made.app.access, resume.events_path(made.run_id, USER), None) as stream:
            events = await told(reader, stream)
        assert (said(events), reader.done) == ("Approved: fine", True)


async def test_an_old_pause_is_no_new_one() -> None:
    async with flow("advanced-chat", "PAUSE:stale") as made:
        await resume.submit(made.gateway, made.app, USER, made.token, "approve", FILLED)
        reader = made.reader()
        assert said(await made.recover(reader)) == "Approved: fine"


@both_flows
async def test_a_lost_stream_may_have_paused_again(mode: str) -> None:
    async with flow(mode, "PAUSE:twice") as made:
        await resume.submit(made.gateway, made.app, USER, made.token, "approve", FILLED)
        first, reader = made.token, made.reader()
        events = await made.recover(reader)
        made.note(events)
        assert made.token not in {first, ""}
        assert isinstance(events[-1], Finished)


async def test_a_release_that_cannot_resume() -> None:
    async with flow("workflow", "PAUSE:unresumable") as made:
        [failed] = await made.submit(made.reader())
        assert isinstance(failed, Failed)
        assert failed.code == "human_input_not_resumable"
        with pytest.raises(UpstreamTimeout):
            await made.recover(made.reader(), seconds=0.02)


@pytest.mark.parametrize(("kind", "why"), [("PAUSE:expired", "expired"), ("PAUSE", "submitted")])
async def test_a_form_that_takes_no_answer(kind: str, why: str) -> None:
    async with flow("workflow", kind) as made:
        if why == "submitted":
            await resume.submit(made.gateway, made.app, USER, made.token, "approve", FILLED)
        for asked in (made.submit(made.reader()), resume.form(made.gateway, made.app, made.token)):
            with pytest.raises(Refused) as caught:
                await asked
            assert resume.closed(caught.value) == why
            assert not resume.is_bad_answer(caught.value)


async def test_a_form_that_is_not_there() -> None:
    async with flow("workflow") as made:
        with pytest.raises(Refused) as caught:
            await resume.form(made.gateway, made.app, "no-such-token")
        assert resume.closed(caught.value) == "unknown"


async def test_a_server_without_the_routes() -> None:
    async with flow("workflow") as made:
        with pytest.raises(BrokenUpstream) as caught:
            await resume.form(made.gateway, made.app, "no such/token")
        assert resume.closed(caught.value) == "unsupported"
        assert made.dify.state.requests[-1].path == "/v1/form/human_input/no such/token"


async def test_bad_answers_leave_the_form_open() -> None:
    async with flow("advanced-chat") as made:
        with pytest.raises(Refused) as caught:
            await made.submit(made.reader(), tone="rude")
        assert resume.is_bad_answer(caught.value)
        assert resume.closed(caught.value) is None
        assert caught.value.message == "Invalid value for select input 'tone': rude"
        assert said(await made.submit(made.reader())) == "Approved: fine"


async def test_only_the_runs_user_can_resume() -> None:
    async with flow("workflow") as made:
        with pytest.raises(Refused) as caught:
            async with resume.resumed(made.gateway, made.app, "bob", made.run_id, made.token, "approve", FILLED):
                pytest.fail("nobody listens")
        assert caught.value.message == "Workflow run not found"
        await resume.form(made.gateway, made.app, made.token)  # nothing was submitted


# -- single answers


def test_other_troubles_close_no_form() -> None:
    assert resume.closed(BrokenUpstream("x")) is None
    assert resume.closed(Refused("x", code="invalid_form_data", status=400)) is None
    assert not resume.is_bad_answer(Unreachable("x"))


def test_paths() -> None:
    assert resume.events_path("a/b", "team:ann", x="true") == "/workflow/a%2Fb/events?user=team%3Aann&x=true"
    assert resume.form_path("a/b?c") == "/form/human_input/a%2Fb%3Fc"


class Mocked(httpx.AsyncBaseTransport):
    """A router's answers as a network brings them: unread."""

    def __init__(self, router: respx.MockRouter) -> None:
        self.router = router

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        answer = await self.router.async_handler(request)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=Body(answer.content))


class Body(httpx.AsyncByteStream):
    """A body in one piece, that hangs at its end if it says so."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data
        if self.data.endswith(b": hangs\n"):
            await asyncio.Event().wait()


@pytest.fixture
def dify() -> respx.MockRouter:
    return respx.MockRouter(base_url=BASE, assert_all_called=False)


@pytest.fixture
async def gateway(dify: respx.MockRouter, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway without sockets."""

    def connect(base: str, **options: Any) -> Wire:
        return Wire(
            HttpxLine(lambda: Mocked(dify), keep_alive_seconds=60.0),
            HttpxLine(lambda: Mocked(dify), keep_alive_seconds=60.0),
        )

    monkeypatch.setattr(transport, "connect", connect)
    monkeypatch.setattr(gateway_module, "BACKOFF_SECONDS", 0.0)
    made = Gateway([BASE], timeout=5.0)
    yield made
    await made.close()


APP = make_app("advanced-chat")
FORM = "/form/human_input/T"
DETAIL = "/workflows/run/R"
KNOWN = Resumed(frozenset({"T"}), 3)
SUBMITTED = {"code": "human_input_form_submitted", "message": "already submitted", "status": 412}


def stream_of(*events: dict[str, Any], hangs: bool = False) -> httpx.Response:
    frames = b"".join(b"data: " + json.dumps({"task_id": "t", **event}).encode() + b"\n\n" for event in events)
    return httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=frames + (b": hangs\n" if hangs else b"")
    )


def paused(token: str) -> dict[str, Any]:
    reason = {"TYPE": "human_input_required", "form_id": token, "form_token": token}
    return {"event": "workflow_paused", "data": {"reasons": [reason]}}


async def submit(gateway: Gateway) -> None:
    await resume.submit(gateway, APP, USER, "T", "approve", {})


@pytest.mark.parametrize(
    ("form", "is_taken"),
    [
        (httpx.Response(412, json=SUBMITTED), True),
        (httpx.Response(412, json=SUBMITTED | {"code": "human_input_form_expired"}), False),
        (httpx.Response(200, json={}), False),
    ],
)
async def test_an_answer_to_the_submit_that_is_lost(
    form: httpx.Response, is_taken: bool, gateway: Gateway, dify: respx.MockRouter
) -> None:
    dify.post(FORM).respond(502, html="Bad Gateway")
    dify.get(FORM).mock(return_value=form)
    if is_taken:
        await submit(gateway)
    else:
        with pytest.raises(BrokenUpstream):
            await submit(gateway)


async def test_what_never_arrived_is_not_asked_for(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(FORM).mock(side_effect=httpx.ConnectError("no"))
    with pytest.raises(Unreachable):
        await submit(gateway)
    assert not [call for call in dify.calls if call.request.method == "GET"]


async def test_a_form_of_another_shape(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get(FORM).respond(json=[1])
    with pytest.raises(BrokenUpstream):
        await resume.form(gateway, APP, "T")


def reader() -> Reader:
    return Reader("advanced-chat", origin="http://dify.test", resumed=KNOWN)


async def recovered(gateway: Gateway, **more: Any) -> list[Event]:
    return list(await resume.recovered(gateway, APP, USER, "R", reader(), KNOWN, **more))


def succeeded(text: str) -> httpx.Response:
    return httpx.Response(200, json={"id": "R", "status": "succeeded", "outputs": {"answer": text}, "error": None})


async def test_a_server_that_comes_back(gateway: Gateway, dify: respx.MockRouter) -> None:
    down, running = httpx.Response(503, html="down"), httpx.Response(200, json={"status": "running"})
    dify.get(DETAIL).mock(side_effect=[httpx.ConnectError("no"), down, running, succeeded("abcDone")])
    assert said(await recovered(gateway)) == "Done"


async def test_a_run_that_dify_does_not_have(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get(DETAIL).respond(404, json={"code": "not_found", "message": "Workflow run not found", "status": 404})
    with pytest.raises(Refused):
        await recovered(gateway)


async def test_the_patience_ends(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get(DETAIL).respond(json={"status": "running"})
    with pytest.raises(UpstreamTimeout):
        await recovered(gateway, seconds=0.05)
    assert 1 < len(dify.calls) < 6


async def test_a_snapshot_tells_what_is_waited_for(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.get(DETAIL).respond(json={"status": "paused"})
    events = dify.get(url__regex=r".*/workflow/R/events.*")
    events.mock(side_effect=[stream_of(paused("T")), stream_of(), stream_of(paused("U"), hangs=True)])
    assert (await recovered(gateway))[0] == Paused((Form(token="U"),), 3)
    assert str(events.calls.last.request.url.query, "ascii") == "user=team%3Aann&include_state_snapshot=true"


@pytest.mark.parametrize(
    "answer",
    [
        stream_of({"event": "workflow_finished", "data": {"status": "succeeded"}}, paused("U")),
        stream_of({"event": "workflow_started", "data": {"reason": "resumption"}}, hangs=True),
        stream_of({"event": "human_input_required", "data": {"form_token": "T"}}, {"event": "unknown"}),
    ],
)
async def test_a_run_that_waits_for_nothing(
    answer: httpx.Response, gateway: Gateway, dify: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SNAPSHOT_SECONDS", 0.05)
    dify.get(url__regex=r".*/workflow/R/events.*").mock(return_value=answer)
    assert await resume.waiting(gateway, APP, USER, "R", KNOWN) is None


async def test_a_snapshot_that_is_none(gateway: Gateway, dify: respx.MockRouter) -> None:
    broken = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: {\n\n")
    dify.get(url__regex=r".*/workflow/R/events.*").mock(return_value=broken)
    with pytest.raises(BrokenUpstream):
        await resume.waiting(gateway, APP, USER, "R", KNOWN)


async def test_leaving_in_the_middle_closes_the_stream(gateway: Gateway, dify: respx.MockRouter) -> None:
    dify.post(FORM).respond(json={})
    dify.get(url__regex=r".*/workflow/R/events.*").mock(return_value=stream_of(hangs=True))
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(0.05),
            resume.resumed(gateway, APP, USER, "R", "T", "approve", {}) as stream,
        ):
            await told(reader(), stream)
    assert [call.request.method for call in dify.calls] == ["GET", "POST"]
    assert next(iter(gateway._wires.values())).open_runs == 0
