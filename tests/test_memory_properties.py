"""Whatever people do in their chats, Dify's conversation holds what the client's history says, or is told all of it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from scripted import Spoken

from opendify.auth import Caller
from opendify.conversation import Conversation
from opendify.dialogue import Ids, Prompt, TextDelta, Turn
from opendify.dify.apps import Access, App
from opendify.dify.transcript import flatten, follow_up
from opendify.entries import AppConfig
from opendify.errors import ClientGone, Refused
from opendify.exchange import Answer, Exchange
from opendify.limits import Limits
from opendify.memory import Memory
from opendify.store import Store
from opendify.uploads import Uploads
from opendify.users import Users

ANSWERS = ("ok", "<think>hm\n</think>\n\nok", " two  words\n", "```\n<think>code</think>\n```", "")
# How clients send back what they were told: as it was, trimmed, without the thinking, or wrapped as Open WebUI does.
ECHOES: dict[str, Callable[[str], str]] = {
    "as it was": str,
    "trimmed": str.strip,
    "lines": lambda text: text.replace("\n", "\r\n"),
}


@dataclass
class Kept:
    """A conversation as Dify keeps it, and what it holds in the client's terms, None where nobody knows."""

    user: str
    queries: list[str] = field(default_factory=list)
    system: str = ""
    holds: list[str] | None = field(default_factory=list)


class Dify:
    """A Dify of one app, in memory. `answers` are said next, `cut` is after how many pieces the next one hangs."""

    def __init__(self) -> None:
        self.conversations: dict[str, Kept] = {}
        self.next_answer = "ok"
        self.fails = False
        self.hangs = False
        self.hanging = False
        self.mistaken = 0
        self.overlaps = 0
        self._running: set[str] = set()
        self._stopped = asyncio.Event()
        self._ids = count()

    @asynccontextmanager
    async def run(self, access: Access, path: str, body: bytes, **_: Any) -> AsyncIterator[Spoken]:
        asked = json.loads(body)
        name = asked.get("conversation_id")
        if name and (name not in self.conversations or self.conversations[name].user != asked["user"]):
            self.mistaken += name in self.conversations
            raise Refused("Conversation Not Exists.", code="not_found", status=404)
        name = name or f"00000000-0000-0000-0000-{next(self._ids):012}"
        kept = self.conversations.setdefault(name, Kept(asked["user"]))
        kept.queries.append(asked["query"])
        self.overlaps += name in self._running
        self._running.add(name)
        try:
            yield Spoken(self._stream(name))
        finally:
            self._running.discard(name)

    async def _stream(self, name: str) -> AsyncGenerator[bytes, None]:
        answer, hangs, fails = self.next_answer, self.hangs, self.fails
        for piece in ("", *answer):
            await asyncio.sleep(0)
            yield self._frame("message", name, answer=piece)
        if hangs:
            self.hanging = True
            await self._stopped.wait()
            self._stopped.clear()
        self._running.discard(name)
        if fails:
            yield self._frame("error", name, code="completion_request_error", message="no", status=400)
        yield self._frame("message_end", name, metadata={})

    def _frame(self, event: str, name: str, **fields: Any) -> bytes:
        ids = {"event": event, "task_id": "t", "message_id": "m", "conversation_id": name}
        return f"data: {json.dumps(ids | fields)}\n\n".encode()

    async def stop(self, *_: Any) -> None:
        """The run that hangs ends at once; what Dify keeps of it depends on the kind of app."""
        self._stopped.set()

    async def owns(self, app: App, user: str, conversation_id: str) -> bool:
        return conversation_id in self.conversations and self.conversations[conversation_id].user == user


CONFIG = AppConfig(key=SecretStr("app-x"), base="http://dify/v1", conversations="auto", background_tasks="isolated")
APP = App(
    access=Access("http://dify/v1", "app-x"),
    name="App",
    mode="chat",
    inputs=(),
    files=None,
    size_limits={},
    moderated=False,
    config=CONFIG,
)


