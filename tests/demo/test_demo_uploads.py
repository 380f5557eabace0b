"""Uploads, files in requests, audio."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from asking import Asking, inside, sample

from opendify.demo import call
from opendify.demo.uploads import MIB, parts

PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)


async def upload(asking: Asking, *file: Any, user: str = "u1") -> Any:
    """The answer to an upload."""
    return await asking.http.post("/v1/files/upload", files={"file": file}, data={"user": user})


@pytest.mark.parametrize("generation", ["1.16", "1.9"])
async def test_an_upload_is_kept_without_its_content(generation: str) -> None:
    async with inside("chat", generation=generation) as asking:
        answer = await upload(asking, "pic ü.png", PNG, "image/png")
        body = answer.json()
        assert answer.status_code == 201
        assert (body["name"], body["size"], body["extension"], body["mime_type"]) == (
            "pic ü.png",
            58,
            "png",
            "image/png",
        )
        assert ("source_url" in body) is (generation == "1.16")
        kept = asking.dify.uploads[body["id"]]
        assert (kept.user, kept.sha256) == ("u1", hashlib.sha256(PNG).hexdigest())
        assert asking.dify.requests[-1].body == {"user": "u1", "file": "pic ü.png"}


@pytest.mark.parametrize(
    ("name", "size", "status"),
    [("a.png", 10 * MIB, 201), ("a.png", 10 * MIB + 1, 413), ("a.txt", 15 * MIB + 1, 413), ("a.mp3", 16 * MIB, 201)],
)
async def test_size_limits_go_by_extension(name: str, size: int, status: int) -> None:
    async with inside("chat") as asking:
        assert (await upload(asking, name, bytes(size), "application/octet-stream")).status_code == status


async def test_the_proxy_has_a_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "MAX_BODY", 2 * MIB)
    async with inside("chat") as asking:
        answer = await asking.post("x" * 2 * MIB)
        assert (answer.status_code, answer.headers["content-type"]) == (413, "text/html")
        big = await asking.post("ECHO:a " + "x" * MIB)
        assert big.status_code == 200
        assert list(asking.dify.requests[-1].body) == ["omitted_bytes"]


BOUNDARY = "--b\r\nContent-Disposition: form-data; name="


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (f'{BOUNDARY}"file"; filename="a.txt"\r\n\r\nx\r\n--b--', 415, "unsupported_file_type"),
        (
            f'{BOUNDARY}"file"; filename=""\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--',
            400,
            "filename_not_exists_error",
        ),
        (f'{BOUNDARY}"file"\r\n\r\nx\r\n--b--', 400, "no_file_uploaded"),
        (f'{BOUNDARY}"file"; filename="a\\b"\r\nContent-Type: text/plain\r\n\r\nx\r\n--b--', 400, "invalid_param"),
        ("", 400, "no_file_uploaded"),
    ],
)
async def test_refused_uploads(body: str, status: int, code: str) -> None:
    async with inside("chat") as asking:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = await asking.http.post("/v1/files/upload", content=body.encode(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_only_one_file() -> None:
    async with inside("chat") as asking:
        two = [("file", ("a.txt", b"a", "text/plain")), ("file", ("b.txt", b"b", "text/plain"))]
        assert (await asking.http.post("/v1/files/upload", files=two)).json()["code"] == "too_many_files"


def test_file_names_come_in_two_spellings() -> None:
    body = (
        f'{BOUNDARY}"file"; filename="x"; filename*=UTF-8\'\'%E6%8A%A5.txt\r\nContent-Type: text/plain\r\n\r\na\r\n'
        f'{BOUNDARY}"file"; filename="say %22hi%22.txt"\r\nContent-Type: text/plain\r\n\r\nb\r\n--b--\r\n'
    )
    found = list(parts('multipart/form-data; boundary="b"', body.encode()))
    assert [(part.filename, part.data) for part in found] == [("报.txt", b"a"), ('say "hi".txt', b"b")]
    assert list(parts("text/plain", b"")) == []


async def test_long_names_are_cut() -> None:
    async with inside("chat") as asking:
        assert (await upload(asking, "n" * 300 + ".txt", b"", "text/plain")).json()["name"] == "n" * 200 + ".txt"
        assert (await upload(asking, "n" * 300, b"", "text/plain")).json()["name"] == "n" * 200


@pytest.mark.parametrize(("generation", "status"), [("1.16", 400), ("1.9", 200)])
async def test_files_of_others(generation: str, status: int) -> None:
    async with inside("chat", generation=generation) as asking:
        upload_id = (await upload(asking, "a.png", PNG, "image/png", user="u2")).json()["id"]
        file = {"type": "image", "transfer_method": "local_file", "upload_file_id": upload_id}
        assert (await asking.post("DESCRIBE", files=[file])).status_code == status


async def test_an_uploaded_file_reaches_the_model() -> None:
    async with inside("chat") as asking:
        upload_id = (await upload(asking, "a.png", PNG, "image/png")).json()["id"]
        file = {"type": "image", "transfer_method": "local_file", "upload_file_id": upload_id}
        told = await asking.run("DESCRIBE", files=[file])
        assert '"filename": "a.png"' in "".join(event.get("answer", "") for event in told)
        assert told[-1]["files"][0]["upload_file_id"] == upload_id
        refused = await asking.post("DESCRIBE", files=[file] * 4)
        assert refused.json()["message"] == "Number of image files exceeds the maximum limit 3"


async def test_apps_without_uploads_ignore_files() -> None:
    async with inside(replace(sample("chat"), upload_types=())) as asking:
        assert (await asking.run("ECHO:a", files=[{"type": "nonsense"}]))[-1]["files"] == []


async def test_newer_servers_overlook_incomplete_files() -> None:
    async with inside("chat") as asking:
        for file in ({"type": "image"}, {"type": "image", "transfer_method": "remote_url"}):
            assert (await asking.run("ECHO:a", files=[file]))[-1]["files"] == []


async def test_workflow_files() -> None:
    async with inside("workflow") as asking:
        one = {"type": "image", "transfer_method": "remote_url", "url": "http://x.example/a.png"}
        inputs = {"text": "ECHO:a", "file": one, "files": [one, one]}
        told = await asking.run("", inputs=inputs)
        started = next(event for event in told if event["event"] == "workflow_started")["data"]["inputs"]
        assert started["file"]["dify_model_identity"] == "__dify__file__"
        assert [file["url"] for file in started["files"]] == [one["url"]] * 2
        refused = await asking.run("", inputs={"text": "a", "files": one})
        assert refused[-1]["data"]["error"] == "files in input form must be a list of files"
        lying = {**one, "type": "audio"}
        told = await asking.run("", inputs={"text": "a", "files": [lying]})
        assert "does not match the specified type" in told[-1]["data"]["error"]


async def test_audio() -> None:
    async with inside("chat") as asking:
        answer = await asking.http.post("/v1/audio-to-text", files={"file": ("a.wav", b"abc", "audio/wav")})
        assert answer.json() == {"text": "A demo transcript of 3 bytes."}
        big = await asking.http.post("/v1/audio-to-text", files={"file": ("a.wav", bytes(31 * MIB), "audio/wav")})
        assert (big.status_code, big.json()["code"]) == (413, "audio_too_large")
        spoken = await asking.http.post("/v1/text-to-audio", json={"text": "hi", "user": "u1"})
        assert (spoken.headers["content-type"], spoken.content[:4]) == ("audio/mpeg", b"RIFF")


async def test_previews_are_not_kept() -> None:
    async with inside("chat") as asking:
        assert (await asking.http.get("/v1/files/x/preview")).json()["code"] == "file_not_found"
