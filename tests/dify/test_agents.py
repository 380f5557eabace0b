"""Tool runs: Dify's events in, the waist's events out."""

from typing import Any, Final

import msgspec
import pytest
from frames import DONE, as_json, delta, end, event, log, message, node, read, row, run

from opendify.dialogue import Event, Finished, ReasoningDelta, TextDelta, ToolResult, ToolRun, Usage
from opendify.dify.agents import MAX_ROUNDS, MAX_ROWS
from opendify.dify.calls import MAX_CALLS, MAX_CHARS

Row = tuple[list[bytes], list[Event]]

UUID: Final = "8c4a6caa-656d-4cd0-aa0b-5fc28e418d3e"
CALL: Final = "call_dify_8c4a6caa656d4cd0aa0b5fc28e418d3e"


def called(name: str = "clock", arguments: str = '{"zone":"UTC"}', call_id: str = "call_dify_1") -> ToolRun:
    return ToolRun(id=call_id, name=name, arguments=arguments)


def returned(observation: str = "noon", call_id: str = "call_dify_1") -> ToolResult:
    return ToolResult(call_id, observation)


# -- the classic agent: keyed by the tool's name

INPUT: Final = as_json(clock={"zone": "UTC"})
SEEN: Final = as_json(clock="noon")

CLASSIC: dict[str, Row] = {
    "a round": (
        [
            row(UUID),
            delta("Look. "),
            row(UUID, thought="Look. ", tool="clock", tool_input=INPUT),
            row(UUID, thought="Look. ", tool="clock", tool_input=INPUT, observation=SEEN),
            row("2"),
            delta("Noon."),
            row("2", thought="Noon."),
            end(),
        ],
        [TextDelta("Look. "), called(call_id=CALL), returned(call_id=CALL), TextDelta("Noon."), DONE],
    ),
    "the same row again and again": (
        [row("1", tool="clock", tool_input=INPUT)] * 3
        + [row("1", tool="clock", tool_input=INPUT, observation=SEEN)] * 3
        + [row("2"), row("1", tool="clock", tool_input=INPUT, observation=SEEN), end()],
        [called(), returned(), DONE],
    ),
    "the row comes only once": (
        [row("1", tool="clock", tool_input=INPUT, observation=SEEN), end()],
        [called(), returned(), DONE],
    ),
    "the tool does not answer": ([row("1", tool="clock", tool_input=INPUT), row("2"), end()], [called(), DONE]),
    "an earlier row is answered later": (
        [
            row("1", tool="clock", tool_input=INPUT),
            row("2", tool="clock", tool_input=INPUT),
            row("1", tool="clock", tool_input=INPUT, observation=SEEN),
            end(),
        ],
        [called(), called(call_id="call_dify_2"), returned(), DONE],
    ),
    "two tools": (
        [
            row("1", tool="clock;map", tool_input=as_json(clock={}, map={"at": "Ulm"})),
            row(
                "1",
                tool="clock;map",
                tool_input=as_json(clock={}, map={"at": "Ulm"}),
                observation=as_json(clock="noon", map={"found": True}),
            ),
            end(),
        ],
        [
            called("clock", "{}"),
            called("map", '{"at":"Ulm"}', "call_dify_1_2"),
            returned("noon"),
            returned('{"found":true}', "call_dify_1_2"),
            DONE,
        ],
    ),
    "one tool twice: Dify keeps what belongs to the last": (
        [row("1", tool="clock;clock", tool_input=INPUT, observation=SEEN), end()],
        [called(), returned(), called(call_id="call_dify_1_2"), returned(call_id="call_dify_1_2"), DONE],
    ),
    "one of two tools has answered": (
        [
            row("1", tool="clock;map", tool_input=as_json(clock={}, map={}), observation=SEEN),
            row("1", tool="clock;map", tool_input=as_json(clock={}, map={}), observation=as_json(clock="x", map="y")),
            end(),
        ],
        [
            called("clock", "{}"),
            returned("noon"),
            called("map", "{}", "call_dify_1_2"),
            returned("y", "call_dify_1_2"),
            DONE,
        ],
    ),
    "old versions list the names as JSON, and the rest likewise": (
        [
            row(
                "1",
                tool='["clock", "map"]',
                tool_input=msgspec.json.encode([{"zone": "UTC"}, '{"at": "Ulm"}']).decode(),
                observation='["noon", "here"]',
            ),
            end(),
        ],
        [
            called(),
            returned(),
            called("map", '{"at":"Ulm"}', "call_dify_1_2"),
            returned("here", "call_dify_1_2"),
            DONE,
        ],
    ),
    "observed before the input is known": (
        [
            row("1", tool="clock", observation=SEEN),
            row("1", tool="clock", tool_input=INPUT, observation=SEEN),
            end(),
        ],
        [called(), returned(), DONE],
    ),
    "the input never comes, but another round": (
        [row("1", tool="clock", observation=SEEN), row("2"), delta("Noon."), end()],
        [called("clock", "{}"), returned(), TextDelta("Noon."), DONE],
    ),
    "the input never comes, but the end": (
        [row("1", tool="clock", tool_input=None, observation=None), end()],
        [called("clock", "{}"), DONE],
    ),
    "the input never comes, but an earlier round's answer": (
        [
            row("1", tool="clock", tool_input=INPUT),
            row("2", tool="map"),
            row("1", tool="clock", tool_input=INPUT, observation=SEEN),
            end(),
        ],
        [called(), called("map", "{}", "call_dify_2"), returned(), DONE],
    ),
    "no tool": ([row("1", tool="", tool_input=INPUT), row("2", tool=None), row("3", tool=" ; "), end()], [DONE]),
    "rows without an id": (
        [
            row(None, position=1, tool="clock", tool_input=INPUT),
            row(None, position=2, tool="map", tool_input="{}"),
            end(),
        ],
        [called(), called("map", "{}", "call_dify_2"), DONE],
    ),
    "an annotation has none": ([message("Hi"), end()], [TextDelta("Hi"), DONE]),
}


