"""An Answer to its client, streamed or folded. Shared by every surface.

Two tasks work on an answer. The pump reads events, converts and writes; nothing else happens per event. The request's
own task starts the response, keeps its connection alive and tells a failure; beside it an ear listens for the client
to leave.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Final, Protocol

import structlog
from litestar.types import ASGIApp, Receive, Scope, Send

from opendify import sse
from opendify.access import server_send
from opendify.dialogue import Event, FinishReason, Ids, TextDelta
from opendify.error_answers import from_exception
from opendify.errors import ClientGone, OpenDifyError
from opendify.exchange import Answer
from opendify.run import LEAVE_SECONDS, resolve

# How long ear and pump may go on after their request: servers tell the ear at once that there is nothing more to hear,
# and what the pump reads ends within LEAVE_SECONDS.
AFTER_SECONDS = 2 * LEAVE_SECONDS
# How long a client may take nothing of what it is sent.
UNREAD_SECONDS = 300.0
STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

log = structlog.get_logger("opendify.delivery")


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


def id_headers(ids: Ids) -> list[tuple[bytes, bytes]]:
    """Dify's ids, as far as they are known when the answer starts."""
    named = ((b"x-dify-conversation-id", ids.conversation_id), (b"x-dify-message-id", ids.message_id))
    return [(name, value.encode()) for name, value in named if value and value.isascii() and value.isprintable()]


class Delivery(ABC):
    """What both forms share: the pump and the ear."""

    def __init__(self, answer: Answer, writer: Writer, receive: Receive) -> None:
        self._answer = answer
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._ear = self._loop.create_task(self._listen(receive))
        self._pumping = answer.spawn(self._pump())

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._answer.leave(ClientGone("The client closed the connection."))

    async def _pump(self) -> None:
        answer, writer, outcome, is_first = self._answer, self._writer, self._answer.outcome, True
        try:
            async with aclosing(answer.events()) as batches:
                async for events in batches:
                    if is_first or type(events[-1]) is not TextDelta:  # nothing is named by text alone
                        writer.ids, writer.reasoning_key, is_first = answer.ids, answer.reasoning_key, False
                    data = writer.feed(events)
                    if (data or writer.done) and not outcome.done():
                        await self._write(data)
                    if writer.done:
                        answer.complete()
                    elif writer.cut and not answer.cut:
                        answer.enough(writer.cut)
        except Exception as error:
            log.exception("delivery_failed")
            answer.leave(from_exception(error))
        finally:  # a run that was cut short may end without a word, or be read no longer
            if writer.cut:
                if not (writer.done or outcome.done()):
                    await self._write(writer.close())
                answer.complete()

    @abstractmethod
    def _write(self, data: bytes) -> Awaitable[None]: ...

    def _close(self) -> None:
        """The request is over, however it came to that.

        Pump and ear hear that by themselves. Cancelling them leaves a circle for the garbage collector, so that is
        kept for servers which do not tell, and for a pump that waits for a client which does not read.
        """
        self._answer.leave(ClientGone("The request ended."))
        for task in (self._ear, self._pumping):
            if not task.done():
                _end_within(AFTER_SECONDS, task)


class Folding(Delivery):
    """An answer as one JSON object; every failure is a real HTTP status."""

    _writer: FoldWriter
    _body = b""

    async def response(self) -> ASGIApp:
        """The complete answer. Raises its failure."""
        outcome = self._answer.outcome
        try:
            await _resolved(outcome)
        finally:
            self._close()
        if error := outcome.result():
            raise error
        self._body = self._writer.result()
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Send it."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self._body))]
        headers += id_headers(self._answer.ids)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await server_send(scope, send)({"type": "http.response.body", "body": self._body, "more_body": False})

    async def _write(self, data: bytes) -> None:
        """Nothing is sent before the end."""


