"""The story of one answer, with a gateway whose every word is scripted."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import eventually
from scripted import END, FLOW_OVER, SAY, OneApp, Script, Spoken, Step, exchange_of, frame

from opendify.auth import Caller
from opendify.dialogue import Event, Finished, Prompt, Started, TextDelta, Turn
from opendify.dify.apps import Access, App
from opendify.entries import Mode
from opendify.errors import BrokenUpstream, Busy, ClientGone, OpenDifyError, Refused, ShutDown, Unreachable
from opendify.exchange import Answer, Exchange
from opendify.limits import Limits
from opendify.memory import Memory
from opendify.store import Store
from opendify.uploads import Uploads
from opendify.users import Users


class Told:
    """An answer read to its end by a task of its own, as a client's would be."""

    def __init__(self, gateway: Script, mode: Mode = "chat", limits: Limits | None = None) -> None:
        self.gateway = gateway
        self.catalog = OneApp(mode)
        self.exchange = exchange_of(gateway, self.catalog, limits)
        prompt = Prompt(model="App", turns=(Turn(role="user", text="hi"),), user="ann")
        self.answer: Answer = self.exchange.answer(prompt, Caller("team"))
        self.events: list[Event] = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for events in self.answer.events():
            self.events += events

    async def outcome(self) -> OpenDifyError | None:
        """How it ended, once it has."""
        await asyncio.wait((self.reading,))
        return self.answer.outcome.result() if self.answer.outcome.done() else None

    @property
    def text(self) -> str:
        """What was said."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))


pytestmark = pytest.mark.usefixtures("short_goodbyes")


async def test_a_good_answer() -> None:
    told = Told(Script(SAY, SAY, END))
    assert await told.outcome() is None
    assert [type(event) for event in told.events] == [Started, TextDelta, TextDelta, Finished]
    assert (told.gateway.stops, told.gateway.closed) == ([], 1)
    assert not told.exchange._answers


ENDS: list[tuple[Mode, Sequence[Step], str, str]] = [
    ("chat", (SAY,), "Hello", "Dify ended the answer in the middle."),
    ("chat", (SAY, BrokenUpstream("cut")), "Hello", "cut"),
    ("chat", (SAY + b"data: {broken\n\n",), "Hello", "Dify sent something that is not its protocol."),
    ("chat", (SAY, b"data: " + b"x" * 5_000_000), "Hello", "Dify sent something that is not its protocol."),
    (
        "chat",
        (SAY, frame("message", answer="x" * 200)),
        "Hello" + "x" * 200,
        "The answer is longer than 100 characters.",
    ),
    ("chat", (SAY, RuntimeError("a bug")), "Hello", "Something went wrong here; the server's log has the details."),
]


@pytest.mark.parametrize(("mode", "steps", "text", "message"), ENDS)
async def test_ends_that_leave_the_run_alive_stop_it(
    mode: Mode, steps: Sequence[Step], text: str, message: str
) -> None:
    told = Told(Script(*steps), mode, Limits(answer_chars=100))
    error = await told.outcome()
    assert error
    assert error.message == message
    assert text.startswith(told.text)
    assert told.text.startswith("Hello")
    await eventually(lambda: told.gateway.stops == [("task-1", "team:ann")])
    assert told.gateway.closed == 1


async def test_a_failure_of_dify_is_no_run_to_stop() -> None:
    told = Told(Script(SAY + frame("error", code="completion_request_error", message="no", status=400)))
    error = await told.outcome()
    assert error
    assert (told.text, error.code, error.should_retry) == ("Hello", "completion_request_error", False)
    assert not told.gateway.stops


@pytest.mark.parametrize("late", [b"event: ping\n\n", b""])
async def test_a_chatflow_that_never_says_message_end(late: bytes) -> None:
    """1.13.0 loses it; the stream may go on with pings for minutes."""
    pings: list[Step] = [0.1, late] * 20 if late else []
    told = Told(Script(SAY, FLOW_OVER, *pings, 30.0), "advanced-chat")
    assert await told.outcome() is None
    assert isinstance(told.events[-1], Finished)
    assert told.events[-1].usage.total_tokens == 7
    assert not told.gateway.stops


async def test_message_end_after_the_flow() -> None:
    told = Told(Script(SAY, FLOW_OVER, 0.1, END), "advanced-chat")
    assert await told.outcome() is None
    assert [type(event) for event in told.events] == [Started, TextDelta, Finished]


async def test_leaving_stops_once_and_reads_on() -> None:
    told = Told(Script(SAY, 0.2, SAY, END))
    await eventually(lambda: told.text == "Hello")
    for _ in range(3):
        told.answer.leave(ClientGone("gone"))
    outcome = await told.outcome()
    assert isinstance(outcome, ClientGone)
    assert told.gateway.stops == [("task-1", "team:ann")]
    assert isinstance(told.events[-1], Finished)  # read to its end


@pytest.mark.parametrize("problem", [Unreachable("down"), Refused("no", code="bad_request", status=400)])
async def test_a_stop_that_fails_is_told_to_the_log_alone(problem: Exception) -> None:
    told = Told(Script(SAY, 30.0, stopping=problem))
    await eventually(lambda: told.text == "Hello")
    told.answer.leave(ClientGone("gone"))
    assert isinstance(await told.outcome(), ClientGone)
    assert told.gateway.closed == 1


async def test_leaving_before_the_first_step() -> None:
    told = Told(Script(SAY, END))
    told.answer.leave(ClientGone("gone"))
    assert isinstance(await told.outcome(), ClientGone)
    assert (told.events, told.gateway.closed) == ([], 0)


async def test_an_answer_that_was_told_is_not_left() -> None:
    """Servers say that the client has gone once they have sent the end."""
    told = Told(Script(SAY, 0.1, END))
    await eventually(lambda: told.text == "Hello")
    told.answer.complete()
    told.answer.leave(ClientGone("The request ended."))
    assert await told.outcome() is None
    assert not told.gateway.stops
    assert isinstance(told.events[-1], Finished)


async def test_draining_tells_those_who_are_not_done() -> None:
    told = Told(Script(SAY, 30.0))
    await eventually(lambda: told.text == "Hello")
    await told.exchange.drain(0)
    outcome = await told.outcome()
    assert isinstance(outcome, ShutDown)
    assert outcome.should_retry is False
    with pytest.raises(Busy):
        told.exchange.answer(Prompt(model="App", turns=()), Caller("team"))


@pytest.mark.parametrize(("code", "changes"), [("not_chat_app", 1), ("app_unavailable", 1), ("not_found", 0)])
async def test_codes_that_say_the_app_has_changed(code: str, changes: int) -> None:
    told = Told(Script(Refused("no", code=code, status=400)))
    assert isinstance(await told.outcome(), Refused)
    assert told.catalog.changes == changes


async def test_the_clock() -> None:
    told = Told(Script(SAY, 0.1, SAY, 30.0), limits=Limits(silence=0.3, run=60))
    error = await told.outcome()
    assert error
    assert (error.status, error.message) == (504, "Dify was silent for 0.3 seconds.")
    assert told.text == "HelloHello"
    assert told.gateway.stops == [("task-1", "team:ann")]


async def test_what_was_cut_cannot_fail() -> None:
    told = Told(Script(SAY, 0.1, frame("error", code="completion_request_error", message="no", status=400)))
    await eventually(lambda: told.text == "Hello")
    told.answer.enough("stop")
    assert await told.outcome() is None
    assert not told.answer.outcome.done()  # whoever cut it completes it


# -- the conversation of an answer

FIRST = Turn(role="user", text="hi")


class Talk:
    """Turns of one chat, each with a gateway of its own script."""

    def __init__(self) -> None:
        self.store = Store("mem://")
        self.bodies: list[dict[str, Any]] = []
        self.gone: list[str] = []

    def turn(self, *steps: Step, turns: Sequence[Turn] = (FIRST,), limits: Limits | None = None) -> Answer:
        """An answer that is about to be read."""
        gateway: Any = Recording(self, *steps)
        catalog: Any = OneApp("chat")
        memory, uploads = Memory(self.store, gateway), Uploads(gateway, self.store)
        exchange = Exchange(gateway, catalog, memory, uploads, Users(), limits or Limits())
        return exchange.answer(Prompt(model="App", turns=tuple(turns)), Caller("team"))

    async def read(self, answer: Answer) -> str:
        """Its text, once everything about it is over."""
        said: list[Event] = []
        await asyncio.wait((asyncio.create_task(self._read(answer, said)),))
        await answer._exchange.tasks.settled(2)
        return "".join(event.text for event in said if isinstance(event, TextDelta))

    @staticmethod
    async def _read(answer: Answer, said: list[Event]) -> None:
        async for events in answer.events():
            said += events


class Recording(Script):
    """A scripted gateway whose every request is kept."""

    def __init__(self, talk: Talk, *steps: Step) -> None:
        super().__init__(*steps)
        self.talk = talk

    @asynccontextmanager
    async def run(self, access: Access, path: str, body: bytes, **more: Any) -> AsyncIterator[Spoken]:
        asked = json.loads(body)
        self.talk.bodies.append(asked)
        if asked.get("conversation_id") in self.talk.gone:
            raise Refused("Conversation Not Exists.", code="not_found", status=404)
        async with super().run(access, path, body, **more) as stream:
            yield stream

    async def forget(self, app: App, user: str, conversation_id: str) -> None:
        self.talk.gone.append(conversation_id)


def then(text: str) -> tuple[Turn, ...]:
    """The second turn after an answer of Hello."""
    return (FIRST, Turn(role="assistant", text="Hello"), Turn(role="user", text=text))


async def test_the_next_turn_can_come_with_the_last_word() -> None:
    """The conversation is known before the client has all of its answer."""
    talk = Talk()
    answer = talk.turn(SAY, END)
    async for events in answer.events():
        if isinstance(events[-1], Finished):
            await talk.read(talk.turn(SAY, END, turns=then("more")))
    assert talk.bodies[1]["conversation_id"] == "c-1"
    assert talk.bodies[1]["query"] == "more"


async def test_a_client_that_leaves_while_its_turn_waits_for_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    answer = talk.turn(SAY, END, turns=then("more"))
    reading = asyncio.create_task(talk.read(answer))
    await asyncio.sleep(0.05)
    answer.leave(ClientGone("gone"))
    await asyncio.wait((reading,))
    assert len(talk.bodies) == 1
    await answer._exchange.tasks.settled(2)
    await talk.read(talk.turn(SAY, END, turns=then("more")))
    assert talk.bodies[1]["conversation_id"] == "c-1"


async def test_a_lost_conversation_is_begun_anew_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    talk.gone.append("c-1")
    answer = talk.turn(SAY, END, turns=then("more"))
    assert await talk.read(answer) == "Hello"
    assert [body.get("conversation_id") for body in talk.bodies] == [None, "c-1", None]
    assert "## Assistant\nHello" in talk.bodies[2]["query"]


async def test_a_404_without_a_conversation_is_a_failure_at_once() -> None:
    talk = Talk()
    answer = talk.turn(Refused("Not here.", code="not_found", status=404))
    await talk.read(answer)
    assert (await answer.outcome) is not None
    assert len(talk.bodies) == 1


async def test_another_conversation_than_asked_for_is_stopped_and_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    other = frame("message", answer="Other").replace(b"c-1", b"c-2")
    answer = talk.turn(other, frame("message_end", metadata={}).replace(b"c-1", b"c-2"), turns=then("more"))
    assert await talk.read(answer) == "Other"  # of the second run, which begins a conversation and is told everything
    assert [body.get("conversation_id") for body in talk.bodies] == [None, "c-1", None]
    gateway: Any = answer._exchange.gateway
    assert gateway.stops == [("task-1", "team")]
    assert talk.gone == ["c-2"]


async def test_a_turn_that_took_too_long_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    await talk.read(talk.turn(SAY, 5.0, turns=then("more"), limits=Limits(silence=0.05)))
    await talk.read(talk.turn(SAY, END, turns=then("more")))
    assert [body.get("conversation_id") for body in talk.bodies] == [None, "c-1", None]


@pytest.mark.parametrize(
    "failure",
    [
        frame("error", code="not_found", message="Conversation Not Exists.", status=404),
        frame("error", code="not_found", message="model gpt-x not found", status=404),
        frame("error", code="invalid_param", message="could not upload file report.csv", status=400),
    ],
)
async def test_what_a_run_says_of_itself_is_no_reason_for_another(
    failure: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has begun, and may have done something."""
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    await talk.read(talk.turn(failure, turns=then("more")))
    assert len(talk.bodies) == 2


async def test_a_failed_run_before_one_that_was_refused_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that changes nothing does not undo what the run before it did."""
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    talk = Talk()
    await talk.read(talk.turn(SAY, END))
    answer = talk.turn(turns=then("more"))
    answer._may_have_run = True  # as after a run that was given up
    gateway: Any = answer._exchange.gateway
    gateway.steps = (Refused("Too many requests.", code="too_many_requests", status=429),)
    await talk.read(answer)
    await talk.read(talk.turn(SAY, END, turns=then("more")))
    assert talk.bodies[-1].get("conversation_id") is None
