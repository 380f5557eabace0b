"""The body of a chat completion -> Prompt."""

import json
from typing import Any

import pytest

from opendify.dialogue import Attachment, ToolCall, Turn
from opendify.errors import InvalidRequest
from opendify.openai.chat.prompt import prompt_of
from opendify.openai.chat.schema import MAX_MESSAGES, ChatRequest, decode_request

HELLO = [{"role": "user", "content": "hello"}]


def request(**fields: Any) -> ChatRequest:
    return decode_request(json.dumps({"model": "Helper", "messages": HELLO} | fields).encode())


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return prompt_of(request(messages=list(messages))).turns


def attachment(part: dict[str, Any]) -> Attachment:
    """The attachment of one part, which stands second in the second message."""
    content = [{"type": "text", "text": "see"}, part]
    (found,) = turns({"role": "system", "content": ""}, {"role": "user", "content": content})[1].attachments
    return found


def use(fields: dict[str, Any]) -> None:
    asked = request(**fields)
    asked.check()
    prompt_of(asked)


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        use(fields)
    return caught.value


# -- the body


def test_the_least() -> None:
    asked = request()
    asked.check()
    prompt = prompt_of(asked)
    assert (prompt.model, prompt.turns) == ("Helper", (Turn(role="user", text="hello"),))
    assert (prompt.user, prompt.variables, prompt.metadata) == (None, {}, {})
    assert (asked.stream, asked.stream_options, asked.stops()) == (False, None, [])


def test_nothing_is_as_good_as_left_out() -> None:
    names = ("stream", "stream_options", "stop", "user", "n", "logprobs", "metadata", "inputs")
    asked = request(**dict.fromkeys(names))
    asked.check()
    assert prompt_of(asked) == prompt_of(request())
    assert not asked.stream


