"""An exchange with a gateway whose every word is scripted, and a catalogue of one app."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import SecretStr

from opendify.dify.apps import Access, App
from opendify.dify.lines import Reply
from opendify.entries import AppConfig, Mode
from opendify.errors import Refused
from opendify.exchange import Exchange
from opendify.limits import Limits
from opendify.memory import Memory
from opendify.store import Store
from opendify.uploads import Uploads
from opendify.users import Users

ENVELOPE = {"task_id": "task-1", "message_id": "m-1", "conversation_id": "c-1"}
Step = bytes | float | Exception


def frame(event: str, **fields: Any) -> bytes:
    """One event as Dify sends it."""
    return f"data: {json.dumps({'event': event, **ENVELOPE, **fields})}\n\n".encode()


SAY = frame("message", answer="Hello")
END = frame("message_end", metadata={})
FLOW_OVER = frame("workflow_finished", data={"status": "succeeded", "total_tokens": 7})


class Spoken(Reply):
    """The stream of a run, made of these bytes."""

    at_end = False

    def __init__(self, data: AsyncGenerator[bytes, None]) -> None:
        self.status = 200
        self._data = data

    def header(self, name: str) -> str:
        return ""

    async def __anext__(self) -> bytes:
        return await anext(self._data)

    async def aclose(self) -> None:
        await self._data.aclose()


class Script:
    """A gateway that sends these bytes, waits these seconds, raises these errors."""

    def __init__(self, *steps: Step, stopping: Exception | None = None) -> None:
        self.steps = steps
        self.stopping = stopping
        self.stops: list[tuple[str, str]] = []
        self.closed = 0

    @asynccontextmanager
    async def run(self, access: Access, path: str, body: bytes, **_: Any) -> AsyncIterator[Spoken]:
        if self.steps and isinstance(self.steps[0], Refused):
            raise self.steps[0]
        try:
            yield Spoken(self._stream())
        finally:
            self.closed += 1

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        for step in self.steps:
            match step:
                case bytes():
                    await asyncio.sleep(0)
                    yield step
                case float():
                    await asyncio.sleep(step)
                case Exception():
                    raise step

    async def stop(self, app: App, task_id: str, user: str) -> None:
        self.stops.append((task_id, user))
        if self.stopping:
            raise self.stopping


class OneApp:
    """A catalogue of one app."""

    def __init__(self, mode: Mode) -> None:
        config = AppConfig(key=SecretStr("app-x"), base="http://dify/v1", conversations="auto")
        access = Access("http://dify/v1", "app-x")
        self.app = App(
            access=access,
            name="App",
            mode=mode,
            inputs=(),
            files=None,
            size_limits={},
            moderated=False,
            config=config,
        )
        self.changes = 0

    async def find(self, model: str, allowed: Any) -> App:
        return self.app

    async def changed(self, app: App) -> None:
        self.changes += 1


def exchange_of(gateway: Script, catalog: OneApp, limits: Limits | None = None) -> Exchange:
    """An exchange over that gateway, with a store of its own."""
    store = Store("mem://")
    return Exchange(
        gateway,  # type: ignore[arg-type]
        catalog,  # type: ignore[arg-type]
        Memory(store, gateway),  # type: ignore[arg-type]
        Uploads(gateway, store),  # type: ignore[arg-type]
        Users(),
        limits or Limits(),
    )
