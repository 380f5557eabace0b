"""Pauses of a run, and questions of the New Agent, as the reader tells them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from frames import DONE, chunk, end, event, message, node, read, replace, row, run

from opendify.dialogue import (
    Event,
    Failed,
    FileOut,
    Finished,
    Form,
    FormAction,
    FormField,
    Paused,
    Started,
    TextDelta,
    TextReplaced,
    Usage,
)
from opendify.dify.events import Run
from opendify.dify.pauses import LOST_RUN, MAX_FORMS, MAX_OPTIONS, NOT_RESUMED, Resumed, form_of, is_open_question
from opendify.dify.reader import Reader
from opendify.errors import BrokenUpstream, Refused, from_failed
from opendify.sse import Decoder

RECORDED = Path(__file__).parents[1] / "transcripts" / "1.16.1"
APPROVE, REJECT = FormAction("approve", "Approve"), FormAction("reject", "Reject it")
NOTE = FormField(name="note", default="preset note")
TONE = FormField(name="tone", kind="select", options=("formal", "casual"))


def recorded(name: str, mode: str, **settings: Any) -> list[Event]:
    """What is said of a recorded stream."""
    stream = msgspec.json.decode((RECORDED / f"{name}.json").read_bytes())["stream"]
    return read(mode, list(Decoder().feed(stream.encode())), **settings)


def required(**fields: Any) -> bytes:
    return event("human_input_required", data=fields)


def paused(*reasons: dict[str, Any], **fields: Any) -> bytes:
    told = [{"TYPE": "human_input_required", **reason} for reason in reasons]
    return event("workflow_paused", data={"outputs": {}, "reasons": told, **fields})


def told(**fields: Any) -> Form:
    [pause, done] = read("workflow", [paused(fields)])
    assert isinstance(pause, Paused)
    assert done == DONE
    [form] = pause.forms
    return form


# -- recorded forms


@pytest.mark.parametrize("name", ["chatflow-human-pause", "chatflow-human-v1161-pause"])
def test_a_chatflow_pauses(name: str) -> None:
    *said, pause, finished = recorded(name, "advanced-chat")
    assert "".join(event.text for event in said if isinstance(event, TextDelta)) == "Draft: my draft\n"
    assert isinstance(pause, Paused)
    [form] = pause.forms
    assert (form.title, form.fields, form.actions, form.channels) == (
        "Ask human",
        (NOTE, TONE),
        (APPROVE, REJECT),
        ("console",),
    )
    assert form.content == "Please review: my draft\n\nNote: {{#$output.note#}}\nTone: {{#$output.tone#}}"
    assert form.token
    assert form.expires
    assert pause.spoken == len("Draft: my draft\n")
    assert finished == Finished("stop", Usage(4, 2, 6))


def test_a_form_of_files_and_of_a_variable() -> None:
    pause, _ = recorded("workflow-human-file-pause", "workflow")
    assert isinstance(pause, Paused)
    assert pause.forms[0].fields == (
        FormField(name="note", default="my draft"),
        TONE,
        FormField(name="doc", kind="file", types=("document", "image")),
        FormField(name="docs", kind="file-list", types=("document",), limit=2),
    )


def test_a_form_that_goes_by_email() -> None:
    pause, _ = recorded("workflow-human-email-pause", "workflow")
    assert isinstance(pause, Paused)
    assert (pause.forms[0].token, pause.forms[0].channels) == (None, ("console", "email"))


# -- odd forms


def test_each_form_is_told_once() -> None:
    first, second, third = ({"form_id": name, "form_token": name.upper()} for name in "abc")
    frames = [required(**first), required(**second), paused(second, third)]
    assert read("workflow", frames) == [Paused(tuple(Form(token=name) for name in "ABC")), DONE]
    assert read("workflow", [required(form_token="T"), paused({"form_token": "T"})]) == [
        Paused((Form(token="T"),)),
        DONE,
    ]


def test_a_pause_for_another_reason() -> None:
    assert read("workflow", [paused({"TYPE": "scheduling_pause", "message": "x"})]) == [Paused(()), DONE]


ODD: dict[str, bytes] = {
    "no data": event("workflow_paused"),
    "null": event("workflow_paused", data=None),
    "a list": event("workflow_paused", data=[1]),
    "no reasons": event("workflow_paused", data={"reasons": None}),
    "odd reasons": event("workflow_paused", data={"reasons": [1, "x", None, [], {"TYPE": 5}]}),
    "invalid UTF-8": b'{"event": "workflow_paused", "task_id": "t", "data": {"reasons": "\xff"}}',
    "deep": b'{"event": "workflow_paused", "task_id": "t", "data": ' + b"[" * 900 + b"]" * 900 + b"}",
}


@pytest.mark.parametrize("frame", ODD.values(), ids=ODD)
def test_no_pause_breaks_an_answer(frame: bytes) -> None:
    for odd in (b'"x"', b"[1]", b"null", b'{"form_id": 5, "inputs": 7}', b'{"form_token": "\xff"}'):
        told = b'{"event": "human_input_required", "task_id": "t", "data": ' + odd + b"}"
        *said, pause, done = read("advanced-chat", [message("Hi"), told, frame])
        assert (said, done) == ([TextDelta("Hi")], DONE)
        assert isinstance(pause, Paused)


@pytest.mark.parametrize(
    "fields",
    [
        {"inputs": {"a": 1}, "actions": "x", "expiration_time": "soon", "approval_channels": "email"},
        {"inputs": [None, 1, "x", {}, {"output_variable_name": 5}], "actions": [{}, {"id": 7}, 1]},
        {
            "form_content": 5,
            "node_title": None,
            "form_token": 9,
            "resolved_default_values": [],
            "expiration_time": True,
        },
        {"expiration_time": -1},
        {"expiration_time": 10**400},
        {"expiration_time": 1e300},
        {"expiration_time": None},
    ],
)
def test_odd_fields_are_left_out(fields: dict[str, Any]) -> None:
    assert told(**fields) == Form()


@pytest.mark.parametrize(
    ("field", "resolved", "expected"),
    [
        ({"type": "paragraph"}, None, {}),
        ({"type": "paragraph", "default": None}, None, {}),
        ({"type": "paragraph", "default": {"type": "constant", "value": ""}}, None, {}),
        ({"type": "paragraph", "default": {"type": "constant", "value": 5}}, None, {"default": "5"}),
        ({"type": "paragraph", "default": "plain"}, None, {"default": "plain"}),
        ({"type": "paragraph", "default": {"type": "variable", "value": ""}}, {"a": [1]}, {"default": '{"a":[1]}'}),
        ({"type": "number"}, 7, {"default": "7"}),
        ({"type": ["x"]}, None, {}),
        ({"type": "select"}, None, {"kind": "select"}),
        (
            {"type": "select", "option_source": {"type": "variable", "selector": ["a", "b"], "value": []}},
            ["x", 2, "x", None, ""],
            {"kind": "select", "options": ("x", "2")},
        ),
        (
            {"type": "select", "option_source": ["a"], "default": {"type": "constant", "value": "a"}},
            None,
            {"kind": "select", "options": ("a",), "default": "a"},
        ),
        ({"type": "file-list", "number_limits": "3", "allowed_file_types": "x"}, "y", {"kind": "file-list"}),
        ({"type": "file-list", "number_limits": 0}, None, {"kind": "file-list"}),
    ],
)
def test_fields(field: dict[str, Any], resolved: object, expected: dict[str, Any]) -> None:
    form = told(
        inputs=[{"output_variable_name": "f", **field}, {"output_variable_name": "f", "type": "file"}],
        resolved_default_values={"f": resolved},
    )
    assert form.fields == (FormField(name="f", **expected),)


def test_forms_have_limits() -> None:
    [pause, _] = read("workflow", [*(required(form_id=str(number)) for number in range(MAX_FORMS + 5)), paused()])
    assert isinstance(pause, Paused)
    assert len(pause.forms) == MAX_FORMS
    options = list(map(str, range(MAX_OPTIONS + 1)))
    field = {"output_variable_name": "f", "type": "select", "option_source": {"value": options}}
    form = told(inputs=[field], form_content="x" * 100_000, actions=[{"id": "a", "title": "t" * 999}, {"id": "b"}])
    assert len(form.fields[0].options) == MAX_OPTIONS
    assert len(form.content) < 70_000
    assert [len(action.title) for action in form.actions] == [200, 1]


def test_a_form_of_its_own_route() -> None:
    body = {"form_content": "Hi", "inputs": [], "user_actions": [{"id": "a", "title": "A"}], "expiration_time": 5}
    assert form_of(body, "T") == Form(token="T", content="Hi", actions=(FormAction("a", "A"),), expires=5.0)


# -- a run that goes on

BEFORE = "Draft: my draft\n"
KNOWN = Resumed(frozenset({"T1"}), len(BEFORE))


def resumption(mode: str, *frames: bytes) -> list[Event]:
    return read(mode, list(frames), resumed=KNOWN)


def used(prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return node("llm", outputs={"text": "x", "usage": usage})


@pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])
def test_an_old_pause_is_none(mode: str) -> None:
    stale = [required(form_id="a", form_token="T1"), paused({"form_id": "a", "form_token": "T1"})]
    snapshot = [event("message_replace", answer=text, reason="") for text in (BEFORE, "")]
    frames = [event("workflow_started", data={"reason": "initial"}), *snapshot, *stale, chunk("Done")]
    assert resumption(mode, *frames, run(outputs={"result": "Done"})) == [TextDelta("Done"), DONE]
    assert resumption(mode, *stale)[-1] == Failed(
        code="upstream_error", message="Dify ended the answer in the middle.", status=502
    )


def test_the_next_pause_is_one() -> None:
    frames = [message("Again. "), paused({"form_id": "a", "form_token": "T1"}, {"form_id": "b", "form_token": "T2"})]
    pause = Paused((Form(token="T2"),), len(BEFORE) + 7)
    assert resumption("advanced-chat", *frames) == [TextDelta("Again. "), pause, DONE]
    assert resumption("workflow", paused()) == [Paused((), len(BEFORE)), DONE]


def test_the_usage_is_that_of_the_rest() -> None:
    reported = end(usage={"prompt_tokens": 14, "completion_tokens": 9, "total_tokens": 23})
    assert resumption("advanced-chat", message("a"), used(10, 7), reported)[-1] == Finished("stop", Usage(10, 7, 17))
    assert resumption("advanced-chat", message("a"), reported)[-1] == Finished("stop", Usage(14, 9, 23))


def test_text_may_still_be_withdrawn() -> None:
    assert resumption("advanced-chat", message("bad"), replace("blocked"), end()) == [
        TextDelta("bad"),
        TextReplaced("blocked"),
        DONE,
    ]


FINISHED: dict[str, tuple[str, list[bytes], list[Event]]] = {
    "a chatflow that was over": (
        "advanced-chat",
        [run(outputs={"answer": BEFORE + "Final: x", "files": []}, total_tokens=21)],
        [TextDelta("Final: x"), Finished("stop", Usage(0, 0, 21))],
    ),
    "a workflow that was over": (
        "workflow",
        [run(outputs={"result": "Final: x"}, total_tokens=21)],
        [TextDelta("Final: x"), Finished("stop", Usage(0, 0, 21))],
    ),
    "a chatflow without its message_end": (
        "advanced-chat",
        [message("Final"), run(outputs={"answer": BEFORE + "Final: x"})],
        [TextDelta("Final"), DONE],
    ),
    "a chatflow that has no more to say": ("advanced-chat", [run(outputs={"answer": BEFORE})], [DONE]),
    "a chatflow without an answer": ("advanced-chat", [run(outputs={"answer": None})], [DONE]),
    "outputs that are none": ("advanced-chat", [run(outputs=None)], [DONE]),
    "a run that failed": (
        "workflow",
        [run(status="failed", error="Invalid upload file")],
        [Failed(code="run_failed", message="Invalid upload file", status=500)],
    ),
    "a release that cannot resume": (
        "workflow",
        [event("workflow_started", data={"reason": "resumption"}), run(status="stopped", error=LOST_RUN)],
        [Failed(code="human_input_not_resumable", message=NOT_RESUMED, status=400)],
    ),
    "a run that was stopped": (
        "workflow",
        [run(status="stopped", outputs={}, error="Aborted: User requested stop")],
        [Finished("length", Usage(), stopped=True)],
    ),
    "a run that was stopped in the middle": (
        "workflow",
        [chunk("Fin"), run(status="stopped", outputs={}, error=LOST_RUN)],
        [TextDelta("Fin"), Finished("length", Usage(), stopped=True)],
    ),
}


@pytest.mark.parametrize(("mode", "frames", "events"), FINISHED.values(), ids=FINISHED)
def test_ends_of_resumed_runs(mode: str, frames: list[bytes], events: list[Event]) -> None:
    assert resumption(mode, *frames) == events


# -- a stream that was lost


def detail(status: str = "succeeded", **fields: Any) -> Run:
    return msgspec.json.decode(msgspec.json.encode({"status": status, "outputs": {}, **fields}), type=Run)


def recovered(mode: str, frames: list[bytes], given: Run, forms: tuple[Form, ...] | None = None) -> list[Event]:
    reader = Reader(mode, origin="http://dify.test", resumed=KNOWN)
    for frame in frames:
        reader.read(frame)
    events = list(reader.recover(given, forms))
    assert reader.done is bool(events)
    assert not reader.done or reader.recover(given, forms) == ()
    return events


PICTURE = {"dify_model_identity": "__dify__file__", "url": "http://f.test/a.png", "filename": "a.png", "type": "image"}
WHOLE = {"answer": BEFORE + "Final: x", "files": [PICTURE]}
SHOWN = FileOut(url="http://f.test/a.png", name="a.png", is_image=True)


def test_the_rest_of_a_chatflow() -> None:
    rest = [SHOWN, DONE]
    assert recovered("advanced-chat", [], detail(outputs=WHOLE)) == [TextDelta("Final: x"), *rest]
    assert recovered("advanced-chat", [message("Fin")], detail(outputs=WHOLE)) == [TextDelta("al: x"), *rest]
    assert recovered("advanced-chat", [message("Final: x")], detail(outputs=WHOLE)) == rest
    assert recovered("advanced-chat", [message("Other")], detail(outputs=WHOLE)) == [TextDelta("\n\nFinal: x"), *rest]


def test_the_rest_of_a_workflow() -> None:
    given = detail(outputs={"result": "Final: x"}, total_tokens=9)
    assert recovered("workflow", [chunk("Final")], given) == [TextDelta(": x"), Finished("stop", Usage(0, 0, 9))]
    assert recovered("workflow", [chunk("Final")], detail(outputs={})) == [DONE]
    assert recovered("workflow", [], detail("failed", error="no")) == [
        Failed(code="run_failed", message="no", status=500)
    ]
    assert recovered("workflow", [], detail("partial-succeeded", outputs={"a": "b"})) == [TextDelta("b"), DONE]


@pytest.mark.parametrize("status", ["running", "paused"])
def test_a_run_that_is_not_over(status: str) -> None:
    assert recovered("advanced-chat", [message("Fin")], detail(status)) == []


def test_a_run_that_has_paused_again() -> None:
    forms = (Form(token="T2"),)
    pause = Paused(forms, len(BEFORE) + 3)
    assert recovered("advanced-chat", [message("Fin")], detail("paused"), forms) == [pause, DONE]


# -- the New Agent's questions


@pytest.mark.parametrize("name", ["newagent-ask-1", "newagent-stream-askhuman"])
def test_a_question_is_open(name: str) -> None:
    *said, finished = recorded(name, "agent")
    assert isinstance(finished, Finished)
    assert finished.asks
    assert TextDelta("Which colour?\n\nChoose **one**.") in said


def test_a_question_that_was_answered() -> None:
    asked = row("1", tool="ask_human", tool_input="{}")
    *_, finished = read("agent", [asked, row("1", tool="ask_human", tool_input="{}", observation="red"), end()])
    assert finished == DONE
    *_, finished = read("agent", [asked, row("2", tool="other;ask_human", tool_input="{}"), end()])
    assert finished == Finished("stop", Usage(), asks=True)
    *_, finished = read("agent-chat", [asked, end()])
    assert finished == DONE
    assert not next(
        event for event in recorded("newagent-ask-b-next-turn", "agent") if isinstance(event, Finished)
    ).asks


def test_the_turn_after_an_open_question() -> None:
    text = "Cannot provide a new user prompt when the message history contains unprocessed tool calls."
    error = event("error", code="completion_request_error", status=400, message=text)
    [failed] = read("agent", [error])
    assert isinstance(failed, Failed)
    assert is_open_question(from_failed(failed))
    assert not is_open_question(Refused("The model is busy.", code="completion_request_error", status=400))
    assert not is_open_question(Refused(text, code="invalid_param", status=400))
    assert not is_open_question(BrokenUpstream(text))


def test_started_comes_first() -> None:
    reader = Reader("workflow", origin="http://dify.test", resumed=KNOWN)
    assert isinstance(reader.read(chunk("a"))[0], Started)
