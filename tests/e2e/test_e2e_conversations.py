"""Which conversation a dialogue goes on in, and what of it is sent, as clients that know nothing of Dify see it."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest
from conftest import CLIENT_KEY, MODELS, STRICT_APP_KEY, Serve, Served, data_url, eventually, frames, png, text_of

from opendify.demo.apps import Control, SampleApp
from opendify.dialogue import RUN_ID
from opendify.dify.transcript import NEWEST, OPENING, UNFINISHED

OTHER_KEY = "sk-other-0123456789abcdef"
RUN = f"{RUN_ID}c"
CONVERSING = ("chat", "agent-chat", "advanced-chat", "agent")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


async def say(served: Served, messages: list[dict[str, Any]], **more: Any) -> str:
    """Ask, plainly or streamed; the answer's text."""
    headers = more.pop("headers", {})
    body = {"model": "Helper", "messages": messages, **more}
    response = await served.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        return text_of(frames(response.text))
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def went_on(served: Served) -> bool:
    """Whether the newest run went on in the conversation of the first."""
    return served.last_run.get("conversation_id") in list(served.dify.conversations)[:1]


# -- what a history makes of it: the second request, its query upstream, and whether it goes on in the conversation

ECHO = "ECHO:one"
TURNS: dict[str, tuple[list[dict[str, Any]], str, bool]] = {
    "plain": ([user(ECHO), assistant("one"), user("two")], "two", True),
    "trimmed and rewrapped": ([user(f" {ECHO}\n"), assistant("\n one \r\n"), user("two")], "two", True),
    "as parts": (
        [
            user([{"type": "text", "text": ECHO}]),
            {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
            user("two"),
        ],
        "two",
        True,
    ),
    "with thinking that the client kept": (
        [user(ECHO), assistant("<think>\nWell.\n</think>\n\none"), user("two")],
        "two",
        True,
    ),
    "with thinking as Open WebUI keeps it": (
        [
            user(ECHO),
            assistant(
                '<details type="reasoning" done="true" duration="1">\n<summary>Thought</summary>\n> x\n</details>\none'
            ),
            user("two"),
        ],
        "two",
        True,
    ),
    "with runs of tools in between": (
        [
            user(ECHO),
            assistant(
                None,
                tool_calls=[{"id": RUN, "type": "function", "function": {"name": "clock", "arguments": "{}"}}],
            ),
            {"role": "tool", "tool_call_id": RUN, "content": "noon"},
            assistant("one"),
            user("two"),
        ],
        "two",
        True,
    ),
    "two new messages": (
        [user(ECHO), assistant("one"), user("two"), user("three")],
        "## User\ntwo\n\n## Last message, reply to this\nthree",
        True,
    ),
    "an answer nobody gave": (
        [user(ECHO), assistant("won"), user("two")],
        f"{OPENING}\n\n## User\nECHO:one\n\n## Assistant\nwon\n\n## Last message, reply to this\ntwo",
        False,
    ),
    "an edited question": (
        [user("ECHO:1"), assistant("one"), user("two")],
        f"{OPENING}\n\n## User\nECHO:1\n\n## Assistant\none\n\n## Last message, reply to this\ntwo",
        False,
    ),
    "a window that slid past the beginning": (
        [assistant("one"), user("two")],
        f"{OPENING}\n\n## Assistant\none\n\n## Last message, reply to this\ntwo",
        False,
    ),
    "the first question again": ([user(ECHO)], ECHO, False),
    "a beginning of the answer": (
        [user(ECHO), assistant("one"), user("two"), assistant("tw")],
        f"{OPENING}\n\n## User\nECHO:one\n\n## Assistant\none\n\n## {UNFINISHED}\ntw\n\n## {NEWEST}\ntwo",
        False,
    ),
    "instructions come in": (
        [system("Be brief."), user(ECHO), assistant("one"), user("two")],
        "## Instructions\nBe brief.\n\n## Last message, reply to this\ntwo",
        True,
    ),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", TURNS)
async def test_histories(served: Served, case: str, stream: bool) -> None:
    messages, query, goes_on = TURNS[case]
    assert await say(served, [user(ECHO)], stream=stream) == "one"
    await say(served, messages, stream=stream)
    assert served.last_run["query"] == query
    assert ("conversation_id" in served.last_run, went_on(served)) == (goes_on, goes_on)


@pytest.mark.parametrize("mode", CONVERSING)
async def test_every_kind_of_app_that_converses(served: Served, mode: str) -> None:
    messages: list[dict[str, Any]] = []
    for number in range(3):
        messages.append(user(f"ECHO:{number}"))
        messages.append(assistant(await say(served, messages, model=MODELS[mode], stream=number != 1)))
    assert [run.body["query"] for run in served.runs()] == ["ECHO:0", "ECHO:1", "ECHO:2"]
    (conversation,) = served.dify.conversations.values()
    assert [answer for _, answer, _ in conversation.turns] == ["0", "1", "2"]


@pytest.mark.parametrize("mode", CONVERSING)
@pytest.mark.parametrize("word", ["THINK", "FILE", "CJK", "TOOL"])
async def test_answers_that_are_more_than_text(serve: Serve, mode: str, word: str) -> None:
    """Whatever the client was told, it finds the conversation again with it."""
    for generation in ("1.16", "1.9"):
        served = await serve(dify={"generation": generation})
        first = user(f"{word} ECHO:{word}")
        told = await say(served, [first], model=MODELS[mode], stream=True)
        await say(served, [first, assistant(told), user("ECHO:two")], model=MODELS[mode])
        assert went_on(served)


@pytest.mark.parametrize("mode", ["completion", "workflow"])
async def test_apps_without_conversations_are_told_everything(served: Served, mode: str) -> None:
    model = MODELS[mode]
    await say(served, [user("ECHO:one")], model=model)
    await say(
        served,
        [user("ECHO:one"), assistant("one"), user("ECHO:two")],
        model=model,
        headers={"x-dify-conversation-id": str(uuid.uuid4()), "x-chat-id": "chat"},
    )
    assert "## Assistant\none" in "".join(served.last_run["inputs"].values())
    assert not served.dify.conversations


# -- instructions


async def test_instructions_go_with_the_first_turn_and_when_they_change(served: Served) -> None:
    messages = [system("Be brief."), user("ECHO:1")]
    messages.append(assistant(await say(served, messages)))
    messages.append(user("ECHO:2"))
    messages.append(assistant(await say(served, messages)))
    messages[0] = system("Be long.")
    messages.append(user("ECHO:3"))
    messages.append(assistant(await say(served, messages)))
    messages.append(user("ECHO:4"))
    messages.append(assistant(await say(served, messages)))
    asked = [run.body["query"] for run in served.runs()]
    assert asked == [
        "## Instructions\nBe brief.\n\n## Last message, reply to this\nECHO:1",
        "ECHO:2",
        "## Instructions\nBe long.\n\n## Last message, reply to this\nECHO:3",
        "ECHO:4",
    ]
    del messages[0]
    await say(served, [*messages, user("ECHO:5")])
    assert "conversation_id" not in served.last_run  # Dify cannot be told to forget them


async def test_an_app_with_an_input_for_instructions(serve: Serve) -> None:
    app = SampleApp(STRICT_APP_KEY, "Strict", "chat", form=(Control("paragraph", "persona"),))
    served = await serve((app,), system_inputs="system,persona")
    model = "Strict"
    messages = [system("Be brief."), user("ECHO:1")]
    for text in ("ECHO:2", "ECHO:3"):
        messages += [assistant(await say(served, messages, model=model)), user(text)]
    messages[0] = system("Be long.")
    await say(served, messages, model=model)
    assert [run.body["query"] for run in served.runs()] == ["ECHO:1", "ECHO:2", "ECHO:3"]
    assert [run.body["inputs"]["persona"] for run in served.runs()] == ["Be brief.", "Be brief.", "Be long."]
    assert len(served.dify.conversations) == 1


# -- files


async def test_only_new_files_go_to_a_known_conversation(served: Served) -> None:
    def look(color: int, text: str) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": data_url(png(color))}}
        return user([{"type": "text", "text": text}, picture])

    messages = [look(1, "ECHO:1")]
    messages.append(assistant(await say(served, messages)))
    messages.append(user("ECHO:2"))
    messages.append(assistant(await say(served, messages)))
    assert "files" not in served.last_run
    assert went_on(served)
    messages.append(look(2, "ECHO:3"))
    await say(served, messages)
    assert len(served.last_run["files"]) == 1
    assert went_on(served)
    messages[0] = look(3, "ECHO:1")
    await say(served, messages)
    assert "conversation_id" not in served.last_run
    assert len(served.last_run["files"]) == 2  # both, for the new conversation; that of the last turn was there already
    assert len(served.dify.uploads) == 3


# -- edited, regenerated, branched


async def test_only_the_newest_state_is_continued(served: Served) -> None:
    messages = [user("ECHO:1"), assistant("1"), user("ECHO:2"), assistant("2")]
    await say(served, messages[:1])
    await say(served, messages[:3])
    assert len(served.dify.conversations) == 1
    await say(served, messages[:3])  # regenerated
    assert "## Assistant\n1" in served.last_run["query"]
    await say(served, [*messages[:2], user("ECHO:zwei")])  # edited
    assert "## Assistant\n1" in served.last_run["query"]
    assert len(served.dify.conversations) == 3
    await say(served, [*messages[:2], user("ECHO:zwei"), assistant("zwei"), user("ECHO:3")])  # and so on, there
    assert served.last_run["query"] == "ECHO:3"
    await say(served, [*messages, user("ECHO:4")])  # back to the branch that was left, in one of its conversations
    assert served.last_run["query"] == "ECHO:4"
    assert len(served.dify.conversations) == 3


# -- two at once


async def test_the_second_of_two_gets_a_conversation_of_its_own(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    history = [user("ECHO:1"), assistant("1")]
    slow = [*history, user("SLOW 5 30")]
    answers = await asyncio.gather(say(served, slow), say(served, [*history, user("ECHO:b")]))
    assert answers[1] == "b"
    first, second = (run.body for run in served.runs()[1:])
    assert sorted(("conversation_id" in first, "conversation_id" in second)) == [False, True]
    assert len(served.dify.conversations) == 2
    assert {len(kept.turns) for kept in served.dify.conversations.values()} == {1, 2}


# -- turns that did not end well


@pytest.mark.parametrize("word", ["ERROR_MID", "ERROR_START", "FAULT:eof", "FAULT:cut", "FAULT:500"])
async def test_after_a_failure_a_fresh_conversation_is_told_everything(served: Served, word: str) -> None:
    await say(served, [user("ECHO:1")])
    history = [user("ECHO:1"), assistant("1")]
    failed = await served.http.post(
        "/v1/chat/completions", json={"model": "Helper", "messages": [*history, user(f"{word} LONG 5")]}
    )
    assert failed.is_error
    assert await say(served, [*history, user("ECHO:again")]) == "again"
    assert "## Assistant\n1" in served.last_run["query"]
    await say(served, [*history, user("ECHO:again"), assistant("again"), user("ECHO:more")])
    assert served.last_run["query"] == "ECHO:more"


async def test_after_an_app_was_unreachable_the_conversation_goes_on(served: Served) -> None:
    """Nothing can have run, so nothing has changed."""
    await say(served, [user("ECHO:1")])
    history = [user("ECHO:1"), assistant("1")]
    full = await served.http.post(
        "/v1/chat/completions", json={"model": "Helper", "messages": [*history, user("FAULT:toomany400")]}
    )
    assert full.status_code == 429
    await say(served, [*history, user("ECHO:again")])
    assert served.last_run["query"] == "ECHO:again"
    assert went_on(served)


async def test_a_request_that_does_not_fit_changes_nothing(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    history = [user("ECHO:1"), assistant("1")]
    broken = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}]
    refused = await served.http.post(
        "/v1/chat/completions", json={"model": "Helper", "messages": [*history, user(broken)]}
    )
    assert refused.status_code == 400
    await say(served, [*history, user("ECHO:2")])
    assert went_on(served)


@pytest.mark.usefixtures("short_goodbyes")
@pytest.mark.parametrize("mode", CONVERSING)
async def test_after_a_client_left_a_fresh_conversation_is_told_everything(served: Served, mode: str) -> None:
    model = MODELS[mode]
    await say(served, [user("ECHO:1")], model=model)
    history = [user("ECHO:1"), assistant("1")]
    body = {"model": model, "messages": [*history, user("SLOW 60 30")], "stream": True}
    async with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if "s1" in line:
                break
    await eventually(lambda: bool(served.dify.stops) and not served.dify.open_streams)
    kept = [*history, user("SLOW 60 30"), assistant("s0 s1"), user("ECHO:2")]
    assert await say(served, kept, model=model) == "2"
    assert "s0 s1" in served.last_run["query"]
    assert "conversation_id" not in served.last_run


async def test_after_a_stop_sequence_a_fresh_conversation_is_told_what_the_client_has(served: Served) -> None:
    assert await say(served, [user("ECHO:one END two")], stop="END") == "one "
    await say(served, [user("ECHO:one END two"), assistant("one "), user("ECHO:next")])
    assert "## Assistant\none \n" in served.last_run["query"]


# -- conversations that are gone


@pytest.mark.parametrize("mode", CONVERSING)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_conversation_that_dify_lost_is_begun_anew(served: Served, mode: str, stream: bool) -> None:
    model = MODELS[mode]
    await say(served, [user("ECHO:1")], model=model)
    served.dify.conversations.clear()
    history = [user("ECHO:1"), assistant("1")]
    assert await say(served, [*history, user("ECHO:2")], model=model, stream=stream) == "2"
    assert "## Assistant\n1" in served.last_run["query"]
    assert len(served.runs()) == 3
    await say(served, [*history, user("ECHO:2"), assistant("2"), user("ECHO:3")], model=model)
    assert served.last_run["query"] == "ECHO:3"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_dify_that_begins_another_in_silence(served: Served, stream: bool) -> None:
    """Chatflows of 1.15: what was begun in silence is stopped and deleted, and a new one is told everything."""
    model = MODELS["advanced-chat"]
    await say(served, [user("ECHO:1")], model=model)
    served.dify.conversations.clear()
    served.dify.state.forgiving = True
    history = [user("ECHO:1"), assistant("1")]
    assert await say(served, [*history, user("ECHO:2")], model=model, stream=stream) == "2"
    assert "## Assistant\n1" in served.last_run["query"]
    await eventually(lambda: len(served.dify.conversations) == 1)
    (kept,) = served.dify.conversations.values()
    assert [status for _, _, status in kept.turns] == ["normal"]
    assert len(served.dify.stops) == 1


# -- by name


async def test_a_conversation_by_its_id(served: Served) -> None:
    first = await served.ask("ECHO:1")
    name = first.json()["dify"]["conversation_id"]
    assert first.headers["x-dify-conversation-id"] == name
    for more in ({"headers": {"x-dify-conversation-id": name}}, {"conversation_id": name}):
        await say(served, [user("ECHO:2")], **more)
        assert served.last_run["conversation_id"] == name
        assert served.last_run["query"] == "ECHO:2"


async def test_a_conversation_that_we_forgot_but_dify_did_not(serve: Serve) -> None:
    served = await serve()
    await say(served, [user("ECHO:1")])
    (name,) = served.dify.conversations
    await served.app.state.exchange.memory.store._cache.clear()
    await say(served, [user("ECHO:2")], conversation_id=name)
    assert served.last_run["conversation_id"] == name


@pytest.mark.parametrize("name", ["11111111-2222-4333-8444-555555555555", "no-uuid", "../../conversations", "x" * 600])
async def test_a_conversation_that_nobody_has(served: Served, name: str) -> None:
    refused = await served.ask("ECHO:1", conversation_id=name)
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("conversation_not_found", "conversation_id")
    assert not served.runs()


async def test_a_named_conversation_without_history_is_not_begun_anew(served: Served) -> None:
    """It would have lost everything that was said before."""
    await say(served, [user("ECHO:1")])
    (name,) = list(served.dify.conversations)
    served.dify.conversations.clear()
    refused = await served.ask("ECHO:2", conversation_id=name)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "conversation_not_found")
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    refused = await served.http.post(
        "/v1/chat/completions", json={"model": "Helper", "messages": history, "conversation_id": name}
    )
    assert refused.status_code == 404


async def test_a_named_conversation_that_is_lost_is_begun_anew_from_the_history(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    (name,) = list(served.dify.conversations)
    served.dify.conversations.clear()
    await say(served, [user("ECHO:1"), assistant("1"), user("ECHO:2")], conversation_id=name)
    assert "## Assistant\n1" in served.last_run["query"]


async def test_two_turns_at_once_of_a_named_conversation(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    (name,) = list(served.dify.conversations)
    slow = asyncio.create_task(say(served, [user("SLOW 5 30")], conversation_id=name))
    await eventually(lambda: len(served.runs()) == 2)
    busy = await served.ask("ECHO:2", conversation_id=name)
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "conversation_busy")
    assert busy.headers["x-should-retry"] == "true"
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    await say(served, history, conversation_id=name)
    assert "## Assistant\n1" in served.last_run["query"]
    await slow
    await say(served, [user("ECHO:3")], conversation_id=name)
    assert served.last_run["conversation_id"] == name


async def test_what_was_said_by_name_is_not_taken_for_the_whole_history(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    (name,) = list(served.dify.conversations)
    await say(served, [user("ECHO:2")], conversation_id=name)
    await say(served, [user("ECHO:2"), assistant("2"), user("ECHO:3")])
    assert "conversation_id" not in served.last_run


async def test_a_new_conversation_is_its_first_turn_s_alone(served: Served) -> None:
    """A stream tells its conversation at once: who names it has to wait for the end of the turn."""
    body = {"model": "Helper", "messages": [user("SLOW 10 30")], "stream": True}
    async with served.http.stream("POST", "/v1/chat/completions", json=body) as response:
        name = response.headers["x-dify-conversation-id"]
        busy = await served.ask("ECHO:foreign", conversation_id=name)
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "conversation_busy")
        told = text_of(frames((await response.aread()).decode()))
    await say(served, [user("SLOW 10 30"), assistant(told), user("ECHO:2")])
    assert served.last_run["conversation_id"] == name
    assert len(served.runs()) == 2


async def test_a_conversation_is_the_same_in_any_case(served: Served) -> None:
    await say(served, [user("ECHO:1")])
    (name,) = list(served.dify.conversations)
    await say(served, [user("ECHO:2")], conversation_id=name.upper())
    assert served.last_run["conversation_id"] == name
    assert list(served.dify.conversations) == [name]


# -- by the client's chat


async def test_chats_that_say_the_same_stay_apart(served: Served) -> None:
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    for chat in ("a", "b"):
        await say(served, history[:1], headers={"x-openwebui-chat-id": chat})
    first, second = list(served.dify.conversations)
    await say(served, history, headers={"x-openwebui-chat-id": "a"})
    assert served.last_run["conversation_id"] == first
    await say(served, history, headers={"x-openwebui-chat-id": "b"})
    assert served.last_run["conversation_id"] == second


async def test_a_chat_whose_history_went_another_way(served: Served) -> None:
    chat = {"x-chat-id": "a"}
    await say(served, [user("ECHO:1")], headers=chat)
    await say(served, [user("ECHO:1"), assistant("1"), user("ECHO:2")], headers=chat)
    await say(served, [user("ECHO:one")], headers=chat)
    assert "conversation_id" not in served.last_run
    await say(served, [user("ECHO:one"), assistant("one"), user("ECHO:2")], headers=chat)
    assert served.last_run["conversation_id"] == list(served.dify.conversations)[1]


# -- modes


async def test_explicit_knows_names_and_chats_but_no_histories(serve: Serve) -> None:
    served = await serve(conversations="explicit")
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    await say(served, history[:1])
    await say(served, history)
    assert "conversation_id" not in served.last_run
    chat = {"x-session-id": "s"}
    await say(served, history[:1], headers=chat)
    await say(served, history, headers=chat)
    assert served.last_run["query"] == "ECHO:2"
    name = served.last_run["conversation_id"]
    await say(served, [user("ECHO:3")], conversation_id=name)
    assert served.last_run["conversation_id"] == name


async def test_off_tells_everything_every_time(serve: Serve) -> None:
    served = await serve(conversations="off")
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    await say(served, history[:1])
    (name,) = served.dify.conversations
    await say(served, history, headers={"x-chat-id": "c", "x-dify-conversation-id": name})
    assert "conversation_id" not in served.last_run
    assert "## Assistant\n1" in served.last_run["query"]


async def test_an_app_of_its_own_mind(serve: Serve) -> None:
    key = next(app.key for app in (await serve()).dify.apps.values() if app.name == "Helper")
    served = await serve(table=({"key": key, "conversations": "off"},))
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    for model, goes_on in (("Helper", False), ("Clock Agent", True)):
        await say(served, history[:1], model=model)
        await say(served, history, model=model)
        assert ("conversation_id" in served.last_run) == goes_on


# -- the second that Dify orders turns by


async def test_a_follow_up_starts_in_a_later_second(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 1.0)
    served = await serve()
    await say(served, [user("ECHO:1")])
    await say(served, [user("ECHO:1"), assistant("1"), user("ECHO:2")])
    (kept,) = served.dify.conversations.values()
    first, second = (message.created_at for message in kept.messages)
    assert second > first


# -- twenty turns


async def test_twenty_turns_of_a_plain_client(served: Served) -> None:
    """One conversation, twenty short queries: what is sent grows with the turns, not with their square."""
    messages: list[Any] = []
    sizes = []
    for number in range(20):
        messages.append(user(f"ECHO:this is turn {number:02}"))
        answer = await served.openai.chat.completions.create(model="Helper", messages=messages)
        messages.append(assistant(answer.choices[0].message.content))
        sizes.append(int(served.runs()[-1].headers["content-length"]))
    (conversation,) = served.dify.conversations.values()
    assert [query for query, _, _ in conversation.turns] == [message["content"] for message in messages[::2]]
    assert len(set(sizes[1:])) == 1
    assert sum(sizes) < 20 * (sizes[0] + 100)


async def test_two_keys_never_meet(serve: Serve) -> None:
    served = await serve(valid_api_keys=f"tester:{CLIENT_KEY},other:{OTHER_KEY}")
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    await say(served, history[:1])
    async with httpx.AsyncClient(base_url=served.url, headers={"authorization": f"Bearer {OTHER_KEY}"}) as other:
        body = {"model": "Helper", "messages": history}
        assert (await other.post("/v1/chat/completions", json=body)).status_code == 200
    assert "conversation_id" not in served.last_run
    await say(served, history)
    assert served.last_run["query"] == "ECHO:2"


async def test_two_users_of_a_key_never_meet(served: Served) -> None:
    history = [user("ECHO:1"), assistant("1"), user("ECHO:2")]
    await say(served, history[:1], user="ann")
    await say(served, history, user="bob")
    assert "conversation_id" not in served.last_run
    await say(served, history, user="ann")
    assert served.last_run["query"] == "ECHO:2"
    assert served.last_run["user"] == "tester:ann"
