"""An answer and a client whose server sends as slowly as it likes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from conftest import eventually, finish_of, frames, text_of
from scripted import END, SAY, OneApp, Script, Step, exchange_of, frame

from opendify.auth import Caller
from opendify.dialogue import Prompt, Turn
from opendify.errors import ClientGone
from opendify.limits import Limits
from opendify.openai.chat.writer import ChatStream
from opendify.openai.delivery import Streaming
from opendify.run import LEAVE_SECONDS

FOREVER = 60.0
WORDS = [frame("message", answer=f"w{number} ") for number in range(4)]


class Client:
    """A streamed answer on its way over a server that awaits `before` each body message of it."""

    def __init__(
        self,
        *steps: Step,
        before: Callable[[bytes], Awaitable[None]],
        stops: Sequence[str] = (),
        limits: Limits | None = None,
    ) -> None:
        self._before = before
        self.gateway = Script(*steps)
        self.exchange = exchange_of(self.gateway, OneApp("chat"), limits)
        prompt = Prompt(model="App", turns=(Turn(role="user", text="hi"),), user="ann")
        self.answer = self.exchange.answer(prompt, Caller("team"))
        self.told: list[bytes] = []
        self.ended = asyncio.Event()
        delivery = Streaming(self.answer, ChatStream("App", stops, include_usage=False), self._receive)
        self.request = asyncio.create_task(self._serve(delivery))

    async def _serve(self, delivery: Streaming) -> None:
        await (await delivery.response())({"state": {}}, self._receive, self._send)  # type: ignore[arg-type]

    async def _receive(self) -> Any:
        await self.ended.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            await self._before(message["body"])
            self.told.append(message["body"])
            if not message["more_body"]:
                self.ended.set()

    async def chunks(self) -> list[dict[str, Any]]:
        """What the client was told, once the request is over."""
        async with asyncio.timeout(10):
            await self.request
        return frames(b"".join(self.told).decode())

    async def check_nothing_is_left(self) -> None:
        """No pump, no open run."""
        await eventually(lambda: not self.exchange._answers)
        assert self.gateway.closed == 1


async def at_once(_: bytes) -> None:
    """A client that reads."""


def waiting_at(end: bytes, seconds: float) -> Callable[[bytes], Awaitable[None]]:
    async def wait(data: bytes) -> None:
        if end in data:
            await asyncio.sleep(seconds)

    return wait


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, short_goodbyes: None) -> None:
    monkeypatch.setattr("opendify.openai.delivery.AFTER_SECONDS", 0.7)
    monkeypatch.setattr("opendify.openai.delivery.LEAVE_SECONDS", 0.1)


@pytest.mark.parametrize("steps", [[*WORDS, 0.1, END], [*WORDS, FOREVER]])
async def test_a_cut_answer_is_told_its_end_however_slowly_it_is_read(steps: list[Step]) -> None:
    client = Client(*steps, before=waiting_at(b"[DONE]", LEAVE_SECONDS / 3), stops=["w2"])
    chunks = await client.chunks()
    assert (text_of(chunks), finish_of(chunks), chunks[-1]) == ("w0 w1 ", ["stop"], {"done": True})
    await client.check_nothing_is_left()
    assert client.gateway.stops == [("task-1", "team:ann")]


async def test_a_cut_answer_whose_text_is_read_slowly() -> None:
    """The run is not waited for then, and the text is not lost."""
    client = Client(*WORDS, FOREVER, before=waiting_at(b"w1", LEAVE_SECONDS / 3), stops=["w2"])
    chunks = await client.chunks()
    assert (text_of(chunks), chunks[-1]) == ("w0 w1 ", {"done": True})
    await client.check_nothing_is_left()


@pytest.mark.parametrize("first_packet", [0.05, 9.0])
async def test_nothing_is_lost_while_the_first_message_is_sent(first_packet: float) -> None:
    async def slowly(_: bytes) -> None:
        await asyncio.sleep(0.1)

    client = Client(0.1, *WORDS, END, before=slowly, limits=Limits(first_packet=first_packet))
    chunks = await client.chunks()
    assert (text_of(chunks), finish_of(chunks), chunks[-1]) == ("w0 w1 w2 w3 ", ["stop"], {"done": True})
    await client.check_nothing_is_left()


@pytest.mark.parametrize("stops", [[], ["w2"]])
async def test_a_client_that_never_takes_the_end(stops: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is over; that its client does not read ends with a time limit."""
    monkeypatch.setattr("opendify.openai.delivery.UNREAD_SECONDS", 0.3)
    limits = Limits(run=0.2, keep_alive=0.05)
    client = Client(*WORDS, 0.1, END, before=waiting_at(b"[DONE]", FOREVER), stops=stops, limits=limits)
    assert text_of(await client.chunks()).startswith("w0 w1 ")
    await client.check_nothing_is_left()


async def test_a_client_that_reads_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.openai.delivery.UNREAD_SECONDS", 0.1)
    client = Client(SAY, 0.1, *WORDS, FOREVER, before=waiting_at(b"w0", FOREVER), limits=Limits(keep_alive=0.05))
    assert text_of(await client.chunks()) == "Hello"
    assert isinstance(client.answer.outcome.result(), ClientGone)
    await client.check_nothing_is_left()
    assert client.gateway.stops == [("task-1", "team:ann")]


@pytest.mark.parametrize("stuck_at", [b'"role"', b"keep-alive"])
async def test_a_client_that_reads_nothing_more_while_dify_is_silent(
    stuck_at: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opendify.openai.delivery.UNREAD_SECONDS", 0.2)
    limits = Limits(keep_alive=0.05, first_packet=0.01)
    client = Client(0.05, FOREVER, before=waiting_at(stuck_at, FOREVER), limits=limits)
    await client.chunks()
    assert isinstance(client.answer.outcome.result(), ClientGone)
    await client.check_nothing_is_left()


@pytest.mark.parametrize("keep_alive", [0.05, 9.0])
async def test_a_client_that_reads_slowly_is_no_such_client(keep_alive: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.openai.delivery.UNREAD_SECONDS", 0.4)

    async def slowly(_: bytes) -> None:
        await asyncio.sleep(0.15)

    steps = [step for word in WORDS for step in (word, 0.2)]
    client = Client(*steps, END, before=slowly, limits=Limits(keep_alive=keep_alive))
    chunks = await client.chunks()
    assert (text_of(chunks), chunks[-1]) == ("w0 w1 w2 w3 ", {"done": True})
    await client.check_nothing_is_left()


async def test_an_answer_in_one_read_is_complete_though_its_server_says_the_client_is_gone() -> None:
    """That is how servers tell that a response is over."""
    client = Client(SAY + END, before=at_once)
    assert (await client.chunks())[-1] == {"done": True}
    assert client.answer.outcome.result() is None
    await client.check_nothing_is_left()
    assert not client.gateway.stops


async def test_a_server_that_fails_to_send(capsys: pytest.CaptureFixture[str]) -> None:
    """ASGI lets it raise OSError for a client that has gone."""

    async def fail(data: bytes) -> None:
        if b"w0" in data:
            raise BrokenPipeError

    client = Client(SAY, 0.1, *WORDS, FOREVER, before=fail)
    assert text_of(await client.chunks()) == "Hello"
    assert isinstance(client.answer.outcome.result(), ClientGone)
    await client.check_nothing_is_left()
    assert client.gateway.stops == [("task-1", "team:ann")]
    assert "Traceback" not in "".join(capsys.readouterr())
