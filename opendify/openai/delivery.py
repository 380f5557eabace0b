"""An Answer to its client, streamed or folded. Shared by every surface.

Two tasks work on an answer. The pump reads events, converts and writes; nothing else happens per event. The request's
own task starts the response, keeps its connection alive and tells a failure; beside it an ear listens for the client
to leave.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import aclosing, suppress
from typing import Any, Protocol

import structlog
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp, Receive, Scope, Send

from opendify import sse
from opendify.dialogue import Event, FinishReason, Ids
from opendify.error_answers import from_exception
from opendify.errors import ClientGone, OpenDifyError
from opendify.exchange import Answer
from opendify.run import LEAVE_SECONDS, resolve

log = structlog.get_logger("opendify.delivery")

STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Writer(Protocol):
    """What a surface makes of events. `cut` once it wants no more text, `done` once it has told the end."""

    ids: Ids
    reasoning_key: str
    done: bool

    @property
    def cut(self) -> FinishReason | None: ...

    def feed(self, events: Iterable[Event]) -> bytes: ...
    def close(self) -> bytes: ...


class StreamWriter(Writer, Protocol):
    """A writer whose bytes are a stream of server-sent events."""

    def open(self) -> bytes: ...
    def fail(self, error: OpenDifyError) -> bytes: ...


class FoldWriter(Writer, Protocol):
    """A writer that makes one object of the whole."""

    def result(self) -> bytes: ...


def id_headers(ids: Ids) -> list[tuple[str, str]]:
    """Dify's ids, as far as they are known when the answer starts."""
    named = {"x-dify-conversation-id": ids.conversation_id, "x-dify-message-id": ids.message_id}
    return [(name, value) for name, value in named.items() if value and value.isascii() and value.isprintable()]


class Delivery(ABC):
    """What both forms share: the pump and the ear."""

    def __init__(self, answer: Answer, writer: Writer, receive: Receive) -> None:
        self._answer = answer
        self._writer = writer
        self._ear = asyncio.create_task(self._listen(receive))
        answer.spawn(self._pump())

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._answer.leave(ClientGone("The client closed the connection."))

    async def _pump(self) -> None:
        answer, writer = self._answer, self._writer
        try:
            async with aclosing(answer.events()) as batches:
                async for events in batches:
                    writer.ids, writer.reasoning_key = answer.ids, answer.reasoning_key
                    await self._write(writer.feed(events))
                    if writer.done:
                        answer.complete()
                    elif writer.cut and not answer.cut:
                        answer.enough(writer.cut)
        except Exception as error:
            log.exception("delivery_failed")
            answer.leave(from_exception(error))
        finally:  # a run that was cut short may end without a word, or be read no longer
            if writer.cut and not writer.done:
                await self._write(writer.close())
                answer.complete()

    @abstractmethod
    async def _write(self, data: bytes) -> None: ...

    def _close(self) -> None:
        """The request is over, however it came to that."""
        self._ear.cancel()
        self._answer.leave(ClientGone("The request ended."))


class Folding(Delivery):
    """An answer as one JSON object; every failure is a real HTTP status."""

    _writer: FoldWriter

    async def response(self) -> ASGIApp:
        """The complete answer. Raises its failure."""
        outcome = self._answer.outcome
        try:
            await _first((outcome,))
        finally:
            self._close()
        if error := outcome.result():
            raise error
        return ASGIResponse(body=self._writer.result(), headers=id_headers(self._answer.ids))

    async def _write(self, data: bytes) -> None:
        """Nothing is sent before the end."""


class Streaming(Delivery):
    """An answer as a stream; an early failure is a real HTTP status, a later one an error frame."""

    _writer: StreamWriter

    def __init__(self, answer: Answer, writer: StreamWriter, receive: Receive) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = self._loop.create_future()
        self._sink: asyncio.Future[Send] = self._loop.create_future()
        self._opened = False
        self._sending = False
        self._sent_at = self._loop.time()
        super().__init__(answer, writer, receive)

    async def response(self) -> ASGIApp:
        """The stream, once it has an event or the client has waited long enough. Raises an early failure."""
        answer = self._answer
        try:
            await _first((self._begun, answer.outcome, answer.sent))
            await _first((self._begun, answer.outcome), answer.limits.first_packet)
        except BaseException:
            self._close()
            raise
        if answer.outcome.done() and (error := answer.outcome.result()):
            self._close()
            raise error
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Start the response and see it through; once the answer is over, a client that does not read has a moment."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as patience:
                    self._answer.outcome.add_done_callback(lambda _: _shorten(patience, LEAVE_SECONDS))
                    await self._start(send)
                    await self._see_through(send)
        finally:
            self._close()

    async def _start(self, send: Send) -> None:
        ids = [(name.encode(), value.encode()) for name, value in id_headers(self._answer.ids)]
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *ids]})
        if not self._begun.done():
            await self._send(send, b"")
        self._sink.set_result(send)

    async def _see_through(self, send: Send) -> None:
        """Keep the connection alive until the pump is done; tell the failure, if it comes to that."""
        outcome = self._answer.outcome
        while not outcome.done():
            await _first((outcome,), self._until_keep_alive())
            if not outcome.done() and self._until_keep_alive() <= 0:
                await self._send(send, sse.KEEP_ALIVE)
        error = outcome.result()
        if error and not isinstance(error, ClientGone):
            await self._send(send, self._writer.fail(error), last=True)

    def _until_keep_alive(self) -> float:
        """Seconds until the client has heard nothing for too long; one that does not read needs no comments."""
        keep_alive = self._answer.limits.keep_alive
        return keep_alive if self._sending else self._sent_at + keep_alive - self._loop.time()

    async def _write(self, data: bytes) -> None:
        resolve(self._begun, None)
        outcome = self._answer.outcome
        if not self._sink.done():
            await _first((self._sink, outcome))
        if not outcome.done():
            await self._send(self._sink.result(), data, last=self._writer.done)

    async def _send(self, send: Send, data: bytes, *, last: bool = False) -> None:
        """One body message: what a read of Dify's stream amounts to. The role chunk goes before the first."""
        if not self._opened:
            self._opened = True
            data = self._writer.open() + data
        if not data and not last:
            return
        self._sending = True
        try:
            await send({"type": "http.response.body", "body": data, "more_body": not last})
        finally:
            self._sending = False
            self._sent_at = self._loop.time()


async def _first(futures: tuple["asyncio.Future[Any]", ...], seconds: float | None = None) -> None:
    """Wait for the first of them. Being cancelled meanwhile does not cancel them."""
    await asyncio.wait(futures, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _shorten(patience: asyncio.Timeout, seconds: float) -> None:
    """From now on at most this long; a block that is left already has no time to run out of."""
    with suppress(RuntimeError):
        patience.reschedule(asyncio.get_running_loop().time() + seconds)