@pytest.mark.parametrize(("frames", "events"), CLASSIC.values(), ids=CLASSIC)
def test_classic_agent(frames: list[bytes], events: list[Event]) -> None:
    assert read("agent-chat", frames) == events


# tool_input of one call of the tool "clock" -> the arguments
INPUTS: dict[str, tuple[object, str]] = {
    "an object": (INPUT, '{"zone":"UTC"}'),
    "an empty object": ('{"clock": {}}', "{}"),
    "null": ('{"clock": null}', "{}"),
    "an empty string": ('{"clock": ""}', "{}"),
    "a string": ('{"clock": "UTC"}', '{"input":"UTC"}'),
    "an object in a string": ('{"clock": "{\\"zone\\": \\"UTC\\"}"}', '{"zone":"UTC"}'),
    "a number": ('{"clock": 5}', '{"input":5}'),
    "a list": ('{"clock": ["UTC", null]}', '{"input":["UTC",null]}'),
    "not keyed": ('{"zone": "UTC"}', '{"zone":"UTC"}'),
    "bare": ("UTC", '{"input":"UTC"}'),
    "a bare list": ('["UTC"]', '{"input":["UTC"]}'),
    "broken": ('{"clock": {"zone', '{"input":"{\\"clock\\": {\\"zone"}'),
    "an object of the frame itself": ({"clock": {"zone": "UTC"}}, '{"zone":"UTC"}'),
    "a number out of range": ('{"clock": 1e999}', '{"input":"{\\"clock\\": 1e999}"}'),
    "nested too deeply": ("[" * 5000, as_json(input="[" * 5000)),
}


@pytest.mark.parametrize(("given", "arguments"), INPUTS.values(), ids=INPUTS)
def test_arguments_of_the_classic_agent(given: object, arguments: str) -> None:
    assert read("agent-chat", [row("1", tool="clock", tool_input=given), end()]) == [called("clock", arguments), DONE]
    assert isinstance(msgspec.json.decode(arguments), dict)


OBSERVATIONS: dict[str, tuple[object, str]] = {
    "a text": (SEEN, "noon"),
    "an empty text": ('{"clock": ""}', ""),
    "null": ('{"clock": null}', ""),
    "an object": ('{"clock": {"at": [12, 0]}}', '{"at":[12,0]}'),
    "not keyed": ('{"at": 12}', '{"at": 12}'),
    "bare": ("noon", "noon"),
    "broken": ('{"clock": "no', '{"clock": "no'),
    "an object of the frame itself": ({"clock": "noon"}, "noon"),
}


