"""Files at Dify: what an answer brings of one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from opendify.dify import downloads
from opendify.dify.apps import Access
from opendify.dify.downloads import address_of, remote_file
from opendify.dify.gateway import Gateway
from opendify.errors import BrokenUpstream, Refused, UpstreamTimeout

ACCESS = Access("http://dify.test/v1", "app-x")


async def bytes_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def received(*parts: bytes, **headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return b"".join([data async for data in remote_file(200, of(named), bytes_of(*parts)).body])


def of(headers: dict[str, str]) -> Callable[[str], str]:
    return lambda name: headers.get(name, "")


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("http://dify.test/v1", "http://dify.test/files/x"),
        ("https://dify.test:8443/v1", "https://dify.test:8443/files/x"),
        ("https://gw.example/dify/v1", "https://gw.example/dify/files/x"),
        ("https://gw.example/dify/api", "https://gw.example/files/x"),
    ],
)
def test_where_files_are(base: str, address: str) -> None:
    assert address_of(Access(base, "app-x"), "/files/x") == address


async def test_a_file() -> None:
    file = remote_file(200, of({"content-type": "image/png", "content-length": "4"}), bytes_of(b"ab", b"cd"))
    assert (file.type, file.size, [data async for data in file.body]) == ("image/png", 4, [b"ab", b"cd"])
    file = remote_file(200, of({}), bytes_of())
    assert (file.type, file.size) == ("", None)
    assert await received(b"", content_length="0") == b""
    assert await received(b"ab", content_length="x") == b"ab"


@pytest.mark.parametrize("status", [400, 403, 404, 415, 429])
def test_refusals(status: int) -> None:
    with pytest.raises(Refused) as refusal:
        remote_file(status, of({"content-type": "text/html"}), bytes_of())
    assert refusal.value.upstream_status == status


@pytest.mark.parametrize("status", [204, 206, 301, 302, 304, 500, 502])
def test_other_answers(status: int) -> None:
    with pytest.raises(BrokenUpstream) as error:
        remote_file(status, of({"location": "http://169.254.169.254"}), bytes_of())
    assert error.value.upstream_status == status
    assert "169" not in error.value.message


def test_a_compressed_file() -> None:
    with pytest.raises(BrokenUpstream):
        remote_file(200, of({"content-encoding": "gzip"}), bytes_of())


@pytest.mark.parametrize("length", ["1", "3"])
async def test_another_length_than_announced(length: str) -> None:
    with pytest.raises(BrokenUpstream):
        await received(b"ab", content_length=length)


@pytest.mark.parametrize("headers", [{}, {"content_length": "9"}])
async def test_a_file_without_end(headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "FILE_BYTES", 5)
    with pytest.raises(BrokenUpstream):
        await received(b"123", b"456", b"789", **headers)


# -- over the wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 8\r\n\r\n"


@asynccontextmanager
async def serving(answer: bytes, *, stays: bool) -> AsyncIterator[Access]:
    """A Dify that answers with these bytes, then is silent or gone."""
    served: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if stays:
            await reader.read()  # until the other side closes
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(lambda *ends: served.append(asyncio.create_task(serve(*ends))), "127.0.0.1", 0)
    async with server:
        yield Access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "app-x")
        await asyncio.gather(*served)


async def fetched(access: Access) -> bytes:
    gateway = Gateway([access.base], timeout=0.3)
    try:
        async with gateway.fetch(access, "/files/x") as file:
            return b"".join([data async for data in file.body])
    finally:
        await gateway.close()


async def test_over_the_wire() -> None:
    async with serving(HEAD + b"12345678", stays=True) as access:
        assert await fetched(access) == b"12345678"


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + b"1234"])
async def test_a_dify_that_falls_silent(answer: bytes) -> None:
    async with serving(answer, stays=True) as access:
        with pytest.raises(UpstreamTimeout):
            await fetched(access)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n12"


@pytest.mark.parametrize("answer", [HEAD, HEAD + b"1234", CHUNKED])
async def test_a_dify_that_breaks_off(answer: bytes) -> None:
    async with serving(answer, stays=False) as access:
        with pytest.raises(BrokenUpstream):
            await fetched(access)
