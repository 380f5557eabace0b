"""Calls in events of forked Difys are the client's to run."""

from typing import Any

import pytest
from frames import DONE, delta, end, event, message, read

from opendify.dialogue import Finished, TextDelta, ToolCall, Usage
from opendify.dify.forwarded import MAX_CALLS, MAX_CHARS

ULM = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Ulm"}'}}
CALLED = ToolCall("call_1", "weather", '{"city":"Ulm"}')
CALLS = Finished("tool_calls", Usage())


def piece(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}, **more}


@pytest.mark.parametrize(
    ("mode", "frames"),
    [
        ("chat", [message("I look."), event("message", answer="", tool_calls=[ULM]), end()]),
        ("chat", [event("message", answer="I look.", tool_calls=[ULM]), end()]),
        ("advanced-chat", [message("I look."), event("message_end", tool_calls=[ULM])]),
        ("agent-chat", [delta("I look."), event("agent_message", answer=None, tool_calls=[ULM]), end()]),
        ("agent", [delta("I look."), event("agent_message", tool_calls=[ULM]), message("I look."), end()]),
        ("chat", [event("message", answer="I look.", tool_calls=[ULM]), event("message", tool_calls=[ULM]), end()]),
        ("chat", [event("message", answer="I look.", tool_calls=[ULM]), event("message_end", tool_calls=[ULM])]),
    ],
)
def test_calls_are_passed_on_once(mode: str, frames: list[bytes]) -> None:
    told = read(mode, frames)
    assert told[0] == TextDelta("I look.")
    assert told[-1] == CALLS
    calls = [each for each in told if isinstance(each, ToolCall)]
    assert calls == [CALLED]


def test_calls_in_pieces() -> None:
    first = piece(0, '{"ci', id="call_1") | {"function": {"name": "weather", "arguments": '{"ci'}}
    other = piece(1, "", id="call_2") | {"function": {"name": "clock"}}
    frames = [
        event("message", tool_calls=calls) for calls in ([first], [piece(0, 'ty":'), other], [piece(0, '"Ulm"}')])
    ]
    assert read("chat", [*frames, end()]) == [CALLED, ToolCall("call_2", "clock", "{}"), CALLS]


@pytest.mark.parametrize(
    "calls",
    [None, [], {}, "x", 1, [None, "x", 1], [{}], [{"id": "a"}], [{"function": {"name": 1}}], [{"function": "f"}]],
)
def test_what_is_no_call(calls: Any) -> None:
    frames = [event("message", answer="hi", tool_calls=calls), event("message_end", tool_calls=calls)]
    assert read("chat", frames) == [TextDelta("hi"), DONE]


def test_other_forms_of_a_call() -> None:
    bare = {"name": "weather", "arguments": {"city": "Ulm"}}
    called, done = read("chat", [event("message", tool_calls=[bare]), end()])
    assert isinstance(called, ToolCall)
    assert (called.name, called.arguments, done) == (CALLED.name, CALLED.arguments, CALLS)
    assert called.id.startswith("call_")


def test_an_answer_has_so_many_calls_of_such_a_size() -> None:
    many = [{"id": str(number), "function": {"name": "f", "arguments": "x" * 9}} for number in range(MAX_CALLS + 9)]
    large = {"id": "0", "function": {"arguments": "y" * 2 * MAX_CHARS}}
    told = read("chat", [event("message", tool_calls=many), event("message", tool_calls=[large]), end()])
    calls = [each for each in told if isinstance(each, ToolCall)]
    assert len(calls) == MAX_CALLS
    assert len(calls[0].arguments) == MAX_CHARS
