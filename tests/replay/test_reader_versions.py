"""Streams of servers that were not recorded, and odd turns: Dify's events in, the waist's events out.

Every row is (mode, frames, events): the frames of one answer up to the end of its stream, and what the reader says of
it, without `Started`.
"""

from itertools import pairwise
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendify.dialogue import (
    Event,
    Failed,
    FileOut,
    Finished,
    Form,
    Ids,
    Paused,
    ReasoningDelta,
    Started,
    TextDelta,
    TextReplaced,
    Usage,
)
from opendify.dify.events import Malformed
from opendify.dify.reader import Reader
from opendify.dify.spoken import TAIL_CHARS
from opendify.sse import MAX_FRAME_BYTES, Decoder, FrameTooLong

Row = tuple[str, list[bytes], list[Event]]

NOTHING: Final = Usage()
TEN: Final = Usage(7, 3, 10)
DONE: Final = Finished("stop", NOTHING)
CUT_OFF: Final = Failed(code="upstream_error", message="Dify ended the answer in the middle.", status=502)


# -- Dify's frames, in short


def event(kind: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"event": kind, "task_id": "task-1", **fields})


def message(answer: str) -> bytes:
    return event("message", answer=answer)


def delta(answer: str) -> bytes:
    return event("agent_message", answer=answer)


def chunk(text: str) -> bytes:
    return event("text_chunk", data={"text": text})


def replace(answer: str) -> bytes:
    return event("message_replace", answer=answer, reason="output_moderation")


def usage(prompt: int, completion: int) -> dict[str, Any]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, "total_price": "0E-7"}


def end(tokens: dict[str, Any] | None = None, **fields: Any) -> bytes:
    return event("message_end", metadata={"usage": tokens or usage(0, 0)}, **fields)


def llm(**outputs: Any) -> bytes:
    return event("node_finished", data={"node_type": "llm", "status": "succeeded", "outputs": outputs})


def run(status: str = "succeeded", **fields: Any) -> bytes:
    return event("workflow_finished", data={"status": status, "outputs": {}, "total_tokens": 0, **fields})


def error(code: str, text: str, status: int) -> bytes:
    return msgspec.json.encode({"event": "error", "code": code, "message": text, "status": status})


def file(url: str | None, **fields: Any) -> dict[str, Any]:
    return {
        "dify_model_identity": "__dify__file__",
        "type": "image",
        "transfer_method": "tool_file",
        "url": url,
        "remote_url": None,
        "filename": None,
        "mime_type": "image/png",
        **fields,
    }


def tool_file(url: str, owner: str = "assistant") -> bytes:
    return event("message_file", id="file-1", type="image", belongs_to=owner, url=url)


def picture(path: str, name: str = "a.png") -> FileOut:
    return FileOut(url=f"http://dify.test{path}", name=name, is_image=True)


def read(mode: str, frames: list[bytes], **settings: Any) -> list[Event]:
    reader = Reader(mode, origin="http://dify.test", **settings)
    events = [event for data in frames for event in reader.read(data)] + list(reader.close())
    assert reader.done
    assert [*reader.read(message("later")), *reader.close()] == []
    return [event for event in events if not isinstance(event, Started)]


# -- order and terminal events

