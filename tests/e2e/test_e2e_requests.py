"""What reaches Dify: the query, the inputs, the files, the user."""

import asyncio
import hashlib
from typing import Any

import pytest
from conftest import MODELS, STRICT_APP_KEY, WRONG_KEY, Serve, Served, data_url, eventually, png


async def test_a_lone_message_is_sent_as_it_is(served: Served) -> None:
    await served.ask("ECHO:just this")
    assert served.last_run == {
        "query": "ECHO:just this",
        "inputs": {},
        "response_mode": "streaming",
        "user": "tester",
        "auto_generate_name": False,
    }


async def test_a_dialogue_is_one_transcript(served: Served) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "First question"},
        {"role": "assistant", "content": "First answer"},
        {"role": "user", "content": "ECHO:second question"},
    ]
    answer = await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "second question"
    query = served.last_run["query"]
    places = [query.index(text) for text in ("Be brief.", "First question", "First answer", "ECHO:second question")]
    assert places == sorted(places)
    assert query.endswith("ECHO:second question")
    assert "conversation_id" not in served.last_run


@pytest.mark.parametrize("mode", ["completion", "workflow"])
async def test_the_text_goes_into_its_input(served: Served, mode: str) -> None:
    await served.ask("ECHO:the text", MODELS[mode])
    name = {"completion": "query", "workflow": "text"}[mode]
    assert served.last_run["inputs"][name] == "ECHO:the text"
    assert "query" not in served.last_run


async def test_inputs_from_the_body_beat_metadata(served: Served) -> None:
    answer = await served.openai.chat.completions.create(
        model=MODELS["advanced-chat"],
        messages=[{"role": "user", "content": "ECHO:x"}],
        metadata={"topic": "from metadata", "count": "3", "unrelated": "y"},
        extra_body={"inputs": {"topic": "from the body"}},
    )
    assert answer.choices[0].message.content == "x"
    assert served.last_run["inputs"] == {"topic": "from the body", "count": 3}


async def test_unset_texts_are_empty(served: Served) -> None:
    await served.ask("ECHO:x", MODELS["advanced-chat"])
    assert served.last_run["inputs"] == {"topic": ""}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_missing_input_is_named_before_dify_is_asked(serve: Serve, stream: bool) -> None:
    from opendify.demo.apps import Control, SampleApp

    strict = SampleApp(STRICT_APP_KEY, "Strict", "advanced-chat", form=(Control("text-input", "topic", required=True),))
    served = await serve((strict,))
    answer = await served.ask("hi", "Strict", stream=stream)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "inputs.topic"
    assert "topic (text-input, required)" in answer.json()["error"]["message"]
    assert served.runs() == []


async def test_a_link_is_never_fetched(served: Served) -> None:
    await served.ask(
        [{"type": "text", "text": "ECHO:x"}, {"type": "image_url", "image_url": {"url": "http://a.b/c.png"}}]
    )
    assert served.last_run["files"] == [{"type": "image", "transfer_method": "remote_url", "url": "http://a.b/c.png"}]
    assert not served.dify.uploads


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat", "agent"])
async def test_data_is_uploaded_with_the_same_user(served: Served, mode: str) -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "ECHO:x"},
        {"type": "image_url", "image_url": {"url": data_url(png(1))}},
        {"type": "file", "file": {"filename": "notes.txt", "file_data": data_url(b"some notes", "text/plain")}},
    ]
    answer = await served.ask(content, MODELS[mode], user="ann")
    assert answer.status_code == 200
    uploads = {upload.name: upload for upload in served.dify.uploads.values()}
    assert set(uploads) == {"image-1.png", "notes.txt"}
    assert uploads["image-1.png"].sha256 == hashlib.sha256(png(1)).hexdigest()
    assert uploads["image-1.png"].mime_type == "image/png"
    assert {upload.user for upload in uploads.values()} == {"tester:ann"} == {served.last_run["user"]}
    assert [file["type"] for file in served.last_run["files"]] == ["image", "document"]
    assert {file["upload_file_id"] for file in served.last_run["files"]} == set(served.dify.uploads)


