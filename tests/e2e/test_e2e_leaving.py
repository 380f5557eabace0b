"""Clients that leave, at every stage: Dify's stop is called once, with the same user; what was said is kept."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import CLIENT_KEY, MODELS, Serve, Served, data_url, eventually, frames, png, text_of

from opendify.app import create_app
from opendify.demo.serve import running
from opendify.demo.server import StandIn
from opendify.settings import only

MODES = sorted(MODELS)


class Caller:
    """A client on a socket of our own, so that the test decides when it closes."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def leave(self) -> None:
        """Close the socket."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def calling(base: str, body: dict[str, Any]) -> AsyncIterator[Caller]:
    """A client that has sent a chat request and reads nothing."""
    url = httpx.URL(base)
    _, writer = await asyncio.open_connection(url.host, url.port)
    caller = Caller(writer)
    data = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CLIENT_KEY}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    try:
        yield caller
    finally:
        await caller.leave()


def body(content: str, mode: str, **more: Any) -> dict[str, Any]:
    """A chat request of one message."""
    return {"model": MODELS[mode], "messages": [{"role": "user", "content": content}], "user": "ann", **more}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", MODES)
async def test_after_the_first_token(served: Served, mode: str, stream: bool) -> None:
    async with calling(served.url, body("SLOW 100 50", mode, stream=stream)):
        await eventually(lambda: served.dify.open_streams == 1)
        await asyncio.sleep(0.2)
    await eventually(lambda: served.dify.open_streams == 0)
    assert [stop.user for stop in served.dify.stops] == ["tester:ann"]
    assert served.dify.disconnects == 0  # read to its end, so that Dify saves what was said
    saved = [message for talk in served.dify.conversations.values() for message in talk.messages]
    if mode in {"chat", "advanced-chat"}:
        assert saved[0].answer.startswith("s0 ")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("mode", ["chat", "advanced-chat"])
async def test_before_the_first_token(serve: Serve, mode: str, stream: bool) -> None:
    served = await serve(first_packet_seconds=0.1)
    async with calling(served.url, body("HANG 1 SLOW 100 50", mode, stream=stream)):
        await eventually(lambda: served.dify.open_streams == 1)
    await eventually(lambda: served.dify.open_streams == 0)
    assert [stop.user for stop in served.dify.stops] == ["tester:ann"]


async def test_before_anything_was_sent(serve: Serve) -> None:
    """While the catalogue still waits for Dify there is nothing to stop, and nothing is sent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        served = await serve(dify_api_base=base, dify_api_keys="app-x", timeout=1)
        exchange = served.app.state.exchange
        async with calling(served.url, body("hi", "chat")):
            await eventually(lambda: len(exchange.tasks._tasks) == 1)
        await eventually(lambda: not exchange.tasks._tasks)


@pytest.mark.usefixtures("short_goodbyes")
async def test_a_run_that_never_names_itself(serve: Serve) -> None:
    """Without a task id there is nothing to stop: the connection is closed after the time for it."""
    served = await serve(first_packet_seconds=0.1)
    async with calling(served.url, body("FAULT:noheaders", "chat", stream=True)):
        await eventually(lambda: len(served.runs()) == 1)
    exchange = served.app.state.exchange
    await eventually(lambda: not exchange.tasks._tasks)
    assert not served.dify.stops


async def test_breaking_out_of_the_official_client(served: Served) -> None:
    stream = await served.openai.chat.completions.create(
        model="Helper", messages=[{"role": "user", "content": "SLOW 100 50"}], stream=True
    )
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await eventually(lambda: len(served.dify.stops) == 1)
    await eventually(lambda: served.dify.open_streams == 0)


@pytest.mark.usefixtures("short_goodbyes")
async def test_a_client_that_does_not_read(serve: Serve) -> None:
    """A full socket holds the run back, and the run's time limit still ends it."""
    served = await serve(max_run_seconds=1, dify={"ping_seconds": 0.2})
    exchange = served.app.state.exchange
    async with calling(served.url, body("LONG 200000", "chat", stream=True)):
        await eventually(lambda: len(served.runs()) == 1)
        assert exchange._answers
        await eventually(lambda: not exchange._answers, seconds=9)
        assert len(served.dify.stops) == 1


async def test_a_finished_run_is_not_stopped(served: Served) -> None:
    for mode in MODES:
        await served.ask("ECHO:done", MODELS[mode])
        await served.stream("ECHO:done", MODELS[mode])
    await eventually(lambda: served.dify.open_streams == 0)
    assert not served.dify.stops
    assert served.dify.disconnects == 0


@pytest.mark.usefixtures("short_goodbyes")
async def test_a_cut_answer_ends_though_dify_does_not(served: Served) -> None:
    """The text ends at the stop sequence; that the run never ends by itself is nobody's wait."""
    chunks = await served.stream("LONG 3 FAULT:silence", stop="0")
    assert (text_of(chunks), chunks[-1]) == ("w", {"done": True})
    folded = (await served.ask("LONG 3 FAULT:silence", stop="0")).json()["choices"][0]
    assert (folded["message"]["content"], folded["finish_reason"]) == ("w", "stop")


@pytest.mark.parametrize("ending", ["FAULT:eof", "FAULT:cut", "ERROR_MID"])
async def test_a_cut_answer_cannot_fail_any_more(serve: Serve, ending: str) -> None:
    served = await serve(dify={"token_delay": 0.05})
    chunks = await served.stream(f"LONG 9 {ending}", stop="w1", stream_options={"include_usage": True})
    assert (text_of(chunks), chunks[-1]) == ("w0 ", {"done": True})
    assert chunks[-2]["choices"] == []
    folded = await served.ask(f"LONG 9 {ending}", stop="w1")
    assert folded.json()["choices"][0]["message"]["content"] == "w0 "


