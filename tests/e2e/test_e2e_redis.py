"""A real Redis, shared by real server processes, killed and started again in the middle.

It comes from Debian's packages; without it these tests are skipped, unless REQUIRE_REDIS is set as `.ci/run` does.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import redis.asyncio as redis
from conftest import CLIENT_KEY, SECRETS

from opendify.demo.apps import SAMPLE_APPS
from opendify.demo.serve import running
from opendify.demo.server import StandIn

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("redis-server") or os.environ.get("REQUIRE_REDIS")),
        reason="needs redis-server (Debian: apt install redis-server)",
    ),
    pytest.mark.xdist_group("redis"),
]
STARTING_SECONDS = 30


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


async def listening(port: int) -> None:
    """Wait until something listens there."""
    async with asyncio.timeout(STARTING_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return


class Redis:
    """A Redis of its own, without persistence: what was in it is lost with it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            cwd=self._place,
            stdout=asyncio.subprocess.DEVNULL,
        )
        await listening(self.port)

    async def kill(self) -> None:
        if self._process:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def content(self) -> dict[str, Any]:
        """Every entry."""
        async with redis.Redis.from_url(self.url, decode_responses=True) as client:
            keys = [str(key) for key in await client.keys()]
            return {key: json.loads(str(await client.get(key))) for key in keys}


class Server:
    """An `opendify serve` in a process of its own, and a client of it."""

    def __init__(self, place: Path, dify_url: str, cache_url: str, *arguments: str) -> None:
        self.port = free_port()
        self._log = place / f"{self.port}.log"
        self._place = place
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self._environment = {
            "PATH": os.environ["PATH"],
            "VALID_API_KEYS": f"tester:{CLIENT_KEY}",
            "DIFY_API_KEYS": ",".join(app.key for app in SAMPLE_APPS),
            "DIFY_API_BASE": dify_url,
            "CACHE_URL": cache_url,
            "LOG_FORMAT": "json",
        }
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {CLIENT_KEY}"}, timeout=30
        )

    async def __aenter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "opendify", "serve", "--port", str(self.port), *self._arguments),
                cwd=self._place,
                env=self._environment,
                stderr=log,
                stdout=log,
            )
        await listening(self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        if self._process:
            self._process.terminate()
            await self._process.wait()
        assert not [secret for secret in SECRETS if secret in self._log.read_text()]

    async def say(self, messages: list[dict[str, str]], text: str) -> None:
        """One turn, kept in the history."""
        messages.append({"role": "user", "content": text})
        body = {"model": "Helper", "messages": messages}
        answer = await self.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"]})

    def told(self, event: str) -> int:
        """How often the log has that event."""
        return self._log.read_text().count(f'"event":"{event}"')


@asynccontextmanager
async def dify() -> AsyncIterator[tuple[StandIn, str]]:
    stand_in = StandIn(SAMPLE_APPS)
    async with running(stand_in) as url:
        yield stand_in, url


def queries(stand_in: StandIn) -> list[str]:
    return [run.body["query"] for run in stand_in.requests if run.path.endswith("/chat-messages")]


async def test_two_servers_and_a_redis_that_dies(tmp_path: Path) -> None:
    shared = Redis(tmp_path)
    messages: list[dict[str, str]] = []
    async with AsyncExitStack() as stack:
        stand_in, url = await stack.enter_async_context(dify())
        stack.push_async_callback(shared.kill)
        await shared.start()
        servers = [await stack.enter_async_context(Server(tmp_path, url, shared.url)) for _ in range(2)]

        for number in range(4):
            await servers[number % 2].say(messages, f"ECHO:{number}")
        assert queries(stand_in) == [f"ECHO:{number}" for number in range(4)]
        assert len(stand_in.conversations) == 1
        await self_check(shared)

        await shared.kill()
        for number in range(4, 8):
            await servers[number % 2].say(messages, f"ECHO:{number}")
        assert all("## Assistant\n3" in query for query in queries(stand_in)[4:])
        assert [server.told("store_unreachable") for server in servers] == [1, 1]

        await shared.start()
        await asyncio.sleep(2.1)  # a store that did not answer is left alone for that long
        for number in range(8, 11):
            await servers[number % 2].say(messages, f"ECHO:{number}")
        assert "## Assistant\n7" in queries(stand_in)[8]
        assert queries(stand_in)[9:] == ["ECHO:9", "ECHO:10"]
        assert [server.told("store_back") for server in servers] == [1, 1]
        assert [message["content"] for message in messages[1::2]] == [str(number) for number in range(11)]


async def self_check(shared: Redis) -> None:
    """Ids and digests, no text and no keys; each with its end."""
    content = await shared.content()
    assert sorted(key.split(":")[1] for key in content) == ["conversation", "state"]
    told = json.dumps(content)
    assert not [word for word in (*SECRETS, "tester", "Helper", "ECHO") if word in told]
    async with redis.Redis.from_url(shared.url) as client:
        assert all([0 < await client.ttl(key) <= 30 * 24 * 3600 for key in content])


async def test_several_workers_of_one_server(tmp_path: Path) -> None:
    shared = Redis(tmp_path)
    messages: list[dict[str, str]] = []
    async with AsyncExitStack() as stack:
        stand_in, url = await stack.enter_async_context(dify())
        stack.push_async_callback(shared.kill)
        await shared.start()
        server = await stack.enter_async_context(Server(tmp_path, url, shared.url, "--workers", "2"))
        for number in range(4):
            await server.say(messages, f"ECHO:{number}")
            await server.client.aclose()  # the next turn comes on another connection, to either worker
            server.client = httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{server.port}",
                headers={"authorization": f"Bearer {CLIENT_KEY}"},
                timeout=30,
            )
        assert len(stand_in.conversations) == 1


async def test_a_redis_that_was_never_there(tmp_path: Path) -> None:
    messages: list[dict[str, str]] = []
    async with AsyncExitStack() as stack:
        stand_in, url = await stack.enter_async_context(dify())
        server = await stack.enter_async_context(Server(tmp_path, url, f"redis://127.0.0.1:{free_port()}/0"))
        for number in range(3):
            await server.say(messages, f"ECHO:{number}")
        assert "## Assistant\n1" in queries(stand_in)[2]
        assert server.told("store_unreachable") == 1
