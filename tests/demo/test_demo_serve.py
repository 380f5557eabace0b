"""Serving an ASGI application on a port inside the test's event loop."""

import asyncio
from typing import Any

import httpx
import pytest
from asking import client, sample

from opendify.demo import StandIn
from opendify.demo.serve import running


async def test_open_streams_do_not_hold_the_end_up() -> None:
    async with asyncio.timeout(5):
        async with running(StandIn()) as base:
            http = client(sample("chat"), base)
            body = {"inputs": {}, "query": "SLOW 2 60000", "user": "u1", "response_mode": "streaming"}
            answer = await http.send(http.build_request("POST", "/v1/chat-messages", json=body), stream=True)
            pieces = answer.aiter_text()
            await anext(pieces)
            assert (await http.get("/v1/info")).status_code == 200  # leaves an idle connection
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
        await http.aclose()


async def test_the_lifespan_runs_to_its_end() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for _ in range(2):
            message = await receive()
            seen.append(message["type"])
            await send({"type": message["type"] + ".complete"})

    async with running(app):
        assert seen == ["lifespan.startup"]
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


async def test_an_application_that_does_not_start() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError

    with pytest.raises(RuntimeError, match="did not start"):
        async with running(app):
            raise AssertionError


async def test_a_taken_port() -> None:
    async with running(StandIn()) as base:
        port = int(base.rpartition(":")[2])
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with running(StandIn(), port=port):
                raise AssertionError


async def test_a_client_that_leaves_while_it_sends() -> None:
    async with running(StandIn()) as base:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        writer.write(b"POST /v1/chat-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await reader.read() == b""
        async with client(sample("chat"), base) as http:
            assert (await http.get("/v1/info")).status_code == 200