ENDS: dict[str, Row] = {
    "chatflow until 1.12: the run ends first, then the message": (
        "advanced-chat",
        [message("Hi"), run(total_tokens=99), end(usage(7, 3))],
        [TextDelta("Hi"), Finished("stop", TEN)],
    ),
    "chatflow 1.13.0: the message never ends": (
        "advanced-chat",
        [message("Hi"), llm(usage=usage(7, 3)), run(total_tokens=99)],
        [TextDelta("Hi"), Finished("stop", TEN)],
    ),
    "chatflow 1.13.0 without a model: only the run's total is known": (
        "advanced-chat",
        [message("Hi"), run(total_tokens=99)],
        [TextDelta("Hi"), Finished("stop", Usage(total_tokens=99))],
    ),
    "chatflow since 1.13.1: the message ends first": (
        "advanced-chat",
        [message("Hi"), end(usage(7, 3)), run(total_tokens=99)],
        [TextDelta("Hi"), Finished("stop", TEN)],
    ),
    "chatflow until 1.12, stopped: its message ends all the same": (
        "advanced-chat",
        [message("Hi"), run("stopped"), end()],
        [TextDelta("Hi"), Finished("length", NOTHING, stopped=True)],
    ),
    "chatflow since 1.13, stopped: its message does not": (
        "advanced-chat",
        [message("Hi"), run("stopped", total_tokens=4)],
        [TextDelta("Hi"), Finished("length", Usage(total_tokens=4), stopped=True)],
    ),
    "chatflow until 1.12, failed: the error after it says the same": (
        "advanced-chat",
        [message("Hi"), run("failed", error="no key"), error("invalid_param", "Run failed: no key", 400)],
        [TextDelta("Hi"), Failed(code="run_failed", message="no key", status=500)],
    ),
    "an error first, then a made-up end of the run": (
        "advanced-chat",
        [error("invalid_param", "no model", 400), run("failed", error="no model", outputs=None)],
        [Failed(code="invalid_param", message="no model", status=400)],
    ),
    "a failure after a good end is none": (
        "advanced-chat",
        [message("from the annotations"), end(), event("workflow_started", data={}), run("failed", error="no end")],
        [TextDelta("from the annotations"), DONE],
    ),
    "a fallback saved the run": (
        "advanced-chat",
        [message("Hi"), end(), run("partial-succeeded", exceptions_count=1)],
        [TextDelta("Hi"), DONE],
    ),
    "workflow, partly succeeded": (
        "workflow",
        [run("partial-succeeded", outputs={"text": "Hi"})],
        [TextDelta("Hi"), DONE],
    ),
    "workflow, stopped": (
        "workflow",
        [chunk("Hi"), run("stopped", outputs=None, error="Stopped by user.")],
        [TextDelta("Hi"), Finished("length", NOTHING, stopped=True)],
    ),
    "workflow, failed before it began": (
        "workflow",
        [run("failed", outputs=None, error="text is required in input form")],
        [Failed(code="run_failed", message="text is required in input form", status=500)],
    ),
    "workflow, failed without a reason": (
        "workflow",
        [run("failed")],
        [Failed(code="run_failed", message="", status=500)],
    ),
    "a pause": (
        "workflow",
        [event("human_input_required", data={"form_token": None}), event("workflow_paused", data={"outputs": {}})],
        [Paused((Form(),)), DONE],
    ),
    "an error without task_id after text": (
        "chat",
        [message("Hi"), error("completion_request_error", "overloaded", 400)],
        [TextDelta("Hi"), Failed(code="completion_request_error", message="overloaded", status=400)],
    ),
    "an error of the 0.3 line has no event": (
        "chat",
        [b'{"code": "provider_quota_exceeded", "message": "empty", "status": 400}'],
        [Failed(code="provider_quota_exceeded", message="empty", status=400)],
    ),
    "an error that says nothing": (
        "chat",
        [event("error", code=None, message=None)],
        [Failed(code="internal_server_error", message="", status=500)],
    ),
    "the stream ends in the middle": ("chat", [message("Hi")], [TextDelta("Hi"), CUT_OFF]),
    "the stream of a workflow ends in the middle": ("workflow", [chunk("Hi")], [TextDelta("Hi"), CUT_OFF]),
    "the stream is empty": ("chat", [], [CUT_OFF]),
    "speech follows the end": (
        "chat",
        [message("Hi"), event("tts_message", audio="//N="), end(), event("tts_message_end", audio="")],
        [TextDelta("Hi"), DONE],
    ),
}


@pytest.mark.parametrize("row", ENDS.values(), ids=ENDS)
def test_ends(row: Row) -> None:
    mode, frames, events = row
    assert read(mode, frames) == events


# -- text

