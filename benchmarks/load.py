"""The clients of a benchmark: they ask, take down what comes and when, and check it after the clock has stopped."""

import asyncio
import gc
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, cast

import httptools
import msgspec
from msgspec import Struct, field

KEY: Final = "bench-key"
STAMP: Final = re.compile(rb'"content":"(\d+) "')
PATIENCE_SECONDS: Final = 20.0


class Reply(Struct):
    """A response as it came, with the moments in monotonic nanoseconds."""

    asked_at: int
    pieces: list[bytes] = field(default_factory=list)
    moments: list[int] = field(default_factory=list)
    status: int = 0
    kind: bytes = b""
    over_at: int = 0


class Client(asyncio.Protocol):
    """One connection, on which requests follow one another."""

    def __init__(self) -> None:
        self._transport = asyncio.Transport()
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply(0)
        self._over: asyncio.Future[Reply] | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send a request and wait for all of its response. Raises ConnectionError or TimeoutError."""
        self._over = asyncio.get_running_loop().create_future()
        self._reply = Reply(time.monotonic_ns())
        self._transport.write(request)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._over

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    # -- asyncio's and httptools' calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        if self._over and not self._over.done():
            self._over.set_exception(ConnectionError(f"the connection was lost: {exc}"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if name.lower() == b"content-type":
            self._reply.kind = value.partition(b";")[0]

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._reply.pieces.append(body)
        self._reply.moments.append(time.monotonic_ns())

    def on_message_complete(self) -> None:
        """The end."""
        reply = self._reply
        reply.over_at, reply.status = time.monotonic_ns(), self._parser.get_status_code()
        if self._over and not self._over.done():
            self._over.set_result(reply)


# -- what is asked, and what is right


def request(port: int, model: str, prompt: str, *, stream: bool) -> bytes:
    """The bytes of a chat request."""
    body = msgspec.json.encode(
        {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": stream},
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Said(Struct, frozen=True):
    """A message, or what a chunk adds to it."""

    content: str = ""


class Choice(Struct):
    """The choice of a chunk or of a completion."""

    delta: Said = Said()
    message: Said = Said()
    finish_reason: str | None = None


class Answer(Struct):
    """A chunk, or a whole completion."""

    object: str
    choices: list[Choice]


_parse = msgspec.json.Decoder(Answer).decode


def text_of(reply: Reply, *, stream: bool) -> str:
    """The text of an answer. Raises ValueError if anything about the answer is wrong."""
    if reply.status != 200:
        raise ValueError(f"status {reply.status}")
    if reply.kind != (b"text/event-stream" if stream else b"application/json"):
        raise ValueError(f"content type {reply.kind.decode()}")
    body = b"".join(reply.pieces)
    if not stream:
        choice = _parse(body).choices[0]
        _finished([choice.finish_reason])
        return choice.message.content
    *frames, done, rest = body.split(b"\n\n")
    if (done, rest) != (b"data: [DONE]", b""):
        raise ValueError("no [DONE] at the end")
    choices = [choice for frame in frames for choice in _parse(frame.removeprefix(b"data: ")).choices]
    _finished([choice.finish_reason for choice in choices])
    return "".join(choice.delta.content for choice in choices)


def _finished(reasons: list[str | None]) -> None:
    if [reason for reason in reasons if reason] != ["stop"] or reasons[-1] is None:
        raise ValueError(f"finish_reason {[reason for reason in reasons if reason]}")


def words(pieces: int) -> str:
    """The text that such an answer has to have."""
    return "".join(f"w{number} " for number in range(pieces))


def delays(reply: Reply) -> list[int]:
    """How long each piece of a timed answer was on its way, in nanoseconds."""
    return [
        moment - int(stamp)
        for data, moment in zip(reply.pieces, reply.moments, strict=True)
        for stamp in STAMP.findall(data)
    ]


# -- one measurement


class Heard(Struct):
    """What the clients of one measurement got."""

    replies: list[Reply] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


async def clients(port: int, asked: bytes, number: int, times: int, *, spread: float = 0.0) -> Heard:
    """So many clients, each of which asks so many times; their starts are spread over so many seconds."""
    heard = Heard()
    gc.collect()
    gc.disable()
    began = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            for place in range(number):
                group.create_task(_client(port, asked, times, spread * place / number, heard))
    finally:
        heard.seconds = time.monotonic() - began
        gc.enable()
    return heard


async def _client(port: int, asked: bytes, times: int, delay: float, heard: Heard) -> None:
    await asyncio.sleep(delay)
    try:
        _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
        try:
            for _ in range(times):
                heard.replies.append(await client.ask(asked))
        finally:
            client.close()
    except (OSError, TimeoutError, httptools.HttpParserError) as error:
        heard.wrong[f"{type(error).__name__}: {error}"] += 1


def check(heard: Heard, right: Callable[[str], bool], *, stream: bool) -> None:
    """Count what is wrong with the answers."""
    for reply in heard.replies:
        try:
            if not right(text_of(reply, stream=stream)):
                heard.wrong["the text is another"] += 1
        except ValueError as error:  # msgspec's errors are such, too
            heard.wrong[str(error)] += 1
