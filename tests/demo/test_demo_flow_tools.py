"""Flows that call tools: Tool nodes, and Agent nodes that log their rounds."""

from typing import Any

import pytest
from asking import inside, said

GENERATIONS = ("1.16", "1.9")
FLOWS = ("advanced-chat", "workflow")
LOG = ["node_execution_id", "id", "label", "parent_id", "error", "status", "data", "metadata", "node_id"]
STEPS = [
    ("ROUND 1", "start"),
    ("demo-chat Thought", "start"),
    ("demo-chat Thought", "success"),
    ("CALL current_time", "start"),
    ("CALL current_time", "success"),
    ("ROUND 1", "success"),
    ("ROUND 2", "start"),
    ("demo-chat Thought", "start"),
    ("demo-chat Thought", "success"),
    ("ROUND 2", "success"),
]


def data_of(told: list[dict[str, Any]], name: str, kind: str = "") -> list[dict[str, Any]]:
    """What the events of a name carry; of nodes, those of a kind."""
    found = [event["data"] for event in told if event["event"] == name]
    return [data for data in found if not kind or data["node_type"] == kind]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", FLOWS)
@pytest.mark.parametrize(
    ("word", "titles"), [("TOOL", ["Current Time"]), ("TOOL2", ["Current Time", "Current Time 2"])]
)
async def test_tool_nodes(mode: str, generation: str, word: str, titles: list[str]) -> None:
    async with inside(mode, generation=generation) as asking:
        told = await asking.run(f"{word} ECHO:a b")
    begun, over = (data_of(told, f"node_{step}", "tool") for step in ("started", "finished"))
    assert [data["title"] for data in begun] == titles
    assert [data["id"] for data in begun] == [data["id"] for data in over]
    assert len({data["node_id"] for data in begun}) == len(titles)
    for data in begun:
        assert data["inputs"] is None
        assert data["extras"]["icon"].endswith("/builtin/time/icon")
        assert ("parallel_id" in data) is (generation == "1.9")
    for data in over:
        assert data["inputs"] == {"timezone": "UTC"}
        assert data["outputs"]["text"]
        assert {**data["outputs"], "text": ""} == {"text": "", "files": [], "json": [{"data": []}]}
    assert said(told) == "a b"
    kinds = [event["data"]["node_type"] for event in told if event["event"] == "node_started"]
    assert kinds[: len(titles) + 2] == ["start", *["tool"] * len(titles), "llm"]


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", FLOWS)
async def test_an_agent_node_logs_its_rounds(mode: str, generation: str) -> None:
    async with inside(mode, generation=generation) as asking:
        told = await asking.run("AGENTNODE ECHO:a b")
    logs = data_of(told, "agent_log")
    assert [(log["label"], log["status"]) for log in logs] == STEPS
    assert {tuple(log) for log in logs} == {tuple(LOG)}
    assert all("workflow_run_id" not in event for event in told if event["event"] == "agent_log") is (
        mode != "workflow"
    )
    (begun,), (over,) = (data_of(told, f"node_{step}", "agent") for step in ("started", "finished"))
    assert begun["agent_strategy"]["name"] == "function_calling"
    assert {(log["node_id"], log["node_execution_id"]) for log in logs} == {(begun["node_id"], begun["id"])}
    assert not data_of(told, "node_started", "llm")
    assert over["outputs"]["text"] == said(told) == "I will look at the clock. \na b"


async def test_logs_belong_to_their_round() -> None:
    async with inside("workflow") as asking:
        logs = data_of(await asking.run("AGENTNODE ECHO:a"), "agent_log")
    rounds = [log["id"] for log in logs if log["parent_id"] is None and log["status"] == "start"]
    assert len(rounds) == 2
    first, second = ([log["label"] for log in logs if log["parent_id"] == round_] for round_ in rounds)
    assert set(first) == {"demo-chat Thought", "CALL current_time"}
    assert set(second) == {"demo-chat Thought"}
    for log in logs:
        assert bool(log["data"]) is (log["status"] == "success")
        assert "started_at" in log["metadata"]
        assert ("elapsed_time" in log["metadata"]) is (log["status"] == "success")
        assert ("icon" in log["metadata"]) is (log["parent_id"] is not None)


async def test_what_an_agent_node_thinks_and_calls() -> None:
    async with inside("workflow") as asking:
        told = await asking.run("AGENTNODE ECHO:a")
    over = [log["data"] for log in data_of(told, "agent_log") if log["status"] == "success"]
    asked = [{"name": "current_time", "args": {"timezone": "UTC"}}]
    assert over[0] == {"output": "I will look at the clock. ", "tool_name": "current_time", "tool_input": asked}
    answer = over[1]["output"]
    assert list(answer) == ["tool_call_id", "tool_call_name", "tool_call_input", "tool_response"]
    assert over[2] == {"output": {"llm_response": over[0]["output"], "tool_responses": [answer]}}
    assert over[3] == {"output": "a", "tool_name": "", "tool_input": []}
    assert over[4] == {"output": {"llm_response": "a", "tool_responses": []}}


async def test_the_outputs_hold_the_logs_once_more() -> None:
    async with inside("workflow") as asking:
        told = await asking.run("AGENTNODE ECHO:a")
    (over,) = data_of(told, "node_finished", "agent")
    assert list(over["outputs"]) == ["text", "usage", "files", "json"]
    *kept, rest = over["outputs"]["json"]
    assert rest == {"data": []}
    last = {log["id"]: log for log in data_of(told, "agent_log")}
    assert [log | {"node_execution_id": over["id"]} for log in kept] == list(last.values())
    assert [log["id"] for log in over["execution_metadata"]["agent_log"]] == list(last)
    assert over["execution_metadata"]["total_tokens"] == over["outputs"]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("mode", FLOWS)
async def test_tool_nodes_stand_before_agent_nodes(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("TOOL AGENTNODE THINK")
    kinds = [event["data"]["node_type"] for event in told if event["event"] == "node_finished"]
    assert kinds[:3] == ["start", "tool", "agent"]
    assert said(told).startswith("I will look at the clock. \n<think>")


async def test_an_agent_node_fails_amid_its_answer() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("AGENTNODE LONG 10 ERROR_MID")
    assert [log["status"] for log in data_of(told, "agent_log")][-2:] == ["start", "start"]
    (over,) = data_of(told, "node_finished", "agent")
    assert over["status"] == "failed"
    assert data_of(told, "workflow_finished")[0]["status"] == "failed"


async def test_whole_answers_are_the_same() -> None:
    async with inside("workflow") as asking:
        answer = await asking.blocking("TOOL AGENTNODE ECHO:a")
    assert answer["data"]["outputs"] == {"answer": "I will look at the clock. \na"}