class OneApp:
    """A catalogue of it."""

    async def find(self, *_: Any) -> App:
        return APP


class SharedStore(Store):
    """A store that others use at the same time: between any two of its answers they have their turn.

    It can fail for `failures` calls, from the n-th one on: before it does what it is asked, or `deaf` after it.
    """

    def __init__(self) -> None:
        super().__init__("mem://")
        self.failing_in = -1
        self.failures = 0
        self.deaf = False

    @property
    def entries(self) -> dict[str, Any]:
        entries: dict[str, Any] = self._cache.store  # type: ignore[attr-defined]
        return entries

    @property
    def is_unsure(self) -> bool:
        return self.failing_in == 0

    async def _try(self, change: Any, otherwise: Any) -> Any:
        await asyncio.sleep(0)
        if self.failing_in > 0:
            self.failing_in -= 1
        if self.failing_in == 0:
            self.failures -= 1
            if self.failures < 0:
                self.failing_in = -1
            else:
                if self.deaf:
                    await change()
                return otherwise
        return await super()._try(change, otherwise)


class Step(NamedTuple):
    """One thing that a user does in one of two chats."""

    user: str
    chat: int
    deed: str
    text: str
    answer: str
    echo: str
    at: int
    system: str = ""
    failing_in: int = -1
    failures: int = 0
    deaf: bool = False


