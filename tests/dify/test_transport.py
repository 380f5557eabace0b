"""Which client speaks to which Dify, and what comes of it, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import aiohttp
import httpx
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from app_samples import make_app
from conftest import eventually
from hypercorn.asyncio import serve
from hypercorn.config import Config
from msgspec.structs import replace

from opendify.dify import over_aiohttp, transport
from opendify.dify.apps import Access
from opendify.dify.files import Upload
from opendify.dify.gateway import PIECE_BYTES, Gateway
from opendify.dify.lines import Line, Reply, Request, note_reuse, was_reused
from opendify.dify.over_aiohttp import AiohttpLine
from opendify.dify.over_httpx import HttpxLine
from opendify.dify.transport import Wire, connect, never_sent
from opendify.errors import BrokenUpstream, Refused, Unreachable

OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """A server of plain sockets. `answer` gets the requests of one connection by number and returns its bytes."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()
        self.url = ""
        self.handlers: dict[asyncio.Task[Any] | None, asyncio.StreamWriter] = {}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.handlers[asyncio.current_task()] = writer
        number = 0
        try:
            while head := await _request(reader):
                number += 1
                self.requests.append(head)
                if (answer := self.answer(number)) is None:
                    break
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            writer.close()

    async def close(self) -> None:
        """Close every connection."""
        for writer in self.handlers.values():
            writer.close()
        while running := [task for task in self.handlers if task and not task.done()]:
            await asyncio.wait(running)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """One whole request; nothing at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(lengths[0][15:]) if lengths else 0)


@asynccontextmanager
async def listening(answer: Callable[[int], bytes | None]) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    async with listener:
        yield server
        await server.close()


def free_url() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


Connect: TypeAlias = Callable[..., Wire]


@pytest.fixture
async def wired() -> AsyncIterator[Connect]:
    """Wires that are closed at the end."""
    async with AsyncExitStack() as stack:

        def wire(base: str, *, http2: bool = False, connect_timeout: float = 5.0, ca_file: Path | None = None) -> Wire:
            made = connect(base, http2=http2, connect_timeout=connect_timeout, ca_file=ca_file)
            stack.push_async_callback(made.close)
            return made

        yield wire


@pytest.fixture(params=["aiohttp", "httpx"])
async def wire_to(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, wired: Connect) -> Connect:
    """Wires over either client, to plain addresses."""
    if request.param == "httpx":
        monkeypatch.setattr(transport, "_http1", transport._http2)
    return wired


def request(url: str, path: str = "/info", body: bytes | None = None) -> Request:
    return Request("GET" if body is None else "POST", url + path, {}, body)


async def ask(line: Line, url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """The status and the whole body of an answer."""
    note_reuse(False)
    async with aclosing(await line.ask(request(url, body=body))) as reply:
        return reply.status, b"".join([data async for data in reply])


# -- was it sent, and over what


async def test_nobody_listens(wire_to: Connect) -> None:
    url = free_url()
    wire = wire_to(url)
    for line in (wire.pooled, wire.fresh):
        with pytest.raises(transport.FAILURES) as caught:
            await ask(line, url)
        assert never_sent(caught.value)
        assert not was_reused()


async def test_a_connection_that_is_dropped_after_the_request(wire_to: Connect) -> None:
    async with listening(lambda number: None) as server:
        wire = wire_to(server.url)
        for line in (wire.pooled, wire.fresh):
            with pytest.raises(transport.FAILURES) as caught:
                await ask(line, server.url, b"{}")
            assert not never_sent(caught.value)
            assert not was_reused()
        assert server.connections == len(server.requests) == 2


async def test_a_second_request_goes_over_the_same_connection(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        seen = []
        for _ in range(3):
            assert await ask(wire.pooled, server.url) == (200, b"{}")
            seen.append(was_reused())
        assert seen == [False, True, True]
        assert server.connections == 1


async def test_a_fresh_line_opens_a_connection_each_time(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled, server.url)
        for _ in range(3):
            await ask(wire.fresh, server.url)
            assert not was_reused()
        assert server.connections == 4


async def test_a_used_connection_that_is_dropped(wire_to: Connect) -> None:
    async with listening(lambda number: OK if number == 1 else None) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled, server.url, b"{}")
        with pytest.raises(transport.FAILURES) as caught:
            await ask(wire.pooled, server.url, b"{}")
        assert was_reused()
        assert not never_sent(caught.value)
        assert server.connections == 1


async def test_reuse_is_noted_for_each_task_apart(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled, server.url)

        async def reused(line: Line) -> bool:
            await ask(line, server.url)
            return was_reused()

        assert await asyncio.gather(reused(wire.pooled), reused(wire.fresh)) == [True, False]  # type: ignore[comparison-overlap]
        note_reuse(False)
        assert not was_reused()


KEY = ConnectionKey("dify", 80, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("no"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("no"), False),
        (httpx.WriteError("no"), False),
        (httpx.ReadTimeout("no"), False),
        (httpx.RemoteProtocolError("no"), False),
        (aiohttp.ServerDisconnectedError(), False),
        (aiohttp.ClientOSError(), False),
        (aiohttp.ServerTimeoutError(), False),
        (aiohttp.ConnectionTimeoutError(), True),
        (aiohttp.ClientConnectorError(KEY, OSError()), True),
        (aiohttp.ClientConnectorDNSError(KEY, OSError()), True),
        (aiohttp.ClientPayloadError(), False),
    ],
)
def test_whether_a_request_can_have_been_seen(error: Exception, expected: bool) -> None:
    assert isinstance(error, transport.FAILURES)
    assert never_sent(error) is expected


# -- the gateway on top


@asynccontextmanager
async def gateway_to(url: str, **options: Any) -> AsyncIterator[tuple[Gateway, Access]]:
    gateway = Gateway([url], **({"timeout": 5.0} | options))
    try:
        yield gateway, Access(url, "app-0123456789")
    finally:
        await gateway.close()


@asynccontextmanager
async def streaming(answer: bytes) -> AsyncIterator[tuple[Server, Reply]]:
    """The stream of a run that a server answers so."""
    async with (
        listening(lambda number: answer) as server,
        gateway_to(server.url) as (gateway, access),
        gateway.run(access, "/run", b"{}") as stream,
    ):
        yield server, stream


async def test_a_connection_that_dify_closed_meanwhile(wire_to: Connect) -> None:
    async with (
        listening(lambda number: OK if number == 1 else None) as server,
        gateway_to(server.url) as (gateway, access),
    ):
        for _ in range(3):
            assert await gateway.call(access, "POST", "/x", b"{}") == b"{}"
        assert server.connections > 2


async def test_a_new_connection_that_drops_is_not_tried_again(wire_to: Connect) -> None:
    async with listening(lambda number: None) as server, gateway_to(server.url) as (gateway, access):
        with pytest.raises(BrokenUpstream):
            await gateway.call(access, "POST", "/x", b"{}")
        assert len(server.requests) == 1


async def test_nobody_listens_to_the_gateway(wire_to: Connect) -> None:
    url = free_url()
    async with gateway_to(url) as (gateway, access):
        with pytest.raises(Unreachable):
            await gateway.call(access, "GET", "/info")
        assert not await gateway.reaches(url)


async def test_whether_anything_listens() -> None:
    async with listening(lambda number: OK) as server, gateway_to(server.url) as (gateway, _):
        assert await gateway.reaches(server.url)
        assert not server.requests
    assert not await transport.listens(server.url, 1)


async def test_a_large_body_goes_out_whole(wire_to: Connect) -> None:
    body = b"x" * (PIECE_BYTES * 3 + 1)
    async with listening(lambda number: OK) as server, gateway_to(server.url) as (gateway, access):
        await gateway.call(access, "POST", "/x", body)
        await gateway.call(access, "POST", "/x", body)
        assert [sent.partition(b"\r\n\r\n")[2] for sent in server.requests] == [body, body]
        assert b"transfer-encoding" not in server.requests[0].lower()
        assert server.connections == 1


async def test_an_answer_that_comes_before_the_whole_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is still to be sent then is not waited for, neither now nor when all is closed."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\nno!")
        await left.wait()
        writer.close()
        gone.set()

    monkeypatch.setattr(over_aiohttp, "CLOSE_SECONDS", 0.05)
    left, gone = asyncio.Event(), asyncio.Event()
    async with await asyncio.start_server(refuse, "127.0.0.1", 0, limit=1024) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        async with gateway_to(url) as (gateway, access):
            with pytest.raises(Refused, match="does not take a request of this size"):
                await gateway.call(access, "POST", "/x", bytes(50_000_000))
        left.set()
        await gone.wait()
        await asyncio.sleep(0.05)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize("over", ["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
        b"-ERR wrong number of arguments\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        HEAD + b"not a header\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\n",
    ],
    ids=["TLS", "Redis", "status", "header", "chunk", "later chunk"],
)
async def test_what_is_not_http_is_a_broken_upstream(answer: bytes, over: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if over == "httpx":
        monkeypatch.setattr(transport, "_http1", transport._http2)
    async with listening(lambda number: answer) as server, gateway_to(server.url) as (gateway, access):
        with pytest.raises(BrokenUpstream):
            async with gateway.run(access, "/run", b"{}") as stream:
                assert [data async for data in stream]


BROKEN = {
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-ty",
    "a head that is none": b"SSH-2.0\r\n\r\n",
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\ncontent-length: 3\r\n\r\n"),
    "a head, and a chunk that is none": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("trouble", BROKEN)
async def test_what_was_answered_in_any_way_is_not_asked_again(trouble: str) -> None:
    async with listening(lambda number: OK if number == 1 else BROKEN[trouble]) as server:

        async def close() -> None:
            await eventually(lambda: len(server.requests) == 2)
            await asyncio.sleep(0.02)
            await server.close()

        async with gateway_to(server.url) as (gateway, access):
            await gateway.call(access, "POST", "/x", b"{}")
            closing = asyncio.create_task(close())
            with pytest.raises(BrokenUpstream):
                await gateway.call(access, "POST", "/x", b"{}")
            await closing
            assert len(server.requests) == 2


async def test_a_run_that_dies_is_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any byte, but too late for a connection that was idle for too long."""
    monkeypatch.setattr(transport, "STALE_SECONDS", 0.05)

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for last in (False, True):
            asked.append(await _request(reader))
            if last:
                await asyncio.sleep(0.1)
            else:
                writer.write(OK)
        writer.close()

    asked: list[bytes] = []
    async with await asyncio.start_server(dies, "127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        async with gateway_to(url) as (gateway, access):
            await gateway.call(access, "POST", "/x", b"{}")
            with pytest.raises(BrokenUpstream, match="without an answer"):
                await gateway.call(access, "POST", "/x", b"{}")
    assert len(asked) == 2


async def test_an_answer_that_nobody_asked_for_is_nobodys() -> None:
    """The connections serve everyone: one that is off by an answer would tell it to somebody else."""
    async with (
        listening(lambda number: OK) as server,
        gateway_to(server.url) as (gateway, access),
    ):
        assert await gateway.call(access, "GET", "/x") == b"{}"
        [writer] = server.handlers.values()
        writer.write(OK.replace(b"{}", b"[]"))
        await asyncio.sleep(0.02)
        for _ in range(3):
            assert await gateway.call(access, "GET", "/x") == b"{}"
        assert server.connections == 2


async def test_an_answer_is_whole_though_its_connection_ends_before_it_is_read() -> None:
    """As it does two seconds after the end, where a slow client holds its reading back."""
    whole = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"
    async with streaming(whole) as (server, stream):
        assert await anext(stream) == b"hi"
        for writer in server.handlers.values():
            writer.write(b"2\r\nho\r\n0\r\n\r\n")
            await asyncio.sleep(0.02)
            writer.close()
        await asyncio.sleep(0.02)
        assert [data async for data in stream] == [b"ho"]


@pytest.mark.parametrize("more", [b"x-policy: " + b"a" * 50_000, b"\r\n".join(b"x-%d: a" % i for i in range(90))])
async def test_large_heads(more: bytes, wire_to: Connect) -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % more)
    async with listening(lambda number: answer) as server:
        for _ in range(2):
            assert await ask(wire_to(server.url).pooled, server.url) == (200, b"{}")


