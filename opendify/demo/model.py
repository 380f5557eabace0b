r"""The scripted model: it does what the words in its prompt say.

Words are read from the last line of the newest text that has any (the text may be a whole transcript), wherever
they stand in that line, and they combine; a word right after “ is not read. Without words the model says something
friendly.

What it says, in this order, whatever their order in the line:

    HANG n         is silent for n seconds first
    THINK          thinks: "<think>" in the text, or `reasoning_chunk`, or the New Agent's thoughts
    DESCRIBE       says what it was sent, as JSON: system prompt, history, files, tools
    LONG n         n short words: "w0 w1 w2 "
    SLOW n [ms]    the same at one word every ms (200) milliseconds: "s0 s1 s2 "
    BIG n          one piece of n characters
    CJK            characters that break careless readers: line separators, emoji, quotes, escapes
    SAY:"..."      exactly this JSON string; SAY:["a","b"] exactly these pieces; words inside are not read
    ECHO:x         says x, which goes to the end of the line and includes any words in it
    EMPTY          nothing

What happens around it:

    TOOL, TOOL2    agents look at the clock first, once or twice
    BADTOOL        ... and the tool does not exist
    ASKHUMAN       the New Agent asks a human and waits
    PAUSE          flows stop for a human to fill in a form (1.16)
    FILE           the app makes a picture; the classic agent calls a tool for it
    CITE           knowledge was looked up: `retriever_resources`
    TTS            the answer is also spoken
    TWO            a workflow with two End outputs
    OUTPUTS_ONLY   a workflow that streams no text
    JSONOUT        ... and whose outputs hold no string
    RETRY          a flow's model node is tried three times
    EXTRAS         flows send iteration, loop, agent log and unknown events too
    REPLACE        `message_replace` with other text at the end
    REPLACE_PREFIX `message_replace` with text that goes on from what was sent
    FINISH_LENGTH  the model ran out of tokens (also FINISH:length)
    NOUSAGE        the provider counts no tokens
    STOPPED        the run ends as if a user had stopped it
    FAIL           a step after the model fails: `workflow_finished` failed, or `error`
    PARTIAL        the flow ends as partial-succeeded
    ERROR_START[:KIND], ERROR_MID[:KIND]
                   the provider fails at once, or after three pieces. KIND: UNAVAIL, AUTH, RATE, BAD, CONN, RAW,
                   OTHER, RUNTIME, CUT, QUOTA, INTERNAL

FAULT:KIND is what a bad server or network does:

    before the answer   html502 html200 500 503 429 toomany400 quota gone flaky-N noheaders drop
    within the stream   cut eof silence pingforever garbage bigframe lostend

`gone` forgets the conversation of the request, `flaky-N` answers this very text with 503 N times, `noheaders` never
answers, `drop` closes the connection without a byte, `cut` closes it within the answer, `eof` ends it cleanly but too
early, `silence` stops sending, `pingforever` only pings, `garbage` is a broken frame, `bigframe` one of 16 MiB,
`lostend` a chatflow without `message_end`. Blocking answers know only the faults before the answer.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opendify.demo.wire import Json

WORD = re.compile(r"(?<![\w“])(?P<name>[A-Z][A-Z0-9_]+)(?::(?P<arg>[\w-]+))?(?P<numbers>(?: \d+(?:\.\d+)?){0,2})(?!\w)")
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
class Word:
    """A word of the script with what belongs to it."""

    name: str
    arg: str = ""
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Script:
    """The words the model obeys, by name; of equal ones the last."""

    words: dict[str, Word] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.words

    @property
    def fault(self) -> str:
        """KIND of FAULT:KIND, or nothing."""
        return self.words["FAULT"].arg if "FAULT" in self.words else ""

    @classmethod
    def read(cls, text: str) -> "Script":
        """The words on the last line that has any."""
        for line in reversed(text.split("\n")):
            if words := {word.name: word for word in _words(line.rstrip("\r"))}:
                return cls(words)
        return cls()


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

    def described(self) -> str:
        """What DESCRIBE says."""
        params = {"temperature": 0.5, "max_tokens": 512}
        body = {"model": "demo-chat", "stream": self.stream, "stop": None, "params": params}
        body |= {"tools": list(self.tools), "messages": self.messages}
        return json.dumps(body, indent=1, ensure_ascii=False)


def _words(line: str) -> Iterator[Word]:
    position = 0
    while found := WORD.search(line, position):
        position = found.end()
        name = found["name"]
        if name in {"SAY", "ECHO"}:
            if line[found.end("name") :].startswith(":"):
                position = found.end("name") + 1
                value, position = _literal(line, position) if name == "SAY" else (line[position:], position)
                yield Word(name, value)
        elif name in KNOWN:
            name = "FINISH_LENGTH" if name == "FINISH" else name
            yield Word(name, found["arg"] or "", tuple(map(float, found["numbers"].split())))


def _literal(line: str, start: int) -> tuple[str, int]:
    """The JSON value at `start`, as JSON again, and where it ends; anything else counts as plain text."""
    try:
        _, end = json.JSONDecoder().raw_decode(line, start)
    except json.JSONDecodeError:
        return json.dumps(line[start:]), len(line)
    return line[start:end], end


def _say(word: Word, _: Prompt) -> Iterator[Step]:
    said = json.loads(word.arg)
    yield from map(Text, said if isinstance(said, list) else [str(said)])


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


def _count(word: Word, default: float) -> float:
    return word.numbers[0] if word.numbers else default


SPOKEN: dict[str, Callable[[Word, Prompt], Iterator[Step]]] = {
    "HANG": _hang, "THINK": _think, "DESCRIBE": _describe, "LONG": _long, "SLOW": _slow, "BIG": _big, "CJK": _cjk,
    "SAY": _say, "ECHO": _echo,
}  # fmt: skip
KNOWN = frozenset(SPOKEN) | {  # the other words act on the run, not on the text
    "EMPTY", "TOOL", "TOOL2", "BADTOOL", "ASKHUMAN", "PAUSE", "FILE", "CITE", "TTS", "TWO", "OUTPUTS_ONLY",
    "JSONOUT", "RETRY", "EXTRAS", "REPLACE", "REPLACE_PREFIX", "FINISH_LENGTH", "FINISH", "NOUSAGE", "STOPPED",
    "FAIL", "PARTIAL", "ERROR_START", "ERROR_MID", "FAULT",
}  # fmt: skip


def steps(script: Script, prompt: Prompt, asked: str, delay: float = 0.0) -> Iterator[Step]:
    """What the model does, step by step; `delay` seconds before each piece of its answer."""
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
        yield from SPOKEN[name](script.words[name], prompt)
    if not call and "EMPTY" not in script and set(said) <= {"HANG"}:
        yield from map(Text, CHUNK.findall(_friendly(asked)))


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