@pytest.mark.parametrize(("given", "observation"), OBSERVATIONS.values(), ids=OBSERVATIONS)
def test_observations_of_the_classic_agent(given: object, observation: str) -> None:
    frames = [row("1", tool="clock", tool_input=INPUT, observation=given), end()]
    assert read("agent-chat", frames) == [called(), returned(observation), DONE]


# -- the New Agent: bare arguments, bare results

BARE: Final = '{"zone": "UTC"}'

NEW: dict[str, Row] = {
    "a call": (
        [
            row("1"),
            delta("Look. "),
            *[row(UUID, tool="clock", tool_input=BARE)] * 2,
            row(UUID, tool="clock", tool_input=BARE, observation="noon"),
            row("3"),
            delta("Noon."),
            message("Noon."),
            end(),
        ],
        [TextDelta("Look. "), called(call_id=CALL), returned(call_id=CALL), TextDelta("Noon."), DONE],
    ),
    "the arguments grow": (
        [
            row("1", tool="clock"),
            row("1", tool="clock", tool_input='{"zo'),
            row("1", tool="clock", tool_input='{"zone": "UTC"'),
            row("1", tool="clock", tool_input=BARE),
            end(),
        ],
        [called(), DONE],
    ),
    "they grow and break off": (
        [row("1", tool="clock", tool_input='{"zo'), row("2"), delta("Hm."), end()],
        [called("clock", '{"input":"{\\"zo"}'), TextDelta("Hm."), DONE],
    ),
    "they are no object": (
        [row("1", tool="clock", tool_input="UTC"), row("1", tool="clock", tool_input="UTC", observation="noon"), end()],
        [called("clock", '{"input":"UTC"}'), returned(), DONE],
    ),
    "none at all": (
        [row("1", tool="now"), row("1", tool="now", observation="noon"), row("2"), delta("Noon."), end()],
        [called("now", "{}"), returned(), TextDelta("Noon."), DONE],
    ),
    "an argument is called like the tool": (
        [row("1", tool="clock", tool_input='{"clock": "a"}', observation='{"clock": "b"}'), end()],
        [called("clock", '{"clock":"a"}'), returned('{"clock": "b"}'), DONE],
    ),
    "two at once": (
        [
            row("1", tool="clock", tool_input=BARE),
            row("2", tool="map", tool_input="{}"),
            row("1", tool="clock", tool_input=BARE, observation="noon"),
            row("2", tool="map", tool_input="{}", observation="here"),
            end(),
        ],
        [called(), called("map", "{}", "call_dify_2"), returned(), returned("here", "call_dify_2"), DONE],
    ),
    "it asks a human": (
        [row("1", tool="ask_human", tool_input='{"question": "Why?"}'), message("Why?"), end()],
        [called("ask_human", '{"question":"Why?"}'), TextDelta("Why?"), Finished("stop", Usage(), asks=True)],
    ),
    "a thought with a call": (
        [row("1", thought="hm", tool="clock", tool_input=BARE), end()],
        [ReasoningDelta("hm"), called(), DONE],
    ),
    "an object of the frame itself": (
        [row("1", tool="clock", tool_input={"zone": "UTC"}, observation=["noon"]), end()],
        [called(), returned('["noon"]'), DONE],
    ),
}


@pytest.mark.parametrize(("frames", "events"), NEW.values(), ids=NEW)
def test_new_agent(frames: list[bytes], events: list[Event]) -> None:
    assert read("agent", frames) == events


# -- the Agent node of flows, as the strategies log: see `called` below for what each is to become


def round_of(*logs: bytes) -> list[bytes]:
    """The logs of a round, with those around them that tell of no call."""
    return [
        log("0", "Agent Strategy: function_calling", data={"strategy": "fc", "parameters": {"query": "secret"}}),
        log("r", "ROUND 1"),
        log("t", "gpt-4o Thought", parent_id="r"),
        *logs,
        log(
            "r", "ROUND 1", "success", data={"output": {"llm_response": "", "tool_responses": [{"tool_call_id": "x"}]}}
        ),
        message("Noon."),
        end(),
    ]