LONG: Final = "0123456789" * (TAIL_CHARS // 10 + 1)
TENS: Final = ["0123456789"] * (TAIL_CHARS // 10 * 4)

TEXTS: dict[str, Row] = {
    "empty deltas say nothing": (
        "chat",
        [message(""), event("message", answer=None), event("message"), message("Hi"), message(""), end()],
        [TextDelta("Hi"), DONE],
    ),
    "1.11.2 to 1.12: text that is called a file": (
        "chat",
        [event("message_file", id="m", answer="Hel"), event("message_file", id="m", answer="lo"), end()],
        [TextDelta("Hel"), TextDelta("lo"), DONE],
    ),
    "the same in a completion app": (
        "completion",
        [event("message_file", id="m", answer="Hello"), event("message_file", id="m", answer=""), end()],
        [TextDelta("Hello"), DONE],
    ),
    "agent-chat: thoughts repeat the text": (
        "agent-chat",
        [
            event("agent_thought", id="a", thought="", tool=""),
            delta("Look. "),
            event("agent_thought", id="b", thought="", tool=""),
            delta("Noon."),
            event("agent_thought", id="b", thought="Noon.", tool=""),
            end(usage(7, 3)),
        ],
        [TextDelta("Look. "), TextDelta("Noon."), Finished("stop", TEN)],
    ),
    "agent-chat: an annotation comes as messages, letter by letter": (
        "agent-chat",
        [message("a"), message("b"), message("b"), message("a"), end()],
        [TextDelta("a"), TextDelta("b"), TextDelta("b"), TextDelta("a"), DONE],
    ),
    "agent: so it does here": (
        "agent",
        [message("a"), message("b"), message("b"), message("a"), end()],
        [TextDelta("a"), TextDelta("b"), TextDelta("b"), TextDelta("a"), DONE],
    ),
    "agent: the closing message repeats the only round": (
        "agent",
        [delta("He"), delta("llo"), message("Hello"), end()],
        [TextDelta("He"), TextDelta("llo"), DONE],
    ),
    "agent: the closing message repeats the last round": (
        "agent",
        [delta("Look. "), delta("Noon."), message("Noon."), end()],
        [TextDelta("Look. "), TextDelta("Noon."), DONE],
    ),
    "agent: the closing message repeats a round longer than what is kept": (
        "agent",
        [delta("Look. "), delta(LONG), message(LONG), end()],
        [TextDelta("Look. "), TextDelta(LONG), DONE],
    ),
    "agent: the closing message asks": (
        "agent",
        [delta("Look. "), message("Which colour?"), end()],
        [TextDelta("Look. "), TextDelta("Which colour?"), DONE],
    ),
    "agent: the question merely ends like the text": (
        "agent",
        [delta("Wait."), message("Which colour? Wait."), end()],
        [TextDelta("Wait."), TextDelta("Which colour? Wait."), DONE],
    ),
    "chatflow: nodes and outputs repeat the text": (
        "advanced-chat",
        [message("Hi"), llm(text="Hi"), end(), run(outputs={"answer": "Hi"})],
        [TextDelta("Hi"), DONE],
    ),
    "reasoning is no text": (
        "workflow",
        [event("reasoning_chunk", data={"reasoning": "hm", "is_final": False}), chunk("Hi"), run()],
        [ReasoningDelta("hm"), TextDelta("Hi"), DONE],
    ),
    "agent: the closing message repeats a round of many pieces": (
        "agent",
        [*map(delta, TENS), message(LONG), end()],
        [*map(TextDelta, TENS), DONE],
    ),
}


@pytest.mark.parametrize("row", TEXTS.values(), ids=TEXTS)
def test_texts(row: Row) -> None:
    mode, frames, events = row
    assert read(mode, frames) == events


# -- moderation

MODERATION: dict[str, tuple[list[bytes], list[Event]]] = {
    "the new text goes on where the old one ended": (
        [message("It is "), replace("It is fine."), end()],
        [TextDelta("It is "), TextDelta("fine."), DONE],
    ),
    "the new text is the old one": ([message("Fine."), replace("Fine."), end()], [TextDelta("Fine."), DONE]),
    "nothing was said before": ([replace("Blocked."), end()], [TextDelta("Blocked."), DONE]),
    "the text is withdrawn": (
        [message("Bad "), message("word"), replace("Blocked."), end(usage(7, 3))],
        [TextDelta("Bad "), TextDelta("word"), TextReplaced("Blocked."), Finished("stop", TEN)],
    ),
    "half of it is withdrawn": (
        [message("Fine. Bad word"), replace("Fine. ***"), end()],
        [TextDelta("Fine. Bad word"), TextReplaced("Fine. ***"), DONE],
    ),
    "it is said twice": (
        [message("Bad"), replace("Blocked."), replace("Blocked."), end()],
        [TextDelta("Bad"), TextReplaced("Blocked."), DONE],
    ),
    "the text goes on after it": (
        [message("Bad"), replace("***"), message(" and"), message(" good"), end()],
        [TextDelta("Bad"), TextReplaced("***"), TextDelta(" and"), TextDelta(" good"), DONE],
    ),
    "and goes on in one more replacement": (
        [message("Bad"), replace("***"), message(" and"), replace("*** and good"), end()],
        [TextDelta("Bad"), TextReplaced("***"), TextDelta(" and"), TextDelta(" good"), DONE],
    ),
    "an empty one clears nothing": ([message("Hi"), replace(""), end()], [TextDelta("Hi"), DONE]),
    "letters outside the basic plane count as one": (
        [message("👋🏽 "), replace("👋🏽 hello"), end()],
        [TextDelta("👋🏽 "), TextDelta("hello"), DONE],
    ),
    "until 1.12 it comes after the run's end": (
        [message("Bad"), run(), replace("Blocked."), end()],
        [TextDelta("Bad"), TextReplaced("Blocked."), DONE],
    ),
}


@pytest.mark.parametrize("mode", ["chat", "advanced-chat"])
@pytest.mark.parametrize("row", MODERATION.values(), ids=MODERATION)
def test_moderation(row: tuple[list[bytes], list[Event]], mode: str) -> None:
    frames, events = row
    assert read(mode, frames, moderated=True) == events


def test_a_replacement_nobody_announced_withdraws_the_text() -> None:
    assert read("chat", [message("Bad"), replace("***"), end()]) == [TextDelta("Bad"), TextReplaced("***"), DONE]


# -- files

TOOL_FILE: Final = file("/files/tools/1/a.png?x=2")

FILES: dict[str, Row] = {
    "agent-chat: a relative address, and the same file once more at the end": (
        "agent-chat",
        [
            tool_file("/files/tools/1/a.png?sign=old"),
            delta("Here."),
            end(files=[file("/files/tools/1/a.png?sign=new")]),
        ],
        [picture("/files/tools/1/a.png?sign=old"), TextDelta("Here."), DONE],
    ),
    "agent-chat: a file of the user": (
        "agent-chat",
        [tool_file("/files/1/a.png", owner="user"), delta("Seen."), end()],
        [TextDelta("Seen."), DONE],
    ),
    "chat: the user's files stand in message_end as well": (
        "chat",
        [message("Seen."), end(files=[file("/files/1/a.png", transfer_method="local_file")])],
        [TextDelta("Seen."), DONE],
    ),
    "chat: a file the model made": (
        "chat",
        [message("Here."), tool_file("https://cdn.test/a.png"), end()],
        [TextDelta("Here."), FileOut(url="https://cdn.test/a.png", name="a.png", is_image=True), DONE],
    ),
    "chatflow: files come at the end": (
        "advanced-chat",
        [
            message("Here."),
            end(files=[file("/files/tools/2/x?sign=1", type="document", filename="report.pdf", mime_type="text/pdf")]),
            run(files=[file("/files/tools/2/x?sign=2")]),
        ],
        [
            TextDelta("Here."),
            FileOut(url="http://dify.test/files/tools/2/x?sign=1", name="report.pdf", is_image=False),
            DONE,
        ],
    ),
    "chatflow: a file the text shows already": (
        "advanced-chat",
        [message("![a.png](/files/tools/1/"), message("a.png?sign=1)"), end(files=[file("/files/tools/1/a.png?x=2")])],
        [TextDelta("![a.png](/files/tools/1/"), TextDelta("a.png?sign=1)"), DONE],
    ),
    "chatflow: the link begins after other slashes, and is cut often": (
        "advanced-chat",
        [
            *map(message, ["a/b", "x" * 600, " ![a.png](", "/", "files/tools/1", "/a.png", "?sign=1", ")"]),
            end(files=[TOOL_FILE]),
        ],
        [*map(TextDelta, ["a/b", "x" * 600, " ![a.png](", "/", "files/tools/1", "/a.png", "?sign=1", ")"]), DONE],
    ),
    "a file without any address": (
        "advanced-chat",
        [end(files=[file(None)]), run()],
        [DONE],
    ),
    "a file that has only its remote address": (
        "advanced-chat",
        [end(files=[file(None, remote_url="https://cdn.test/a.png")])],
        [FileOut(url="https://cdn.test/a.png", name="a.png", is_image=True), DONE],
    ),
    "workflow: files among the outputs, alone and in a list": (
        "workflow",
        [run(outputs={"text": "Here.", "one": file("/files/1/a.png"), "more": [file("/files/2/a.png")]})],
        [TextDelta("Here."), picture("/files/1/a.png"), picture("/files/2/a.png"), DONE],
    ),
    "workflow: the same files in `files`": (
        "workflow",
        [run(outputs={"one": file("/files/1/a.png?sign=1")}, files=[file("/files/1/a.png?sign=2")])],
        [picture("/files/1/a.png?sign=2"), DONE],
    ),
    "workflow: files after streamed text": (
        "workflow",
        [chunk("Here."), run(outputs={"text": "Here.", "one": file("/files/1/a.png")})],
        [TextDelta("Here."), picture("/files/1/a.png"), DONE],
    ),
}


@pytest.mark.parametrize("row", FILES.values(), ids=FILES)
def test_files(row: Row) -> None:
    mode, frames, events = row
    assert read(mode, frames) == events


# -- workflows without chunks

OUTPUTS: dict[str, tuple[object, str | None, str]] = {
    "a string": ({"greeting": "Hello"}, None, "Hello"),
    "the only string": ({"greeting": "Hello", "count": 3}, None, "Hello"),
    "a number": ({"count": 3}, None, '{"count":3}'),
    "a number with a usual name": ({"result": 3, "count": 4}, None, "3"),
    "an object": ({"output": {"a": [1, None]}}, None, '{"a":[1,null]}'),
    "a list": ({"output": ["a", "b"]}, None, '["a","b"]'),
    "several strings": ({"title": "T", "body": "B"}, None, '{"title":"T","body":"B"}'),
    "several strings, one with a usual name": ({"title": "T", "answer": "A"}, None, "A"),
    "several usual names": ({"output": "O", "text": "T"}, None, "T"),
    "a usual name that is null": ({"text": None, "answer": 1}, None, "1"),
    "the chosen one": ({"text": "T", "body": "B"}, "body", "B"),
    "the chosen one, an object": ({"text": "T", "body": {"b": 1}}, "body", '{"b":1}'),
    "a chosen one that is null": ({"text": "T", "body": None}, "body", ""),
    "a chosen one that this branch does not have": ({"text": "T"}, "body", "T"),
    "none at all": ({}, None, ""),
    "null": (None, None, ""),
}


@pytest.mark.parametrize(("outputs", "chosen", "text"), OUTPUTS.values(), ids=OUTPUTS)
def test_outputs(outputs: object, chosen: str | None, text: str) -> None:
    said = [TextDelta(text)] if text else []
    assert read("workflow", [run(outputs=outputs)], output=chosen) == [*said, DONE]


def test_text_in_a_file_event_with_an_empty_address() -> None:
    frame = b'{"event":"message_file","task_id":"t","answer":"Hello","url":""}'
    assert read("chat", [frame, end()]) == [TextDelta("Hello"), DONE]


def test_a_chosen_output_silences_the_chunks() -> None:
    frames = [chunk("T\n"), chunk("B"), run(outputs={"text": "T", "body": "B"})]
    assert read("workflow", frames, output="body") == [TextDelta("B"), DONE]


def test_chunks_silence_the_outputs() -> None:
    frames = [chunk(""), chunk("T\n"), chunk("B"), run(outputs={"text": "T", "body": "B"})]
    assert read("workflow", frames) == [TextDelta("T\n"), TextDelta("B"), DONE]


# -- usage and finish reason

COUNTS: dict[str, tuple[str, list[bytes], Finished]] = {
    "message_end counts": ("chat", [end(usage(7, 3))], Finished("stop", TEN)),
    "no metadata": ("chat", [event("message_end")], DONE),
    "metadata is null": ("chat", [event("message_end", metadata=None, files=None)], DONE),
    "no usage": ("chat", [event("message_end", metadata={"retriever_resources": []})], DONE),
    "usage is null": ("chat", [event("message_end", metadata={"usage": None})], DONE),
    "tokens are null": (
        "chat",
        [end({"prompt_tokens": None, "completion_tokens": None, "total_tokens": None})],
        DONE,
    ),
    "the total is missing": ("chat", [end({"prompt_tokens": 7, "completion_tokens": 3})], Finished("stop", TEN)),
    "only the total is known": ("chat", [end({"total_tokens": 10})], Finished("stop", Usage(total_tokens=10))),
    "chatflow 1.9: zeros, but the nodes counted": (
        "advanced-chat",
        [llm(usage=usage(4, 1)), llm(usage=usage(3, 2)), run(), end()],
        Finished("stop", TEN),
    ),
    "chatflow: message_end knows better than the nodes": (
        "advanced-chat",
        [llm(usage=usage(1, 1)), end(usage(7, 3)), run()],
        Finished("stop", TEN),
    ),
    "workflow: the nodes know the parts": (
        "workflow",
        [llm(usage=usage(4, 1)), llm(usage=usage(3, 2)), run(total_tokens=10)],
        Finished("stop", TEN),
    ),
    "workflow: only the total is known": ("workflow", [run(total_tokens=10)], Finished("stop", Usage(0, 0, 10))),
    "workflow: no total at all": ("workflow", [run(total_tokens=None)], DONE),
    "the last model was cut short": (
        "advanced-chat",
        [llm(finish_reason="length", usage=usage(7, 3)), end(), run()],
        Finished("length", TEN),
    ),
    "an earlier model was cut short": (
        "workflow",
        [llm(finish_reason="length"), llm(finish_reason="stop"), run()],
        DONE,
    ),
    "a model was cut short and calls it max_tokens": (
        "workflow",
        [llm(finish_reason="max_tokens"), run()],
        Finished("length", NOTHING),
    ),
    "a model node failed": (
        "advanced-chat",
        [event("node_finished", data={"node_type": "llm", "status": "exception", "outputs": None}), end()],
        DONE,
    ),
    "other nodes' outputs do not count": (
        "advanced-chat",
        [event("node_finished", data={"node_type": "code", "outputs": {"usage": "mine", "finish_reason": 1}}), end()],
        DONE,
    ),
    "1.9 cuts long outputs to a string": (
        "advanced-chat",
        [llm(text="...", usage="..."), end(usage(7, 3))],
        Finished("stop", TEN),
    ),
}


@pytest.mark.parametrize(("mode", "frames", "finished"), COUNTS.values(), ids=COUNTS)
def test_usage_and_reason(mode: str, frames: list[bytes], finished: Finished) -> None:
    assert read(mode, frames) == [finished]


# -- ids


def test_ids_come_with_the_first_event_that_has_a_task() -> None:
    reader = Reader("advanced-chat", origin="http://dify.test")
    named = {"conversation_id": "c", "message_id": "m", "workflow_run_id": "w"}
    assert reader.read(msgspec.json.encode({"event": "agent_log", "conversation_id": "c"})) == ()
    assert reader.ids == Ids(conversation_id="c")
    assert reader.read(event("workflow_started", **named, data={})) == (Started(Ids("c", "m", "task-1", "w")),)
    assert reader.read(event("node_started", conversation_id="other", data={})) == ()
    assert reader.ids == Ids("c", "m", "task-1", "w")


def test_an_error_names_the_conversation_without_a_task() -> None:
    reader = Reader("chat", origin="http://dify.test")
    data = b'{"event":"error","conversation_id":"c","message_id":"m","code":"x","message":"y","status":400}'
    assert reader.read(data) == (Failed(code="x", message="y", status=400),)
    assert reader.ids == Ids("c", "m")


# -- what means nothing, and what is broken

IGNORED: dict[str, bytes] = {
    name: event(name, data={"anything": [1, {"deep": None}]})
    for name in (
        "workflow_started",
        "node_started",
        "node_retry",
        "iteration_next",
        "loop_completed",
        "parallel_branch_started",
        "agent_log",
        "text_replace",
        "human_input_form_filled",
        "queue_message",
    )
} | {
    "no event, no error": b'{"hello": "world"}',
    "a code alone": b'{"code": "x", "message": "y"}',
    "an event of tomorrow with a status of its own": event("agent_state", status="running", message={"text": "hm"}),
}


@pytest.mark.parametrize("data", IGNORED.values(), ids=IGNORED)
def test_unknown_events_are_ignored(data: bytes) -> None:
    assert read("workflow", [data, chunk("Hi"), data, run()]) == [TextDelta("Hi"), DONE]


BROKEN: dict[str, bytes] = {
    "no JSON": b"Bad Gateway",
    "half an object": b'{"event": "message", "answer": "Hi',
    "a list": b"[1, 2]",
    "text that is a number": b'{"event": "message", "answer": 5}',
    "a chunk without data": b'{"event": "text_chunk"}',
    "an end that is a string": b'{"event": "message_end", "metadata": "none"}',
    "a run that is null": b'{"event": "workflow_finished", "data": null}',
    "invalid UTF-8": b'{"event": "message", "answer": "\xff"}',
    "an unknown event that is too deep": b'{"event": "x", "y": ' + b"[" * 5000 + b"]" * 5000 + b"}",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_broken_frames_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Reader("chat", origin="http://dify.test").read(data)


def test_malformed_never_repeats_the_content() -> None:
    with pytest.raises(Malformed) as caught:
        Reader("chat", origin="http://dify.test").read(b'{"event": "message", "answer": {"secret": "xyzzy"}}')
    assert "xyzzy" not in str(caught.value)


# -- framing

FRAMING: dict[str, tuple[bytes, list[bytes]]] = {
    "LF": (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "CR": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "a mixture": (b"data: a\r\n\ndata: b\n\rdata: c\r\r\n", [b"a", b"b", b"c"]),
    "pings": (b"event: ping\n\ndata: a\n\nevent: ping\n\n", [b"a"]),
    "pings with CRLF": (b"event: ping\r\n\r\ndata: a\r\n\r\n", [b"a"]),
    "comments": (b": hello\n\n:\n\ndata: a\n: in between\n\n", [b"a"]),
    "several data lines": (b"data: {\ndata:   1\ndata\ndata:}\n\n", [b"{\n  1\n}"]),
    "other fields": (b"id: 1\nevent: message\nretry: 5\ndata: a\n\n", [b"a"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"a", b"b"]),
    "no space after the colon": (b"data:a\n\n", [b"a"]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
    "an end without its blank line": (b"data: a\n\ndata: b\n", [b"a"]),
    "separators that end no line": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        ["a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg".encode()],
    ),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("stream", "payloads"), FRAMING.values(), ids=FRAMING)
def test_framing(stream: bytes, payloads: list[bytes], size: int) -> None:
    decoder = Decoder()
    pieces = [stream[place : place + size] for place in range(0, len(stream), size)]
    assert [data for piece in pieces for data in decoder.feed(piece)] == payloads


PARTS = [
    b"data: a\n\n",
    b"data: b\n\n",
    b"data: ",
    b"data:",
    b"c",
    b"\n",
    b"\n\n",
    b"\r",
    b"\r\n",
    b": d",
    b"event: e\n\n",
]


@given(st.lists(st.sampled_from(PARTS)), st.lists(st.integers(0, 60), max_size=4))
def test_any_cutting_gives_the_same_events(parts: list[bytes], places: list[int]) -> None:
    stream, whole, bytewise, cut = b"".join(parts), Decoder(), Decoder(), Decoder()
    edges = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    expected = [data for number in range(len(stream)) for data in bytewise.feed(stream[number : number + 1])]
    assert list(whole.feed(stream)) == expected
    assert [data for start, end in pairwise(edges) for data in cut.feed(stream[start:end])] == expected


def test_separators_stand_in_the_text() -> None:
    text = "a\u2028b\u2029c\u0085d"
    frames = list(Decoder().feed(b"data: " + message(text) + b"\n\n"))
    assert text.encode() in frames[0]
    assert read("chat", [*frames, end()]) == [TextDelta(text), DONE]


def test_what_is_complete_comes_before_a_frame_that_is_too_long() -> None:
    decoder = Decoder(max_frame=20)
    assert list(decoder.feed(b"data: a\n\ndata: " + b"x" * 30)) == [b"a"]
    with pytest.raises(FrameTooLong):
        list(decoder.feed(b"x"))


@pytest.mark.parametrize("size", [64 * 1024, MAX_FRAME_BYTES * 2], ids=["in reads of 64 KB", "at once"])
def test_a_frame_has_a_limit(size: int) -> None:
    longest = b"data: " + b"x" * (MAX_FRAME_BYTES - 6) + b"\n\n"
    decoder = Decoder()
    assert [len(data) for place in range(0, len(longest), size) for data in decoder.feed(longest[place : place + size])]

    def feed_too_much() -> None:
        stream = b"data: " + b"x" * MAX_FRAME_BYTES
        for place in range(0, len(stream), size):
            list(decoder.feed(stream[place : place + size]))

    with pytest.raises(FrameTooLong):
        feed_too_much()
