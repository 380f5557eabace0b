"""Ways to ask a stand-in: inside the process, or over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from opendify.demo import SAMPLE_APPS, SampleApp, StandIn
from opendify.demo.serve import running

RECORDED = Path(__file__).parent / "recorded"
RUN_PATHS = {"completion": "/v1/completion-messages", "workflow": "/v1/workflows/run"}
TEXT_INPUTS = {"completion": "query", "workflow": "text"}


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream; a ping is an event without keys."""
    blocks = [block for block in text.split("\n\n") if block]
    return [
        {"event": "ping"} if block == "event: ping" else json.loads(block.removeprefix("data: ")) for block in blocks
    ]


def said(told: list[dict[str, Any]]) -> str:
    """The text that a stream's deltas make."""
    chunks = [event["data"]["text"] for event in told if event["event"] == "text_chunk"]
    return "".join([event["answer"] for event in told if event["event"] in {"message", "agent_message"}] + chunks)


@dataclass
class Asking:
    """A client of one app of a stand-in."""

    dify: StandIn
    app: SampleApp
    http: httpx.AsyncClient

    def request(self, query: str, **body: Any) -> tuple[str, dict[str, Any]]:
        """Path and body of a run of `query`."""
        name = TEXT_INPUTS.get(self.app.mode)
        asked = {"inputs": {name: query}} if name else {"inputs": {}, "query": query}
        return self.run_path, {"response_mode": "streaming", "user": "u1"} | asked | body

    @property
    def run_path(self) -> str:
        """Where runs of this app start."""
        return RUN_PATHS.get(self.app.mode, "/v1/chat-messages")

    @property
    def stop_path(self) -> str:
        """Where its runs are stopped; wants a task id."""
        return {"workflow": "/v1/workflows/tasks/{}/stop"}.get(self.app.mode, self.run_path + "/{}/stop")

    async def run(self, query: str, **body: Any) -> list[dict[str, Any]]:
        """The events of a whole run."""
        answer = await self.post(query, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return events(answer.text)

    async def post(self, query: str, **body: Any) -> httpx.Response:
        """The answer to a run."""
        path, asked = self.request(query, **body)
        return await self.http.post(path, json=asked)

    async def blocking(self, query: str, **body: Any) -> Any:
        """The JSON answer of a blocking run."""
        return (await self.post(query, response_mode="blocking", **body)).json()


def sample(mode: str) -> SampleApp:
    """The sample app of a mode."""
    return next(app for app in SAMPLE_APPS if app.mode == mode)


def client(app: SampleApp, base: str, **options: Any) -> httpx.AsyncClient:
    """A client with the app's key."""
    return httpx.AsyncClient(base_url=base, headers={"authorization": f"Bearer {app.key}"}, timeout=5, **options)


def standin(app: SampleApp | str, **options: Any) -> tuple[StandIn, SampleApp]:
    """A stand-in with one app, which a mode may name."""
    wanted = sample(app) if isinstance(app, str) else app
    return StandIn([wanted], **options), wanted


@asynccontextmanager
async def inside(app: SampleApp | str, **options: Any) -> AsyncIterator[Asking]:
    """A client of an app inside the process; streams arrive whole."""
    dify, wanted = standin(app, **options)
    async with client(wanted, "http://dify.test", transport=httpx.ASGITransport(dify)) as http:
        yield Asking(dify, wanted, http)


@asynccontextmanager
async def on_port(app: SampleApp | str, **options: Any) -> AsyncIterator[Asking]:
    """A client of an app on a real port."""
    dify, wanted = standin(app, **options)
    async with running(dify) as base, client(wanted, base, verify=False) as http:  # saves loading certificates
        yield Asking(dify, wanted, http)


@asynccontextmanager
async def begun(asking: Asking, query: str, **body: Any) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
    """A run whose answer has begun."""
    path, asked = asking.request(query, **body)
    async with asking.http.stream("POST", path, json=asked) as answer:
        yield answer, answer.aiter_text()


async def until(asking: Asking, reached: Callable[[], object]) -> None:
    """Ask the stand-in for its health until something has happened in it."""
    async with asyncio.timeout(3):
        while not reached():
            await asking.http.get("/health")


async def stopped_after(asking: Asking, mark: str, query: str) -> list[dict[str, Any]]:
    """The events of a run that is stopped when `mark` has been said."""
    path, body = asking.request(query)
    text = ""
    async with asking.http.stream("POST", path, json=body) as answer:
        async for piece in answer.aiter_text():
            if mark in piece:
                task_id = events(piece)[-1]["task_id"]
                stop = await asking.http.post(asking.stop_path.format(task_id), json={"user": "u1"})
                assert stop.json() == {"result": "success"}
            text += piece
    return events(text)