async def test_leaving_during_an_upload(serve: Serve) -> None:
    """Nothing has been sent yet but a file: no run, and nothing to stop."""
    served = await serve()
    picture = {"type": "image_url", "image_url": {"url": data_url(png() + bytes(9_000_000))}}
    asked = body("ECHO:x", "chat") | {"messages": [{"role": "user", "content": [picture]}]}
    exchange = served.app.state.exchange
    async with calling(served.url, asked):
        await eventually(lambda: bool(exchange._answers))
    await eventually(lambda: not exchange._answers)
    assert (served.runs(), list(served.dify.stops)) == ([], [])


async def test_leaving_in_the_middle_of_the_request(served: Served) -> None:
    """That is no fault of ours: a quiet line in the log, and nothing at Dify."""
    url = httpx.URL(served.url)
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CLIENT_KEY}\r\n"
    writer.write(f'{head}Content-Length: 1000\r\n\r\n{{"model":'.encode())
    await writer.drain()
    await asyncio.sleep(0.1)
    await Caller(writer).leave()
    await eventually(lambda: bool(served.told.lines("request")))
    [line] = served.told.lines("request")
    assert line["path"] == "/v1/chat/completions"
    assert not served.told.lines("unexpected")
    assert not served.runs()


async def test_leaving_between_two_attempts(served: Served) -> None:
    """A run that was refused is not asked for again for a client that has left."""
    async with calling(served.url, body("ECHO:x FAULT:flaky-9", "chat")):
        await eventually(lambda: len(served.runs()) == 1)
    exchange = served.app.state.exchange
    await eventually(lambda: not exchange.tasks._tasks)
    assert len(served.runs()) == 1


async def test_a_forced_end_leaves_nothing_behind() -> None:
    """Requests that the server cancels, before and after their first byte, end their runs too."""
    dify = StandIn()
    async with running(dify) as dify_url, AsyncExitStack() as stack:
        values = {"valid_api_keys": CLIENT_KEY, "dify_api_keys": "app-demo-chat", "dify_api_base": dify_url}
        app = create_app(only(**values, drain_seconds=0))
        async with running(app) as url:
            for words in ("FAULT:noheaders", "SLOW 100 50"):
                await stack.enter_async_context(calling(url, body(words, "chat", stream=True)))
            await eventually(lambda: sum(request.path == "/v1/chat-messages" for request in dify.requests) == 2)
            await asyncio.sleep(0.1)
        assert len(dify.stops) == 1  # the other one never had a name
        await eventually(lambda: dify.open_streams == 0)


async def test_nothing_waits_for_the_tail(served: Served) -> None:
    """The answer ends with message_end, whatever Dify still sends after it."""
    chunks = await served.stream("TTS ECHO:spoken")
    assert chunks[-1] == {"done": True}


async def test_connections_are_used_again(served: Served) -> None:
    await served.http.get("/v1/models")
    session = served.app.state.exchange.gateway._wires[f"{served.dify_url}/v1"].pooled.session
    before = sum(len(pooled) for pooled in session.connector._conns.values())
    for _ in range(5):
        await served.stream("ECHO:hi")
        await served.ask("ECHO:hi", MODELS["workflow"])
    assert sum(len(pooled) for pooled in session.connector._conns.values()) == before


CONFIG = """
VALID_API_KEYS=tester:{key}
DIFY_API_KEYS=app-demo-chat
DIFY_API_BASE={dify}
SERVER_PORT={port}
DRAIN_SECONDS={drain}
LOG_FORMAT=json
"""


@pytest.mark.parametrize("drain", [0.5, 20])
async def test_sigterm(tmp_path: Path, unused_tcp_port: int, drain: float) -> None:
    """No new answers while the running one ends in its time, or is ended with an error frame after it."""
    stand_in = StandIn()
    async with running(stand_in) as dify:
        config = CONFIG.format(key=CLIENT_KEY, dify=dify, port=unused_tcp_port, drain=drain)
        (tmp_path / ".env").write_text(config)
        command = (sys.executable, "-m", "opendify", "serve")
        server = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stderr=asyncio.subprocess.PIPE)
        url = f"http://127.0.0.1:{unused_tcp_port}"
        async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {CLIENT_KEY}"}) as client:
            await _ready(client)
            request = client.build_request(
                "POST", "/v1/chat/completions", json=body("SLOW 20 100", "chat", stream=True)
            )
            response = await client.send(request, stream=True)
            lines = response.aiter_lines()
            first = await anext(lines)
            server.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            refused = await client.post("/v1/chat/completions", json=body("hi", "chat"))
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert (await client.get("/readyz")).status_code == 503
            chunks = frames("\n".join([first, *[line async for line in lines]]))
        _, log = await asyncio.wait_for(server.communicate(), 20)
        if drain < 1:
            assert chunks[-1]["error"]["code"] == "shut_down"
            assert [stop.user for stop in stand_in.stops] == ["tester:ann"]
        else:
            assert chunks[-1] == {"done": True}
            assert text_of(chunks).endswith("s19 ")
            assert not stand_in.stops
        assert b"Traceback" not in log
        assert CLIENT_KEY.encode() not in log


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.05)
    raise AssertionError("the server did not start")
