"""Blocking answers."""

from dataclasses import replace

import pytest
from asking import inside, sample

from opendify.demo import Control


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
@pytest.mark.parametrize("mode", ["chat", "advanced-chat", "completion"])
async def test_messages(mode: str, generation: str) -> None:
    async with inside(mode, generation=generation) as asking:
        answer = await asking.blocking("ECHO:a b")
    expected = ["event", "task_id", "id", "message_id", "conversation_id", "mode", "answer", "metadata", "created_at"]
    assert list(answer) == [key for key in expected if mode != "completion" or key != "conversation_id"]
    assert (answer["event"], answer["mode"], answer["answer"]) == ("message", mode, "a b")
    assert next(iter(answer["metadata"])) == "annotation_reply"


async def test_workflows() -> None:
    async with inside("workflow") as asking:
        answer = await asking.blocking("ECHO:a b")
        assert list(answer) == ["task_id", "workflow_run_id", "data"]
        assert (answer["data"]["status"], answer["data"]["outputs"]) == ("succeeded", {"answer": "a b"})
        failed = await asking.blocking("ERROR_START")
        assert (failed["data"]["status"], failed["data"]["outputs"]) == ("failed", {})


@pytest.mark.parametrize(
    ("mode", "query", "code", "message"),
    [
        ("chat", "ERROR_START:RATE", "completion_request_error", "[demo] stub provider error RATE"),
        ("completion", "LONG 9 ERROR_MID", "completion_request_error", "[demo] stub provider error UNAVAIL"),
        ("advanced-chat", "ERROR_START", "invalid_param", "Run failed: [demo] stub provider error UNAVAIL"),
        ("chat", "FAIL", "completion_request_error", "[Demo LLM] Error: req_id"),
    ],
)
async def test_failures(mode: str, query: str, code: str, message: str) -> None:
    async with inside(mode) as asking:
        answer = await asking.post(query, response_mode="blocking")
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    assert answer.json()["message"].startswith(message)


async def test_pauses() -> None:
    async with inside("advanced-chat") as asking:
        answer = await asking.blocking("PAUSE ECHO:a")
        assert (answer["event"], answer["answer"]) == ("workflow_paused", "Draft: a\n")
        assert answer["data"]["reasons"][0]["TYPE"] == "human_input_required"
    async with inside("workflow") as asking:
        answer = await asking.blocking("PAUSE ECHO:a")
        assert (answer["data"]["status"], answer["data"]["finished_at"]) == ("paused", None)


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
async def test_silence_and_stops(generation: str) -> None:
    async with inside("advanced-chat", generation=generation) as asking:
        assert (await asking.blocking("HANG 0.01 STOPPED ECHO:a"))["answer"] == "a"


async def test_agents_refuse() -> None:
    async with inside("agent") as asking:
        path, body = asking.request("ECHO:a")
        del body["response_mode"]
        assert "message_end" in (await asking.http.post(path, json=body)).text


async def test_a_busy_app_refuses() -> None:
    for mode in ("chat", "workflow"):
        async with inside(replace(sample(mode), max_active=1)) as asking:
            with asking.dify.state.slot(asking.app.key):
                for response_mode in ("streaming", "blocking"):
                    refused = await asking.post("ECHO:a", response_mode=response_mode)
                    assert refused.json()["message"].startswith("Too many requests. Please try again later.")
            assert (await asking.post("ECHO:a")).status_code == 200


async def test_other_kinds_of_inputs() -> None:
    form = (
        Control("number", "count"),
        Control("json_object", "data"),
        Control("checkbox", "flag"),
        Control("text-input", "tone", default="mild"),
    )
    app = replace(sample("chat"), form=form, prompt="{{count}} {{data}} {{flag}} {{tone}}")
    async with inside(app) as asking:
        given = {"count": "2.5", "data": {"a": 1}, "flag": "yes"}
        assert "2.5 {'a': 1} True mild" in (await asking.blocking("DESCRIBE", inputs=given))["answer"]
        assert "None None None mild" in (await asking.blocking("DESCRIBE", inputs={"count": ""}))["answer"]
        assert "3 None True mild" in (await asking.blocking("DESCRIBE", inputs={"count": 3, "flag": True}))["answer"]
        refused = await asking.post("DESCRIBE", inputs={"flag": "maybe"})
        assert refused.json()["message"] == "flag in input form must be a valid boolean value"
        refused = await asking.post("DESCRIBE", inputs={"count": "many"})
        assert refused.json()["message"] == "count in input form must be a valid number"
        refused = await asking.post("DESCRIBE", inputs={"data": "x"})
        assert refused.json()["message"] == "data in input form must be a dict"