async def test_a_broken_frame_ends_a_stream_at_once() -> None:
    """Aiohttp alone would wait for more of it."""
    async with streaming(OPEN) as (server, stream):
        assert await anext(stream) == b"hi\n"
        for writer in server.handlers.values():
            writer.write(b"zz\r\nfoo")
        with pytest.raises(BrokenUpstream, match="in the middle of the answer"):
            await asyncio.wait_for(anext(stream), 5)


async def test_reading_goes_on_after_a_pause() -> None:
    """More than a reader takes at once is held back at its source, and comes as it takes it."""
    size = 3_000_000
    whole = HEAD + b"content-length: %d\r\n\r\n" % size + bytes(size)
    async with streaming(whole) as (_, stream):
        got = 0
        async for data in stream:
            assert len(data) < size / 2
            got += len(data)
            await asyncio.sleep(0.01 if got < size / 2 else 0)
        assert got == size


async def test_a_type_of_odd_bytes_can_be_told(wire_to: Connect) -> None:
    odd = OK.replace(b"application/json", b"text/\xff\xe9")
    async with listening(lambda number: odd) as server, gateway_to(server.url) as (gateway, access):
        with pytest.raises(BrokenUpstream, match="text/\xff\xe9") as caught:
            await gateway.call(access, "GET", "/x")
        assert caught.value.message.encode()


