"""Events -> the chunks of a streamed answer, or one completion."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from opendify.dialogue import (
    Citation,
    Cited,
    Event,
    FileOut,
    Finished,
    Ids,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    TextReplaced,
    ToolCall,
    ToolResult,
    ToolRun,
    Usage,
)
from opendify.errors import BrokenUpstream
from opendify.links import markdown
from opendify.openai.chat.fold import ChatFold
from opendify.openai.chat.writer import ChatStream

IDS = Ids("conv-1", "msg-1", "task-1", None)
DIFY = {"conversation_id": "conv-1", "message_id": "msg-1", "task_id": "task-1"}
USAGE = Usage(3, 4, 7)
TOLD = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
NONE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
END = Finished("stop", USAGE)
PICTURE = FileOut(url="https://h/a b.png?sign=1", name="a [1].png", is_image=True)
REPORT = FileOut(url="https://h/r.pdf", name="r.pdf", is_image=False)
DONE = {"done": True}


def hello(*texts: str) -> list[Event]:
    return [TextDelta(text) for text in texts]


def frames(data: bytes) -> list[dict[str, Any]]:
    """The JSON of each frame; each is one line, ended by a blank one."""
    assert data.endswith(b"\n\n") or not data
    found = []
    for frame in data.split(b"\n\n")[:-1]:
        assert frame.startswith(b"data: ")
        assert b"\n" not in frame
        found.append(DONE if frame == b"data: [DONE]" else json.loads(frame[6:]))
    return found


def stream(*stops: str, usage: bool = False) -> ChatStream:
    writer = ChatStream("my model", stops, include_usage=usage)
    writer.ids = IDS
    return writer


def fold(*stops: str) -> ChatFold:
    writer = ChatFold("my model", stops)
    writer.ids = IDS
    return writer


def told(data: bytes) -> tuple[str, list[str]]:
    """Text and finish reasons of chunks."""
    choices = [choice for frame in frames(data) for choice in frame.get("choices", ())]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    return text, [choice["finish_reason"] for choice in choices if choice["finish_reason"]]


def answer(writer: ChatFold) -> dict[str, Any]:
    return dict(json.loads(writer.result()))


# -- the stream


def test_a_whole_stream() -> None:
    writer = stream()
    data = writer.open() + writer.feed([Started(IDS), *hello("Hel", "lo")]) + writer.feed([END])
    head = {"id": writer.id, "object": "chat.completion.chunk", "created": writer.created, "model": "my model"}
    assert frames(data) == [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": None}]},
        {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "dify": DIFY},
        DONE,
    ]
    assert writer.done
    assert writer.cut is None


def test_usage_only_when_asked_for() -> None:
    writer = stream(usage=True)
    *chunks, last, done = frames(writer.open() + writer.feed([*hello("hi"), END]))
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert (last["choices"], last["usage"], last["dify"], last["id"]) == ([], TOLD, DIFY, writer.id)
    assert done == DONE
    without = stream()
    assert b"usage" not in without.open() + without.feed([*hello("hi"), END])


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
@pytest.mark.parametrize("usage", [True, False])
def test_finish_reasons(reason: Any, usage: bool) -> None:
    assert told(stream(usage=usage).feed([*hello("hi"), Finished(reason, USAGE)])) == ("hi", [reason])
    writer = fold()
    writer.feed([*hello("hi"), Finished(reason, USAGE)])
    assert answer(writer)["choices"][0]["finish_reason"] == reason


def test_an_answer_without_a_word() -> None:
    assert told(stream().feed([END])) == ("", ["stop"])
    writer = fold()
    writer.feed([END])
    assert answer(writer)["choices"][0]["message"]["content"] == ""


def test_ids_are_unique_and_the_time_is_now() -> None:
    first, second = stream(), stream()
    assert first.id.startswith("chatcmpl-")
    assert first.id != second.id
    assert abs(first.created - second.created) <= 1
    assert first.created > 1_700_000_000


def test_what_json_has_to_escape() -> None:
    text = 'a"b\\c\n\r\n\u2028</script>\0 汉字 👍🏽'
    writer = ChatStream('mo"del\n', (), include_usage=True)
    data = writer.open() + writer.feed([*hello(text), END])
    assert told(data) == (text, ["stop"])
    assert frames(data)[0]["model"] == 'mo"del\n'


def test_ids_that_are_not_known_are_left_out() -> None:
    writer = ChatStream("m", (), include_usage=False)
    *_, last, _ = frames(writer.feed([END]))
    assert last["dify"] == {}


# -- files


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (PICTURE, "\n\n![a  1 .png](<https://h/a%20b.png?sign=1>)\n\n"),
        (
            FileOut(url="https://h/a>\n[x](b", name="a](b)\n", is_image=False),
            "\n\n[a (b) ](<https://h/a%3E%0A[x](b>)\n\n",
        ),
        (REPORT, "\n\n[r.pdf](<https://h/r.pdf>)\n\n"),
    ],
)
def test_files_are_links_in_the_text(file: FileOut, text: str) -> None:
    assert markdown(file) == text
    assert told(stream().feed([*hello("hi"), file, END])) == ("hi" + text, ["stop"])
    writer = fold()
    writer.feed([*hello("hi"), file, END])
    assert answer(writer)["choices"][0]["message"]["content"] == "hi" + text


# -- stop sequences


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        (["Hello END more"], "Hello "),
        (["Hello E", "ND more", " and more"], "Hello "),
        (["Hello E", "N", "O"], "Hello ENO"),
        (["Hello E"], "Hello E"),
        (["END"], ""),
        (["a STOP b END"], "a "),
    ],
)
@pytest.mark.parametrize("usage", [True, False])
def test_stop_sequences(texts: list[str], shown: str, usage: bool) -> None:
    writer = stream("END", "STOP", usage=usage)
    data = b"".join(writer.feed([event]) for event in (*hello(*texts), END))
    assert told(data) == (shown, ["stop"])
    assert frames(data)[-1] == DONE
    folded = fold("END", "STOP")
    folded.feed([*hello(*texts), END])
    choice = answer(folded)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (shown, "stop")
    cut = "stop" if shown != "".join(texts) else None
    assert (writer.cut, folded.cut) == (cut, cut)


def test_once_cut_the_finish_is_told_at_once_and_the_usage_later() -> None:
    writer = stream("END", usage=True)
    assert told(writer.feed(hello("a END b"))) == ("a ", ["stop"])
    assert (writer.cut, writer.done) == ("stop", False)
    assert writer.feed([*hello("c"), REPORT]) == b""
    usage, done = frames(writer.feed([Finished("length", USAGE)]))
    assert (usage["choices"], usage["usage"], done) == ([], TOLD, DONE)
    assert writer.done


def test_a_file_may_reach_a_stop_sequence() -> None:
    assert told(stream("r.pdf").feed([*hello("hi"), REPORT, END])) == ("hi\n\n[", ["stop"])


def test_a_cut_answer_keeps_its_reason() -> None:
    writer = fold("END")
    writer.feed([*hello("a END"), Finished("length", USAGE)])
    assert answer(writer)["choices"][0]["finish_reason"] == "stop"
    assert answer(writer)["usage"] == TOLD


# -- withdrawn text


def test_withdrawn_text_ends_a_stream() -> None:
    writer = stream(usage=True)
    assert told(writer.feed([*hello("bad"), TextReplaced("I cannot say."), *hello(" more")])) == (
        "bad",
        ["content_filter"],
    )
    assert (writer.cut, writer.done) == ("content_filter", False)
    assert writer.feed([TextReplaced("again")]) == b""
    usage, done = frames(writer.feed([END]))
    assert (usage["usage"], done) == (TOLD, DONE)


def test_withdrawn_text_is_replaced_in_a_folded_answer() -> None:
    writer = fold()
    writer.feed([*hello("bad"), TextReplaced("I cannot say."), *hello(" Sorry."), END])
    choice = answer(writer)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I cannot say. Sorry.", "content_filter")


def test_what_was_held_back_is_withdrawn_too() -> None:
    folded = fold("END")
    folded.feed([*hello("bad E"), TextReplaced("I cannot say."), END])
    assert answer(folded)["choices"][0]["message"]["content"] == "I cannot say."
    assert told(stream("END").feed([*hello("bad E"), TextReplaced("no"), END])) == ("bad ", ["content_filter"])


def test_a_text_that_comes_instead_is_cut_as_well() -> None:
    writer = fold("END")
    writer.feed([*hello("bad"), TextReplaced("Sorry END of it"), *hello("more"), END])
    choice = answer(writer)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Sorry ", "content_filter")


# -- other ends


@pytest.mark.parametrize("usage", [True, False])
def test_closing_an_answer_that_was_cut(usage: bool) -> None:
    writer = stream("END", usage=usage)
    writer.feed(hello("a END"))
    *chunks, done = frames(writer.close())
    assert done == DONE
    assert [chunk["usage"] for chunk in chunks] == ([NONE] if usage else [])
    assert writer.done
    assert writer.close() == b""


def test_closing_what_was_not_cut_gives_all_of_it() -> None:
    writer = stream("END")
    shown = told(writer.feed(hello("a E")) + writer.close())
    assert shown == ("a E", ["stop"])


def test_closing_a_finished_answer_adds_nothing() -> None:
    writer = stream()
    writer.feed([END])
    assert writer.close() == b""


def test_a_failure_is_a_frame_without_an_end() -> None:
    writer = stream()
    data = writer.open() + writer.feed(hello("hi")) + writer.fail(BrokenUpstream("It broke."))
    *_, error = frames(data)
    assert error == {"error": {"message": "It broke.", "type": "api_error", "param": None, "code": "upstream_error"}}
    assert told(data) == ("hi", [])
    assert writer.done
    assert writer.fail(BrokenUpstream("again")) == b""
    assert writer.close() == b""


def test_nothing_follows_the_end() -> None:
    writer = stream(usage=True)
    writer.feed([END])
    assert writer.fail(BrokenUpstream("late")) == b""


def test_a_folded_answer() -> None:
    writer = fold()
    assert writer.feed([Started(IDS), *hello("Hel", "lo"), Finished("length", USAGE)]) == b""
    assert writer.done
    assert answer(writer) == {
        "id": writer.id,
        "object": "chat.completion",
        "created": writer.created,
        "model": "my model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "finish_reason": "length",
                "logprobs": None,
            }
        ],
        "usage": TOLD,
        "dify": DIFY,
    }


def test_a_folded_answer_that_was_cut_and_never_ended() -> None:
    writer = fold("END")
    writer.feed(hello("a END"))
    assert not writer.done
    assert writer.close() == b""
    assert writer.done
    assert (answer(writer)["choices"][0]["finish_reason"], answer(writer)["usage"]) == ("stop", NONE)


# -- both tell the same


TEXTS = st.lists(st.text("abE ND", max_size=8), max_size=8)


@settings(deadline=None)
@given(TEXTS, st.lists(st.sampled_from(["END", "b", "a E"]), unique=True), st.booleans())
def test_streamed_and_folded_are_the_same_however_the_events_come(
    texts: list[str], stops: list[str], usage: bool
) -> None:
    events = [*hello(*filter(None, texts)), END]
    apart, together, folded = stream(*stops, usage=usage), stream(*stops, usage=usage), fold(*stops)
    folded.feed(events)
    choice = answer(folded)["choices"][0]
    expected = (choice["message"]["content"], [choice["finish_reason"]])
    assert told(together.feed(events)) == expected
    assert told(b"".join(apart.feed([event]) for event in events)) == expected


# -- what agents do besides talking

RUN = ToolRun(id="c1", name="clock", arguments='{"zone": "UTC"}')
SOURCE = Citation(title="A", url="https://a.example.com", score=0.5, content="text")
AGENT: list[Event] = [
    Started(Ids(conversation_id="c")),
    ReasoningDelta("Hm"),
    RUN,
    ToolResult("c1", "12:00"),
    TextDelta("It is noon."),
    Progress("Search", done=True),
    Cited((SOURCE,)),
    Finished("stop", Usage(1, 2, 3), suggestions=("And then?",)),
]


def chunks_of(data: bytes) -> list[Any]:
    """The JSON of each frame but the last, which is [DONE]."""
    frames = [frame.removeprefix(b"data: ") for frame in data.split(b"\n\n") if frame]
    assert frames[-1] == b"[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def test_each_thing_has_its_place_in_a_stream() -> None:
    writer = ChatStream("m", [], include_usage=False)
    writer.ids = Ids(conversation_id="c")
    chunks = chunks_of(writer.open() + writer.feed(AGENT))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Hm"},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"zone": "UTC"}'}}]},
        {},
        {"content": "It is noon."},
        {},
        {
            "content": "",
            "annotations": [
                {
                    "type": "url_citation",
                    "url_citation": {"url": "https://a.example.com", "title": "A", "start_index": 11, "end_index": 11},
                }
            ],
        },
        {},
    ]
    assert chunks[4]["dify"] == {"tool_result": {"id": "c1", "observation": "12:00"}}
    assert chunks[6]["event"] == {"type": "status", "data": {"description": "Search", "done": True}}
    assert chunks[7]["dify"]["citations"][0]["score"] == 0.5
    assert chunks[8]["choices"][0]["finish_reason"] == "stop"
    assert chunks[8]["dify"] == {"conversation_id": "c", "suggested_questions": ["And then?"]}
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)


def test_each_thing_has_its_place_in_a_whole_answer() -> None:
    writer = ChatFold("m", [])
    writer.ids = Ids(conversation_id="c")
    writer.feed(AGENT)
    told = json.loads(writer.result())
    message = told["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm"
    assert message["content"] == "It is noon."
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    ]
    assert message["dify"]["tool_runs"] == [
        {"id": "c1", "name": "clock", "arguments": '{"zone": "UTC"}', "observation": "12:00"}
    ]
    assert message["annotations"][0]["url_citation"]["title"] == "A"
    assert told["choices"][0]["finish_reason"] == "stop"
    assert told["dify"]["citations"][0]["content"] == "text"
    assert told["dify"]["suggested_questions"] == ["And then?"]
    ChatCompletion.model_validate(told)


def test_the_other_name_of_thinking() -> None:
    stream, fold = ChatStream("m", [], include_usage=False), ChatFold("m", [])
    for writer in (stream, fold):
        writer.reasoning_key = "reasoning"
    assert b'"delta":{"reasoning":"Hm"}' in stream.feed([ReasoningDelta("Hm")])
    fold.feed([ReasoningDelta("Hm")])
    assert b'"reasoning":"Hm"' in fold.result()
    assert b"reasoning_content" not in fold.result()


def test_sources_that_the_text_tells_already() -> None:
    stream, fold = ChatStream("m", [], include_usage=False), ChatFold("m", [])
    cited = Cited((SOURCE,), annotated=False)
    assert b"annotations" not in stream.feed([cited])
    fold.feed([cited])
    assert b"annotations" not in fold.result()
    assert b'"citations"' in fold.result()


def test_after_a_stop_sequence_there_is_nothing_more() -> None:
    stream, fold = ChatStream("m", ["END"], include_usage=False), ChatFold("m", ["END"])
    stream.feed([TextDelta("one END two")])
    assert stream.feed([ReasoningDelta("Hm"), RUN, Cited((SOURCE,))]) == b""
    fold.feed([TextDelta("one END two"), ReasoningDelta("Hm"), RUN])
    assert b"tool_calls" not in fold.result()
    assert b"reasoning" not in fold.result()


def test_several_calls_are_numbered() -> None:
    stream = ChatStream("m", [], include_usage=False)
    told = stream.feed([RUN, ToolRun(id="c2", name="clock", arguments="{}")])
    assert told.count(b'"index":0,"id":"c1"') == 1
    assert told.count(b'"index":1,"id":"c2"') == 1


def test_one_call_an_answer_before_there_were_tools() -> None:
    calls: list[Event] = [ToolCall("c1", "f", '{"a":1}'), ToolCall("c2", "g", "{}")]
    streamed = ChatStream("m", (), include_usage=False, legacy=True)
    told = frames(streamed.feed([*calls, Finished("tool_calls", USAGE)]))
    pieces = [chunk["choices"][0]["delta"].get("function_call") for chunk in told[:-1]]
    assert pieces == [{"name": "f", "arguments": ""}, {"arguments": '{"a":1}'}, None]
    assert told[-2]["choices"][0]["finish_reason"] == "function_call"
    whole = ChatFold("m", (), legacy=True)
    whole.feed([*calls, Finished("tool_calls", USAGE)])
    choice = json.loads(whole.result())["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a":1}'}
    assert choice["message"]["content"] is None
    assert "tool_calls" not in choice["message"]


def test_an_answer_that_only_calls_has_no_content() -> None:
    whole = ChatFold("m", ())
    whole.feed([ToolCall("c1", "f", "{}"), Finished("tool_calls", USAGE)])
    message = json.loads(whole.result())["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    ChatCompletion.model_validate_json(whole.result())
