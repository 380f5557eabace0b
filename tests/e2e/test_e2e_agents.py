"""What agents do besides talking, as clients see it: thinking, tools, sources, steps, suggestions."""

import json
import re
from typing import Any

import pytest
from conftest import MODELS, Serve, Served, finish_of, frames, text_of

from opendify.dialogue import RUN_ID

AGENTS = ("agent-chat", "agent")
FLOWS = ("advanced-chat", "workflow")
# By what is asked, the names of the runs: of a Tool node its title, in an Agent node the tool's own.
IN_FLOWS = {
    "TOOL": ["Current Time"],
    "TOOL2": ["Current Time", "Current Time 2"],
    "AGENTNODE": ["current_time"],
    "TOOL AGENTNODE": ["Current Time", "current_time"],
}
CLOCK = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
TALKING = ("chat", "agent-chat", "advanced-chat", "agent", "completion", "workflow")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


async def whole(served: Served, content: str, mode: str, **more: Any) -> dict[str, Any]:
    """The message of a whole answer, with the top-level `dify` beside it."""
    response = await served.ask(content, MODELS[mode], **more)
    assert response.status_code == 200, response.text
    body = response.json()
    message: dict[str, Any] = body["choices"][0]["message"]
    return message | {"finish_reason": body["choices"][0]["finish_reason"], "top": body["dify"]}


def deltas(chunks: list[dict[str, Any]], name: str) -> list[Any]:
    """One field of the deltas, where it is there."""
    found = [choice["delta"].get(name) for chunk in chunks for choice in chunk.get("choices", ())]
    return [value for value in found if value]


