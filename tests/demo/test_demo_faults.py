"""What FAULT does, seen by a real client."""

import httpx
import pytest
from asking import begun, events, inside, on_port, said, until

from opendify.demo.stream import ConnectionCut

MODES = ["chat", "agent-chat", "advanced-chat", "agent", "completion", "workflow"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("kind", "status", "type", "mark"),
    [
        ("html502", 502, "text/html", "502 Bad Gateway"),
        ("html200", 200, "text/html; charset=utf-8", "<title>Dify</title>"),
        ("500", 500, "application/json", "internal_server_error"),
        ("503", 503, "text/html", "503 Service"),
        ("429", 429, "application/json", "too_many_requests"),
        ("toomany400", 400, "application/json", "Too many requests. Please try again later."),
        ("quota", 400, "application/json", "provider_quota_exceeded"),
    ],
)
async def test_faults_before_the_answer(mode: str, kind: str, status: int, type: str, mark: str) -> None:
    async with inside(mode) as asking:
        answer = await asking.post(f"FAULT:{kind} ECHO:a")
    assert (answer.status_code, answer.headers["content-type"]) == (status, type)
    assert mark in answer.text


@pytest.mark.parametrize("mode", MODES)
async def test_a_cut_breaks_the_body(mode: str) -> None:
    async with on_port(mode) as asking:
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await asking.post("FAULT:cut LONG 9")


@pytest.mark.parametrize("mode", MODES)
async def test_an_early_end_is_clean(mode: str) -> None:
    async with inside(mode) as asking:
        assert said(await asking.run("FAULT:eof ECHO:a")) == "a"
        told = await asking.run("FAULT:eof LONG 9")
    assert said(told) == "w0 w1 w2 "
    assert not {"message_end", "workflow_finished", "error"} & {event["event"] for event in told}


@pytest.mark.parametrize("mode", MODES)
async def test_a_dropped_connection_has_no_byte(mode: str) -> None:
    async with on_port(mode) as asking:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await asking.post("FAULT:drop")
        await until(asking, lambda: not asking.dify.open_streams)


async def test_other_servers_can_only_cut() -> None:
    async with inside("chat") as asking:
        with pytest.raises(ConnectionCut):
            await asking.post("FAULT:drop")


@pytest.mark.parametrize("response_mode", ["streaming", "blocking"])
async def test_without_headers_nothing_comes(response_mode: str) -> None:
    async with on_port("chat", ping_seconds=0.01) as asking:
        path, body = asking.request("FAULT:noheaders", response_mode=response_mode)
        with pytest.raises(httpx.ReadTimeout):
            await asking.http.post(path, json=body, timeout=0.1)
        await until(asking, lambda: asking.dify.disconnects)


@pytest.mark.parametrize("mode", MODES)
async def test_silence_follows_the_first_event(mode: str) -> None:
    async with on_port(mode, ping_seconds=0.01) as asking:
        asking.http.timeout = httpx.Timeout(5, read=0.1)
        async with begun(asking, "FAULT:silence LONG 9") as (_, pieces):
            seen = ""
            while "w0" not in seen:
                seen += await anext(pieces)
            with pytest.raises(httpx.ReadTimeout):
                await anext(pieces)
        await until(asking, lambda: not asking.dify.open_streams)


@pytest.mark.parametrize("mode", MODES)
async def test_pings_without_end(mode: str) -> None:
    async with on_port(mode, ping_seconds=0.01) as asking, begun(asking, "FAULT:pingforever ECHO:a b") as (_, pieces):
        seen = ""
        while seen.count("event: ping") < 5:
            seen += await anext(pieces)
        assert said(events(seen)) == "a"


async def test_garbage_is_one_broken_frame() -> None:
    async with inside("chat") as asking:
        text = (await asking.post("FAULT:garbage ECHO:a b c")).text
    [broken] = [frame for frame in text.split("\n\n") if frame and not frame.endswith("}")]
    assert broken.startswith('data: {"event": "message"')
    assert said(events(text.replace(broken + "\n\n", ""))) == "a b c"


async def test_a_big_frame() -> None:
    async with inside("chat") as asking:
        text = (await asking.post("FAULT:bigframe ECHO:a b c")).text
    assert max(map(len, text.split("\n\n"))) > 16 * 1024 * 1024


async def test_a_lost_end() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("FAULT:lostend ECHO:a")
    assert [event["event"] for event in told][-1] == "workflow_finished"
    assert not [event for event in told if event["event"] == "message_end"]


async def test_a_flaky_server_gets_over_it() -> None:
    async with inside("chat") as asking:
        statuses = [(await asking.post("FAULT:flaky-2 ECHO:a")).status_code for _ in range(4)]
        assert statuses == [503, 503, 200, 200]
        assert (await asking.post("FAULT:flaky-1 ECHO:another")).status_code == 503


async def test_a_conversation_can_be_gone() -> None:
    async with inside("chat") as asking:
        conversation = (await asking.run("ECHO:a"))[0]["conversation_id"]
        answer = await asking.post("FAULT:gone ECHO:b", conversation_id=conversation)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert said(await asking.run("FAULT:gone ECHO:b")) == "b"


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("UNAVAIL", "completion_request_error", 400),
        ("AUTH", "completion_request_error", 400),
        ("RATE", "rate_limit_error", 429),
        ("RAW", "invalid_param", 400),
        ("OTHER", "invalid_param", 400),
        ("RUNTIME", "completion_request_error", 400),
        ("CUT", "invalid_param", 400),
        ("QUOTA", "provider_quota_exceeded", 400),
        ("INTERNAL", "internal_server_error", 500),
    ],
)
async def test_kinds_of_provider_failures(kind: str, code: str, status: int) -> None:
    async with inside("chat") as asking:
        [error] = await asking.run(f"ERROR_START:{kind}")
    assert (error["code"], error["status"]) == (code, status)
    assert "task_id" not in error
