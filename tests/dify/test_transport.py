"""Which client speaks to which Dify, over real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import httpx
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from httpx_aiohttp import AiohttpTransport
from hypercorn.asyncio import serve
from hypercorn.config import Config

from opendify.dify import transport
from opendify.dify.apps import Access
from opendify.dify.gateway import PIECE_BYTES, Gateway
from opendify.dify.transport import STREAMS_PER_CONNECTION, SpreadTransport, Wire, connect, never_sent, was_reused
from opendify.errors import BrokenUpstream, Unreachable

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

        def wire(base: str, *, http2: bool = True, connect_timeout: float = 5.0, ca_file: Path | None = None) -> Wire:
            made = connect(base, http2=http2, connect_timeout=connect_timeout, ca_file=ca_file)
            stack.push_async_callback(made.close)
            return made

        yield wire


@pytest.fixture(params=["aiohttp", "httpx"])
async def wire_to(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, wired: Connect) -> Connect:
    """Wires over either transport, to plain addresses."""
    if request.param == "httpx":
        monkeypatch.setattr(transport, "_aiohttp", transport._http2)
    return wired


async def ask(client: httpx.AsyncClient, path: str = "/info", **more: Any) -> httpx.Response:
    transport.forget_reuse()
    return await client.request("POST" if more else "GET", path, **more)


# -- was it sent, and over what


async def test_nobody_listens(wire_to: Connect) -> None:
    wire = wire_to(free_url())
    for client in (wire.pooled, wire.fresh):
        with pytest.raises(httpx.TransportError) as caught:
            await ask(client)
        assert never_sent(caught.value)
        assert not was_reused()


async def test_a_connection_that_is_dropped_after_the_request(wire_to: Connect) -> None:
    async with listening(lambda number: None) as server:
        wire = wire_to(server.url)
        for client in (wire.pooled, wire.fresh):
            with pytest.raises(httpx.TransportError) as caught:
                await ask(client, content=b"{}")
            assert not never_sent(caught.value)
            assert not was_reused()
        assert server.connections == len(server.requests) == 2


async def test_a_second_request_goes_over_the_same_connection(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        seen = []
        for _ in range(3):
            await ask(wire.pooled)
            seen.append(was_reused())
        assert seen == [False, True, True]
        assert server.connections == 1


async def test_a_fresh_client_opens_a_connection_each_time(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled)
        for _ in range(3):
            await ask(wire.fresh)
            assert not was_reused()
        assert server.connections == 4


async def test_a_used_connection_that_is_dropped(wire_to: Connect) -> None:
    async with listening(lambda number: OK if number == 1 else None) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled, content=b"{}")
        with pytest.raises(httpx.TransportError) as caught:
            await ask(wire.pooled, content=b"{}")
        assert was_reused()
        assert not never_sent(caught.value)
        assert server.connections == 1


async def test_reuse_is_noted_for_each_task_apart(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled)

        async def reused(client: httpx.AsyncClient) -> bool:
            await ask(client)
            return was_reused()

        assert await asyncio.gather(reused(wire.pooled), reused(wire.fresh)) == [True, False]  # type: ignore[comparison-overlap]
        transport.forget_reuse()
        assert not was_reused()


KEY = ConnectionKey("dify", 80, is_ssl=False, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)


def caused(error: httpx.TransportError, cause: Exception | None) -> httpx.TransportError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx.ConnectError("no"), True),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.ReadError("no"), False),
        (httpx.WriteError("no"), False),
        (httpx.ReadTimeout("no"), False),
        (httpx.RemoteProtocolError("no"), False),
        (caused(httpx.ConnectError("no"), OSError()), True),
        (caused(httpx.ConnectTimeout("no"), aiohttp.ServerDisconnectedError()), False),
        (caused(httpx.ConnectTimeout("no"), aiohttp.ClientOSError()), False),
        (caused(httpx.ConnectTimeout("no"), aiohttp.ServerTimeoutError()), False),
        (caused(httpx.ConnectTimeout("no"), aiohttp.ConnectionTimeoutError()), True),
        (caused(httpx.ConnectError("no"), aiohttp.ClientConnectorError(KEY, OSError())), True),
        (caused(httpx.ConnectError("no"), aiohttp.ClientConnectorDNSError(KEY, OSError())), True),
        (caused(httpx.ReadError("no"), aiohttp.ClientPayloadError()), False),
    ],
)
def test_whether_a_request_can_have_been_seen(error: httpx.TransportError, expected: bool) -> None:
    assert never_sent(error) is expected


# -- the gateway on top


@asynccontextmanager
async def gateway_to(url: str, **options: Any) -> AsyncIterator[tuple[Gateway, Access]]:
    gateway = Gateway([url], **({"timeout": 5.0} | options))
    try:
        yield gateway, Access(url, "app-0123456789")
    finally:
        await gateway.close()


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
        assert [request.partition(b"\r\n\r\n")[2] for request in server.requests] == [body, body]
        assert b"transfer-encoding" not in server.requests[0].lower()
        assert server.connections == 1


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
        monkeypatch.setattr(transport, "_aiohttp", transport._http2)
    async with listening(lambda number: answer) as server, gateway_to(server.url) as (gateway, access):
        with pytest.raises(BrokenUpstream):
            async with gateway.run(access, "/run", b"{}") as stream:
                assert [data async for data in stream]


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 10\r\n\r\nhi",
        HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\nhi",
    ],
)
async def test_a_stream_that_is_cut_off_is_a_broken_upstream(answer: bytes, wire_to: Connect) -> None:
    async with (
        listening(lambda number: answer) as server,
        gateway_to(server.url) as (gateway, access),
        gateway.run(access, "/run", b"{}") as stream,
    ):
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


def test_reuse_is_forgotten() -> None:
    transport._reused.set(True)
    assert was_reused()
    transport.forget_reuse()
    assert not was_reused()


# -- what both clients have in common


async def test_headers(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        await ask(wire_to(server.url).pooled)
        lines = server.requests[0].lower().split(b"\r\n")
        assert lines[0] == b"get /v1/info http/1.1"
        assert b"accept-encoding: identity" in lines
        assert b"user-agent: opendify" in lines


async def test_proxies_of_the_environment_are_ignored(wire_to: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with listening(lambda number: OK) as server:
        assert (await ask(wire_to(server.url).pooled)).status_code == 200


async def test_cookies_are_not_kept(wire_to: Connect) -> None:
    cookie = OK.replace(b"\r\n\r\n", b"\r\nset-cookie: session=of-somebody; Path=/\r\n\r\n")
    async with listening(lambda number: cookie) as server:
        wire = wire_to(server.url)
        for client in (wire.pooled, wire.pooled, wire.fresh, wire.fresh):
            await ask(client)
        assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_redirects_are_not_followed(wire_to: Connect) -> None:
    moved = b"HTTP/1.1 308 Permanent Redirect\r\nlocation: /v1/elsewhere\r\ncontent-length: 0\r\n\r\n"
    async with listening(lambda number: moved) as server:
        assert (await ask(wire_to(server.url).pooled)).status_code == 308
        assert len(server.requests) == 1


async def test_an_answer_is_not_decompressed(wire_to: Connect) -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    async with listening(lambda number: answer) as server:
        wire = wire_to(server.url)
        async with wire.pooled.stream("GET", "/info") as response:
            assert b"".join([data async for data in response.aiter_raw()]) == b"{}"


OPEN = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhi\n\r\n"


async def test_streams_do_not_wait_for_each_other(wire_to: Connect) -> None:
    async with listening(lambda number: OPEN) as server, AsyncExitStack() as stack:
        wire = wire_to(server.url)
        for _ in range(130):
            response = await stack.enter_async_context(wire.pooled.stream("GET", "/run"))
            assert await anext(response.aiter_raw()) == b"hi\n"
        assert server.connections == 130


async def test_leaving_a_stream_closes_its_connection(wire_to: Connect) -> None:
    async with listening(lambda number: OPEN) as server:
        wire = wire_to(server.url)
        async with wire.pooled.stream("GET", "/run") as response:
            assert await anext(response.aiter_raw()) == b"hi\n"
            assert not server.gone.is_set()
        async with asyncio.timeout(5):
            await server.gone.wait()


async def test_closing_a_wire_closes_its_connections(wire_to: Connect) -> None:
    async with listening(lambda number: OK) as server:
        wire = wire_to(server.url)
        await ask(wire.pooled)
        await wire.close()
        async with asyncio.timeout(5):
            await server.gone.wait()
        assert wire.pooled.is_closed
        assert wire.fresh.is_closed


# -- https


class Seen:
    """What an https server saw of its connections."""

    def __init__(self) -> None:
        self.url = ""
        self.peers: set[tuple[str, int]] = set()
        self.versions: set[str] = set()
        self.bodies: list[bytes] = []
        self.go_on = asyncio.Event()

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
            await self.go_on.wait()
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
    wire = wired(secure.url, ca_file=ca_file)
    reused = []
    for _ in range(3):
        response = await ask(wire.pooled, content=b"x" * 100_000)
        assert (response.http_version, response.content) == ("HTTP/2", b"{}")
        reused.append(was_reused())
    assert reused == [False, True, True]
    assert (secure.versions, len(secure.peers)) == ({"2"}, 1)
    assert secure.bodies == [b"x" * 100_000] * 3
    await ask(wire.fresh)
    assert not was_reused()
    assert len(secure.peers) == 2


async def test_http2_can_be_off(secure: Seen, ca_file: Path, wired: Connect) -> None:
    wire = wired(secure.url, http2=False, ca_file=ca_file)
    assert isinstance(wire.pooled._transport, AiohttpTransport)
    for _ in range(2):
        assert (await ask(wire.pooled)).content == b"{}"
    assert (secure.versions, len(secure.peers)) == ({"1.1"}, 1)


@pytest.mark.parametrize("http2", [True, False])
async def test_an_unknown_authority_is_refused(http2: bool, secure: Seen, wired: Connect) -> None:
    wire = wired(secure.url, http2=http2)
    for client in (wire.pooled, wire.fresh):
        with pytest.raises(httpx.TransportError) as caught:
            await ask(client)
        assert never_sent(caught.value)
        assert transport.is_untrusted(caught.value)
    assert not secure.peers
    assert not transport.is_untrusted(httpx.ConnectError("no"))


@pytest.mark.parametrize("http2", [True, False])
@pytest.mark.parametrize("secure", ["dify.example.com"], indirect=True)
async def test_a_certificate_of_somebody_else_is_refused(
    http2: bool, secure: Seen, ca_file: Path, wired: Connect
) -> None:
    with pytest.raises(httpx.TransportError) as caught:
        await ask(wired(secure.url, http2=http2, ca_file=ca_file).pooled)
    assert never_sent(caught.value)
    assert not secure.peers


async def test_many_streams_get_another_connection(secure: Seen, ca_file: Path, wired: Connect) -> None:
    wire = wired(secure.url, ca_file=ca_file)
    await ask(wire.pooled)
    async with AsyncExitStack() as stack:
        assert STREAMS_PER_CONNECTION < 100
        for number in range(STREAMS_PER_CONNECTION + 5):
            await stack.enter_async_context(wire.pooled.stream("GET", "/waits"))
            assert len(secure.peers) == (1 if number < STREAMS_PER_CONNECTION else 2)
        secure.go_on.set()
    await ask(wire.pooled)
    assert len(secure.peers) == 2
    assert isinstance(wire.pooled._transport, SpreadTransport)
    assert [share.streams for share in wire.pooled._transport._shares] == [0, 0]


# -- spreading, without sockets


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
def few(monkeypatch: pytest.MonkeyPatch) -> tuple[SpreadTransport, list[Inner]]:
    """Two streams a connection."""
    monkeypatch.setattr(transport, "STREAMS_PER_CONNECTION", 2)
    made: list[Inner] = []

    def make() -> Inner:
        made.append(Inner())
        return made[-1]

    return SpreadTransport(make), made


REQUEST = httpx.Request("GET", "https://dify/v1/info")


async def test_room_comes_back_with_the_end_of_a_stream(few: tuple[SpreadTransport, list[Inner]]) -> None:
    spread, made = few
    responses = [await spread.handle_async_request(REQUEST) for _ in range(5)]
    assert len(made) == 3
    for response in responses:
        await response.aread()
        await response.aclose()
        await response.stream.aclose()  # type: ignore[union-attr]
    assert [share.streams for share in spread._shares] == [0, 0, 0]
    await spread.handle_async_request(REQUEST)
    assert len(made) == 3
    assert [share.streams for share in spread._shares] == [1, 0, 0]


async def test_room_comes_back_with_a_failure(few: tuple[SpreadTransport, list[Inner]]) -> None:
    spread, made = few
    await spread.handle_async_request(REQUEST)
    made[0].fails = True
    for _ in range(5):
        with pytest.raises(httpx.ReadError):
            await spread.handle_async_request(REQUEST)
    assert [share.streams for share in spread._shares] == [1]


async def test_closing_closes_all(few: tuple[SpreadTransport, list[Inner]]) -> None:
    spread, made = few
    for _ in range(3):
        await spread.handle_async_request(REQUEST)
    await spread.aclose()
    assert [inner.closed for inner in made] == [True, True]
