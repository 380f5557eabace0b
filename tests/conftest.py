"""What several tests need: a stand-in Dify and OpenDify in front of it, both on real ports."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import httpx
import pytest
import structlog
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from opendify.app import OpenDify, create_app
from opendify.demo.apps import CODE_WORD, SAMPLE_APPS, SampleApp
from opendify.demo.serve import running
from opendify.demo.server import StandIn
from opendify.settings import only

CLIENT_KEY = "sk-client-0123456789abcdef"
WRONG_KEY = "sk-wrong-0123456789abcdef"
LIMITED_KEY = "sk-limited-0123456789abcdef"
WRONG_APP_KEY = "app-wrong-0123456789abcdef"
STRICT_APP_KEY = "app-strict-0123456789abcdef"
# What no log line and no error may hold: keys, an app's prompt, the words that messages of these tests begin with.
SECRETS = (
    *(CLIENT_KEY, WRONG_KEY, LIMITED_KEY, WRONG_APP_KEY, STRICT_APP_KEY, *(app.key for app in SAMPLE_APPS)),
    *(CODE_WORD, "ECHO:", "SLOW ", "LONG ", "HANG "),
)
MODELS: dict[str, str] = {app.mode: app.name for app in SAMPLE_APPS}


class Told:
    """Everything that was told to the world beside answers: the log, and the bodies of errors."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._log = ""
        self.errors: list[str] = []

    def log(self) -> str:
        """The log so far."""
        out, err = self._capsys.readouterr()
        self._log += out + err
        return self._log

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def note(self, response: Any) -> None:
        """Keep the body of an error."""
        if response.is_error:
            await response.aread()
            self.errors.append(response.text)

    def note_frames(self, chunks: list[dict[str, Any]]) -> None:
        """Keep the error frames of a stream."""
        self.errors += [json.dumps(chunk) for chunk in chunks if "error" in chunk]

    def check(self) -> None:
        """No key, no prompt of an app and no text of a message is among it."""
        for text in (self.log(), *self.errors):
            assert not [secret for secret in SECRETS if secret in text]


class Served:
    """A running OpenDify: the stand-in behind it, and clients that talk to it."""

    def __init__(self, app: OpenDify, url: str, dify: StandIn, dify_url: str, told: Told) -> None:
        self.app = app
        self.told = told
        self.url = url
        self.dify = dify
        self.dify_url = dify_url
        self.openai = AsyncOpenAI(
            base_url=f"{url}/v1",
            api_key=CLIENT_KEY,
            max_retries=0,
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [told.note]}),
        )
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {CLIENT_KEY}"},
            timeout=20,
            event_hooks={"response": [told.note]},
        )

    def runs(self) -> list[Any]:
        """The runs that reached Dify, newest last."""
        ends = ("/chat-messages", "/completion-messages", "/workflows/run")
        return [request for request in self.dify.requests if request.path.endswith(ends)]

    @property
    def last_run(self) -> dict[str, Any]:
        """The body of the newest run."""
        body: dict[str, Any] = self.runs()[-1].body
        return body

    async def ask(self, content: str | list[dict[str, Any]], model: str = "Helper", **more: Any) -> httpx.Response:
        """One plain request with one user message."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return await self.http.post("/v1/chat/completions", json=body)

    async def stream(self, content: str, model: str = "Helper", **more: Any) -> list[dict[str, Any]]:
        """The JSON of each frame of a streamed answer; `[DONE]` is the last item as {"done": True}."""
        response = await self.ask(content, model, stream=True, **more)
        assert response.status_code == 200, response.text
        chunks = frames(response.text)
        self.told.note_frames(chunks)
        return chunks


def frames(text: str) -> list[dict[str, Any]]:
    """The frames of an event stream, comments left out."""
    data = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    return [{"done": True} if item == "[DONE]" else json.loads(item) for item in data]


def text_of(chunks: list[dict[str, Any]]) -> str:
    """The text that the chunks add up to."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


def finish_of(chunks: list[dict[str, Any]]) -> list[str]:
    """The finish reasons told."""
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk.get("choices", ())]
    return [reason for reason in reasons if reason is not None]


async def eventually(condition: Callable[[], bool], seconds: float = 6.0) -> None:
    """Wait until the condition holds; fail if it does not within a generous time."""
    until = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < until, "never came true"
        await asyncio.sleep(0.01)


Serve: TypeAlias = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Serve]:
    """What starts OpenDify on a stand-in with any apps and settings, for example with timeout=1."""
    told = Told(capsys)
    async with AsyncExitStack() as stack:

        async def start(
            apps: tuple[SampleApp, ...] = SAMPLE_APPS,
            dify: dict[str, Any] | None = None,
            table: tuple[dict[str, Any], ...] = (),
            **settings: Any,
        ) -> Served:
            stand_in = StandIn(apps, **(dify or {}))
            dify_url = await stack.enter_async_context(running(stand_in))
            values = {
                "valid_api_keys": f"tester:{CLIENT_KEY}",
                "dify_api_keys": ",".join(app.key for app in apps),
                "dify_api_base": dify_url,
                "log_level": "debug",
                "log_format": "json",
                "drain_seconds": 0,
                "apps": table,
            }
            app = create_app(only(**(values | settings)))
            url = await stack.enter_async_context(running(app))
            served = Served(app, url, stand_in, dify_url, told)
            stack.push_async_callback(served.http.aclose)
            stack.push_async_callback(served.openai.close)
            return served

        yield start
    told.check()


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Logging is one per process: what a test configured ends with it."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def short_goodbyes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for any more is given up sooner, for the tests that wait until it is."""
    for room in ("run", "ending", "attempts", "exchange"):
        monkeypatch.setattr(f"opendify.{room}.LEAVE_SECONDS", 0.5)


@pytest.fixture
async def served(serve: Serve) -> Served:
    """OpenDify with its defaults in front of the six sample apps."""
    return await serve()


def png(color: int = 0) -> bytes:
    """A real picture of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((0, color, color, color)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def data_url(data: bytes, mime_type: str = "image/png") -> str:
    """The data: URL of some bytes."""
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
