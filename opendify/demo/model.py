"""The scripted model: what it does, step by step, when it obeys the words of a script."""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from opendify.demo.told_tools import nonce, results, written
from opendify.demo.wire import Json
from opendify.demo.words import SPOKEN, Script, Word

CHUNK = re.compile(r"\s*\S+|\s+$")
STRANGE = (
    "你好，世界！👋🏽 Ünïcödé — 日本語テスト、한국어. Family: "  # noqa: RUF001  ambiguous on purpose
    "👨\u200d👩\u200d👧\u200d👦 Flag: 🇨🇳 math: ∑∞ 𝒜 e\u0301 "  # noqa: RUF001
    '\u2028line-sep\u2029 \x85nel "quotes" \\back\\ \ttab\n\nnewline end。'
)
LOOKING = ("I will ", "look at ", "the clock. ")
THOUGHTS = ("\n", "The user ", "wants ", "something; ", "let me ", "ponder.", "\n")
QUESTION: Json = {
    "title": "Need help",
    "question": "Which colour?",
    "markdown": "Choose **one**.",
    "fields": [{"type": "paragraph", "name": "why", "label": "Why", "required": True}],
    "actions": [{"id": "ok", "label": "OK", "style": "primary"}],
}
MIDWAY = 3
BREAKS = {"cut": MIDWAY, "eof": MIDWAY, "silence": 1, "pingforever": 1, "garbage": 2, "bigframe": 2}
ASKED_WORDS = 8


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Until:
    """Silence until something happens elsewhere."""

    event: asyncio.Event


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The end of a model round: the agent calls a tool and gets `result`; `before` and `after` it says these."""

    name: str
    arguments: Json
    result: str
    before: tuple[str, ...]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """The provider fails."""

    kind: str


@dataclass(frozen=True, slots=True)
class Break:
    """The connection does what FAULT:kind says."""

    kind: str


Step = Text | Thought | Pause | ToolCall | Failure | Break


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model is sent."""

    messages: list[Json]
    tools: tuple[str, ...] = ()
    stream: bool = True

    @property
    def size(self) -> int:
        """Prompt tokens, roughly: words."""
        return sum(len(str(part).split()) for message in self.messages for part in message["content"])

    def texts(self, *roles: str) -> list[str]:
        """The texts of the messages of these roles, all if none are named, oldest first."""
        messages = [message for message in self.messages if not roles or message["role"] in roles]
        return [part for message in messages for part in message["content"] if isinstance(part, str)]

    def described(self) -> str:
        """What DESCRIBE says."""
        params = {"temperature": 0.5, "max_tokens": 512}
        body = {"model": "demo-chat", "stream": self.stream, "stop": None, "params": params}
        body |= {"tools": list(self.tools), "messages": self.messages}
        return json.dumps(body, indent=1, ensure_ascii=False)


def _say(word: Word, _: Prompt) -> Iterator[Step]:
    said = json.loads(word.arg)
    yield from (Text(str(piece)) for piece in (said if isinstance(said, list) else [said]))


def _hang(word: Word, _: Prompt) -> Iterator[Step]:
    yield Pause(_count(word, 10))


def _think(_: Word, __: Prompt) -> Iterator[Step]:
    yield from map(Thought, THOUGHTS)
    yield from map(Text, ("\n\n", "After ", "thinking: ", "42."))


def _describe(_: Word, prompt: Prompt) -> Iterator[Step]:
    text = prompt.described()
    yield from (Text(text[at : at + 200]) for at in range(0, len(text), 200))


def _long(word: Word, _: Prompt) -> Iterator[Step]:
    yield from (Text(f"w{number} ") for number in range(int(_count(word, 100))))


def _slow(word: Word, _: Prompt) -> Iterator[Step]:
    milliseconds = word.numbers[1] if word.numbers[1:] else 200
    for number in range(int(_count(word, 10))):
        yield Text(f"s{number} ")
        yield Pause(milliseconds / 1000)


def _big(word: Word, _: Prompt) -> Iterator[Step]:
    yield Text("x" * int(_count(word, 1000)))


def _cjk(_: Word, __: Prompt) -> Iterator[Step]:
    yield from map(Text, STRANGE)


def _echo(word: Word, _: Prompt) -> Iterator[Step]:
    yield from map(Text, CHUNK.findall(word.arg))


def _call(word: Word, prompt: Prompt) -> Iterator[Step]:
    told = nonce(prompt.texts())
    yield from map(Text, written(json.loads(word.arg), told) if told else ("no ", "tools ", "here"))


def _count(word: Word, default: float) -> float:
    return word.numbers[0] if word.numbers else default


