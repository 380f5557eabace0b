"""Tools that clients declare, and answers in JSON: asked for in the prompt, handed over as OpenAI does."""

import json
from typing import Any

import pytest
from conftest import MODELS, Serve, Served, eventually, finish_of, frames, text_of

CONVERSING = ("chat", "agent-chat", "advanced-chat", "agent")
EVERY = (*CONVERSING, "completion", "workflow")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
ULM = {"name": "weather", "arguments": {"city": "Ulm"}}
BONN = {"name": "weather", "arguments": {"city": "Bonn"}}
MISFIT = {"name": "weather", "arguments": {"town": "Ulm"}}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


def word(name: str, value: object) -> str:
    return f"{name}:{json.dumps(value)}"


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def whole(served: Served, messages: list[dict[str, Any]], mode: str = "chat", **more: Any) -> dict[str, Any]:
    """The one choice of a whole answer."""
    body = {"model": MODELS[mode], "messages": messages, "tools": TOOLS, **more}
    response = await served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice | {"usage": response.json()["usage"]}


async def streamed(
    served: Served, messages: list[dict[str, Any]], mode: str = "chat", **more: Any
) -> list[dict[str, Any]]:
    """The chunks of a streamed answer."""
    body = {"model": MODELS[mode], "messages": messages, "tools": TOOLS, "stream": True, **more}
    response = await served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return frames(response.text)