class Streaming(Delivery):
    """An answer as a stream; an early failure is a real HTTP status, a later one an error frame."""

    _writer: StreamWriter
    _send: Send

    def __init__(self, answer: Answer, writer: StreamWriter, receive: Receive) -> None:
        super().__init__(answer, writer, receive)
        self._first = b""
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._sent_at = self._loop.time()
        self._is_sending = False
        answer.outcome.add_done_callback(self._on_outcome)
        answer.sent.add_done_callback(self._on_sent)

    def _on_outcome(self, _: object) -> None:
        """Nobody waits for the other one any more."""
        resolve(self._ready, None)
        resolve(self._started, None)

    def _on_sent(self, _: object) -> None:
        """From now on the client waits for as long as it is told nothing."""
        if not self._ready.done():
            timer = self._loop.call_later(self._answer.limits.first_packet, resolve, self._ready, None)
            self._ready.add_done_callback(lambda _: timer.cancel())

    async def response(self) -> ASGIApp:
        """The stream, once it has an event or the client has waited long enough. Raises an early failure."""
        try:
            await self._ready
        except BaseException:
            self._close()
            raise
        outcome = self._answer.outcome
        if outcome.done() and (error := outcome.result()):
            self._close()
            raise error
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Start the response and see it through; once the answer is over, a client that does not read has a moment."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNREAD_SECONDS) as patience:
                    self._answer.outcome.add_done_callback(lambda _: _shorten(patience, LEAVE_SECONDS))
                    await self._start(scope, send)
                    await self._see_through(patience)
        finally:
            self._close()

    async def _start(self, scope: Scope, send: Send) -> None:
        """The response's start and what the pump has by now, and meanwhile; from here on it writes for itself."""
        self._send = server_send(scope, send)
        headers = [*STREAM_HEADERS, *id_headers(self._answer.ids)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        data = self._writer.open() + self._first
        while data:
            self._first, is_last = b"", self._writer.done
            await self._put(data, last=is_last)
            if is_last:  # servers tell the ear now that the response is over
                self._answer.complete()
            data = self._first
        resolve(self._started, None)

    async def _see_through(self, patience: asyncio.Timeout) -> None:
        """Keep the connection alive until the pump is done; tell the failure, if it comes to that.

        A client that does not read has patience, for a comment and for what the pump writes alike.
        """
        outcome, keep_alive, now = self._answer.outcome, self._answer.limits.keep_alive, self._loop.time
        stuck_after: float | None = None
        while not outcome.done():
            if not self._is_sending:
                stuck_after, until = None, self._sent_at + keep_alive
                patience.reschedule(None)
            else:
                if stuck_after != self._sent_at:  # by then it is another write
                    patience.reschedule(now() + UNREAD_SECONDS)
                stuck_after, until = self._sent_at, now() + min(keep_alive, UNREAD_SECONDS / 2)
            await _resolved(outcome, until)
            if not (outcome.done() or self._is_sending) and self._sent_at + keep_alive <= now():
                patience.reschedule(now() + UNREAD_SECONDS)
                await self._put(sse.KEEP_ALIVE)
        error = outcome.result()
        if error and not isinstance(error, ClientGone) and not self._writer.done:
            await self._put(self._writer.fail(error), last=True)

    def _write(self, data: bytes) -> Awaitable[None]:
        return self._put(data, last=self._writer.done) if self._started.done() else self._wait(data)

    async def _wait(self, data: bytes) -> None:
        """The first data goes out with the response's start."""
        self._first = data
        resolve(self._ready, None)
        await _resolved(self._started)

    async def _put(self, data: bytes, *, last: bool = False) -> None:
        """One body message: what a read of Dify's stream amounts to."""
        self._is_sending = True  # and may be for long: to a client that does not read
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except OSError:  # as servers may say it
            self._answer.leave(ClientGone("The client closed the connection."))
        self._is_sending, self._sent_at = False, self._loop.time()


async def _resolved(future: "asyncio.Future[Any]", until: float | None = None) -> None:
    """Wait for it, at most until then. Being cancelled meanwhile does not cancel it."""
    if future.done():
        return
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake(_: object = None) -> None:
        resolve(waiter, None)

    future.add_done_callback(wake)
    timer = None if until is None else loop.call_at(until, wake)
    try:
        await waiter
    finally:
        future.remove_done_callback(wake)
        if timer:
            timer.cancel()


def _end_within(seconds: float, task: "asyncio.Task[Any]") -> None:
    timer = asyncio.get_running_loop().call_later(seconds, task.cancel)
    task.add_done_callback(lambda _: timer.cancel())


def _shorten(patience: asyncio.Timeout, seconds: float) -> None:
    """From now on at most this long; a block that is left already has no time to run out of."""
    with suppress(RuntimeError):
        patience.reschedule(asyncio.get_running_loop().time() + seconds)