async def test_what_has_arrived_is_handed_out_at_once(wire_to: Connect) -> None:
    """However little it is; and together what has arrived together."""
    async with streaming(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n") as (server, stream):
        assert await anext(stream) == b"a"
        [writer] = server.handlers.values()
        for piece in (b"b", b"c" * 20_000):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            got = b""
            while len(got) < len(piece):
                got += await asyncio.wait_for(anext(stream), 5)
            assert got == piece
            assert not stream.at_end
        writer.write(b"1\r\nd\r\n0\r\n\r\n")
        assert [data async for data in stream] == [b"d"]
        assert stream.at_end
        assert await anext(stream, None) is None


async def test_the_end_that_came_along_is_known() -> None:
    whole = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    async with streaming(whole) as (_, stream):
        assert not stream.at_end
        assert await anext(stream) == b"hi"
        assert stream.at_end


async def test_reading_goes_on_after_a_wait_that_was_given_up() -> None:
    async with streaming(OPEN) as (server, stream):
        assert await anext(stream) == b"hi\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        for writer in server.handlers.values():
            writer.write(b"3\r\nho\n\r\n")
        assert await anext(stream) == b"ho\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 10\r\n\r\nhi",
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\nhi",
    ],
)
async def test_a_stream_that_is_cut_off_is_a_broken_upstream(answer: bytes, wire_to: Connect) -> None:
    async with streaming(answer) as (server, stream):
        assert await anext(stream) == b"hi"
        await server.close()
        with pytest.raises(BrokenUpstream, match="in the middle of the answer"):
            await anext(stream)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://dify", ("dify", 80)),
        ("https://dify/v1", ("dify", 443)),
        ("http://dify:5001/v1", ("dify", 5001)),
        ("https://[::1]:5001/v1", ("::1", 5001)),
    ],
)
async def test_where_something_should_listen(
    url: str, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    async def open_connection(host: str, port: int) -> None:
        asked.append((host, port))
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    assert not await transport.listens(url, 0.01)
    assert asked == [expected]


# -- what both clients have in common


async def test_headers(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server, gateway_to(server.url) as (gateway, access):
        await gateway.call(access, "GET", "/info")
        lines = server.requests[0].lower().split(b"\r\n")
        assert lines[0] == b"get /v1/info http/1.1"
        for name in (b"host: ", b"authorization: bearer app-", b"accept-encoding: identity", b"user-agent: opendify"):
            assert len([line for line in lines if line.startswith(name)]) == 1


async def test_paths_are_not_quoted_twice(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server, gateway_to(server.url) as (gateway, access):
        await gateway.call(access, "GET", "/a%2F..%2Fb%3Fc%23d%20e%252F?user=team%3Aann%26x%3D1")
        target = server.requests[0].split(b" ")[1].decode()
        path, _, query = target.partition("?")
        assert path == "/v1/a%2F..%2Fb%3Fc%23d%20e%252F"
        assert parse_qs(query) == {"user": ["team:ann&x=1"]}


async def test_proxies_of_the_environment_are_ignored(wire_to: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with listening(lambda number: OK) as server:
        assert await ask(wire_to(server.url).pooled, server.url) == (200, b"{}")


async def test_cookies_are_not_kept(wire_to: Connect) -> None:
    cookie = OK.replace(b"\r\n\r\n", b"\r\nset-cookie: session=of-somebody; Path=/\r\n\r\n")
    async with listening(lambda number: cookie) as server:
        wire = wire_to(server.url)
        for line in (wire.pooled, wire.pooled, wire.fresh, wire.fresh):
            await ask(line, server.url)
        assert not any(b"cookie" in sent.lower() for sent in server.requests)


async def test_redirects_are_not_followed(wire_to: Connect) -> None:
    moved = b"HTTP/1.1 308 Permanent Redirect\r\nlocation: /v1/elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with listening(lambda number: moved) as server:
        assert await ask(wire_to(server.url).pooled, server.url) == (308, b"")
        assert len(server.requests) == 1


async def test_an_answer_is_not_decompressed(wire_to: Connect) -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    async with listening(lambda number: answer) as server:
        assert await ask(wire_to(server.url).pooled, server.url) == (200, b"{}")


OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhi\n\r\n"


async def test_streams_do_not_wait_for_each_other(wire_to: Connect) -> None:
    async with listening(lambda number: OPEN) as server, AsyncExitStack() as stack:
        wire = wire_to(server.url)
        for _ in range(130):
            reply = await stack.enter_async_context(aclosing(await wire.pooled.ask(request(server.url))))
            assert await anext(reply) == b"hi\n"
        assert server.connections == 130


async def test_leaving_a_stream_closes_its_connection(wire_to: Connect) -> None:
    async with listening(lambda number: OPEN) as server:
        wire = wire_to(server.url)
        async with aclosing(await wire.pooled.ask(request(server.url))) as reply:
            assert await anext(reply) == b"hi\n"
            assert not server.gone.is_set()
        async with asyncio.timeout(5):
            await server.gone.wait()


async def test_closing_a_wire_closes_its_connections(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled, server.url)
        await wire.close()
        async with asyncio.timeout(5):
            await server.gone.wait()


# -- https


class Seen:
    """What an https server saw of its connections."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: set[tuple[str, int]] = set()
        self.versions: set[str] = set()
        self.bodies: list[bytes] = []
        self.left = 0

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        if scope["type"] != "http":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.peers.add(tuple(scope["client"]))
        self.versions.add(scope["http_version"])
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        self.bodies.append(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        if scope["path"].endswith("/waits"):
            assert (await receive())["type"] == "http.disconnect"
            self.left += 1
            return
        await send({"type": "http.response.body", "body": b"}"})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(params=["127.0.0.1"])
async def secure(request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path) -> AsyncIterator[Seen]:
    """An https server that offers HTTP/2, with a certificate for the given name."""
    certificate = authority.issue_cert(request.param)
    files = [str(tmp_path / name) for name in ("key.pem", "cert.pem")]
    certificate.private_key_pem.write_to_path(files[0])
    certificate.cert_chain_pems[0].write_to_path(files[1])
    seen, stop = Seen(), asyncio.Event()
    config = Config()
    config.keyfile, config.certfile = files
    config.errorlog = config.accesslog = None
    config.graceful_timeout = 0.1
    listener = socket.create_server(("127.0.0.1", 0))
    seen.url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
    config.bind = [f"fd://{listener.detach()}"]
    server = asyncio.create_task(serve(seen, config, shutdown_trigger=stop.wait))
    yield seen
    stop.set()
    await server


async def test_http2_is_spoken_over_one_connection(secure: Seen, ca_file: Path, wired: Connect) -> None:
    wire = wired(secure.url, http2=True, ca_file=ca_file)
    reused = []
    for _ in range(3):
        assert await ask(wire.pooled, secure.url, b"x" * 100_000) == (200, b"{}")
        reused.append(was_reused())
    assert reused == [False, True, True]
    assert (secure.versions, len(secure.peers)) == ({"2"}, 1)
    assert secure.bodies == [b"x" * 100_000] * 3
    await ask(wire.fresh, secure.url)
    assert not was_reused()
    assert len(secure.peers) == 2


async def test_http2_can_be_off(secure: Seen, ca_file: Path, wired: Connect) -> None:
    wire = wired(secure.url, http2=False, ca_file=ca_file)
    assert isinstance(wire.pooled, AiohttpLine)
    for _ in range(2):
        assert await ask(wire.pooled, secure.url) == (200, b"{}")
    assert (secure.versions, len(secure.peers)) == ({"1.1"}, 1)


@pytest.mark.parametrize("http2", [True, False])
async def test_a_run_over_https(http2: bool, secure: Seen, ca_file: Path) -> None:
    body = b"x" * (PIECE_BYTES + 1)
    async with gateway_to(secure.url, http2=http2, ca_file=ca_file) as (gateway, access):
        assert await gateway.call(access, "POST", "/x", body) == b"{}"
        upload = Upload("a.txt", "text/plain", b"hello")
        with pytest.raises(BrokenUpstream, match="another form than expected"):
            await gateway.upload(replace(make_app(), access=access), "ann", upload)
    assert secure.bodies[0] == body
    assert b"\r\n\r\nhello\r\n--" in secure.bodies[1]


@pytest.mark.parametrize("http2", [True, False])
async def test_an_unknown_authority_is_refused(http2: bool, secure: Seen, wired: Connect) -> None:
    wire = wired(secure.url, http2=http2)
    for line in (wire.pooled, wire.fresh):
        with pytest.raises(transport.FAILURES) as caught:
            await ask(line, secure.url)
        assert never_sent(caught.value)
        assert transport.is_untrusted(caught.value)
    assert not secure.peers
    assert not transport.is_untrusted(httpx.ConnectError("no"))


@pytest.mark.parametrize("http2", [True, False])
@pytest.mark.parametrize("secure", ["dify.example.com"], indirect=True)
async def test_a_certificate_of_somebody_else_is_refused(
    http2: bool, secure: Seen, ca_file: Path, wired: Connect
) -> None:
    with pytest.raises(transport.FAILURES) as caught:
        await ask(wired(secure.url, http2=http2, ca_file=ca_file).pooled, secure.url)
    assert never_sent(caught.value)
    assert not secure.peers


@pytest.mark.parametrize("http2", [True, False])
async def test_an_untrusted_dify_is_told_so(http2: bool, secure: Seen) -> None:
    async with gateway_to(secure.url, http2=http2) as (gateway, access):
        with pytest.raises(Unreachable, match="DIFY_CA_FILE"):
            await gateway.call(access, "GET", "/info")


async def test_each_stream_has_its_connection(secure: Seen, ca_file: Path, wired: Connect) -> None:
    """So that none is blocked by another that nobody reads, or ended by the end of another's connection."""
    wire = wired(secure.url, http2=True, ca_file=ca_file)
    await ask(wire.pooled, secure.url)
    async with AsyncExitStack() as stack:
        for number in range(5):
            await stack.enter_async_context(aclosing(await wire.pooled.ask(request(secure.url, "/waits"))))
            assert len(secure.peers) == number + 1
    await eventually(lambda: secure.left == 5)
    await ask(wire.pooled, secure.url)
    assert secure.versions == {"2"}


# -- whose connection is used again, without sockets


class Inner(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.closed = False
        self.fails = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.fails:
            raise httpx.ReadError("reset")
        return httpx.Response(200, stream=httpx.ByteStream(b"hi"))

    async def aclose(self) -> None:
        self.closed = True


@pytest.fixture
def few() -> tuple[HttpxLine, list[Inner]]:
    """A line, and the connections that it has made."""
    made: list[Inner] = []

    def make() -> Inner:
        made.append(Inner())
        return made[-1]

    return HttpxLine(make, keep_alive_seconds=60.0), made


REQUEST = request("https://dify/v1")


async def test_a_connection_comes_back_with_the_end_of_its_stream(few: tuple[HttpxLine, list[Inner]]) -> None:
    line, made = few
    replies = [await line.ask(REQUEST) for _ in range(3)]
    assert len(made) == 3
    for reply in replies:
        assert [data async for data in reply] == [b"hi"]
        await reply.aclose()
        await reply.aclose()
    for _ in range(3):
        await line.ask(REQUEST)
    assert len(made) == 3
    await line.ask(REQUEST)
    assert len(made) == 4


async def test_a_connection_goes_with_a_stream_that_did_not_end(few: tuple[HttpxLine, list[Inner]]) -> None:
    line, made = few
    await (await line.ask(REQUEST)).aclose()
    assert made[0].closed
    reply = await line.ask(REQUEST)
    assert [data async for data in reply] == [b"hi"]
    await reply.aclose()
    made[1].fails = True
    with pytest.raises(httpx.ReadError):
        await line.ask(REQUEST)
    assert made[1].closed
    await line.ask(REQUEST)
    assert len(made) == 3


async def test_connections_that_were_idle_for_long_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Inner] = []

    def make() -> Inner:
        made.append(Inner())
        return made[-1]

    now = 0.0
    monkeypatch.setattr("opendify.dify.over_httpx.time.monotonic", lambda: now)
    line = HttpxLine(make, keep_alive_seconds=60.0)
    replies = [await line.ask(REQUEST) for _ in range(3)]
    for reply in replies:
        assert [data async for data in reply] == [b"hi"]
        await reply.aclose()
        now += 50
    reply = await line.ask(REQUEST)
    assert [data async for data in reply] == [b"hi"]
    await reply.aclose()
    assert [inner.closed for inner in made] == [True, True, False]


async def test_closing_closes_all(few: tuple[HttpxLine, list[Inner]]) -> None:
    line, made = few
    reply = await line.ask(REQUEST)
    await line.ask(REQUEST)
    assert [data async for data in reply] == [b"hi"]
    await reply.aclose()
    await line.aclose()
    assert [inner.closed for inner in made] == [True, True]