def thought(*calls: dict[str, Any]) -> bytes:
    names = ";".join(call["name"] for call in calls)
    data = {"output": "", "tool_name": names, "tool_input": list(calls)}
    return log("t", "gpt-4o Thought", "success", parent_id="r", data=data)


CLOCK: Final = {"name": "clock", "args": {"zone": "UTC"}}
ANSWER: Final = {
    "tool_call_id": "call_abc",
    "tool_call_name": "clock",
    "tool_call_input": {"zone": "UTC", "configured": 1},
    "tool_response": "noon",
}

LOGS: dict[str, Row] = {
    "function calling": (
        [
            thought(CLOCK),
            log("1", "CALL clock", parent_id="r"),
            log("1", "CALL clock", "success", parent_id="r", data={"output": ANSWER}),
        ],
        [called(), returned()],
    ),
    "function calling, two calls of one tool": (
        [
            thought(CLOCK, {"name": "clock", "args": {"zone": "CET"}}),
            log("1", "CALL clock", parent_id="r"),
            log("1", "CALL clock", "success", parent_id="r", data={"output": ANSWER}),
            log("2", "CALL clock", parent_id="r"),
            log("2", "CALL clock", "success", parent_id="r", data={"output": ANSWER | {"tool_response": "one"}}),
        ],
        [called(), returned(), called("clock", '{"zone":"CET"}', "call_dify_2"), returned("one", "call_dify_2")],
    ),
    "function calling without the thought": (
        [log("1", "CALL clock"), log("1", "CALL clock", "success", data={"output": ANSWER})],
        [called("clock", '{"zone":"UTC","configured":1}'), returned()],
    ),
    "function calling, an unknown tool": (
        [
            log("1", "CALL clock"),
            log(
                "1", "CALL clock", "success", data={"output": {"tool_call_name": "clock", "tool_response": "no clock"}}
            ),
        ],
        [called("clock", "{}"), returned("no clock")],
    ),
    "ReAct": (
        [
            log(
                "t",
                "gpt-4o Thought",
                "success",
                parent_id="r",
                data={"thought": "hm", "action": "clock", "action_input": {"zone": "UTC"}},
            ),
            log("1", "CALL clock", parent_id="r"),
            log(
                "1",
                "CALL clock",
                "success",
                parent_id="r",
                data={"tool_name": "clock", "tool_call_args": {"zone": "UTC", "configured": 1}, "output": "noon"},
            ),
        ],
        [called(), returned()],
    ),
    "ReAct, the final answer is no call": (
        [log("t", "gpt-4o Thought", "success", data={"thought": "hm", "action": "Final Answer", "action_input": "Hi"})],
        [],
    ),
    "a strategy that tells its input at once": (
        [
            log("1", "CALL clock", data={"input": {"zone": "UTC"}}),
            log("1", "CALL clock", "success", data={"tool_call_args": {}, "output": {"at": 12}, "is_error": False}),
        ],
        [called(), returned('{"at":12}')],
    ),
    "Dify's own": (
        [
            log("1", "CALL clock", data={"tool_call_id": "x", "tool_name": "clock", "tool_args": {"zone": "UTC"}}),
            log("1", "CALL clock", "error", error="boom", data={"tool_name": "clock", "error": "boom"}),
        ],
        [called(), returned("boom")],
    ),
    "Agent V2": (
        [
            log(
                "1",
                "clock",
                data={"tool_name": "clock", "tool_call_id": "x", "tool_input": {"zone": "UTC"}, "output": None},
            ),
            log(
                "1",
                "clock",
                "success",
                data={"tool_name": "clock", "tool_call_id": "x", "observation": "noon", "output": "noon"},
            ),
            log("2", "thinking", "success", data={"thought": "hm"}, metadata={"kind": "reasoning"}),
        ],
        [called(), returned()],
    ),
    "Agent V2, arguments that are no JSON": (
        [log("1", "clock", data={"tool_name": "clock", "tool_call_id": "x", "tool_input": "{zone", "output": None})],
        [called("clock", '{"input":"{zone"}')],
    ),
    "an error is cleaned": (
        [log("1", "CALL clock", "error", error="no answer from http://10.0.0.1:5003/x", data={})],
        [called("clock", "{}"), returned("no answer from (address)")],
    ),
    "only an error in the data": (
        [log("1", "CALL clock", "error", data={"error": "boom"})],
        [called("clock", "{}"), returned("boom")],
    ),
    "nothing comes back": ([log("1", "CALL clock", "success", data=None)], [called("clock", "{}"), returned("")]),
    "the same again": (
        [log("1", "CALL clock", "success", data={"output": "noon"})] * 2,
        [called("clock", "{}"), returned()],
    ),
    "odd ones": (
        [
            event("agent_log", data=None),
            event("agent_log"),
            event("agent_log", data={"id": 5}),
            event("agent_log", data={"id": "x", "label": "CALL ", "data": [1]}),
            event("agent_log", data={"id": "x", "label": None, "status": None, "data": "text"}),
            log("x", "ROUND 1", data={"output": "x", "tool_input": "x"}),
            log("x", "thought", "success", data={"tool_input": [None, {"name": 5}, {}]}),
        ],
        [],
    ),
}


