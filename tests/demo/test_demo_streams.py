"""Streams on a real port: headers, pings, stop, disconnect."""

import asyncio

import pytest
from asking import begun, events, inside, on_port, said, stopped_after, until

CHAT_LIKE = ["chat", "agent-chat", "agent", "completion"]
FLOWS = ["advanced-chat", "workflow"]


async def test_each_event_is_a_write_of_its_own() -> None:
    async with on_port("chat") as asking, begun(asking, "LONG 50") as (answer, pieces):
        assert answer.headers["transfer-encoding"] == "chunked"
        assert len([piece async for piece in pieces]) > 25


async def test_json_is_compact_and_raw() -> None:
    async with inside("chat") as asking:
        text = (await asking.post("CJK")).text
    assert '"answer":"你"' in text
    assert "\u2028" in text
    assert '": ' not in text


async def test_headers_come_with_the_first_byte() -> None:
    async with on_port("chat", ping_seconds=0.05) as asking:
        async with begun(asking, "HANG 0.2 ECHO:a") as (answer, pieces):
            told = events("".join([piece async for piece in pieces]))
        assert answer.status_code == 200
        assert [event["event"] for event in told][:3] == ["ping", "ping", "ping"]
        assert said(told) == "a"


@pytest.mark.parametrize("mode", FLOWS)
async def test_flows_ping_at_once(mode: str) -> None:
    async with on_port(mode) as asking, begun(asking, "HANG 60") as (_, pieces):
        assert (await anext(pieces)).startswith("event: ping")


@pytest.mark.parametrize("mode", CHAT_LIKE + FLOWS)
async def test_pings_fill_silence(mode: str) -> None:
    async with on_port(mode, ping_seconds=0.02) as asking, begun(asking, "HANG 60") as (_, pieces):
        seen = ""
        while seen.count("event: ping") < 3:
            seen += await anext(pieces)


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
@pytest.mark.parametrize("mode", CHAT_LIKE + FLOWS)
async def test_a_stop_ends_silence_at_once(mode: str, generation: str) -> None:
    async with on_port(mode, generation=generation) as asking:
        told = await stopped_after(asking, "s0", "SLOW 1 60000")
        [stop] = asking.dify.stops
        assert (stop.user, stop.path) == ("u1", asking.stop_path.format(stop.task_id))
        assert asking.dify.disconnects == 0
        finished = [event["data"]["status"] for event in told if event["event"] == "workflow_finished"]
        assert finished == (["stopped"] if mode in FLOWS else [])


@pytest.mark.parametrize(
    ("mode", "generation", "saved"),
    [
        ("chat", "1.16", "s0 "),
        ("chat", "1.9", "s0 "),
        ("advanced-chat", "1.16", "s0 "),
        ("agent-chat", "1.16", ""),
        ("agent-chat", "1.9", "s0 "),
        ("agent", "1.16", ""),
    ],
)
async def test_a_stopped_answer_is_saved(mode: str, generation: str, saved: str) -> None:
    async with on_port(mode, generation=generation) as asking:
        await stopped_after(asking, "s0", "SLOW 1 60000")
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("SLOW 1 60000", saved, "normal")]


async def test_somebody_else_cannot_stop_a_chat() -> None:
    async with on_port("chat") as asking, begun(asking, "SLOW 3 30") as (_, pieces):
        first = await anext(pieces)
        path = asking.stop_path.format(events(first)[0]["task_id"])
        assert (await asking.http.post(path, json={"user": "other"})).json() == {"result": "success"}
        assert said(events(first + "".join([piece async for piece in pieces]))) == "s0 s1 s2 "


@pytest.mark.parametrize("mode", FLOWS)
async def test_anybody_can_stop_a_flow(mode: str) -> None:
    async with on_port(mode) as asking, begun(asking, "SLOW 1 60000") as (_, pieces):
        seen = ""
        while "s0" not in seen:
            seen += await anext(pieces)
        path = asking.stop_path.format(events(seen)[1]["task_id"])
        await asking.http.post(path, json={"user": "other"})
        assert "stopped" in seen + "".join([piece async for piece in pieces])


async def test_a_finished_run_is_not_stopped() -> None:
    async with inside("chat") as asking:
        told = await asking.run("ECHO:a")
        answer = await asking.http.post(asking.stop_path.format(told[0]["task_id"]), json={"user": "u1"})
        assert answer.json() == {"result": "success"}
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("ECHO:a", "a", "normal")]


@pytest.mark.parametrize("mode", CHAT_LIKE)
async def test_a_run_ends_with_its_client(mode: str) -> None:
    async with on_port(mode) as asking:
        async with begun(asking, "SLOW 3 60000") as (_, pieces):
            await anext(pieces)
            assert asking.dify.open_streams == 1
        await until(asking, lambda: not asking.dify.open_streams)
        assert asking.dify.disconnects == 1
        assert all(conversation.turns[0][1] == "" for conversation in asking.dify.conversations.values())


async def test_a_newer_chatflow_outlives_its_client() -> None:
    async with on_port("advanced-chat") as asking:
        async with begun(asking, "SLOW 3 60000") as (_, pieces):
            await anext(pieces)
        await until(asking, lambda: not asking.dify.open_streams)
        assert asking.dify.disconnects == 1
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("SLOW 3 60000", "s0 s1 s2 ", "normal")]


async def test_an_older_chatflow_does_not() -> None:
    async with on_port("advanced-chat", generation="1.9") as asking:
        async with begun(asking, "SLOW 3 60000") as (_, pieces):
            await anext(pieces)
        await until(asking, lambda: not asking.dify.open_streams)
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("SLOW 3 60000", "", "normal")]


async def test_a_stop_right_after_leaving_still_saves() -> None:
    async with on_port("chat") as asking:
        async with begun(asking, "SLOW 3 60000") as (_, pieces):
            task_id = events(await anext(pieces))[0]["task_id"]
        await until(asking, lambda: asking.dify.disconnects)
        await asking.http.post(asking.stop_path.format(task_id), json={"user": "u1"})
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("SLOW 3 60000", "s0 ", "normal")]


async def test_ten_parallel_streams() -> None:
    async with on_port("chat") as asking:
        answers = await asyncio.gather(*(asking.run(f"SLOW 3 5 ECHO:{number}") for number in range(10)))
        assert [said(told) for told in answers] == [f"s0 s1 s2 {number}" for number in range(10)]
        assert (asking.dify.open_streams, asking.dify.disconnects) == (0, 0)


async def test_a_token_delay_slows_the_answer() -> None:
    async with inside("chat", token_delay=0.01) as asking:
        assert said(await asking.run("ECHO:a b c")) == "a b c"


async def test_requests_are_recorded() -> None:
    async with inside("chat") as asking:
        await asking.run("ECHO:a")
        [request] = asking.dify.requests
    assert (request.method, request.path, request.key) == ("POST", "/v1/chat-messages", "app-demo-chat")
    assert request.body["query"] == "ECHO:a"
    assert request.headers["content-type"] == "application/json"
