"""What stands around the answers: models, documents, probes, CORS, the pieces a deployment relies on."""

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from conftest import CLIENT_KEY, LIMITED_KEY, MODELS, Serve, Served, eventually
from rich.console import Console

from opendify.app import create_app
from opendify.check import check_apps
from opendify.demo.apps import SAMPLE_APPS
from opendify.demo.serve import running
from opendify.settings import only


async def test_models(served: Served) -> None:
    models = [model async for model in served.openai.models.list()]
    again = [model async for model in served.openai.models.list()]
    assert [model.id for model in models] == [app.name for app in SAMPLE_APPS]
    assert {(model.object, model.owned_by) for model in models} == {("model", "dify")}
    assert models == again


@pytest.mark.parametrize("name", ["Support Flow", "support flow", "文档处理"])
async def test_one_model(served: Served, name: str) -> None:
    assert (await served.openai.models.retrieve(name)).id.casefold() == name.casefold()
    assert (await served.http.get("/v1/models/no such")).json()["error"]["code"] == "model_not_found"


async def test_names_with_slashes(serve: Serve) -> None:
    served = await serve(dify_api_keys="team/help:v2=app-demo-chat")
    assert (await served.openai.models.retrieve("team/help:v2")).id == "team/help:v2"
    assert (await served.ask("ECHO:hi", "team/help:v2")).status_code == 200


async def test_default_model(serve: Serve) -> None:
    served = await serve(default_model="Helper")
    answer = (await served.ask("ECHO:from the default", "gpt-4o")).json()
    assert answer["choices"][0]["message"]["content"] == "from the default"
    assert answer["model"] == "gpt-4o"
    assert (await served.http.get("/v1/models/gpt-4o")).status_code == 404


async def test_keys_for_some_models(serve: Serve) -> None:
    keys = ({"name": "limited", "key": LIMITED_KEY, "models": ["Writer"]},)
    served = await serve(keys=keys)
    client = served.openai.with_options(api_key=LIMITED_KEY)
    assert [model.id async for model in client.models.list()] == ["Writer"]
    hidden = await served.http.get("/v1/models/Helper", headers={"authorization": f"Bearer {LIMITED_KEY}"})
    assert hidden.status_code == 404


async def test_apps_of_the_file(serve: Serve) -> None:
    """Two Difys at once, each app with what the file says about it."""
    here = await serve()
    there = await serve()
    apps = (
        {
            "key": "app-demo-workflow",
            "name": "chosen",
            "base": here.dify_url,
            "output": "answer",
            "aliases": ["gpt-4o"],
        },
        {"key": "app-demo-writer", "base": there.dify_url, "inputs": {"tone": "formal"}},
        {"key": "app-demo-chatflow", "base": there.dify_url, "max_run_seconds": 0.4},
    )
    served = await serve(apps=(), dify_api_keys="", dify_api_base="", table=apps)
    assert (await served.ask("ECHO:by an alias", "gpt-4o")).json()["choices"][0]["message"]["content"] == "by an alias"
    assert here.runs()[-1].path == "/v1/workflows/run"
    await served.ask("ECHO:x", "Writer")
    assert there.last_run["inputs"] == {"query": "ECHO:x", "tone": "formal"}
    slow = await served.ask("SLOW 100 50", "Support Flow")
    assert (slow.status_code, slow.json()["error"]["code"]) == (504, "upstream_timeout")


async def test_any_origin_is_never_one_with_credentials(serve: Serve) -> None:
    served = await serve(cors_origins="*")
    answer = await served.http.get("/v1/models", headers={"origin": "https://anywhere.example"})
    assert answer.headers["access-control-allow-origin"] in {"*", "https://anywhere.example"}
    assert "access-control-allow-credentials" not in answer.headers


async def test_without_keys(serve: Serve) -> None:
    served = await serve(auth="off", valid_api_keys="")
    assert (await served.http.get("/v1/models", headers={"authorization": ""})).status_code == 200


async def test_the_document_describes_the_routes(served: Served) -> None:
    document = (await served.http.get("/schema/openapi.json")).json()
    chat = document["paths"]["/v1/chat/completions"]["post"]
    reference = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert "messages" in document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    assert {"/v1/models", "/v1/models/{model}", "/healthz", "/readyz"} < set(document["paths"])
    page = (await served.http.get("/schema")).text
    assert "/v1/chat/completions" in page
    assert "<script" not in page
    assert "https://" not in page


