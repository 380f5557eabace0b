"""Files once: what was sent to Dify is not sent again, and files sent ahead are found by those who sent them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from conftest import CLIENT_KEY, LIMITED_KEY, MODELS, WRONG_KEY, Serve, Served, data_url, eventually, png

from opendify.demo.apps import Control, SampleApp

OTHER_KEY = "sk-other-0123456789abcdef"
OTHER = {"authorization": f"Bearer {OTHER_KEY}"}
TWO_KEYS = f"tester:{CLIENT_KEY},other:{OTHER_KEY}"
GENERATIONS = ["1.9", "1.16"]
# The writer of the sample apps takes no files.
TAKING = ["chat", "agent-chat", "advanced-chat", "agent", "workflow"]
ILLUSTRATED = SampleApp(
    "app-illustrated",
    "Illustrated",
    "completion",
    form=(Control("paragraph", "query", required=True),),
    upload_types=("image", "document"),
)


def picture(color: int = 0) -> dict[str, Any]:
    """A picture in a message."""
    return {"type": "image_url", "image_url": {"url": data_url(png(color))}}


def ahead(file_id: str) -> dict[str, Any]:
    """A file that was sent ahead."""
    return {"type": "file", "file": {"file_id": file_id}}


def said(*parts: dict[str, Any], text: str = "ECHO:seen") -> list[dict[str, Any]]:
    """A message's content."""
    return [{"type": "text", "text": text}, *parts]


def uploads(served: Served) -> int:
    """How often a file travelled to Dify."""
    return sum(request.path.endswith("/files/upload") for request in served.dify.requests)


def references(served: Served) -> list[dict[str, Any]]:
    """The files of the newest run, wherever the app takes them."""
    values = served.last_run["inputs"].values()
    lists = [served.last_run.get("files", []), *([value] if isinstance(value, dict) else value for value in values)]
    return [item for items in lists if isinstance(items, list) for item in items]


async def send(
    served: Served, content: bytes = b"some notes", name: str = "notes.txt", headers: Any = None, **fields: Any
) -> httpx.Response:
    """POST /v1/files."""
    form = {"purpose": "user_data", **fields}
    return await served.http.post("/v1/files", files={"file": (name, content)}, data=form, headers=headers)


async def sent(served: Served, *args: Any, **fields: Any) -> str:
    """The id of a file sent ahead."""
    answer = await send(served, *args, **fields)
    assert answer.status_code == 200, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and param."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


PART = "messages[0].content[1].file.file_id"

# -- uploaded once


@pytest.mark.parametrize("conversations", ["auto", "off"])
async def test_a_picture_of_the_history_travels_once(serve: Serve, conversations: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    served = await serve(conversations=conversations)
    messages: list[dict[str, Any]] = []
    for turn in range(3):
        messages.append({"role": "user", "content": said(*[picture()][turn:], text=f"ECHO:{turn}")})
        answer = await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
        messages.append(answer.json()["choices"][0]["message"])
        assert messages[-1]["content"] == str(turn)
    assert uploads(served) == 1


async def test_a_picture_sent_anew_in_a_later_turn_travels_once(serve: Serve, monkeypatch: Any) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    served = await serve()
    messages = [{"role": "user", "content": said(picture(), text="ECHO:a")}, {"role": "assistant", "content": "a"}]
    await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages[:1]})
    messages.append({"role": "user", "content": said(picture(), text="ECHO:b")})
    await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
    assert served.last_run["conversation_id"]
    assert [file["upload_file_id"] for file in references(served)] == list(served.dify.uploads)
    assert uploads(served) == 1


async def test_the_same_picture_twice_in_one_request(served: Served) -> None:
    await served.ask(said(picture(1), picture(1), picture(2)))
    assert uploads(served) == 2
    first, again, other = (file["upload_file_id"] for file in references(served))
    assert first == again != other


async def test_everyone_and_every_app_has_uploads_of_its_own(serve: Serve) -> None:
    served = await serve(valid_api_keys=TWO_KEYS)
    for ask in (
        {"model": "Helper", "user": "ann"},
        {"model": "Helper", "user": "bob"},
        {"model": "Clock Agent", "user": "ann"},
    ):
        for _ in range(2):
            await served.ask(said(picture()), **ask)
    assert uploads(served) == 3
    body = {"model": "Helper", "messages": [{"role": "user", "content": said(picture())}], "user": "ann"}
    await served.http.post("/v1/chat/completions", json=body, headers=OTHER)
    assert uploads(served) == 4
    assert {upload.user for upload in served.dify.uploads.values()} == {"tester:ann", "tester:bob", "other:ann"}