STEPS = st.builds(
    Step,
    user=st.sampled_from(["ann", "bob"]),
    chat=st.sampled_from([0, 1]),
    deed=st.sampled_from(
        ["continue"] * 3
        + ["edit", "regenerate", "abort", "fail", "race", "forgotten", "restart", "crash", "named", "overtake"]
    ),
    text=st.sampled_from(["hi", "yes", " hi\n", "more"]),
    answer=st.sampled_from(ANSWERS),
    echo=st.sampled_from(sorted(ECHOES)),
    at=st.integers(0, 3),
    system=st.sampled_from(["", "", "", "Be brief.", "Be long."]),
    failing_in=st.sampled_from([-1, -1, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    failures=st.integers(1, 4),
    deaf=st.booleans(),
)


class World:
    """Users with their chats before one OpenDify before one Dify."""

    def __init__(self, *, chat_ids: bool) -> None:
        self.dify = Dify()
        self.chat_ids = chat_ids
        self.chats: dict[tuple[str, int], list[Turn]] = {}
        self.last_ids: dict[tuple[str, int], str] = {}
        self.store = SharedStore()
        self.exchange = self._exchange()

    def _exchange(self) -> Exchange:
        dify: Any = self.dify
        catalog: Any = OneApp()
        memory, uploads = Memory(self.store, dify), Uploads(dify, self.store)
        return Exchange(dify, catalog, memory, uploads, Users(), Limits())

    async def do(self, step: Step) -> None:
        """Do it, and check what came of it; nobody keeps a conversation to himself afterwards.

        As long as the store answers, no two are in one conversation at the same time.
        """
        self.dify.overlaps = 0
        await self._do(step)
        assert not self.dify.overlaps or step.failing_in > 0
        assert not [key for key in self.store.entries if ":turn:" in key]

    async def _do(self, step: Step) -> None:
        history = self.chats.setdefault((step.user, step.chat), [])
        self.dify.next_answer = step.answer
        match step.deed:
            case "restart":
                self.store = SharedStore()
                self.exchange = self._exchange()
                return
            case "forgotten":
                self.dify.conversations.clear()
            case "edit" | "regenerate" if history:
                place = 2 * (step.at % (len(history) // 2))
                text = step.text if step.deed == "edit" else history[place].text
                del history[place:]
                step = step._replace(text=text)
        turns = [*history, Turn(role="user", text=step.text)]
        self.store.failing_in, self.store.failures, self.store.deaf = step.failing_in, step.failures, step.deaf
        if step.deed == "race":
            await asyncio.gather(self._ask(step, turns), self._ask(step, turns))
        elif step.deed == "named":
            await self._ask(step, turns[-1:], self.last_ids.get((step.user, step.chat)))
        else:
            answer = await self._ask(step, turns)
            if step.deed in {"abort", "crash"} and step.at % 2:  # the client keeps what it had when it pressed stop
                answer = step.answer
            if answer.strip():
                history[:] = [*turns, Turn(role="assistant", text=ECHOES[step.echo](answer))]

    async def _ask(self, step: Step, turns: list[Turn], named: str | None = None) -> str:
        self.dify.hanging = False
        self.dify.hangs, self.dify.fails = step.deed in {"abort", "crash"}, step.deed == "fail"
        caller = Caller("team", trusted=True, chat_id=f"chat-{step.chat}" if self.chat_ids else None)
        system = [Turn(role="system", text=step.system)] if step.system else []
        prompt = Prompt(model="App", turns=(*system, *turns), user=step.user, conversation_id=named)
        answer = self.exchange.answer(prompt, caller)
        said: list[str] = []
        reading = asyncio.create_task(self._read(answer, said))
        if step.deed in {"abort", "crash"}:
            while not reading.done() and not self.dify.hanging:  # noqa: ASYNC110 (the reader is not ours to change)
                await asyncio.sleep(0)
        if step.deed == "overtake":
            await self._overtake(step, answer, reading)
        if step.deed == "abort":
            answer.leave(ClientGone("gone"))
        elif step.deed == "crash":
            await self._crash(reading)
        await asyncio.wait((reading,))
        await self.exchange.tasks.settled(1)  # what goes on in the background is over before the next step
        text = "".join(said)
        self._check(step, turns, answer, text, named)
        return text if answer.finished and step.deed != "abort" else ""

    async def _overtake(self, step: Step, answer: Answer, reading: "asyncio.Task[None]") -> None:
        """As soon as the answer has told its conversation, another request names it."""
        while not reading.done() and not answer.ids.conversation_id:  # noqa: ASYNC110 (the reader is not ours to change)
            await asyncio.sleep(0)
        if answer.ids.conversation_id:
            other = step._replace(deed="named", text="overtaking", failing_in=-1)
            prompt = Turn(role="user", text=other.text)
            await self._ask(other, [prompt], answer.ids.conversation_id)

    async def _crash(self, reading: "asyncio.Task[None]") -> None:
        """The worker dies in the middle of the turn; long after, another one finds what it left in the store."""
        left = dict(self.store.entries)
        reading.cancel()
        await asyncio.wait((reading,))
        await self.exchange.tasks.settled(1)
        self.store.entries.clear()
        self.store.entries.update({key: value for key, value in left.items() if ":turn:" not in key})

    @staticmethod
    async def _read(answer: Answer, said: list[str]) -> None:
        async with aclosing(answer.events()) as batches:
            async for events in batches:
                said += [event.text for event in events if isinstance(event, TextDelta)]

    def _check(self, step: Step, turns: list[Turn], answer: Answer, said: str, named: str | None) -> None:
        finished = answer.finished is not None and step.deed != "abort"
        assert not self.dify.mistaken
        kept = self.dify.conversations.get(answer.ids.conversation_id or "")
        if kept is None:
            assert not finished
            return
        assert kept.user == f"team:{step.user}"
        self.last_ids[step.user, step.chat] = answer.ids.conversation_id or ""
        told = [turn.text.strip() for turn in turns]
        system = [Turn(role="system", text=step.system)] if step.system else []
        if len(kept.queries) == 1:
            assert kept.queries == [flatten([*system, *turns])]
            kept.system = step.system
        elif named or "overtaking" in kept.queries[-1]:
            kept.holds = None  # whoever names a conversation knows what it holds; no history does
            return
        else:
            again = step.system != kept.system
            assert step.system or not kept.system
            kept.system = step.system
            assert kept.queries[-1] == (follow_up([*system, turns[-1]]) if again else turns[-1].text)
            assert kept.holds is not None
            assert [_seen(text) for text in kept.holds] == [_seen(text) for text in told[:-1]]
        kept.holds = [*told, said] if finished and said.strip() else None


def _seen(text: str) -> list[str]:
    """What is left of a text when nobody looks at its thinking and white space."""
    return text.replace("\r", "").replace("<think>hm\n</think>", "").split()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)
    monkeypatch.setattr("opendify.memory.SETTLE_SECONDS", (0.0,) * 9)
    monkeypatch.setattr("opendify.ending.LEAVE_SECONDS", 1.0)


@given(steps=st.lists(STEPS, max_size=12), chat_ids=st.booleans())
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_sequence_of_what_people_do(steps: list[Step], chat_ids: bool) -> None:
    async def live() -> None:
        world = World(chat_ids=chat_ids)
        for step in steps:
            await world.do(step)

    asyncio.run(live())


def test_a_chat_that_only_goes_on_stays_in_one_conversation() -> None:
    async def live() -> None:
        for echo in ECHOES:
            for said in ANSWERS[:-1]:
                world = World(chat_ids=False)
                for text in ("hi", "hi", "more"):
                    await world.do(Step("ann", 0, "continue", text, said, echo, 0))
                assert len(world.dify.conversations) == 1, (echo, said)

    asyncio.run(live())


def test_the_check_notices_a_mixed_conversation() -> None:
    """What this file relies on: a memory that claims nothing would fail."""

    async def live() -> None:
        world = World(chat_ids=False)
        await world.do(Step("ann", 0, "continue", "hi", "ok", "trimmed", 0))
        (kept,) = world.dify.conversations.values()
        kept.holds = ["something", "else"]
        with pytest.raises(AssertionError):
            await world.do(Step("ann", 0, "continue", "more", "ok", "trimmed", 0))

    asyncio.run(live())


def step(user: str, deed: str, text: str) -> Step:
    return Step(user, 0, deed, text, "ok", "trimmed", 0)


@pytest.mark.parametrize(
    "steps",
    [
        [step("ann", "continue", "hi"), step("ann", "crash", "more"), step("ann", "continue", "yes")],
        [step("ann", "continue", "hi"), step("bob", "continue", "hi"), step("ann", "continue", "more")],
        [step("ann", "continue", "hi"), step("ann", "abort", "more"), step("ann", "continue", "yes")],
        [step("ann", "continue", "hi"), step("ann", "named", "more"), step("ann", "continue", "yes")],
        [step("ann", "continue", "hi"), step("ann", "race", "more"), step("ann", "continue", "yes")],
    ],
    ids=["a worker that died", "two who say the same", "a client that left", "a turn by name", "two at once"],
)
def test_what_chance_may_not_come_upon(steps: list[Step]) -> None:
    async def live() -> None:
        world = World(chat_ids=False)
        for one in steps:
            await world.do(one)

    asyncio.run(live())


async def test_a_turn_that_ended_well_leaves_nothing_to_release() -> None:
    ids = Ids("00000000-0000-0000-0000-000000000001", "m")
    turns = [Turn(role="user", text="hi"), Turn(role="assistant", text="ok"), Turn(role="user", text="more")]
    memory = Memory(Store("mem://"), Dify())
    for said in (turns[:1], turns):
        conversation = memory.conversation(Prompt(model="App", turns=tuple(said)), APP, Caller("team"), "team:ann")
        await conversation.find()
        assert conversation.id == (None if said is not turns else ids.conversation_id)
        await conversation.begun(ids)
        conversation.hear([TextDelta("ok")])
        assert not conversation.settled
        await conversation.keep(ids, 0.0)
        assert conversation.settled
    assert Conversation().settled