# -- thinking


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
@pytest.mark.parametrize("mode", TALKING)
async def test_thinking_is_not_in_the_text(serve: Serve, mode: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    chunks = await served.stream("THINK ECHO:plain", MODELS[mode])
    thought = "".join(deltas(chunks, "reasoning_content"))
    assert thought
    assert "plain" not in thought
    assert text_of(chunks).endswith("plain")
    assert "think>" not in text_of(chunks) + thought
    message = await whole(served, "THINK ECHO:plain", mode)
    assert message["reasoning_content"] == thought
    assert message["content"] == text_of(chunks)


async def test_where_thinking_goes(serve: Serve) -> None:
    for way, key in (("reasoning", "reasoning"), ("reasoning_content", "reasoning_content")):
        served = await serve(reasoning=way)
        chunks = await served.stream("THINK ECHO:plain")
        assert deltas(chunks, key)
        assert sum(bool(deltas(chunks, other)) for other in ("reasoning", "reasoning_content")) == 1
    dropped = await serve(reasoning="drop")
    chunks = await dropped.stream("THINK ECHO:plain")
    assert not deltas(chunks, "reasoning_content")
    assert "think>" not in text_of(chunks)
    inline = await serve(reasoning="inline")
    text = text_of(await inline.stream("THINK ECHO:plain"))
    assert text.startswith("<think>\n")
    assert "</think>" in text


@pytest.mark.parametrize("way", ["reasoning_content", "inline", "drop"])
@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat", "agent"])
async def test_a_conversation_goes_on_wherever_thinking_went(serve: Serve, mode: str, way: str) -> None:
    served = await serve(reasoning=way)
    first = {"role": "user", "content": "THINK TOOL ECHO:plain"}
    told = (await whole(served, first["content"], mode))["content"]
    messages = [first, {"role": "assistant", "content": told}, {"role": "user", "content": "ECHO:on"}]
    response = await served.http.post("/v1/chat/completions", json={"model": MODELS[mode], "messages": messages})
    assert response.status_code == 200
    assert served.last_run.get("conversation_id") in served.dify.conversations


# -- tools that the app runs


# The New Agent came with 1.15.
@pytest.mark.parametrize(("mode", "generation"), [("agent-chat", "1.9"), ("agent-chat", "1.16"), ("agent", "1.16")])
async def test_runs_of_tools(serve: Serve, mode: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    chunks = await served.stream("TOOL ECHO:plain", MODELS[mode])
    calls = [call for delta in deltas(chunks, "tool_calls") for call in delta]
    assert calls[0]["function"]["name"]
    arguments = json.loads("".join(call["function"]["arguments"] for call in calls))
    assert isinstance(arguments, dict)
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk.get("choices", ())]
    assert [reason for reason in reasons if reason] == ["stop"]
    (result,) = [chunk["dify"]["tool_result"] for chunk in chunks if "tool_result" in chunk.get("dify", {})]
    assert result["id"] == calls[0]["id"]
    assert result["observation"]
    message = await whole(served, "TOOL ECHO:plain", mode)
    assert message["finish_reason"] == "stop"
    (run,) = message["dify"]["tool_runs"]
    assert run["name"] == calls[0]["function"]["name"]
    assert run["observation"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == [run["name"]]


@pytest.mark.parametrize("mode", AGENTS)
async def test_other_ways_of_telling_tools(serve: Serve, mode: str) -> None:
    as_reasoning = await serve(agent_tools="reasoning")
    message = await whole(as_reasoning, "TOOL ECHO:plain", mode)
    assert "tool_calls" not in message
    assert "->" in message["reasoning_content"]
    off = await serve(agent_tools="off")
    message = await whole(off, "TOOL ECHO:plain", mode)
    assert "tool_calls" not in message
    assert "reasoning_content" not in message


@pytest.mark.parametrize("mode", AGENTS)
async def test_the_official_client_reads_it(served: Served, mode: str) -> None:
    stream = await served.openai.chat.completions.create(
        model=MODELS[mode], messages=[{"role": "user", "content": "TOOL ECHO:plain"}], stream=True
    )
    calls = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function
    assert calls[0].function.name
    answer = await served.openai.chat.completions.create(
        model=MODELS[mode], messages=[{"role": "user", "content": "TOOL ECHO:plain"}]
    )
    assert answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("generation", ["1.9", "1.16"])
@pytest.mark.parametrize("word", IN_FLOWS)
@pytest.mark.parametrize("mode", FLOWS)
async def test_runs_of_tools_in_flows(serve: Serve, mode: str, word: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    chunks = await served.stream(f"{word} ECHO:plain", MODELS[mode])
    parts = [call for delta in deltas(chunks, "tool_calls") for call in delta]
    calls = [part for part in parts if "id" in part]
    assert [call["function"]["name"] for call in calls] == IN_FLOWS[word]
    for call in calls:
        arguments = [part["function"]["arguments"] for part in parts if part["index"] == call["index"]]
        assert json.loads("".join(arguments)) == {"timezone": "UTC"}
    results = [chunk["dify"]["tool_result"] for chunk in chunks if "tool_result" in chunk.get("dify", {})]
    assert [result["id"] for result in results] == [call["id"] for call in calls]
    assert len({call["id"] for call in calls}) == len(calls)
    assert finish_of(chunks) == ["stop"]
    text = "plain" if "AGENTNODE" not in word else "I will look at the clock. \nplain"
    assert text_of(chunks) == text
    message = await whole(served, f"{word} ECHO:plain", mode)
    assert message["finish_reason"] == "stop"
    assert message["content"] == text
    assert [call["function"]["name"] for call in message["tool_calls"]] == IN_FLOWS[word]
    runs = message["dify"]["tool_runs"]
    assert [run["name"] for run in runs] == IN_FLOWS[word]
    for told in (*results, *runs):
        assert re.fullmatch(CLOCK, told["observation"])


@pytest.mark.parametrize("generation", ["1.9", "1.16"])
@pytest.mark.parametrize("word", IN_FLOWS)
@pytest.mark.parametrize("mode", FLOWS)
async def test_runs_of_tools_in_flows_as_lines(serve: Serve, mode: str, word: str, generation: str) -> None:
    served = await serve(dify={"generation": generation}, agent_tools="reasoning")
    chunks = await served.stream(f"{word} ECHO:plain", MODELS[mode])
    message = await whole(served, f"{word} ECHO:plain", mode)
    assert not deltas(chunks, "tool_calls")
    assert "tool_calls" not in message
    lines = "".join(rf'{name} {{"timezone":"UTC"}}\n-> {CLOCK}\n' for name in IN_FLOWS[word])
    for told in ("".join(deltas(chunks, "reasoning_content")), message["reasoning_content"]):
        assert re.fullmatch(lines, told)
    assert text_of(chunks) == message["content"]


# -- sources


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat"])
async def test_sources(served: Served, mode: str) -> None:
    message = await whole(served, "CITE ECHO:plain", mode)
    (first, *_) = message["annotations"]
    assert first["type"] == "url_citation"
    assert first["url_citation"]["title"]
    assert first["url_citation"]["url"].startswith(("https://", "http://", "dify://"))
    assert message["top"]["citations"][0]["title"] == first["url_citation"]["title"]
    chunks = await served.stream("CITE ECHO:plain", MODELS[mode])
    (told,) = deltas(chunks, "annotations")
    assert told == message["annotations"]
    assert text_of(chunks) == message["content"]


async def test_other_ways_of_telling_sources(serve: Serve) -> None:
    notes = await serve(citations="footnotes", citation_url="https://docs.example.com/{document_id}")
    message = await whole(notes, "CITE ECHO:plain", "chat")
    assert "\n\n---\n1. [" in message["content"]
    assert "annotations" not in message
    off = await serve(citations="off")
    message = await whole(off, "CITE ECHO:plain", "chat")
    assert message["content"] == "plain"
    assert "annotations" not in message
    assert "citations" not in message["top"]


# -- steps and suggestions


async def test_steps_of_flows(serve: Serve) -> None:
    served = await serve(progress="status")
    chunks = await served.stream("ECHO:plain", MODELS["workflow"])
    steps = [chunk["event"] for chunk in chunks if "event" in chunk]
    assert steps
    assert {step["type"] for step in steps} == {"status"}
    assert {step["data"]["done"] for step in steps} == {True, False}
    assert text_of(chunks) == "plain"
    quiet = await serve()
    assert not [chunk for chunk in await quiet.stream("ECHO:plain", MODELS["workflow"]) if "event" in chunk]


async def test_suggestions(serve: Serve) -> None:
    served = await serve(suggestions="on")
    assert (await whole(served, "ECHO:plain", "chat"))["top"]["suggested_questions"]
    chunks = await served.stream("ECHO:plain")
    assert chunks[-2]["dify"]["suggested_questions"]
    assert "suggested_questions" not in (await whole(served, "ECHO:plain", "agent-chat"))["top"]


# -- clients that run what the app has run already


@pytest.mark.parametrize("keeps_the_text", [True, False], ids=["text kept", "calls alone"])
@pytest.mark.parametrize("mode", AGENTS)
async def test_results_of_a_finished_call_get_the_answer_again(served: Served, mode: str, keeps_the_text: bool) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "THINK TOOL ECHO:noon"}]
    message = await whole(served, "THINK TOOL ECHO:noon", mode)
    (call,) = message["tool_calls"]
    messages += [
        {"role": "assistant", "content": message["content"] if keeps_the_text else None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "unknown tool"},
    ]
    body = {"model": MODELS[mode], "messages": messages}
    response = await served.http.post("/v1/chat/completions", json=body)
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    told = choice["message"]["content"]  # Dify's own copy has other white space, or the last round alone
    assert told.strip() == message["content"].strip() if keeps_the_text else told.endswith("noon")
    assert "think>" not in told
    assert "tool_calls" not in choice["message"]
    assert len(served.runs()) == 1
    streamed = await served.http.post("/v1/chat/completions", json=body | {"stream": True})
    assert text_of(frames(streamed.text)) == told
    if keeps_the_text:
        body["messages"] = [*messages, choice["message"], {"role": "user", "content": "ECHO:on"}]
        response = await served.http.post("/v1/chat/completions", json=body)
        assert response.json()["choices"][0]["message"]["content"] == "on"
        assert served.last_run["conversation_id"] in served.dify.conversations


async def test_results_that_nobody_knows_are_a_turn(served: Served) -> None:
    """An answer of another server: there is nothing to repeat."""
    call = {"id": f"{RUN_ID}9", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "What time is it?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "ECHO:noon"},
    ]
    response = await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
    assert response.json()["choices"][0]["message"]["content"] == "noon"