@pytest.mark.parametrize("mode", TAKING)
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_file_that_dify_forgot_is_sent_again(serve: Serve, generation: str, mode: str) -> None:
    served = await serve(dify={"generation": generation})
    await served.ask(said(picture()), MODELS[mode])
    for times, stream in ((2, False), (3, True)):
        served.dify.uploads.clear()
        answer = await served.ask(said(picture(), text="ECHO:unseen"), MODELS[mode], stream=stream)
        assert answer.status_code == 200
        assert "error" not in answer.text
        assert "unseen" in answer.text
        assert uploads(served) == times
        assert len(served.runs()) == 2 * times - 1
        if mode != "workflow":
            assert served.dify.conversations[answer.headers["x-dify-conversation-id"]].turns[0][2] == "normal"
    await served.ask(said(picture()), MODELS[mode])
    assert uploads(served) == 3


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("mode", ["chat", "advanced-chat"])
async def test_a_forgotten_file_does_not_end_a_conversation(
    serve: Serve, mode: str, generation: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    served = await serve(dify={"generation": generation})
    messages = [{"role": "user", "content": said(picture(), text="ECHO:a")}, {"role": "assistant", "content": "a"}]
    await served.http.post("/v1/chat/completions", json={"model": MODELS[mode], "messages": messages[:1]})
    served.dify.uploads.clear()
    messages.append({"role": "user", "content": said(picture(), text="ECHO:b")})
    answer = await served.http.post("/v1/chat/completions", json={"model": MODELS[mode], "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "b"
    (conversation,) = served.dify.conversations.values()
    assert [turn[1] for turn in conversation.turns] == ["a", "b"]


@pytest.mark.parametrize("mode", ["chat", "advanced-chat", "workflow"])
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_file_that_stays_unknown_ends_the_answer(serve: Serve, generation: str, mode: str) -> None:
    served = await serve(dify={"generation": generation})
    await served.ask(said(picture()), MODELS[mode])
    served.dify.uploads.clear()
    served.dify.uploads.limit = 0
    for times, stream in ((2, False), (3, True)):
        answer = await served.ask(said(picture()), MODELS[mode], stream=stream)
        assert "Invalid upload file" in answer.text
        assert "[DONE]" not in answer.text
        assert uploads(served) == times
        assert len(served.runs()) == 2 * times - 1


# -- sent ahead: the official client


async def test_the_official_client(served: Served) -> None:
    file = await served.openai.files.create(file=("notes.txt", b"some notes"), purpose="user_data")
    assert file.id.startswith("file-")
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", 10, "notes.txt", "user_data")
    assert (file.status, file.status_details) == ("processed", None)
    assert file.expires_at
    assert file.expires_at - file.created_at == 3600
    answer = await served.openai.chat.completions.create(
        model="Helper",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "ECHO:read"}, {"type": "file", "file": {"file_id": file.id}}],
            }
        ],
    )
    assert answer.choices[0].message.content == "read"
    ((upload_id, upload),) = served.dify.uploads.items()
    assert (upload.name, upload.mime_type, upload.size, upload.user) == ("notes.txt", "text/plain", 10, "tester")
    assert references(served) == [{"type": "document", "transfer_method": "local_file", "upload_file_id": upload_id}]
    again = await served.openai.files.retrieve(file.id)
    assert (again.id, again.filename, again.created_at) == (file.id, "notes.txt", file.created_at)
    assert again.expires_at
    assert again.expires_at - file.created_at >= 30 * 86400
    deleted = await served.openai.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError, match="no such file"):
        await served.openai.files.retrieve(file.id)


