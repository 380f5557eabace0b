"""Words that act on the run around the text: files, citations, replaced text, odd outputs, failures."""

import json
from dataclasses import replace
from typing import Any

import pytest
from asking import inside, said, sample

from opendify.demo import CODE_WORD

FLOWS = ["advanced-chat", "workflow"]


def named(told: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The one event of a name."""
    [event] = [event for event in told if event["event"] == name]
    return event


async def test_a_chat_app_makes_a_file_with_a_relative_url() -> None:
    async with inside("chat") as asking:
        [file] = named(await asking.run("FILE"), "message_end")["files"]
        assert file["url"].startswith("/files/tools/")
        picture = await asking.http.get(file["url"])
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
        assert picture.content.startswith(b"\x89PNG")
        assert (await asking.http.get(file["url"].partition("?")[0])).status_code == 400


async def test_a_tool_makes_a_file() -> None:
    async with inside("agent-chat") as asking:
        told = await asking.run("FILE")
    assert said(told) == "I will make a picture. Here is the picture."
    file = named(told, "message_file")
    assert (file["belongs_to"], file["url"][:13]) == ("assistant", "/files/tools/")
    observed = [event for event in told if event["event"] == "agent_thought" and event["observation"]]
    assert observed[0]["message_files"] == [file["id"]]


async def test_a_chatflow_makes_a_file_with_an_absolute_url() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("FILE ECHO:look")
        [file] = named(told, "message_end")["files"]
        assert file["url"].startswith("http://dify.test/files/tools/")
        assert said(told) == f"look\n![picture.png]({file['url']})"
        assert (await asking.http.get(file["url"])).content.startswith(b"\x89PNG")


async def test_a_workflow_makes_a_file() -> None:
    async with inside("workflow") as asking:
        data = named(await asking.run("FILE ECHO:look"), "workflow_finished")["data"]
    assert data["files"] == [data["outputs"]["picture"]]
    assert data["outputs"]["answer"] == "look"


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "agent", "completion", "advanced-chat"])
async def test_citations(mode: str) -> None:
    async with inside(mode) as asking:
        cited = named(await asking.run("CITE"), "message_end")["metadata"]["retriever_resources"]
        assert [passage["position"] for passage in cited] == [1, 2]
        assert not named(await asking.run("ECHO:a"), "message_end")["metadata"]["retriever_resources"]


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "agent", "completion", "advanced-chat"])
@pytest.mark.parametrize(
    ("word", "text"), [("REPLACE", "[output replaced]"), ("REPLACE_PREFIX", "a b And one more thing.")]
)
async def test_replaced_text(mode: str, word: str, text: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run(f"{word} ECHO:a b")
        assert named(told, "message_replace")["answer"] == text
        for conversation in asking.dify.conversations.values():
            assert conversation.turns[0][1] == text


async def test_a_workflow_without_streamed_text() -> None:
    async with inside("workflow") as asking:
        told = await asking.run("OUTPUTS_ONLY ECHO:a b")
        assert not said(told)
        assert named(told, "workflow_finished")["data"]["outputs"] == {"answer": "a b"}
        told = await asking.run("JSONOUT ECHO:a b")
        assert not said(told)
        outputs = named(told, "workflow_finished")["data"]["outputs"]
        assert outputs == {"result": {"answer": "a b", "score": 0.5}, "count": 2}


async def test_two_outputs_are_joined_by_a_newline() -> None:
    async with inside("workflow") as asking:
        told = await asking.run("TWO ECHO:a b")
    assert said(told) == "a b\n2 words"
    assert named(told, "workflow_finished")["data"]["outputs"] == {"answer": "a b", "words": "2 words"}


@pytest.mark.parametrize("mode", FLOWS)
async def test_flows_can_fail_after_their_text(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("FAIL ECHO:a b")
    assert said(told) == "a b"
    data = named(told, "workflow_finished")["data"]
    assert (data["status"], data["exceptions_count"]) == ("failed", 1)
    assert "Traceback" in data["error"]


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "agent", "completion"])
async def test_others_fail_with_an_error(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("FAIL ECHO:a b")
    assert said(told) == "a b"
    assert told[-1]["event"] == "error"


@pytest.mark.parametrize("mode", FLOWS)
async def test_partial_success(mode: str) -> None:
    async with inside(mode) as asking:
        data = named(await asking.run("PARTIAL ECHO:a"), "workflow_finished")["data"]
    assert (data["status"], data["exceptions_count"]) == ("partial-succeeded", 1)


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
@pytest.mark.parametrize("mode", ["chat", "agent-chat", "agent", "completion", *FLOWS])
async def test_runs_stop_by_themselves(mode: str, generation: str) -> None:
    async with inside(mode, generation=generation) as asking:
        told = await asking.run("STOPPED ECHO:a b")
    assert said(told) == "a b"
    if mode in FLOWS:
        assert named(told, "workflow_finished")["data"]["status"] == "stopped"
    else:
        assert told[-1]["event"] == "message_end"
        assert told[-1]["metadata"]["usage"]["total_tokens"] == 0


@pytest.mark.parametrize("mode", FLOWS)
async def test_unknown_events_come_on_request(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("EXTRAS ECHO:a")
    names = {event["event"] for event in told}
    assert {"iteration_started", "loop_completed", "agent_log", "some_future_event"} <= names


async def test_a_length_limit_shows_in_the_node() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("FINISH_LENGTH ECHO:a")
    assert "length" in {
        event["data"]["outputs"].get("finish_reason") for event in told if event["event"] == "node_finished"
    }


async def test_usage_can_be_missing() -> None:
    async with inside("chat") as asking:
        assert named(await asking.run("NOUSAGE ECHO:a"), "message_end")["metadata"]["usage"]["total_price"] == "0.0"
        assert named(await asking.run("EMPTY"), "message_end")["metadata"]["usage"]["completion_price"] == "0E-7"


async def test_prices_are_decimal_strings() -> None:
    async with inside("chat") as asking:
        usage = named(await asking.run("LONG 100"), "message_end")["metadata"]["usage"]
    assert (usage["completion_tokens"], usage["completion_price"]) == (100, "0.0002000")
    assert usage["total_tokens"] == usage["prompt_tokens"] + 100


@pytest.mark.parametrize("mode", FLOWS)
async def test_node_events_leak_the_system_prompt(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("ECHO:a")
    leaks = {event["event"] for event in told if CODE_WORD in json.dumps(event)}
    assert leaks == {"node_finished"}


async def test_separated_reasoning_is_clean_text() -> None:
    thinker = replace(sample("advanced-chat"), separated_reasoning=True)
    async with inside(thinker) as asking:
        told = await asking.run("THINK")
        assert said(told) == "After thinking: 42."
        assert named(told, "message_end")["metadata"]["reasoning"] == {
            "llm": "The user wants something; let me ponder."
        }
    async with inside(thinker, generation="1.9") as asking:
        assert said(await asking.run("THINK")).startswith("<think>")


async def test_the_new_agent_repeats_only_its_last_round() -> None:
    async with inside("agent") as asking:
        told = await asking.run("TOOL ECHO:!")
    deltas = "".join(event["answer"] for event in told if event["event"] == "agent_message")
    closing = named(told, "message")["answer"]
    assert deltas.startswith("I will look at the clock. The clock says: ")
    assert deltas.endswith(closing)
    assert not closing.startswith("I will")


async def test_an_older_chatflow_answers_an_annotation_without_a_run() -> None:
    async with inside(replace(sample("advanced-chat"), annotations={"q": "a"}), generation="1.9") as asking:
        assert [event["event"] for event in await asking.run("q")] == ["message", "message_end"]


async def test_the_new_agent_waits_for_a_human() -> None:
    async with inside("agent") as asking:
        told = await asking.run("ASKHUMAN")
        assert named(told, "message")["answer"] == "Which colour?\n\nChoose **one**."
        [error] = await asking.run("ECHO:blue", conversation_id=told[0]["conversation_id"])
        assert "unprocessed tool calls" in error["message"]
        assert said(await asking.run("ECHO:anew")) == "anewanew"


async def test_the_new_agent_cannot_say_nothing() -> None:
    async with inside("agent") as asking:
        assert said(await asking.run('SAY:["", "a"]')) == "aa"
        [error] = await asking.run("EMPTY")
    assert error["event"] == "error"


async def test_the_new_agent_sends_half_a_second_at_a_time() -> None:
    async with inside("agent") as asking:
        told = await asking.run("SLOW 6 20")
    batches = [event["answer"] for event in told if event["event"] == "agent_message"]
    assert batches == ["s0 ", "s1 s2 s3 s4 s5 "]