SPEAKERS: dict[str, Callable[[Word, Prompt], Iterator[Step]]] = {
    "HANG": _hang, "THINK": _think, "DESCRIBE": _describe, "LONG": _long, "SLOW": _slow, "BIG": _big, "CJK": _cjk,
    "SAY": _say, "ECHO": _echo, "CALL": _call,
}  # fmt: skip


def steps(script: Script, prompt: Prompt, asked: str, delay: float = 0.0) -> Iterator[Step]:
    """What the model does, step by step; `delay` seconds before each piece of its answer."""
    if script.mends:
        script = Script.mending(reversed(prompt.texts("user")))
    if "ERROR_START" in script:
        yield Failure(script.words["ERROR_START"].arg)
        return
    call = _tool_call(script, prompt.tools)
    if call:
        for _ in range(2 if "TOOL2" in script else 1):
            yield from map(Text, call.before)
            yield call
    spoken = _troubled(_spoken(script, prompt, asked, call), script)
    yield from _paced(spoken, delay) if delay else spoken


def _tool_call(script: Script, tools: tuple[str, ...]) -> ToolCall | None:
    if "ask_human" in tools and "ASKHUMAN" in script:
        return ToolCall("ask_human", QUESTION, "", LOOKING)
    if "make_picture" in tools and "FILE" in script:
        made = ("Here is ", "the picture.")
        return ToolCall("make_picture", {"size": "1x1"}, "made", ("I will ", "make a ", "picture. "), made)
    if tools and "BADTOOL" in script:
        return _clock("no_such_tool", {}, "there is not a tool named no_such_tool")
    if tools and ("TOOL" in script or "TOOL2" in script):
        return _clock("current_time", {"timezone": "UTC"}, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
    return None


def _clock(name: str, arguments: Json, result: str) -> ToolCall:
    return ToolCall(name, arguments, result, LOOKING, ("The clock says: ", result, " (done)."))


def _spoken(script: Script, prompt: Prompt, asked: str, call: ToolCall | None) -> Iterator[Step]:
    if call:
        yield from map(Text, call.after)
    said = [name for name in SPOKEN if name in script]
    for name in said:
        yield from SPEAKERS[name](script.words[name], prompt)
    if not call and "EMPTY" not in script and set(said) <= {"HANG"}:
        yield from map(Text, CHUNK.findall(_reply(asked)))


def _reply(asked: str) -> str:
    """What the model says without words."""
    found = results(asked)
    return f"The tools say: {'; '.join(found)}." if found else _friendly(asked)


def _friendly(asked: str) -> str:
    """What a newcomer reads first; in a later transcript its words must not be obeyed, hence the quotes."""
    lines = [line.strip() for line in asked.split("\n") if line.strip()]
    words = lines[-1].split() if lines else ["nothing"]
    said = " ".join(words[:ASKED_WORDS]) + (" ..." if words[ASKED_WORDS:] else "")
    return (
        f"Hello! You said: “{said}”. I am a sample app of the OpenDify demo, so I do not think, but the way from your"
        " client to Dify and back works. Try “THINK”, “TOOL”, “LONG 50” or “ECHO:anything”, then put your own Dify"
        " server behind OpenDify."
    )


def _troubled(spoken: Iterator[Step], script: Script) -> Iterator[Step]:
    """The answer with the failure or fault that befalls it."""
    if "ERROR_MID" in script:
        return _until(spoken, MIDWAY, Failure(script.words["ERROR_MID"].arg))
    if script.fault in BREAKS:
        return _broken(spoken, BREAKS[script.fault], Break(script.fault))
    return spoken


def _until(spoken: Iterator[Step], pieces: int, end: Step) -> Iterator[Step]:
    for step in spoken:
        yield step
        pieces -= isinstance(step, Text | Thought)
        if not pieces:
            break
    yield end


def _broken(spoken: Iterator[Step], pieces: int, trouble: Step) -> Iterator[Step]:
    yield from _until(spoken, pieces, trouble)
    yield from spoken


def _paced(spoken: Iterable[Step], delay: float) -> Iterator[Step]:
    for step in spoken:
        if isinstance(step, Text | Thought):
            yield Pause(delay)
        yield step


def tagged(spoken: Iterable[Step]) -> Iterator[Step]:
    """Thoughts as most apps show them: text between tags."""
    thinking = False
    for step in spoken:
        if isinstance(step, Thought) is not thinking and isinstance(step, Text | Thought):
            thinking = not thinking
            yield Text("<think>" if thinking else "</think>")
        yield Text(step.text) if isinstance(step, Thought) else step