def by_the_blocking_client(url: str) -> openai.types.FileDeleted:
    """A file's life as most programs live it."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0) as client:
        file = client.files.create(file=Path(__file__), purpose="assistants")
        assert client.files.retrieve(file.id) == file
        assert (file.filename, file.bytes) == (Path(__file__).name, Path(__file__).stat().st_size)
        return client.files.delete(file.id)


async def test_the_blocking_client(served: Served) -> None:
    assert (await asyncio.to_thread(by_the_blocking_client, served.url)).deleted


async def test_with_its_model_a_file_goes_to_dify_at_once(served: Served) -> None:
    file = await served.openai.files.create(
        file=("图片", png(7)), purpose="vision", extra_body={"model": "文档处理", "user": "ann"}
    )
    assert (file.filename, file.purpose, uploads(served)) == ("图片", "vision", 1)
    assert file.expires_at
    assert file.expires_at - file.created_at >= 30 * 86400
    ((upload_id, upload),) = served.dify.uploads.items()
    assert (upload.name, upload.mime_type, upload.user) == ("图片.png", "image/png", "tester:ann")
    for _ in range(2):
        answer = await served.ask(said(ahead(file.id)), "文档处理", user="ann")
        assert answer.status_code == 200, answer.text
        assert references(served) == [{"type": "image", "transfer_method": "local_file", "upload_file_id": upload_id}]
    assert uploads(served) == 1


@pytest.mark.parametrize("model", ["Helper", "helper", "文档处理"])
async def test_the_model_in_a_header(served: Served, model: str) -> None:
    await sent(served, headers={"x-model": model.encode()})
    assert uploads(served) == 1


async def test_the_only_model_of_a_key_is_the_one(serve: Serve) -> None:
    served = await serve(keys=({"name": "limited", "key": LIMITED_KEY, "models": ["Helper"]},))
    file_id = await sent(served, headers={"authorization": f"Bearer {LIMITED_KEY}"})
    assert uploads(served) == 1
    await sent(served)
    assert uploads(served) == 1
    assert (await served.http.get(f"/v1/files/{file_id}")).status_code == 404


async def test_one_app_that_cannot_be_described_is_not_the_other(serve: Serve) -> None:
    served = await serve(dify_api_keys="app-demo-chat,app-unknown")
    await sent(served)
    assert uploads(served) == 0


async def test_the_model_of_a_file_has_to_be_there(serve: Serve) -> None:
    served = await serve(keys=({"name": "limited", "key": LIMITED_KEY, "models": ["Helper", "Operator"]},))
    assert error_of(await send(served, model="nobody")) == (404, "model_not_found", "model")
    limited = await send(served, model="Writer", headers={"authorization": f"Bearer {LIMITED_KEY}"})
    assert error_of(limited) == (404, "model_not_found", "model")
    assert error_of(await send(served, headers={"x-model": "m" * 257})) == (400, "invalid_request", "model")


async def test_the_default_model_takes_files_as_it_takes_chats(serve: Serve) -> None:
    served = await serve(default_model="Helper")
    file_id = await sent(served, model="gpt-4o")
    assert (await served.ask(said(ahead(file_id)), "gpt-4o")).status_code == 200
    assert uploads(served) == 1


# -- sent ahead: what chats make of it


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("mode", TAKING)
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_chats_use_it(serve: Serve, generation: str, mode: str, known: bool) -> None:
    served = await serve(dify={"generation": generation})
    file_id = await sent(served, png(), "photo.png", **({"model": MODELS[mode]} if known else {}))
    assert uploads(served) == int(known)
    for stream in (False, True):
        answer = await served.ask(said(ahead(file_id)), MODELS[mode], stream=stream)
        assert answer.status_code == 200, answer.text
        assert "seen" in answer.text
        (upload_id,) = served.dify.uploads
        assert references(served) == [{"type": "image", "transfer_method": "local_file", "upload_file_id": upload_id}]
    assert uploads(served) == 1
    assert served.app.state.exchange.uploads.kept.waiting.taken == 0


async def test_a_completion_app_uses_it(serve: Serve) -> None:
    served = await serve((ILLUSTRATED,))
    file_id = await sent(served, png(), "photo.png")
    assert uploads(served) == 1  # the only app there is
    assert (await served.ask(said(ahead(file_id)), "Illustrated")).status_code == 200
    assert [file["type"] for file in references(served)] == ["image"]


async def test_beside_other_files_and_twice(served: Served) -> None:
    file_id = await sent(served, png(1), "photo.png")
    answer = await served.ask(said(picture(1), ahead(file_id), ahead(file_id)))
    assert answer.status_code == 200
    assert uploads(served) == 1
    assert len({file["upload_file_id"] for file in references(served)}) == 1
    assert (await served.ask(said(ahead(file_id)))).status_code == 200
    assert uploads(served) == 1


async def test_in_the_history_of_a_new_conversation(serve: Serve) -> None:
    served = await serve(conversations="off")
    file_id, gone = await sent(served, png(), "photo.png"), await sent(served)
    await served.http.delete(f"/v1/files/{gone}")
    messages = [
        {"role": "user", "content": said(ahead(gone), ahead(file_id), text="Look.")},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "ECHO:and now?"},
    ]
    answer = await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "and now?"
    assert [file["type"] for file in references(served)] == ["image"]
    assert "[attached: photo.png]" in served.last_run["query"]


async def test_without_a_text(served: Served) -> None:
    file_id = await sent(served, name="notes.md")
    assert (await served.ask([ahead(file_id)])).status_code == 200
    assert served.last_run["query"] == "[notes.md]"


async def test_the_rules_of_the_app_hold(serve: Serve) -> None:
    served = await serve(max_files=2)
    archive = await sent(served, b"PK\x05\x06" + bytes(18), "a.zip")
    assert error_of(await served.ask(said(ahead(archive)))) == (400, "invalid_request", PART)
    assert error_of(await served.ask(said(ahead(archive)), "Writer")) == (400, "invalid_request", PART)
    big = await sent(served, png() + bytes(11_000_000), "big.png")
    assert error_of(await served.ask(said(ahead(big)))) == (413, "request_too_large", PART)
    three = await served.ask(said(*[ahead(archive)] * 3))
    assert error_of(three) == (413, "request_too_large", "messages")
    assert uploads(served) == 0


async def test_the_rules_of_the_app_hold_when_it_is_sent(served: Served) -> None:
    zipped = await send(served, b"PK\x05\x06" + bytes(18), "a.zip", model="Helper")
    assert error_of(zipped) == (400, "invalid_request", "file")
    assert error_of(await send(served, model="Writer")) == (400, "invalid_request", "file")
    big = await send(served, png() + bytes(11_000_000), "big.png", model="Helper")
    assert error_of(big) == (413, "request_too_large", "file")
    assert uploads(served) == 0


@pytest.mark.parametrize("known", [False, True])
async def test_another_model_than_its_own(served: Served, known: bool) -> None:
    file_id = await sent(served, **({"model": "Helper"} if known else {}))
    await served.ask(said(ahead(file_id)))
    answer = await served.ask(said(ahead(file_id)), "Clock Agent")
    assert error_of(answer) == (400, "file_elsewhere", PART)
    assert "another model" in answer.json()["error"]["message"]
    assert (await served.ask(said(ahead(file_id)))).status_code == 200


# -- whose it is


async def test_it_belongs_to_a_key_and_a_user(serve: Serve) -> None:
    served = await serve(valid_api_keys=TWO_KEYS)
    file_id = await sent(served, model="Helper", user="ann")
    for user, headers in ((None, None), ("bob", None), ("ann", OTHER), (None, OTHER)):
        query = {"user": user} if user else {}
        for method in ("GET", "DELETE"):
            answer = await served.http.request(method, f"/v1/files/{file_id}", params=query, headers=headers)
            assert error_of(answer) == (404, "file_not_found", "id")
        body = {"model": "Helper", "messages": [{"role": "user", "content": said(ahead(file_id))}], **query}
        answer = await served.http.post("/v1/chat/completions", json=body, headers=headers)
        assert error_of(answer) == (404, "file_not_found", PART)
    assert (await served.ask(said(ahead(file_id)), user="ann")).status_code == 200
    assert (await served.http.get(f"/v1/files/{file_id}?user=ann")).status_code == 200
    assert (await served.http.delete(f"/v1/files/{file_id}?user=ann")).status_code == 200


async def test_the_user_of_the_headers_goes_first(served: Served) -> None:
    ann = {"x-openwebui-user-id": "ann"}
    file_id = await sent(served, headers=ann, user="bob", model="Helper")
    assert [upload.user for upload in served.dify.uploads.values()] == ["tester:ann"]
    assert (await served.http.get(f"/v1/files/{file_id}", headers=ann)).status_code == 200
    assert (await served.http.get(f"/v1/files/{file_id}?user=bob")).status_code == 404
    body = {"model": "Helper", "messages": [{"role": "user", "content": said(ahead(file_id))}], "user": "bob"}
    assert (await served.http.post("/v1/chat/completions", json=body, headers=ann)).status_code == 200


@pytest.mark.parametrize("file_id", ["file-", "file-" + "0" * 32, "x" * 3000, "file-%00", "文件"])
async def test_no_such_file(served: Served, file_id: str) -> None:
    for method in ("GET", "DELETE"):
        assert error_of(await served.http.request(method, f"/v1/files/{file_id}")) == (404, "file_not_found", "id")
    assert error_of(await served.ask(said(ahead(file_id)))) == (404, "file_not_found", PART)


async def test_a_deleted_file_is_gone(served: Served) -> None:
    file_id = await sent(served)
    assert (await served.http.delete(f"/v1/files/{file_id}")).status_code == 200
    assert error_of(await served.http.delete(f"/v1/files/{file_id}")) == (404, "file_not_found", "id")
    assert error_of(await served.ask(said(ahead(file_id)))) == (404, "file_not_found", PART)
    assert served.app.state.exchange.uploads.kept.waiting.taken == 0


# -- waiting here


async def test_a_full_house(serve: Serve) -> None:
    served = await serve(files_kept_mb=1)
    first = await sent(served, bytes(600_000), "a.bin")
    refused = await send(served, bytes(600_000), "b.bin")
    assert error_of(refused) == (503, "overloaded", None)
    assert refused.headers["x-should-retry"] == "false"
    assert "`model`" in refused.json()["error"]["message"]
    assert error_of(await send(served, bytes(2_000_000), "c.bin")) == (413, "request_too_large", "file")
    assert (await served.http.get(f"/v1/files/{first}")).status_code == 200
    assert (await send(served, png() + bytes(600_000), "d.png", model="Helper")).status_code == 200
    await served.http.delete(f"/v1/files/{first}")
    await sent(served, bytes(600_000), "b.bin")


async def test_no_file_waits_for_ever(serve: Serve) -> None:
    served = await serve(files_kept_minutes=0.2 / 60)
    file_id = await sent(served)
    kept = served.app.state.exchange.uploads.kept
    await eventually(lambda: kept.waiting.taken == 0)
    assert error_of(await served.ask(said(ahead(file_id)))) == (404, "file_not_found", PART)


async def test_a_file_that_waits_in_another_process(served: Served) -> None:
    file_id = await sent(served)
    waiting = served.app.state.exchange.uploads.kept.waiting
    for key in list(waiting._files):
        waiting.drop(key)
    answer = await served.ask(said(ahead(file_id)))
    assert error_of(answer) == (400, "file_elsewhere", PART)
    assert "upload it again with `model`" in answer.json()["error"]["message"]


async def test_a_refused_upload_can_be_tried_again(served: Served) -> None:
    file_id = await sent(served, png(), "photo.png")
    app = served.dify.apps.pop("app-demo-chat")
    assert (await served.ask(said(ahead(file_id)))).status_code == 502
    served.dify.apps["app-demo-chat"] = app
    assert (await served.ask(said(ahead(file_id)))).status_code == 200


# -- what Dify has lost


@pytest.mark.parametrize("first_streamed", [False, True])
@pytest.mark.parametrize("mode", ["chat", "advanced-chat", "workflow"])
@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_file_that_nobody_has_any_more(serve: Serve, generation: str, mode: str, first_streamed: bool) -> None:
    served = await serve(dify={"generation": generation})
    file_id = await sent(served, model=MODELS[mode])
    served.dify.uploads.clear()
    for stream in (first_streamed, not first_streamed):
        answer = await served.ask(said(ahead(file_id)), MODELS[mode], stream=stream)
        assert error_of(answer) == (400, "file_lost", PART)
    assert len(served.runs()) == 1
    assert uploads(served) == 1
    told = (await served.http.get(f"/v1/files/{file_id}")).json()
    assert (told["status"], told["status_details"]) == ("error", "Dify does not have it any more.")
    again = await sent(served, model=MODELS[mode])  # the same bytes: they travel again
    assert (await served.ask(said(ahead(again)), MODELS[mode])).status_code == 200
    assert uploads(served) == 2


async def test_what_is_here_is_sent_again_before_anything_is_given_up(served: Served) -> None:
    file_id = await sent(served, model="Helper")
    await served.ask(said(picture()))
    kept = next(iter(served.dify.uploads))
    for upload_id in set(served.dify.uploads) - {kept}:
        del served.dify.uploads[upload_id]
    assert (await served.ask(said(picture(), ahead(file_id)))).status_code == 200
    assert uploads(served) == 3
    served.dify.uploads.clear()
    answer = await served.ask(said(picture(), ahead(file_id)))
    assert error_of(answer) == (400, "file_lost", "messages[0].content[2].file.file_id")


async def test_a_lost_file_of_an_earlier_turn_is_left_out(serve: Serve) -> None:
    served = await serve(conversations="off")
    file_id = await sent(served, model="Helper")
    served.dify.uploads.clear()
    messages = [
        {"role": "user", "content": said(ahead(file_id), text="Look.")},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "ECHO:and now?"},
    ]
    answer = await served.http.post("/v1/chat/completions", json={"model": "Helper", "messages": messages})
    assert answer.json()["choices"][0]["message"]["content"] == "and now?"
    assert references(served) == []


# -- the form


FORMS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"data": {"purpose": "x"}}, 400, "file"),
    ({"json": {"file": "x"}}, 400, "file"),
    ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, 400, "file"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, None),
    ({"files": {"other": ("a.txt", b"x")}}, 400, "file"),
    ({"files": {"file": (None, b"x")}}, 400, "file"),
    ({"files": {"file": ("a.txt", b"")}}, 400, "file"),
    ({"files": {"file": ("a" * 300, b"x")}}, 400, "file"),
    ({"files": [("file", ("a.txt", b"x")), ("file", ("b.txt", b"x"))]}, 400, "file"),
    ({"files": {"file": ("a.txt", b"x")}, "data": {"purpose": "p" * 300}}, 400, "purpose"),
    ({"files": {"file": ("a.txt", b"x")}, "data": {"user": "p" * 5000}}, 400, "user"),
    ({"files": {"file": ("a.txt", b"x"), "user": (None, b"\xff")}}, 400, "user"),
    ({"files": {"file": ("a.txt", bytes(1_100_000))}}, 413, None),
    ({"files": {f"f{n}": ("a.txt", b"x") for n in range(100)}}, 400, None),
]


@pytest.mark.parametrize(("form", "status", "param"), FORMS, ids=range(len(FORMS)))
async def test_what_is_no_form_of_a_file(serve: Serve, form: dict[str, Any], status: int, param: str | None) -> None:
    served = await serve(max_body_mb=1)
    answer = await served.http.post("/v1/files", **form)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert not served.told.lines("unexpected")


async def test_the_key_comes_first(serve: Serve) -> None:
    served = await serve(max_body_mb=1)
    answer = await send(served, bytes(1_100_000), headers={"authorization": f"Bearer {WRONG_KEY}"})
    assert answer.status_code == 401
    for path in ("/v1/files/file-1", "/v1/files/x"):
        assert (await served.http.get(path, headers={"authorization": ""})).status_code == 401


@asynccontextmanager
async def half_a_form(served: Served) -> AsyncIterator[asyncio.StreamReader]:
    """A request that stops in the middle of its body, for as long as the block lasts."""
    address = urlsplit(served.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {CLIENT_KEY}\r\nContent-Length: 1000\r\n"
    writer.write(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode())
    try:
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_client_that_leaves_in_the_middle(served: Served) -> None:
    async with half_a_form(served):
        await asyncio.sleep(0.1)
    await eventually(lambda: bool(served.told.lines("request")))
    assert not served.told.lines("unexpected")
    assert served.app.state.exchange.uploads.kept.waiting.taken == 0


async def test_a_slow_client_is_not_waited_for(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr("opendify.openai.bodies.BODY_SECONDS", 0.1)
    async with half_a_form(served) as reader:
        assert await reader.readline() == b"HTTP/1.1 408 Request Timeout\r\n"


async def test_nothing_of_it_is_in_the_log(served: Served) -> None:
    file_id = await sent(served, b"quiet words", "private-name.txt", user="ann-private")
    await served.ask(said(ahead(file_id)))
    await served.ask(said(ahead(file_id)), user="ann-private")
    await send(served, b"quiet words", "private-name.zip", model="Helper")
    await eventually(lambda: len(served.told.lines("request")) == 4)
    told = served.told.log() + "".join(served.told.errors)
    assert "private" not in told
    assert "quiet words" not in told


async def test_the_document_describes_files(served: Served) -> None:
    document = (await served.http.get("/schema/openapi.json")).json()
    create = document["paths"]["/v1/files"]["post"]
    form = create["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert {"file", "purpose", "model", "user"} == form["properties"].keys()
    assert create["responses"]["200"]
    assert document["paths"]["/v1/files/{file_id}"].keys() == {"get", "delete"}
    assert {"FileObject", "DeletedFile"} <= document["components"]["schemas"].keys()


async def test_browsers_may_delete(serve: Serve) -> None:
    served = await serve(cors_origins="https://chat.example.com")
    headers = {"origin": "https://chat.example.com", "access-control-request-method": "DELETE"}
    answer = await served.http.options("/v1/files/file-1", headers=headers)
    assert "DELETE" in answer.headers["access-control-allow-methods"]
