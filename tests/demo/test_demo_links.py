"""Signed links to files: how long they hold, and where they are signed anew."""

from typing import Any

import pytest
from asking import Asking, inside
from httpx import Response

MODES = ["chat", "agent-chat", "advanced-chat"]


async def listed(asking: Asking, **params: str) -> list[dict[str, Any]]:
    """The messages of the only conversation."""
    [conversation_id] = asking.dify.conversations
    answer = await asking.http.get("/v1/messages", params={"user": "u1", "conversation_id": conversation_id, **params})
    messages: list[dict[str, Any]] = answer.json()["data"]
    return messages


async def only_file(asking: Asking) -> dict[str, Any]:
    """The only file of the only message."""
    [message] = await listed(asking)
    [file] = message["message_files"]
    found: dict[str, Any] = file
    return found


def refused(answer: Response) -> tuple[int, str]:
    """Status and code."""
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("generation", ["1.9", "1.16"])
@pytest.mark.parametrize("mode", MODES)
async def test_messages_sign_their_files_anew(mode: str, generation: str) -> None:
    async with inside(mode, generation=generation) as asking:
        await asking.run("FILE ECHO:here")
        file = await only_file(asking)
        assert (file["type"], file["belongs_to"], file["transfer_method"]) == ("image", "assistant", "tool_file")
        assert (await asking.http.get(file["url"])).headers["content-type"] == "image/png"
        asking.dify.state.signer.ahead += 301
        assert refused(await asking.http.get(file["url"])) == (403, "forbidden")
        file = await only_file(asking)
        assert (await asking.http.get(file["url"])).status_code == 200
        assert refused(await asking.http.get(file["url"].replace("sign=", "sign=x"))) == (403, "forbidden")
        asking.dify.state.contents.clear()
        assert refused(await asking.http.get(file["url"])) == (415, "unsupported_file_type")
        assert refused(await asking.http.get(file["url"].partition("&")[0])) == (400, "invalid_param")


async def test_links_in_texts_are_signed_anew() -> None:
    async with inside("chat") as asking:
        await asking.run("FILE ECHO:here")
        link = asking.dify.state.signer.link(f"/files/tools/{next(iter(asking.dify.state.contents))}.png")
        asking.dify.conversations.clear()
        await asking.run(f"ECHO:![a]({link})")
        asking.dify.state.signer.ahead += 301
        [message] = await listed(asking)
        anew = message["answer"].removeprefix("![a](").removesuffix(")")
        assert anew != link
        assert (await asking.http.get(anew)).status_code == 200


async def test_uploads_have_links_too() -> None:
    async with inside("chat") as asking:
        answer = await asking.http.post("/v1/files/upload", files={"file": ("a.txt", b"x", "text/plain")})
        link = answer.json()["source_url"]
        assert (await asking.http.get(link)).headers["content-type"] == "text/plain; charset=utf-8"
        asking.dify.state.signer.ahead += 301
        assert refused(await asking.http.get(link)) == (404, "not_found")


async def test_a_chatflow_stores_its_pictures_beside_the_text() -> None:
    async with inside("advanced-chat") as asking:
        await asking.run("FILE ECHO:look")
        [message] = await listed(asking)
    assert message["answer"] == "look"


async def test_pages_of_messages() -> None:
    async with inside("chat") as asking:
        told = await asking.run("ECHO:0")
        for number in range(1, 5):
            await asking.run(f"ECHO:{number}", conversation_id=told[0]["conversation_id"])
        newest = await listed(asking, limit="2")
        assert [message["answer"] for message in newest] == ["3", "4"]
        older = await listed(asking, limit="2", first_id=newest[0]["id"])
        assert [message["answer"] for message in older] == ["1", "2"]
        params = {"user": "u1", "conversation_id": told[0]["conversation_id"], "first_id": "x"}
        assert (await asking.http.get("/v1/messages", params=params)).status_code == 404