async def test_files_fill_the_inputs_of_a_workflow(served: Served) -> None:
    content: list[dict[str, Any]] = [
        {"type": "text", "text": "ECHO:x"},
        {"type": "image_url", "image_url": {"url": data_url(png())}},
        {"type": "image_url", "image_url": {"url": "https://a.b/2.png"}},
    ]
    answer = await served.ask(content, MODELS["workflow"])
    assert answer.status_code == 200, answer.text
    inputs = served.last_run["inputs"]
    assert inputs["file"]["transfer_method"] == "local_file"
    assert inputs["files"] == [{"type": "image", "transfer_method": "remote_url", "url": "https://a.b/2.png"}]


async def test_pictures_through_the_official_client(served: Served) -> None:
    answer = await served.openai.chat.completions.create(
        model="Helper",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "ECHO:both seen"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
                    {"type": "image_url", "image_url": {"url": data_url(png())}},
                ],
            }
        ],
    )
    assert answer.choices[0].message.content == "both seen"
    assert [file["transfer_method"] for file in served.last_run["files"]] == ["remote_url", "local_file"]


async def test_a_type_that_would_break_out_of_its_header(served: Served) -> None:
    url = data_url(b"\x00\x01\x02", "a/b\r\nX-Injected: yes")
    file = {"type": "file", "file": {"filename": "a.png", "file_data": url}}
    await served.ask([{"type": "text", "text": "ECHO:x"}, file])
    assert [upload.mime_type for upload in served.dify.uploads.values()] == ["image/png"]


BAD_PARTS: list[tuple[str, dict[str, Any], int, str]] = [
    ("Helper", {"type": "image_url", "image_url": {"url": "data:image/png;base64,@@@@"}}, 400, "image_url"),
    ("Helper", {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, 400, "image_url"),
    ("Helper", {"type": "file", "file": {"filename": "a.zip", "file_data": "UEsDBA=="}}, 400, "file.file_data"),
    ("Helper", {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, 400, "input_audio"),
    ("Writer", {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}, 400, "image_url"),
    ("Helper", {"type": "image_url", "image_url": {"url": data_url(png() + bytes(11_000_000))}}, 413, "image_url"),
]


@pytest.mark.parametrize(("model", "part", "status", "param"), BAD_PARTS)
async def test_files_that_do_not_fit(served: Served, model: str, part: dict[str, Any], status: int, param: str) -> None:
    answer = await served.ask([{"type": "text", "text": "x"}, part], model)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == f"messages[0].content[1].{param}"
    assert served.runs() == []


async def test_too_many_files(serve: Serve) -> None:
    served = await serve(max_files=2)
    parts = [{"type": "image_url", "image_url": {"url": f"https://a.b/{n}.png"}} for n in range(3)]
    answer = await served.ask(parts)
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, "messages")


async def test_users_are_apart(served: Served) -> None:
    await asyncio.gather(*(served.ask("ECHO:x", user=user) for user in ("ann", "bob", "x" * 300)))
    users = {run.body["user"] for run in served.runs()}
    assert {"tester:ann", "tester:bob"} < users
    assert all(len(user) <= 255 for user in users)
    assert len(users) == 3


async def test_stop_sequences_cut_the_text_and_stop_the_run(served: Served) -> None:
    chunks = await served.stream(
        "ECHO:one two STOP three", stop=["STOP", "never"], stream_options={"include_usage": True}
    )
    assert "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk.get("choices", ())) == "one two "
    folded = (await served.ask("SLOW 40 50", stop="s3")).json()["choices"][0]
    assert (folded["message"]["content"], folded["finish_reason"]) == ("s0 s1 s2 ", "stop")
    assert {stop.user for stop in served.dify.stops} == {"tester"}


async def test_keys_and_texts_never_leave(served: Served) -> None:
    """Every test's log and errors are searched for secrets; this one looks where they are nearest."""
    await served.ask("ERROR_START ECHO:private", user="ann")
    await served.ask("FAIL ECHO:private", MODELS["workflow"])
    await served.http.get("/readyz")
    await served.http.get("/v1/models", headers={"authorization": f"Bearer {WRONG_KEY}"})
    await served.ask("ECHO:private", "no such model")
    await eventually(lambda: len(served.told.lines("request")) == 5)
    assert "private" not in served.told.log() + "".join(served.told.errors)
    served.told.check()