@pytest.mark.parametrize(
    "field",
    [
        {"temperature": 0.2},
        {"top_p": "anything"},
        {"max_tokens": 5, "max_completion_tokens": None},
        {"seed": 1, "presence_penalty": 0.1, "frequency_penalty": 0.1, "logit_bias": {"50256": -100}},
        {"reasoning_effort": "high", "store": True, "service_tier": "auto"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": None},
        {"response_format": {"type": "text"}},
        {"a_field_of_tomorrow": [{}]},
        {"stream_options": {"include_usage": True, "more": 1}},
    ],
)
def test_what_the_app_owns_or_nobody_knows_has_no_effect(field: dict[str, Any]) -> None:
    asked = request(**field)
    asked.check()
    assert prompt_of(asked) == prompt_of(request())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": HELLO * (MAX_MESSAGES + 1)}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [*HELLO, {"content": "x"}]}, "messages[1]"),
        ({"messages": [*HELLO, {"role": "boss", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x", 5]}, "stop[1]"),
        ({"stop": ""}, "stop"),
        ({"stop": ["x", ""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": "x" * 501}, "stop"),
        ({"n": "1"}, "n"),
        ({"n": 0}, "n"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"user": True}, "user"),
        ({"user": ["ann"]}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"inputs": []}, "inputs"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"not json", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `model`"),
        (b'{"model": "m"}', "missing required field `messages`"),
        (b'{"model": "m", "messages": [{"role": "user"}]} x', "trailing characters"),
        (b'{"model": "\xff", "messages": []}', "not UTF-8"),
        (b'{"model": "\\ud800", "messages": []}', "The request body is not what this endpoint takes"),
        (b'{"model": "m", "inputs": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}", "nested too deeply"),
    ],
    ids=range(10),
)
def test_a_body_that_is_none(body: bytes, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(body)
    assert said in caught.value.message
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_request", None)


def test_as_many_messages_as_fit() -> None:
    assert len(prompt_of(request(messages=HELLO * MAX_MESSAGES)).turns) == MAX_MESSAGES


@pytest.mark.parametrize("fields", [{"n": 1}, {"logprobs": False}, {"stop": ["x" * 500] * 16}, {"model": "m" * 256}])
def test_what_fits(fields: dict[str, Any]) -> None:
    request(**fields).check()


@pytest.mark.parametrize(("stop", "stops"), [(None, []), ("END", ["END"]), (["a", "b"], ["a", "b"]), ([], [])])
def test_stops(stop: Any, stops: list[str]) -> None:
    assert request(stop=stop).stops() == stops


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, None),
        ("", None),
        ("ann", "ann"),
        (" ann ", " ann "),
        (5, "5"),
        (0, "0"),
        ({"id": "u1", "email": "ann@example.com", "name": "Ann"}, "u1"),
        ({"id": 5}, "5"),
        ({"id": "", "email": "ann@example.com", "name": "Ann"}, "ann@example.com"),
        ({"id": None, "name": "Ann"}, "Ann"),
        ({"role": "admin"}, None),
        ({"id": {"a": 1}}, None),
        ({"id": ["a"], "name": "Ann"}, "Ann"),
        ({}, None),
    ],
)
def test_users(user: Any, expected: str | None) -> None:
    assert prompt_of(request(user=user)).user == expected


def test_variables_and_metadata() -> None:
    prompt = prompt_of(request(inputs={"a": 1, "b": [None]}, metadata={"chat": "x", "n": "5"}))
    assert prompt.variables == {"a": 1, "b": [None]}
    assert prompt.metadata == {"chat": "x", "n": "5"}


# -- messages


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_roles(role: str, expected: Any) -> None:
    assert turns({"role": role, "content": "x"}) == (Turn(role=expected, text="x"),)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x", "x"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        ([{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}], "x"),
    ],
)
def test_contents(content: Any, text: str) -> None:
    assert turns({"role": "assistant", "content": content})[0].text == text


def test_a_message_without_content() -> None:
    assert turns({"role": "assistant"}) == (Turn(role="assistant", text=""),)


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_tool_turns() -> None:
    assert turns(
        {"role": "assistant", "content": None, "tool_calls": [call("c1", "weather", '{"city": "Ulm"}'), {"id": "c2"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "22"},
        {"role": "tool", "tool_call_id": "c9", "content": "23"},
        {"role": "function", "name": "clock", "content": "noon"},
        {"role": "assistant", "content": "Warm.", "tool_calls": [call("c3", "a", "{}"), call("c4", "b", "{}")]},
        {"role": "assistant", "content": None, "function_call": {"name": "old", "arguments": "{}"}},
    ) == (
        Turn(role="assistant", text="", calls=(ToolCall("c1", "weather", '{"city": "Ulm"}'),)),
        Turn(role="tool", text="22", name="weather", call_id="c1"),
        Turn(role="tool", text="23", call_id="c9"),
        Turn(role="tool", text="noon", name="clock"),
        Turn(role="assistant", text="Warm.", calls=(ToolCall("c3", "a", "{}"), ToolCall("c4", "b", "{}"))),
        Turn(role="assistant", text="", calls=(ToolCall("", "old", "{}"),)),
    )


# -- attachments


PLACE = "messages[1].content[1]"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://h/a.png", "detail": "high"}},
            Attachment(media="image", param=f"{PLACE}.image_url", url="https://h/a.png"),
        ),
        (
            {"type": "image_url", "image_url": "http://h/a.png"},
            Attachment(media="image", param=f"{PLACE}.image_url", url="http://h/a.png"),
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
            Attachment(media="image", param=f"{PLACE}.image_url", base64="iVBO", mime_type="image/png"),
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:;base64,iVBO,x"}},
            Attachment(media="image", param=f"{PLACE}.image_url", base64="iVBO,x", mime_type=""),
        ),
        (
            {"type": "image_url", "image_url": {"url": "data:image/svg+xml;charset=utf-8;base64,"}},
            Attachment(media="image", param=f"{PLACE}.image_url", base64="", mime_type="image/svg+xml;charset=utf-8"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG", "format": "mp3"}},
            Attachment(media="audio", param=f"{PLACE}.input_audio", base64="UklG", name="audio.mp3"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "UklG"}},
            Attachment(media="audio", param=f"{PLACE}.input_audio", base64="UklG", name="audio.wav"),
        ),
        (
            {"type": "file", "file": {"file_data": "JVBE", "filename": "a.pdf"}},
            Attachment(media="file", param=f"{PLACE}.file.file_data", base64="JVBE", name="a.pdf"),
        ),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
            Attachment(
                media="file",
                param=f"{PLACE}.file.file_data",
                base64="JVBE",
                name="a.pdf",
                mime_type="application/pdf",
            ),
        ),
        (
            {"type": "file", "file": {"file_data": "https://h/a.pdf"}},
            Attachment(media="file", param=f"{PLACE}.file.file_data", url="https://h/a.pdf"),
        ),
    ],
)
def test_attachments(part: dict[str, Any], expected: Attachment) -> None:
    assert attachment(part) == expected


def test_attachments_keep_their_order_beside_the_text() -> None:
    parts = [
        {"type": "image_url", "image_url": "https://h/1.png"},
        {"type": "text", "text": "one"},
        {"type": "image_url", "image_url": "https://h/2.png"},
        {"type": "text", "text": "two"},
    ]
    (turn,) = turns({"role": "user", "content": parts})
    assert turn.text == "one\ntwo"
    assert [file.url for file in turn.attachments] == ["https://h/1.png", "https://h/2.png"]
    assert [file.param for file in turn.attachments] == [
        "messages[0].content[0].image_url",
        "messages[0].content[2].image_url",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "ftp://h/a.png",
        "file:///etc/passwd",
        "data:image/png,plain",
        "data:image/png;base64",
        "image/png;base64,iVBO",
        "javascript:alert(1)",
    ],
)
def test_an_image_that_is_neither_an_address_nor_data(url: str) -> None:
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": url}}]
    error = refusal(messages=[{"role": "user", "content": parts}])
    assert error.param == "messages[0].content[1].image_url"
    assert error.message == "Expected an http(s) address or a base64 data: URL."


def test_a_file_sent_ahead() -> None:
    (turn,) = turns({"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]})
    assert turn.attachments == (
        Attachment(media="file", param="messages[0].content[0].file.file_id", file_id="file-1"),
    )


@pytest.mark.parametrize("file", [{"filename": "a.pdf"}, {}])
def test_a_file_without_its_data(file: dict[str, str]) -> None:
    error = refusal(messages=[{"role": "user", "content": [{"type": "file", "file": file}]}])
    assert error.param == "messages[0].content[0].file"
    assert "file_data" in error.message