@pytest.mark.parametrize(("logs", "events"), LOGS.values(), ids=LOGS)
def test_agent_node(logs: list[bytes], events: list[Event]) -> None:
    assert read("advanced-chat", round_of(*logs)) == [*events, TextDelta("Noon."), DONE]


def outputs_of(*logs: bytes) -> bytes:
    """`node_finished` of an Agent node, whose outputs hold these logs once more."""
    entries = [msgspec.json.decode(data)["data"] for data in logs]
    return node("agent", outputs={"text": "Noon.", "files": [], "json": [*entries, {"data": []}, {"id": 5}, 7]})


def test_the_node_repeats_its_logs() -> None:
    logs, events = LOGS["function calling"]
    assert read("advanced-chat", [*logs, outputs_of(*logs), message("Hi"), end()]) == [*events, TextDelta("Hi"), DONE]


def test_the_node_alone_has_the_logs() -> None:
    logs = [thought(CLOCK), log("1", "CALL clock", "success", parent_id="r", data={"output": ANSWER})]
    assert read("workflow", [outputs_of(*logs), run()]) == [called(), returned(), DONE]


@pytest.mark.parametrize("outputs", [None, {}, "cut", {"json": None}, {"json": "..."}, [1]], ids=str)
def test_the_node_has_none(outputs: object) -> None:
    assert read("workflow", [node("agent", outputs=outputs), run()]) == [DONE]


# -- bounds


def test_long_arguments_and_results_are_cut() -> None:
    long = "é" * (MAX_CHARS + 5)
    frames = [row("1", tool="a", tool_input=as_json(q=long), observation=long), end()]
    run_, result, _ = read("agent", frames)
    assert isinstance(run_, ToolRun)
    assert isinstance(result, ToolResult)
    whole = as_json(q=long)
    assert msgspec.json.decode(run_.arguments) == {"input": f"{whole[:MAX_CHARS]}... (cut: {len(whole)} characters)"}
    assert result.observation == f"{long[:MAX_CHARS]}... (cut: {len(long)} characters)"


def test_so_many_calls_are_told() -> None:
    frames = [row(str(number), tool="a", tool_input="{}", observation="b") for number in range(MAX_CALLS + 9)]
    told = read("agent", [*frames, row("0", tool="a", tool_input="{}", observation="c"), end()])
    assert len(told) == 2 * MAX_CALLS + 1
    assert len({event.id for event in told if isinstance(event, ToolRun)}) == MAX_CALLS


def test_a_name_is_one_line() -> None:
    (told, _) = read("agent", [row("1", tool=" a\nb " + "c" * 500, tool_input="{}"), end()])
    assert isinstance(told, ToolRun)
    assert told.name == "a b " + "c" * 196


def test_what_is_kept_is_bounded() -> None:
    from opendify.dify.reader import Reader

    reader = Reader("agent", origin="http://dify.test")
    for number in range(MAX_ROWS + 9):
        reader.read(row(str(number), thought="a"))
    assert len(reader._making._rows._thought) == MAX_ROWS
    for number in range(MAX_ROUNDS + 9):
        data = {"tool_input": [CLOCK] * 99}
        reader.read(log(str(number), "Thought", "success", parent_id=str(number), data=data))
    planned = reader._making._nodes.logs._planned
    assert (len(planned), {len(calls) for calls in planned.values()}) == (MAX_ROUNDS, {32})
