"""Failures on the real wire: before the answer a status, after it an error frame."""

import asyncio
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import openai
import pytest
from conftest import CLIENT_KEY, MODELS, WRONG_APP_KEY, WRONG_KEY, Serve, Served, eventually, finish_of, frames, text_of

from opendify.app import create_app
from opendify.demo.apps import SAMPLE_APPS, SampleApp
from opendify.demo.serve import running
from opendify.demo.server import StandIn
from opendify.settings import only

BEFORE: list[tuple[str, int, str, str | None]] = [
    ("FAULT:html502", 502, "upstream_error", "false"),
    ("FAULT:html200", 502, "upstream_error", "false"),
    ("FAULT:500", 502, "upstream_error", "false"),
    ("FAULT:503", 502, "upstream_error", "false"),
    ("FAULT:429", 429, "rate_limit_exceeded", "true"),
    ("FAULT:toomany400", 429, "rate_limit_exceeded", "true"),
    ("FAULT:quota", 429, "insufficient_quota", "false"),
    ("FAULT:drop", 502, "upstream_error", "false"),
    ("ERROR_START", 502, "completion_request_error", "false"),
    ("ERROR_START:RATE", 429, "rate_limit_exceeded", "false"),
    ("ERROR_START:RAW", 400, "invalid_param", "false"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("words", "status", "code", "retry"), BEFORE)
async def test_before_the_answer(
    served: Served, words: str, status: int, code: str, retry: str | None, stream: bool
) -> None:
    answer = await served.ask(words, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("x-should-retry") == retry
    assert (answer.headers.get("retry-after") is not None) == (retry == "true")
    assert answer.headers["x-request-id"]


AFTER = [
    ("chat", "ERROR_MID", "completion_request_error"),
    ("agent-chat", "ERROR_MID", "completion_request_error"),
    ("completion", "ERROR_MID", "completion_request_error"),
    ("agent", "SLOW 3 ERROR_MID", "completion_request_error"),
    ("advanced-chat", "ERROR_MID", "run_failed"),
    ("workflow", "ERROR_MID", "run_failed"),
    ("advanced-chat", "LONG 3 FAIL", "run_failed"),
    ("workflow", "LONG 3 FAIL", "run_failed"),
    *(
        (mode, f"LONG 9 FAULT:{fault}", "upstream_error")
        for mode in ("chat", "workflow")
        for fault in ("cut", "eof", "garbage", "bigframe")
    ),
]


@pytest.mark.parametrize(("mode", "words", "code"), AFTER)
async def test_after_the_first_text(serve: Serve, mode: str, words: str, code: str) -> None:
    served = await serve(dify={"token_delay": 0.01})
    chunks = await served.stream(words, MODELS[mode])
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["error"]["code"] == code
    assert finish_of(chunks) == []
    assert {"done": True} not in chunks
    folded = await served.ask(words, MODELS[mode])
    assert folded.status_code == 502
    assert folded.json()["error"]["code"] == code


async def test_the_official_client_raises(served: Served) -> None:
    ask = served.openai.chat.completions.create
    with pytest.raises(openai.InternalServerError, match="stub provider error"):
        await ask(model="Helper", messages=[{"role": "user", "content": "ERROR_START"}])
    stream = await ask(model="Helper", messages=[{"role": "user", "content": "SLOW 5 ERROR_MID"}], stream=True)
    with pytest.raises(openai.APIError):
        _ = [chunk async for chunk in stream]
    with pytest.raises(openai.NotFoundError, match="Did you mean 'Helper'"):
        await ask(model="Helpr", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.AuthenticationError):
        await served.openai.with_options(api_key=WRONG_KEY).models.list()


async def test_one_click_is_one_run(served: Served) -> None:
    client = served.openai.with_options(max_retries=2)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="Helper", messages=[{"role": "user", "content": "ERROR_START"}])
    assert len(served.runs()) == 1


async def test_a_passing_fault_is_not_seen(served: Served) -> None:
    answer = await served.ask("ECHO:made it FAULT:flaky-2")
    assert answer.status_code == 200
    assert len(served.runs()) == 3


BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b"{}", None),
    (b'{"model": 1, "messages": []}', "model"),
    (b'{"model": "Helper", "messages": []}', "messages"),
    (b'{"model": "Helper", "messages": [{"role": "robot", "content": "x"}]}', "messages[0].role"),
    (
        b'{"model": "Helper", "messages": [{"role": "user", "content": [{"type": "video"}]}]}',
        "messages[0].content[0].type",
    ),
    (b'{"model": "Helper", "messages": [{"role": "user", "content": "x"}], "n": 2}', "n"),
    (b'{"model": "Helper", "messages": [{"role": "user", "content": "x"}], "logprobs": true}', "logprobs"),
    (b'{"model": "Helper", "messages": [{"role": "user", "content": "x"}], "stop": [""]}', "stop"),
    (b'{"model": "Helper", "messages": [{"role": "user", "content": ""}]}', "messages"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
async def test_bad_bodies(served: Served, body: bytes, param: str | None) -> None:
    answer = await served.http.post("/v1/chat/completions", content=body)
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert served.runs() == []


async def test_every_path_speaks_openai(serve: Serve) -> None:
    served = await serve(max_body_mb=1)
    big = await served.http.post("/v1/chat/completions", content=b"x" * 1_100_000)
    answers = {
        404: await served.http.get("/v1/nothing"),
        405: await served.http.get("/v1/chat/completions"),
        401: await served.http.post("/v1/chat/completions", headers={"authorization": "Bearer no"}, content=b"{"),
        413: big,
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers["x-request-id"]
    assert big.json()["error"]["code"] == "request_too_large"
    assert answers[401].headers["www-authenticate"] == "Bearer"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("stream", [False, True])
async def test_dify_is_down(serve: Serve, stream: bool) -> None:
    served = await serve(dify_api_base=f"http://127.0.0.1:{free_port()}", dify_api_keys="Helper=app-x")
    answer = await served.ask("hi", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unreachable")
    assert answer.headers["x-should-retry"] == "true"
    ready = await served.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["apps"] == [{"name": "Helper", "mode": None, "ready": False, "problem": "upstream_unreachable"}]
    assert (await served.http.get("/healthz")).status_code == 200


async def test_dify_goes_down_after_the_start() -> None:
    async with AsyncExitStack() as stack:
        dify = await stack.enter_async_context(AsyncExitStack())
        dify_url = await dify.enter_async_context(running(StandIn()))
        keys = {"valid_api_keys": CLIENT_KEY, "dify_api_keys": "app-demo-chat", "dify_api_base": dify_url}
        app = create_app(only(**keys, model_cache_seconds=0.01))
        url = await stack.enter_async_context(running(app))
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0)
        )
        assert [model.id async for model in client.models.list()] == ["Helper"]
        await dify.aclose()
        for _ in range(3):  # the description is stale now, and better than none
            assert [model.id async for model in client.models.list()] == ["Helper"]
            await asyncio.sleep(0.02)
        with pytest.raises(openai.InternalServerError, match="cannot be reached"):
            await client.chat.completions.create(model="Helper", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize("mode", ["chat", "advanced-chat"])
@pytest.mark.parametrize("words", ["FAULT:silence", "FAULT:noheaders"])
@pytest.mark.usefixtures("short_goodbyes")
async def test_silence_is_bounded(serve: Serve, mode: str, words: str) -> None:
    served = await serve(timeout=0.4, first_packet_seconds=0.1)
    folded = await served.ask(words, MODELS[mode])
    assert (folded.status_code, folded.json()["error"]["code"]) == (504, "upstream_timeout")
    chunks = await served.stream(words, MODELS[mode])
    assert chunks[-1]["error"]["code"] == "upstream_timeout"
    await eventually(lambda: served.dify.open_streams == 0)


@pytest.mark.usefixtures("short_goodbyes")
async def test_pings_are_no_events(serve: Serve) -> None:
    served = await serve(first_event_seconds=0.5, first_packet_seconds=0.1, dify={"ping_seconds": 0.1})
    chunks = await served.stream("HANG 5 ECHO:late")
    assert chunks[-1]["error"]["code"] == "upstream_timeout"
    assert "did not begin" in chunks[-1]["error"]["message"]


async def test_a_run_is_bounded(serve: Serve) -> None:
    served = await serve(max_run_seconds=0.5, dify={"ping_seconds": 0.1})
    chunks = await served.stream("SLOW 100 50")
    assert text_of(chunks).startswith("s0 ")
    assert chunks[-1]["error"]["code"] == "upstream_timeout"
    await eventually(lambda: len(served.dify.stops) == 1)


async def test_an_answer_is_bounded(serve: Serve) -> None:
    served = await serve(max_answer_mb=1, dify={"token_delay": 0.1})
    answer = await served.ask('SAY:["' + "x" * 1_100_000 + '", "and more"]')
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    await eventually(lambda: len(served.dify.stops) == 1)


@pytest.mark.usefixtures("short_goodbyes")
async def test_connections_are_bounded(serve: Serve) -> None:
    served = await serve(max_connections=2)
    answers = await asyncio.gather(*(served.ask("SLOW 5 50") for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert (refused.json()["error"]["code"], refused.headers["x-should-retry"]) == ("overloaded", "true")


async def test_one_bad_key_hides_nothing(serve: Serve) -> None:
    keys = ",".join([WRONG_APP_KEY, *(app.key for app in SAMPLE_APPS)])
    served = await serve(dify_api_keys=keys)
    assert len((await served.http.get("/v1/models")).json()["data"]) == len(SAMPLE_APPS)
    ready = (await served.http.get("/readyz")).json()
    assert ready["ready"]
    assert ready["apps"][0] == {"name": "app-wro...", "mode": None, "ready": False, "problem": "upstream_auth_failed"}


async def test_old_servers_do_not_tell_the_mode(serve: Serve) -> None:
    old: tuple[SampleApp, ...] = tuple(replace(app, info="no-mode") for app in SAMPLE_APPS if app.mode != "agent")
    served = await serve(old, dify={"generation": "1.9"})
    for app in old:
        answer = await served.ask("ECHO:found it", app.name)
        assert answer.json()["choices"][0]["message"]["content"] == "found it", app.mode


async def test_first_packet_goes_out_early(serve: Serve) -> None:
    served = await serve(first_packet_seconds=0.1)
    body: dict[str, Any] = {"model": "Helper", "messages": [{"role": "user", "content": "HANG 1 ECHO:late"}]}
    async with served.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as response:
        parts = [part async for part in response.aiter_text()]
    assert '"role":"assistant"' in parts[0]
    assert "late" not in parts[0]
    assert text_of(frames("".join(parts))) == "late"


async def test_keep_alives(serve: Serve) -> None:
    served = await serve(keep_alive_seconds=0.1, first_packet_seconds=0.1)
    answer = await served.ask("HANG 0.5 ECHO:late", stream=True)
    assert answer.text.count(": keep-alive\n\n") >= 2
    assert text_of(frames(answer.text)) == "late"
