"""Every app mode, streamed and folded, through the official client."""

import re
from typing import Any

import pytest
from conftest import MODELS, Serve, Served, finish_of, text_of

from opendify.demo.apps import CODE_WORD

MODES = sorted(MODELS)


@pytest.mark.parametrize("mode", MODES)
async def test_folded(served: Served, mode: str) -> None:
    answer = await served.openai.chat.completions.create(
        model=MODELS[mode], messages=[{"role": "user", "content": "ECHO:one two three"}]
    )
    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


@pytest.mark.parametrize("mode", MODES)
async def test_streamed(served: Served, mode: str) -> None:
    stream = await served.openai.chat.completions.create(
        model=MODELS[mode],
        messages=[{"role": "user", "content": "ECHO:one two three"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens > 0
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {MODELS[mode]}


@pytest.mark.parametrize("generation", ["1.9", "1.16"])
@pytest.mark.parametrize("mode", MODES)
async def test_strange_characters_survive(serve: Serve, mode: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    folded = (await served.ask("CJK", MODELS[mode])).json()
    chunks = await served.stream("CJK", MODELS[mode])
    text = folded["choices"][0]["message"]["content"]
    assert text_of(chunks) == text
    assert all(piece in text for piece in ("👨\u200d👩\u200d👧\u200d👦", "\u2028", "\x85", '"quotes" \\back\\ \ttab'))


@pytest.mark.parametrize("word", ["TOOL", "TOOL2", "CITE", "TTS", "EXTRAS", "RETRY", "DESCRIBE"])
@pytest.mark.parametrize("mode", MODES)
async def test_nothing_twice_and_nothing_internal(served: Served, mode: str, word: str) -> None:
    chunks = await served.stream(f"{word} ECHO:visible answer", MODELS[mode])
    if word == "DESCRIBE":  # the model itself tells its prompt then: only the events around it are looked at
        assert chunks[-1] == {"done": True}
        return
    assert text_of(chunks).count("visible answer") == 1
    assert CODE_WORD not in str(chunks)
    assert finish_of(chunks) == ["stop"]


CASES: list[tuple[str, str, str, str]] = [
    ("workflow", "OUTPUTS_ONLY ECHO:from the outputs", "from the outputs", "stop"),
    ("workflow", "JSONOUT", "", "stop"),
    ("advanced-chat", "FAULT:lostend ECHO:no message_end", "no message_end", "stop"),
    ("advanced-chat", "PARTIAL ECHO:fallback", "fallback", "stop"),
    ("advanced-chat", "STOPPED ECHO:half", "half", "length"),
    ("workflow", "STOPPED ECHO:half", "half", "length"),
    ("workflow", "FINISH_LENGTH ECHO:cut", "cut", "length"),
    ("chat", "EMPTY", "", "stop"),
]


@pytest.mark.parametrize("generation", ["1.9", "1.16"])
@pytest.mark.parametrize(("mode", "words", "text", "reason"), CASES)
async def test_how_runs_end(serve: Serve, mode: str, words: str, text: str, reason: str, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    folded = await served.ask(words, MODELS[mode])
    choice = folded.json()["choices"][0]
    chunks = await served.stream(words, MODELS[mode])
    assert choice["finish_reason"] == reason
    assert finish_of(chunks) == [reason]
    assert text_of(chunks) == choice["message"]["content"]
    assert text in text_of(chunks)


async def test_moderation(served: Served) -> None:
    chunks = await served.stream("REPLACE ECHO:something bad")
    assert finish_of(chunks) == ["content_filter"]
    folded = (await served.ask("REPLACE ECHO:something bad")).json()["choices"][0]
    assert folded["finish_reason"] == "content_filter"
    assert "something bad" not in folded["message"]["content"]


@pytest.mark.parametrize("mode", ["agent-chat", "chat", "advanced-chat", "workflow"])
@pytest.mark.parametrize("way", ["proxy", "link"])
async def test_files_of_the_app(serve: Serve, mode: str, way: str) -> None:
    served = await serve(files=way)
    words = "TOOL FILE ECHO:here"
    streamed = text_of(await served.stream(words, MODELS[mode]))
    folded = (await served.ask(words, MODELS[mode])).json()["choices"][0]["message"]["content"]
    place = f"{served.url}/v1/dify-files/" if way == "proxy" else f"{served.dify_url}/files/tools/"
    for text in (streamed, folded):
        assert text.count(place) == 1
        (link,) = re.findall(rf"{re.escape(place)}[^)>\s]+", text)
        assert (await served.http.get(link)).status_code == 200


async def test_files_of_an_app_that_names_inner_hosts(serve: Serve) -> None:
    served = await serve(public_url="https://chat.example.com")
    served.dify.state.files_url = "http://api:5001"
    text = text_of(await served.stream("TOOL FILE ECHO:here", MODELS["agent-chat"]))
    assert "https://chat.example.com/v1/dify-files/" in text
    assert "api:5001" not in text


async def test_the_users_own_file_is_not_an_answer(served: Served) -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "ECHO:seen"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
    ]
    answer = await served.ask(content)
    assert answer.json()["choices"][0]["message"]["content"] == "seen"


async def test_ids_of_dify(served: Served) -> None:
    folded = await served.ask("ECHO:hi")
    ids = folded.json()["dify"]
    assert folded.headers["x-dify-conversation-id"] == ids["conversation_id"]
    assert folded.headers["x-dify-message-id"] == ids["message_id"]
    assert set(ids) == {"conversation_id", "message_id", "task_id"}
    streamed = await served.ask("ECHO:hi", stream=True, stream_options={"include_usage": True})
    assert streamed.headers["x-dify-conversation-id"]
    assert f'"conversation_id":"{streamed.headers["x-dify-conversation-id"]}"' in streamed.text