def called(choice: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the calls of an answer."""
    return [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"].get("tool_calls") or ()
    ]


def answered(choice: dict[str, Any], *results: str) -> list[dict[str, Any]]:
    """What a client adds to its history: the answer, and what its calls returned."""
    calls = choice["message"]["tool_calls"]
    told = [
        {"role": "tool", "tool_call_id": call["id"], "content": result}
        for call, result in zip(calls, results, strict=True)
    ]
    return [choice["message"], *told]


# -- calls


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
@pytest.mark.parametrize("mode", EVERY)
async def test_a_call_its_result_and_on(serve: Serve, mode: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    messages = [user(f'SAY:"I look." {word("CALL", ULM)}')]
    choice = await whole(served, messages, mode)
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"].strip() == "I look."
    assert called(choice) == [("weather", {"city": "Ulm"})]
    messages += answered(choice, "18 degrees")
    choice = await whole(served, messages, mode)
    assert choice["finish_reason"] == "stop"
    assert "18 degrees" in choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    messages += [choice["message"], user("ECHO:thanks")]
    choice = await whole(served, messages, mode)
    assert choice["message"]["content"] == "thanks"
    assert "<call-" not in json.dumps(messages)
    conversations = {run.body.get("conversation_id") for run in served.runs()[1:]}
    assert len(conversations) == 1
    assert (None in conversations) is (mode not in CONVERSING)


@pytest.mark.parametrize("mode", EVERY)
async def test_calls_are_streamed_as_openai_does(served: Served, mode: str) -> None:
    chunks = await streamed(served, [user(f'SAY:"I look." {word("CALL", [ULM, BONN])}')], mode)
    assert finish_of(chunks) == ["tool_calls"]
    assert text_of(chunks).strip() == "I look."
    pieces = [
        call
        for chunk in chunks
        for choice in chunk.get("choices", ())
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert [(piece["index"], "id" in piece, piece["function"].get("name")) for piece in pieces] == [
        (0, True, "weather"),
        (0, False, None),
        (1, True, "weather"),
        (1, False, None),
    ]
    assert [json.loads(piece["function"]["arguments"]) for piece in pieces[1::2]] == [{"city": "Ulm"}, {"city": "Bonn"}]
    assert chunks[-1] == {"done": True}


async def test_rules_are_told_once(served: Served) -> None:
    messages = [user(word("CALL", ULM))]
    for number in range(3):
        choice = await whole(served, messages)
        messages += [*answered(choice, word("CALL", ULM) if number < 2 else "rain")]
    messages += [(await whole(served, messages))["message"], user("ECHO:bye")]
    await whole(served, messages)
    queries = [run.body["query"] for run in served.runs()]
    assert ["# Tools" in query for query in queries] == [True, False, False, False, False]
    assert queries[-1] == "ECHO:bye"
    assert "additionalProperties" not in queries[1]


async def test_other_tools_are_told_anew(served: Served) -> None:
    messages = [user("ECHO:one")]
    messages += [(await whole(served, messages))["message"], user("ECHO:two")]
    messages += [(await whole(served, messages, tools=[CLOCK]))["message"], user("ECHO:three")]
    messages += [(await whole(served, messages, tools=[CLOCK]))["message"], user(word("CALL", ULM))]
    last = await whole(served, messages, tools=None)
    queries = [run.body["query"] for run in served.runs()]
    assert ["# Tools" in query for query in queries[:4]] == [True, True, False, False]
    assert "weather" not in queries[1]
    assert queries[3].endswith("do not call tools: answer in words.)")
    assert len({run.body.get("conversation_id") for run in served.runs()[1:]}) == 1
    assert not called(last)
    assert last["finish_reason"] == "stop"


async def test_the_same_calls_in_another_chat_are_another_conversation(served: Served) -> None:
    """Two answers that differ only in what they call: each history goes on in its own conversation."""
    first, second = [user("weather?\n" + word("CALL", ULM))], [user("weather?\n" + word("CALL", ULM))]
    one = await whole(served, first)
    two = await whole(served, [user("weather?\n" + word("CALL", BONN))])
    two_after_one = {**two, "message": {**one["message"], "tool_calls": two["message"]["tool_calls"]}}
    await whole(served, [*first, *answered(one, "sun")])
    ids = list(served.dify.conversations)
    assert served.last_run["conversation_id"] == ids[0]
    await whole(served, [*second, *answered(two_after_one, "sun")])
    assert "conversation_id" not in served.last_run


# -- what the choice says


async def test_no_calls_where_none_are_wanted(served: Served) -> None:
    choice = await whole(served, [user(f"{word('CALL', ULM)} {word('MEND', 'In words.')}")], tool_choice="none")
    assert not called(choice)
    assert "# Tools" not in served.last_run["query"]


async def test_a_call_that_is_required_is_asked_for(served: Served) -> None:
    messages = [user(f'SAY:"Hm." {word("MEND", ULM)}')]
    choice = await whole(served, messages, tool_choice="required")
    assert called(choice) == [("weather", {"city": "Ulm"})]
    assert choice["message"]["content"].strip() == "Hm."
    assert len(served.runs()) == 2
    assert served.last_run["conversation_id"] in served.dify.conversations
    named = {"type": "function", "function": {"name": "clock"}}
    choice = await whole(served, [user(word("CALL", {"name": "clock", "arguments": {}}))], tool_choice=named)
    assert called(choice) == [("clock", {})]
    assert "you have to call the tool clock" in served.last_run["query"]


async def test_one_call_at_a_time(served: Served) -> None:
    choice = await whole(served, [user(word("CALL", [ULM, BONN]))], parallel_tool_calls=False)
    assert called(choice) == [("weather", {"city": "Ulm"})]


async def test_functions_as_they_were_before_tools(served: Served) -> None:
    functions = [WEATHER["function"]]
    messages = [user(word("CALL", ULM))]
    choice = await whole(served, messages, tools=None, functions=functions)
    message = choice["message"]
    assert choice["finish_reason"] == "function_call"
    assert message["content"] is None
    assert message["function_call"] == {"name": "weather", "arguments": '{"city":"Ulm"}'}
    messages += [message, {"role": "function", "name": "weather", "content": "18 degrees"}]
    choice = await whole(served, messages, tools=None, functions=functions)
    assert "18 degrees" in choice["message"]["content"]
    assert served.last_run["conversation_id"] in served.dify.conversations
    chunks = await streamed(served, [user(word("CALL", BONN))], tools=None, functions=functions)
    assert finish_of(chunks) == ["function_call"]
    told = [choice["delta"].get("function_call", {}) for chunk in chunks for choice in chunk.get("choices", ())]
    assert "".join(piece.get("arguments", "") for piece in told) == '{"city":"Bonn"}'


# -- repairs


@pytest.mark.parametrize("mode", EVERY)
async def test_a_call_that_does_not_fit_is_mended_in_silence(served: Served, mode: str) -> None:
    messages = [user(f'SAY:"I look." {word("CALL", MISFIT)} {word("MEND", ULM)}')]
    choice = await whole(served, messages, mode)
    assert called(choice) == [("weather", {"city": "Ulm"})]
    assert choice["message"]["content"].strip() == "I look."
    _, second = served.runs()
    assert "A call was not run" in json.dumps(second.body)
    if mode in CONVERSING:
        assert second.body["conversation_id"] in served.dify.conversations
    messages += answered(choice, "18 degrees")
    assert "18 degrees" in (await whole(served, messages, mode))["message"]["content"]
    assert len(served.dify.conversations) == (mode in CONVERSING)


async def test_usage_counts_both_runs(served: Served) -> None:
    once = await whole(served, [user(word("CALL", ULM))])
    twice = await whole(served, [user(f"{word('CALL', MISFIT)} {word('MEND', ULM)}")])
    assert twice["usage"]["total_tokens"] > once["usage"]["total_tokens"]
    assert twice["usage"]["prompt_tokens"] + twice["usage"]["completion_tokens"] == twice["usage"]["total_tokens"]


async def test_a_call_that_cannot_be_mended_is_text(served: Served) -> None:
    chunks = await streamed(served, [user(f"{word('CALL', MISFIT)} {word('MEND', MISFIT)}")])
    assert finish_of(chunks) == ["stop"]
    assert '"town"' in text_of(chunks)
    assert "<call-" not in text_of(chunks)
    assert len(served.runs()) == 2


@pytest.mark.parametrize(
    "trouble", ["FAULT:500", "FAULT:drop", "FAULT:gone", "FAULT:cut LONG 9", "ERROR_START", "ERROR_MID LONG 9"]
)
async def test_a_repair_that_fails_is_no_failure(served: Served, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is what there was before; the conversation, whose history may hold half of it, ends here."""
    monkeypatch.setattr("opendify.client_tools.texts.repair", lambda *_, **__: trouble)
    messages = [user(word("CALL", MISFIT))]
    choice = await whole(served, messages)
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"])["arguments"] == {"town": "Ulm"}
    await whole(served, [*messages, choice["message"], user("ECHO:on")])
    assert "conversation_id" not in served.last_run


async def test_a_repair_that_hangs_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.client_tools.texts.repair", lambda *_, **__: "FAULT:silence LONG 9")
    served = await serve(timeout=0.3)
    choice = await whole(served, [user(word("CALL", MISFIT))])
    assert json.loads(choice["message"]["content"])["arguments"] == {"town": "Ulm"}
    await eventually(lambda: bool(served.dify.stops))
    await served.app.state.exchange.tasks.settled(5)
    assert len(served.dify.stops) == 1


async def test_one_call_is_enough_where_one_is_taken(served: Served) -> None:
    choice = await whole(served, [user(word("CALL", [ULM, MISFIT]))], parallel_tool_calls=False)
    assert called(choice) == [("weather", {"city": "Ulm"})]
    assert len(served.runs()) == 1


# -- ways of an app


async def test_apps_that_take_no_tools(serve: Serve) -> None:
    served = await serve(client_tools="reject")
    body = {"model": "Helper", "messages": [user("hi")], "tools": TOOLS}
    response = await served.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "tools"
    assert not served.runs()
    ignoring = await serve(client_tools="ignore")
    odd = [{"type": "custom", "custom": {"name": "x"}}, {"type": "function", "function": {"name": "mcp.search"}}]
    for tools in (odd[:1], odd[1:]):
        choice = await whole(ignoring, [user("ECHO:plain")], tools=tools)
        assert choice["message"]["content"] == "plain"
    choice = await whole(ignoring, [user("ECHO:plain")])
    assert choice["message"]["content"] == "plain"
    assert ignoring.last_run["query"] == "ECHO:plain"


async def test_what_the_app_ran_is_not_the_clients_to_run(served: Served) -> None:
    choice = await whole(served, [user(f"TOOL {word('CALL', ULM)}")], "agent-chat")
    assert called(choice) == [("weather", {"city": "Ulm"})]
    assert "current_time" in choice["message"]["reasoning_content"]


# -- the form of the answer


@pytest.mark.parametrize("mode", EVERY)
async def test_json_is_mended_until_it_fits(served: Served, mode: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    messages = [user(f'SAY:"Ulm, I think" {word("MEND", json.dumps({"city": "Ulm"}))}')]
    choice = await whole(served, messages, mode, tools=None, response_format=wanted)
    assert json.loads(choice["message"]["content"]) == {"city": "Ulm"}
    assert len(served.runs()) == 2
    fenced = word("SAY", 'Here:\n```json\n{"city": "Bonn"}\n```')
    choice = await whole(served, [user(fenced)], mode, tools=None, response_format={"type": "json_object"})
    assert choice["message"]["content"] == '{"city": "Bonn"}'
    assert len(served.runs()) == 3


async def test_a_streamed_answer_is_passed_as_it_comes(served: Served) -> None:
    chunks = await streamed(served, [user("ECHO:plain")], tools=None, response_format={"type": "json_object"})
    assert text_of(chunks) == "plain"
    assert len(served.runs()) == 1
    assert "Reply with one JSON object" in served.last_run["query"]


async def test_a_form_that_is_no_longer_wanted(served: Served) -> None:
    wanted = {"type": "json_object"}
    messages = [user(word("SAY", "{}"))]
    messages += [
        (await whole(served, messages, tools=None, response_format=wanted))["message"],
        user(word("SAY", "[]{}")),
    ]
    messages += [(await whole(served, messages, tools=None, response_format=wanted))["message"], user("ECHO:three")]
    messages += [(await whole(served, messages, tools=None))["message"], user("ECHO:four")]
    await whole(served, messages, tools=None)
    queries = [run.body["query"] for run in served.runs()]
    assert ["# Form of the reply" in query for query in queries] == [True, False, True, False]
    assert "it need not be JSON any more" in queries[2]


async def test_calls_go_before_the_form(served: Served) -> None:
    wanted = {"type": "json_object"}
    choice = await whole(served, [user(word("CALL", ULM))], response_format=wanted)
    assert called(choice) == [("weather", {"city": "Ulm"})]
    assert len(served.runs()) == 1


async def test_json_holds_nothing_else(serve: Serve) -> None:
    """Files, sources and thinking have no place in it."""
    served = await serve(citations="both", reasoning="inline")
    asked = [user(f"THINK FILE CITE {word('MEND', '{}')}")]
    choice = await whole(served, asked, "advanced-chat", tools=None, response_format={"type": "json_object"})
    assert json.loads(choice["message"]["content"]) == {}
