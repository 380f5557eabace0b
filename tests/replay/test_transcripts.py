"""Every recorded run of both servers becomes the expected OpenAI answer, streamed and folded, however it was cut."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replaying import (
    MODEL,
    SERVERS,
    Case,
    Told,
    cases,
    chunks,
    digest,
    golden,
    golden_said,
    in_pieces,
    is_telling,
    lines,
    payloads,
    replay_case,
)

ALL = [(server, case) for server in SERVERS for case in cases(server)]
GOLDEN = {server: golden(server) for server in SERVERS}
SAID = {server: golden_said(server) for server in SERVERS}
NAMES = [f"{server}/{case.name}" for server, case in ALL]

# Every mode, both orders of a chatflow, withdrawn text, characters of every width; thinking, tools, citations.
HANDFUL = [
    case
    for (_, case), name in zip(ALL, NAMES, strict=True)
    if name
    in {
        "1.16.1/agent-stream-tool-think",
        "1.16.1/agent-stream-tool2",
        "1.16.1/chat-plain-stream-cjk",
        "1.16.1/chatflow-kb-stream",
        "1.16.1/chatflow-moderated-stream-blocked",
        "1.16.1/chatflow-ping-hang22",
        "1.16.1/newagent-stream-askhuman",
        "1.16.1/newagent-stream-tool-thinktool-think",
        "1.16.1/workflow-sep-stream-think",
        "1.16.1/workflow-stopped-by-other-user",
        "2.0.0-beta2/chatflow-moderated-stream-echo-some-text-and-t",
        "2.0.0-beta2/chatflow-stream-error_start",
        "2.0.0-beta2/completion-stream-error-mid",
        "2.0.0-beta2/workflow-code-stream-ok",
    }
]

# What only Dify's own events carry, and no answer may.
FOREIGN = {"inputs", "outputs", "process_data", "execution_metadata", "tool_input", "observation", "tenant_id"}

every_run = pytest.mark.parametrize(("server", "case"), ALL, ids=NAMES)


def whole(case: Case) -> Told:
    return replay_case(case, [case.data])


def answers(told: Told) -> tuple[Any, ...]:
    """All that a client can get to see."""
    folded = told.fold()
    bodies = told.stream(include_usage=True), told.stream(include_usage=False), told.error and told.error.body()
    return *bodies, folded and folded["choices"], folded and folded["usage"], told.said, told.ids


def test_each_run_has_its_golden_entry() -> None:
    assert len(HANDFUL) == 14
    assert {server: list(GOLDEN[server]) for server in SERVERS} == {
        server: [case.name for case in cases(server)] for server in SERVERS
    }


@every_run
def test_answer_is_the_golden_one(server: str, case: Case) -> None:
    assert digest(whole(case)) == GOLDEN[server][case.name]


@every_run
def test_events_are_the_golden_ones(server: str, case: Case) -> None:
    told = replay_case(case, [case.data], progress=True)
    assert (lines(told) if is_telling(case, told) else None) == SAID[server].get(case.name)


@every_run
def test_single_bytes_give_the_same_answer(server: str, case: Case) -> None:
    assert answers(replay_case(case, in_pieces(case.data, 1))) == answers(whole(case))


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@pytest.mark.parametrize("case", HANDFUL, ids=[case.name for case in HANDFUL])
@given(cuts=st.lists(st.floats(0, 1), max_size=30))
def test_any_cuts_give_the_same_answer(case: Case, cuts: list[float]) -> None:
    data = case.data
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    assert answers(replay_case(case, pieces)) == answers(whole(case))


@pytest.mark.parametrize("include_usage", [True, False], ids=["usage", "plain"])
@every_run
def test_stream_is_well_formed(server: str, case: Case, include_usage: bool) -> None:
    told = whole(case)
    body = told.stream(include_usage=include_usage)
    *chunked, last = payloads(body)
    objects = chunks(body)

    assert {tuple(chunk[key] for key in ("id", "object", "created", "model")) for chunk in objects} == {
        ("chatcmpl-0", "chat.completion.chunk", 0, MODEL)
    }
    assert objects[0]["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    if told.error:
        assert last == told.error.body()
        assert set(msgspec.json.decode(last)["error"]) == {"message", "type", "param", "code"}
        assert len(chunked) == len(objects)
    else:
        assert last == b"[DONE]"
        check_end(objects, told, include_usage)

    interior = objects[1:] if told.error else objects[1 : -2 if include_usage else -1]
    for chunk in interior:
        (choice,) = chunk["choices"]
        assert choice["finish_reason"] is None
        assert is_well_formed(choice["delta"], chunk)
    assert all(("usage" in chunk) is include_usage for chunk in objects)
    assert all(chunk["usage"] is None for chunk in objects if include_usage and chunk["choices"])


def is_well_formed(delta: dict[str, Any], chunk: dict[str, Any]) -> bool:
    """Whether a delta says one thing, in the form of its kind. What OpenAI has no place for stands beside it."""
    match delta:
        case {"content": "", "annotations": [_, *_]}:
            return len(delta) == 2
        case {"content": str(text)} | {"reasoning_content": str(text)}:
            return len(delta) == 1 and bool(text)
        case {"tool_calls": [call]}:
            return set(call) in ({"index", "id", "type", "function"}, {"index", "function"})
    return delta == {} and set(chunk["dify"]) in ({"tool_result"}, {"citations"})


def check_end(objects: list[dict[str, Any]], told: Told, include_usage: bool) -> None:
    """The chunks that close a good answer agree with its folded form."""
    folded = told.fold()
    assert folded
    (completed,) = folded["choices"]
    if include_usage:
        assert objects[-1]["choices"] == []
        assert objects[-1]["usage"] == folded["usage"]
    finish = objects[-2 if include_usage else -1]
    (choice,) = finish["choices"]
    assert choice == {"index": 0, "delta": {}, "finish_reason": completed["finish_reason"]}
    assert finish["dify"] == {name: value for name, value in folded["dify"].items() if name != "citations"}
    text, thinking = (
        "".join(chunk["choices"][0]["delta"].get(key, "") for chunk in objects if chunk["choices"])
        for key in ("content", "reasoning_content")
    )
    assert thinking == completed["message"].get("reasoning_content", "")
    if "TextReplaced" in told.kinds:
        assert choice["finish_reason"] == "content_filter"
    else:
        assert choice["finish_reason"] in {"stop", "length"}
        assert text == completed["message"]["content"]


@every_run
def test_nothing_of_the_nodes_leaks(server: str, case: Case) -> None:
    """Around what is told on purpose, which the golden files hold, nothing of Dify's inner events is to be seen."""
    told = whole(case)
    objects = chunks(told.stream(include_usage=True))[1:]
    for chunk in objects:
        for choice in chunk["choices"]:
            without(choice["delta"], "content", "reasoning_content", "tool_calls", "annotations")
        without(chunk.get("dify", {}), "tool_result", "citations")
    known = {*msgspec.to_builtins(told.ids).values(), told.error and told.error.message}
    secrets = {text for text in foreign_texts(case) if len(text) > 5 and text not in known}
    shown = {*texts(objects, inside=True), told.error.message if told.error else ""}
    assert [(secret, text) for secret in secrets for text in shown if secret in text] == []
    around = msgspec.json.encode(objects)
    assert [name for name in FOREIGN if name.encode() in around] == []
    assert [text for text in shown if "://" in text or "Traceback" in text] == []


def without(held: dict[str, Any], *names: str) -> None:
    for name in names:
        held.pop(name, None)


def foreign_texts(case: Case) -> Iterator[str]:
    """Every text that a run's events hold in the foreign fields."""
    for frame in case.stream.split("\n\n"):
        if frame.startswith("data: "):
            yield from texts(msgspec.json.decode(frame[6:]), inside=False)


def texts(value: Any, *, inside: bool) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from texts(item, inside=inside or name in FOREIGN)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, inside=inside)
    elif inside and isinstance(value, str):
        yield value
