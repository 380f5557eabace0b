"""Conversations, messages, and who may see them."""

from dataclasses import replace

import pytest
from asking import inside, said, sample

CHAT_MODES = ["chat", "agent-chat", "advanced-chat", "agent"]


@pytest.mark.parametrize("mode", CHAT_MODES)
async def test_a_conversation_goes_on(mode: str) -> None:
    async with inside(mode) as asking:
        first = await asking.run("ECHO:one")
        conversation_id = first[-1]["conversation_id"]
        second = await asking.run("ECHO:two", conversation_id=conversation_id)
        assert second[-1]["conversation_id"] == conversation_id
        [conversation] = asking.dify.conversations.values()
        assert (conversation.id, conversation.user) == (conversation_id, "u1")
        assert conversation.turns == [("ECHO:one", "one", "normal"), ("ECHO:two", "two", "normal")]


@pytest.mark.parametrize("mode", CHAT_MODES)
async def test_a_failed_turn_stays_without_an_answer(mode: str) -> None:
    async with inside(mode) as asking:
        await asking.run("LONG 9 ERROR_MID")
        [conversation] = asking.dify.conversations.values()
        assert conversation.turns == [("LONG 9 ERROR_MID", "", "error")]


async def test_tool_rounds_are_stored_on_lines_of_their_own() -> None:
    async with inside("agent-chat") as asking:
        await asking.run("TOOL ECHO:!")
        [conversation] = asking.dify.conversations.values()
        first, second = conversation.turns[0][1].split("\n")
        assert (first, second[:16]) == ("I will look at the clock. ", "The clock says: ")


async def test_completions_and_workflows_have_none() -> None:
    for mode in ("completion", "workflow"):
        async with inside(mode) as asking:
            assert "conversation_id" not in (await asking.run("ECHO:a"))[-1]
            assert not asking.dify.conversations
            answer = await asking.http.get("/v1/conversations", params={"user": "u1"})
            assert (answer.status_code, answer.json()["code"]) == (400, "not_chat_app")


async def test_others_do_not_get_it() -> None:
    async with inside("chat") as asking:
        conversation_id = (await asking.run("ECHO:one"))[0]["conversation_id"]
        refused = await asking.post("ECHO:two", conversation_id=conversation_id, user="u2")
        assert refused.json()["message"].startswith("Conversation Not Exists. You have requested this URI")
        listed = await asking.http.get("/v1/messages", params={"user": "u2", "conversation_id": conversation_id})
        assert listed.status_code == 404


async def test_lists() -> None:
    async with inside("chat") as asking:
        first = await asking.run("ECHO:one")
        second = await asking.run("ECHO:two")
        listed = (await asking.http.get("/v1/conversations", params={"user": "u1", "limit": "1"})).json()
        assert (listed["limit"], listed["has_more"]) == (1, True)
        assert listed["data"][0]["id"] == second[0]["conversation_id"]
        params = {"user": "u1", "conversation_id": first[0]["conversation_id"]}
        [message] = (await asking.http.get("/v1/messages", params=params)).json()["data"]
        assert (message["query"], message["answer"], message["status"]) == ("ECHO:one", "one", "normal")


async def test_deleting() -> None:
    async with inside("chat") as asking:
        path = f"/v1/conversations/{(await asking.run('ECHO:one'))[0]['conversation_id']}"
        gone = await asking.http.request("DELETE", path, json={"user": "u1"})
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await asking.http.request("DELETE", path, json={"user": "u1"})).status_code == 404
        assert not asking.dify.conversations


async def test_suggestions() -> None:
    async with inside("chat") as asking:
        message_id = (await asking.run("ECHO:one"))[0]["message_id"]
        path = f"/v1/messages/{message_id}/suggested"
        assert len((await asking.http.get(path, params={"user": "u1"})).json()["data"]) == 3
        assert (await asking.http.get(path, params={"user": "u2"})).status_code == 404


async def test_nothing_grows_without_end() -> None:
    async with inside("chat") as asking:
        asking.dify.state.conversations.limit = 3
        for number in range(5):
            await asking.run(f"ECHO:{number}")
        queries = [conversation.turns[0][0] for conversation in asking.dify.conversations.values()]
        assert queries == ["ECHO:2", "ECHO:3", "ECHO:4"]


async def test_inputs_are_checked_on_every_turn() -> None:
    app = replace(sample("chat"), form=(replace(sample("workflow").form[0], variable="topic"),))
    async with inside(app) as asking:
        told = await asking.run("ECHO:one", inputs={"topic": ""})
        again = await asking.post("ECHO:two", conversation_id=told[0]["conversation_id"])
        assert again.json()["message"] == "topic is required in input form"


async def test_nul_characters_are_dropped() -> None:
    async with inside("chat") as asking:
        assert said(await asking.run("ECHO:a\x00b")) == "ab"
