"""What a flow's nodes tell: Dify's events in, the waist's events out."""

from typing import Any

import pytest
from frames import DONE, chunk, end, event, log, message, node, read, run

from opendify.dialogue import Event, Failed, Finished, Progress, TextDelta, ToolResult, ToolRun, Usage
from opendify.dify.nodes import MAX_TITLE, SILENT

CALLED = ToolRun(id="call_dify_node1", name="Clock", arguments='{"zone":"UTC"}')
NOON = ToolResult("call_dify_node1", "noon")


def tool(event_name: str = "node_finished", **fields: Any) -> bytes:
    return node("tool", event_name, **{"id": "node-1", "title": "Clock", "inputs": {"zone": "UTC"}} | fields)


# -- Tool nodes

TOOLS: dict[str, tuple[list[bytes], list[Event]]] = {
    "its input is known at the end": (
        [tool("node_started", inputs=None), tool(outputs={"text": "noon", "files": [], "json": [{"data": []}]})],
        [CALLED, NOON],
    ),
    "its input is known at the start": (
        [tool("node_started"), message("Wait. "), tool(outputs={"text": "noon"})],
        [CALLED, TextDelta("Wait. "), NOON],
    ),
    "an empty input at the start is none": (
        [tool("node_started", inputs={}), tool(outputs={"text": "noon"})],
        [CALLED, NOON],
    ),
    "it never ends": ([tool("node_started")], [CALLED]),
    "it runs twice": (
        [tool(outputs={"text": "noon"}), tool(id="node-2", outputs={"text": "one"})],
        [
            CALLED,
            NOON,
            ToolRun(id="call_dify_node2", name="Clock", arguments='{"zone":"UTC"}'),
            ToolResult("call_dify_node2", "one"),
        ],
    ),
    "no input": (
        [tool(inputs=None, outputs={"text": "noon"})],
        [ToolRun(id="call_dify_node1", name="Clock", arguments="{}"), NOON],
    ),
    "an input that 1.9 has cut": (
        [tool(inputs="zone...", outputs={"text": "noon"})],
        [ToolRun(id="call_dify_node1", name="Clock", arguments='{"input":"zone..."}'), NOON],
    ),
    "JSON": (
        [tool(outputs={"text": "", "files": [], "json": [{"at": 12}]})],
        [CALLED, ToolResult("call_dify_node1", '[{"at":12}]')],
    ),
    "variables": (
        [tool(outputs={"text": "", "files": [], "json": [{"data": []}], "at": 12})],
        [CALLED, ToolResult("call_dify_node1", '{"files":[],"at":12}')],
    ),
    "nothing": (
        [tool(outputs={"text": "", "files": [], "json": [{"data": []}]})],
        [CALLED, ToolResult("call_dify_node1", "")],
    ),
    "no outputs": ([tool()], [CALLED, ToolResult("call_dify_node1", "")]),
    "outputs that 1.9 has cut": ([tool(outputs="no...")], [CALLED, ToolResult("call_dify_node1", "no...")]),
    "it fails, and a default value takes its place": (
        [tool(status="exception", error="no answer from http://10.0.0.1:5003/x", outputs={"text": "default"})],
        [CALLED, ToolResult("call_dify_node1", "no answer from (address)")],
    ),
    "an empty error": ([tool(error="", outputs={"text": "noon"})], [CALLED, NOON]),
    "without a title": (
        [tool(title=None, outputs={"text": "noon"})],
        [ToolRun(id="call_dify_node1", name="tool", arguments='{"zone":"UTC"}'), NOON],
    ),
    "its own logs are no calls": (
        [log("1", "Fetching", "success", data={"url": "x"}), tool(outputs={"text": "noon"})],
        [CALLED, NOON],
    ),
    "other nodes call nothing": (
        [node("http-request", inputs={"a": 1}, outputs={"body": "x"}), node("code", inputs={"a": 1}, outputs={"b": 2})],
        [],
    ),
}


@pytest.mark.parametrize(("frames", "events"), TOOLS.values(), ids=TOOLS)
def test_tool_nodes(frames: list[bytes], events: list[Event]) -> None:
    assert read("advanced-chat", [*frames, end()]) == [*events, DONE]


def test_a_tool_node_fails_the_run() -> None:
    frames = [tool(status="failed", error="boom"), run(status="failed", error="boom")]
    failed = Failed(code="run_failed", message="boom", status=500)
    assert read("workflow", frames) == [CALLED, ToolResult("call_dify_node1", "boom"), failed]


# -- titles


def begun(title: str) -> Progress:
    return Progress(title, done=False)


def done(title: str) -> Progress:
    return Progress(title, done=True)


TITLES: dict[str, tuple[list[bytes], list[Event]]] = {
    "a node": ([node("llm", "node_started"), node("llm", outputs={})], [begun("Llm"), done("Llm")]),
    "one that fails": ([node("code", status="failed", error="x")], [done("Code")]),
    "a kind of tomorrow": ([node("dream", "node_started")], [begun("Dream")]),
    "no kind": ([node("x", "node_started", node_type=None)], [begun("X")]),
    "an Agent node": ([node("agent", outputs=None)], [done("Agent")]),
    "an iteration": (
        [
            node("iteration", "node_started"),
            node("iteration", "iteration_started"),
            node("iteration", "iteration_next"),
            node("code"),
            node("iteration", "iteration_completed"),
        ],
        [begun("Iteration"), done("Code"), done("Iteration")],
    ),
    "a loop": ([node("loop", "loop_started"), node("loop", "loop_completed")], [begun("Loop"), done("Loop")]),
    "a tool": (
        [tool("node_started", inputs=None), tool(outputs={"text": "noon"})],
        [begun("Clock"), CALLED, NOON, done("Clock")],
    ),
    "a title over lines": ([node("llm", title=" a\n\tb\x1b[0m\u2028c ")], [done("a b[0m c")]),
    "a long title": ([node("llm", title="a" * 999)], [done("a" * MAX_TITLE)]),
    "no title": (
        [node("llm", title=None), node("llm", title=" "), node("llm", title=5), node("loop", "loop_started", title="")],
        [],
    ),
    "odd ones": (
        [event("node_started", data=None), event("loop_started", data=[1]), event("iteration_completed")],
        [],
    ),
}


@pytest.mark.parametrize(("frames", "events"), TITLES.values(), ids=TITLES)
def test_titles(frames: list[bytes], events: list[Event]) -> None:
    assert read("workflow", [*frames, run()], progress=True) == [*events, DONE]
    asides = [event for event in events if not isinstance(event, Progress)]
    assert read("workflow", [*frames, run()]) == [*asides, DONE]


@pytest.mark.parametrize("kind", sorted(SILENT))
def test_silent_kinds(kind: str) -> None:
    frames = [node(kind, "node_started"), chunk("Hi"), node(kind), run()]
    assert read("workflow", frames, progress=True) == [TextDelta("Hi"), DONE]


@pytest.mark.parametrize("kind", ["llm", "agent"])
def test_nodes_with_a_model_report_its_usage(kind: str) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    *_, finished = read("workflow", [node(kind, outputs={"text": "hi", "usage": usage}), run(outputs={"text": "hi"})])
    assert isinstance(finished, Finished)
    assert finished.usage == Usage(3, 4, 7)
