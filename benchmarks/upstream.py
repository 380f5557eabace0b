"""A Dify that is quick enough for a benchmark: what the stand-in says is recorded once, and then only repeated.

    python upstream.py PORT

A chat message tells how its answer is to come; `told` makes such a text.
"""

import asyncio
import gc
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from typing import Final, cast

import httpx
import msgspec
import uvloop
from msgspec import Struct

from opendify.demo import StandIn

KEY: Final = "app-demo-chat"
MODEL: Final = "Helper"
ASKED: Final = re.compile(rb"SAY (\d+) PIECES, (\d+) EVERY ([\d.]+) MS( WITH THE TIME)?")
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
STREAMING: Final = b'"response_mode":"streaming"'
BACKLOG: Final = 4096


def told(pieces: int, together: int = 1, gap_ms: float = 0.0, *, timed: bool = False) -> str:
    """The text that asks for an answer in so many pieces, `together` in a write every `gap_ms` milliseconds.

    Each piece is a word with its number, or, where it is `timed`, the moment it was written in monotonic nanoseconds.
    """
    return f"SAY {pieces} PIECES, {together} EVERY {gap_ms:g} MS{' WITH THE TIME' if timed else ''}"


class Recorded(Struct):
    """What the stand-in says: heads of responses, the two parts of an event around its text, what follows the last."""

    plain: dict[bytes, bytes]
    stream_head: bytes
    event: tuple[bytes, bytes]
    rest: bytes
    whole_head: bytes
    whole: tuple[bytes, bytes]
    ids: list[bytes]


async def record() -> Recorded:
    """Ask the stand-in everything that can be asked here."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(StandIn()),
        base_url="http://stand-in/v1",
        headers={"authorization": f"Bearer {KEY}"},
    ) as client:
        described = [await client.get(path) for path in ("/info", "/parameters")]
        asked = {"inputs": {}, "user": "bench", "query": "LONG 1"}
        stream = await client.post("/chat-messages", json={**asked, "response_mode": "streaming"})
        whole = await client.post("/chat-messages", json={**asked, "response_mode": "blocking"})
    event, *rest = re.findall(rb"data: .*?\n\n", stream.content, re.DOTALL)
    ids = msgspec.json.decode(event.removeprefix(b"data: "))
    return Recorded(
        {answer.url.raw_path: _with_length(_head(answer), answer.content) for answer in described},
        _head(stream) + b"transfer-encoding: chunked\r\n\r\n",
        _around_the_word(event),
        b"".join(map(_chunk, rest)) + b"0\r\n\r\n",
        _head(whole),
        _around_the_word(whole.content),
        [ids[name].encode() for name in ("conversation_id", "message_id", "task_id")],
    )


def _around_the_word(data: bytes) -> tuple[bytes, bytes]:
    before, after = data.split(b"w0 ")
    return before, after


def _head(response: httpx.Response) -> bytes:
    headers = [pair for pair in response.headers.raw if pair[0] != b"content-length"]
    lines = [b"HTTP/1.1 200 OK", b"server: gunicorn", *(b"%b: %b" % pair for pair in headers)]
    return b"\r\n".join(lines) + b"\r\n"


def _with_length(head: bytes, body: bytes) -> bytes:
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One connection; what comes on it is complete requests, one after another."""

    def __init__(self, recorded: Recorded, numbers: Iterator[int]) -> None:
        self._recorded = recorded
        self._numbers = numbers
        self._unread = b""
        self._transport = asyncio.Transport()
        self._telling: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        if self._telling:
            self._telling.cancel()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, blank, rest = self._unread.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        size = int(length[1]) if length else 0
        if blank and len(rest) >= size:
            self._unread = rest[size:]
            self._answer(head.split(b" ", 2)[1], rest[:size])

    def _answer(self, path: bytes, body: bytes) -> None:
        recorded, asked = self._recorded, ASKED.search(body)
        if asked is None:
            self._transport.write(recorded.plain.get(path, b"HTTP/1.1 404 NOT FOUND\r\ncontent-length: 0\r\n\r\n"))
        elif STREAMING not in body:
            words = b"".join(b"w%d " % number for number in range(int(asked[1])))
            before, after = recorded.whole
            self._transport.write(_with_length(recorded.whole_head, before + words + after))
        else:
            self._transport.write(recorded.stream_head)
            telling = Telling(self._transport, *self._as_another(), timed=bool(asked[4]))
            self._go_on(telling, int(asked[1]), int(asked[2]), float(asked[3]) / 1000)

    def _as_another(self) -> tuple[bytes, bytes, bytes]:
        """The event and what follows, as of another run in another conversation."""
        begin = b"%08x" % (next(self._numbers) & 0xFFFFFFFF)
        parts = [*self._recorded.event, self._recorded.rest]
        for known in self._recorded.ids:
            parts = [part.replace(known, begin + known[8:]) for part in parts]
        before, after, rest = parts
        return before, after, rest

    def _go_on(self, telling: "Telling", pieces: int, together: int, gap: float) -> None:
        """Write what is due now. What is late does not make the rest hurry."""
        loop = asyncio.get_running_loop()
        if gap:
            telling.write(min(telling.next + together, pieces), pieces)
            if telling.next < pieces:
                due = telling.due = max(telling.due + gap, loop.time())
                self._telling = loop.call_at(due, self._go_on, telling, pieces, together, gap)
        else:
            telling.write(pieces, pieces)


class Telling:
    """One stream under way."""

    def __init__(self, transport: asyncio.Transport, before: bytes, after: bytes, rest: bytes, *, timed: bool) -> None:
        self._transport = transport
        self._before, self._after, self._rest = before, after, rest
        self._timed = timed
        self.next = 0
        self.due = asyncio.get_running_loop().time()

    def write(self, until: int, pieces: int) -> None:
        """Write the pieces before `until`; with the last one, what follows it."""
        words = [b"w%d " % number for number in range(self.next, until)]
        if self._timed:
            words = [b"%d " % time.monotonic_ns()] * len(words)
        data = b"".join([_chunk(self._before + word + self._after) for word in words])
        self.next = until
        self._transport.write(data + self._rest if until == pieces else data)


async def serve(port: int) -> None:
    """Serve until ended."""
    make = partial(Connection, await record(), count(1))
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port, backlog=BACKLOG)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
