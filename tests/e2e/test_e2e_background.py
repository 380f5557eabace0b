"""Titles, tags and their like: never in the user's conversation, and answered where the configuration says."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import LIMITED_KEY, Serve, Served, eventually, frames, text_of

FIXTURES = Path(__file__).parent.parent / "background"
CHAT = {"x-openwebui-chat-id": "chat-1"}
HELLO = [{"role": "user", "content": "ECHO:hello there"}]
HELLO_AGAIN = [
    *HELLO,
    {"role": "assistant", "content": "hello there"},
    {"role": "user", "content": "ECHO:again"},
]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


def template(name: str) -> list[dict[str, Any]]:
    """The messages of a chat program's request."""
    messages: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text("utf-8"))["messages"]
    return messages


async def ask(
    served: Served, messages: list[dict[str, Any]], headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    body = {"model": "Helper", "messages": messages, **more}
    response = await served.http.post("/v1/chat/completions", json=body, headers={**CHAT, **(headers or {})})
    assert response.status_code == 200, response.text
    return response


def content(response: httpx.Response) -> Any:
    """The JSON that was said."""
    return json.loads(response.json()["choices"][0]["message"]["content"])


async def test_a_task_between_two_turns_leaves_no_trace(served: Served) -> None:
    await ask(served, HELLO)
    (conversation,) = served.dify.conversations
    await ask(served, template("open-webui-title"))
    assert "conversation_id" not in served.last_run
    await ask(served, [{"role": "user", "content": "ECHO:any words"}], {"x-openwebui-task": "title_generation"})
    assert "conversation_id" not in served.last_run
    await ask(served, HELLO_AGAIN)
    assert served.last_run["conversation_id"] == conversation
    await eventually(lambda: list(served.dify.conversations) == [conversation])  # the others are deleted


async def test_a_task_with_the_whole_chat_before_it(served: Served) -> None:
    """As NextChat asks; only a header tells here."""
    await ask(served, HELLO)
    (conversation,) = served.dify.conversations
    await ask(served, HELLO_AGAIN, {"x-openwebui-task": "title_generation"})
    assert "conversation_id" not in served.last_run
    await ask(served, HELLO_AGAIN)
    assert served.last_run["conversation_id"] == conversation


async def test_a_task_that_its_client_leaves_is_deleted_as_well(served: Served) -> None:
    body = {"model": "Helper", "messages": [{"role": "user", "content": "SLOW 50 30"}], "stream": True}
    headers = {"x-openwebui-task": "title_generation"}
    async with served.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
        async for line in response.aiter_lines():
            if "s1" in line:
                break
    await eventually(lambda: bool(served.dify.stops) and not served.dify.conversations)


async def test_an_empty_header_says_that_a_person_asks(served: Served) -> None:
    await ask(served, template("open-webui-title"), {"x-openwebui-task": ""})
    assert served.dify.conversations
    assert not [request for request in served.dify.requests if request.method == "DELETE"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open-webui-tags", {"tags": []}),
        ("open-webui-follow-ups", {"follow_ups": []}),
        ("open-webui-autocomplete", {"text": ""}),
    ],
)
async def test_local_answers(serve: Serve, name: str, expected: dict[str, Any]) -> None:
    served = await serve(background_tasks="local")
    answer = await ask(served, template(name))
    assert content(answer) == expected
    assert answer.json()["usage"]["total_tokens"] == 0
    assert not served.runs()


async def test_local_titles(serve: Serve) -> None:
    served = await serve(background_tasks="local")
    title = content(await ask(served, template("open-webui-title")))["title"]
    assert title == "How do I keep basil alive"
    streamed = await ask(served, template("open-webui-title"), stream=True)
    chunks = frames(streamed.text)
    assert json.loads(text_of(chunks)) == {"title": title}
    assert chunks[-1] == {"done": True}
    plain = await ask(served, template("librechat-title"))
    assert plain.json()["choices"][0]["message"]["content"]
    assert not served.runs()


async def test_local_follow_ups_are_what_dify_suggests(serve: Serve) -> None:
    served = await serve(background_tasks="local")
    await ask(served, HELLO)
    asked = template("open-webui-follow-ups")
    assert content(await ask(served, asked)) == {"follow_ups": ["What is next?", "为什么?", "How so?"]}
    assert content(await ask(served, asked, {"x-openwebui-chat-id": "another"})) == {"follow_ups": []}
    assert content(await ask(served, asked, model="Clock Agent")) == {"follow_ups": []}  # it suggests nothing
    assert len(served.runs()) == 1


async def test_local_follow_ups_while_dify_suggests_nothing(serve: Serve) -> None:
    served = await serve(background_tasks="local")
    await ask(served, HELLO)
    served.dify.conversations.clear()
    assert content(await ask(served, template("open-webui-follow-ups"))) == {"follow_ups": []}
    assert served.told.lines("no_suggestions")


async def test_what_a_person_waits_for_is_worth_a_run(serve: Serve) -> None:
    served = await serve(background_tasks="local")
    await ask(served, template("open-webui-merge"))
    await ask(served, [{"role": "user", "content": "ECHO:x"}], {"x-openwebui-task": "something_new"})
    assert len(served.runs()) == 2
    await eventually(lambda: not served.dify.conversations)


async def test_a_route_to_another_model(serve: Serve) -> None:
    served = await serve(background_tasks="route:Writer")
    await ask(served, template("open-webui-title"))
    await ask(served, HELLO)
    assert [run.path for run in served.runs()] == ["/v1/completion-messages", "/v1/chat-messages"]


async def test_a_route_is_no_way_to_a_model_that_is_not_allowed(serve: Serve) -> None:
    table = {"keys": ({"key": LIMITED_KEY, "name": "limited", "models": ["Helper"]},)}
    served = await serve(background_tasks="route:Clock Agent", **table)
    body = {"model": "Helper", "messages": [{"role": "user", "content": "ECHO:x"}]}
    headers = {"x-openwebui-task": "title_generation", "authorization": f"Bearer {LIMITED_KEY}"}
    assert (await served.http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    (helper,) = [app.key for app in served.dify.apps.values() if app.name == "Helper"]
    assert [run.key for run in served.runs()] == [helper]
    await eventually(lambda: not served.dify.conversations)


async def test_a_route_takes_words_and_nothing_else(serve: Serve) -> None:
    served = await serve(background_tasks="route:Writer")
    await ask(served, template("open-webui-title"), inputs={"tone": "no tone at all"})
    assert served.runs()


async def test_a_route_to_a_model_that_is_not_there(serve: Serve) -> None:
    served = await serve(background_tasks="route:Nobody")
    refused = await served.http.post(
        "/v1/chat/completions", json={"model": "Helper", "messages": template("open-webui-title")}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_pass_takes_them_for_turns(serve: Serve) -> None:
    served = await serve(background_tasks="pass")
    await ask(served, template("open-webui-title"))
    assert len(served.dify.conversations) == 1


async def test_an_app_of_its_own_mind(serve: Serve) -> None:
    key = next(app.key for app in (await serve()).dify.apps.values() if app.name == "Helper")
    served = await serve(table=({"key": key, "background_tasks": "local"},))
    await ask(served, template("open-webui-tags"))
    assert not served.runs()
    await ask(served, template("open-webui-tags"), model="Clock Agent")
    assert len(served.runs()) == 1


async def test_the_log_tells_a_task(serve: Serve) -> None:
    served = await serve(background_tasks="local")
    await ask(served, template("open-webui-tags"))
    await ask(served, HELLO)
    assert [line.get("task") for line in served.told.lines("request")] == ["tags_generation", None]