async def test_cors_is_off_unless_set(serve: Serve) -> None:
    origin = {"origin": "https://chat.example.com"}
    closed = await (await serve()).http.get("/v1/models", headers=origin)
    assert "access-control-allow-origin" not in closed.headers
    open_to = await serve(cors_origins="https://chat.example.com")
    allowed = await open_to.http.get("/v1/models", headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example.com"
    assert "access-control-allow-credentials" not in allowed.headers


async def test_a_stream_carries_what_every_response_does(serve: Serve) -> None:
    served = await serve(cors_origins="https://chat.example.com")
    body = {"model": "Helper", "messages": [{"role": "user", "content": "ECHO:hi"}], "stream": True}
    for stream in (True, False):
        asked = {"origin": "https://chat.example.com", "x-request-id": f"mine-{stream}"}
        answer = await served.http.post("/v1/chat/completions", json=body | {"stream": stream}, headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example.com"
        assert answer.headers["x-request-id"] == f"mine-{stream}"
        assert answer.headers["x-dify-conversation-id"]
        assert answer.headers["content-type"].startswith("text/event-stream" if stream else "application/json")


def ears() -> int:
    """How many requests are listened to."""
    return sum("._listen" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_no_ear_is_left(served: Served) -> None:
    for stream in (True, False):
        for text in ("ECHO:hi", "ERROR_START x"):
            await served.ask(text, stream=stream)
            await eventually(lambda: ears() == 0, seconds=1)


async def test_an_ear_that_hears_nothing_gives_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers do not say that a request is over once it has its answer."""
    monkeypatch.setattr("opendify.openai.delivery.AFTER_SECONDS", 0.2)
    body = msgspec.json.encode({"model": "Helper", "messages": [{"role": "user", "content": "ECHO:hi"}]})
    come, sent = [{"type": "http.request", "body": body, "more_body": False}], []
    headers = [(b"host", b"x"), (b"authorization", f"Bearer {CLIENT_KEY}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "scheme": "http", "headers": headers}

    async def receive() -> Any:
        return come.pop() if come else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await served.app(scope | {"query_string": b""}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert ears() == 1
    await eventually(lambda: ears() == 0, seconds=1)


async def test_what_the_start_has_made_is_no_matter_of_the_garbage_collector(served: Served) -> None:
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000


async def test_what_an_ended_server_has_made_is(unused_tcp_port: int) -> None:
    async with running(
        create_app(only(auth="off", dify_api_keys="app-x", dify_api_base=f"http://127.0.0.1:{unused_tcp_port}"))
    ):
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


async def test_request_ids(served: Served) -> None:
    for given, kept in (("abc-123", True), ("x" * 200, False), ("a b", False)):
        answer = await served.http.get("/healthz", headers={"x-request-id": given})
        assert (answer.headers["x-request-id"] == given) == kept
        assert answer.headers["x-request-id"]


async def test_one_line_a_request(served: Served) -> None:
    await served.ask("ECHO:one two", MODELS["workflow"], stream=True)
    await eventually(lambda: bool(served.told.lines("request")))
    [line] = served.told.lines("request")
    expected = {"status": 200, "key": "tester", "model": "文档处理", "mode": "workflow", "finish": "stop"}
    assert expected.items() <= line.items()
    assert line["completion_tokens"] == 2
    assert line["first_token_seconds"] <= line["seconds"]


def test_the_check_command(tmp_path: Path) -> None:
    env = {"VALID_API_KEYS": "x", "DIFY_API_KEYS": "named=app-not-there-1", "DIFY_API_BASE": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-m", "opendify", "check"],
        cwd=tmp_path, env=os.environ | env | {"COLUMNS": "200"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "named" in run.stdout
    assert "upstream_unreachable" in run.stdout
    assert "app-not-there-1" not in run.stdout


async def test_the_check_table(served: Served) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    keys = ",".join(app.key for app in SAMPLE_APPS)
    settings = only(valid_api_keys="k", dify_api_keys=keys, dify_api_base=served.dify_url)
    assert await check_apps(settings, console) == 0
    table = console.export_text()
    for app in SAMPLE_APPS:
        assert app.name in table
        assert app.mode in table
    assert "text: paragraph (required)" in table
    assert "up to 3 of audio, document, image" in table


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_wrong_setting_is_one_sentence(tmp_path: Path, command: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DIFY", "VALID"))}
    run = subprocess.run(
        [sys.executable, "-m", "opendify", command],
        cwd=tmp_path, env=clean | {"TIMEOUT": "soon"}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.startswith("opendify: TIMEOUT is wrong: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["-m", "opendify", "demo", "--port"], ["-m", "litestar", "run", "--port"]])
async def test_the_commands_serve(tmp_path: Path, unused_tcp_port: int, command: list[str], served: Served) -> None:
    settings = f"VALID_API_KEYS=sk-demo\nDIFY_API_KEYS=app-demo-chat\nDIFY_API_BASE={served.dify_url}\n"
    (tmp_path / ".env").write_text(settings)
    env = os.environ | {"LITESTAR_APP": "opendify.app:create_app"}
    process = subprocess.Popen(  # noqa: ASYNC220 (only started here)
        [sys.executable, *command, str(unused_tcp_port)], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    )
    base = f"http://127.0.0.1:{unused_tcp_port}"
    try:
        await _answers(served, f"{base}/healthz")
        client = served.openai.with_options(base_url=f"{base}/v1", api_key="sk-demo")
        answer = await client.chat.completions.create(
            model="Helper", messages=[{"role": "user", "content": "ECHO:it works"}]
        )
        assert answer.choices[0].message.content == "it works"
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    if "demo" in command:
        assert f"{base}/v1" in out.decode()
        assert "curl -N" in out.decode()
    assert CLIENT_KEY not in out.decode()


async def _answers(served: Served, url: str) -> None:
    for _ in range(400):
        try:
            await served.http.get(url)
        except httpx.TransportError:
            await asyncio.sleep(0.05)
        else:
            return
    raise AssertionError(f"{url} never answered")
