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
    CALL:JSON      calls tools that the prompt tells of (emulated ones): JSON is {"name": ..., "arguments": {...}} or a
                   list of these; a JSON string stands between the tags as it is. "no tools here" if none are told
    EMPTY          nothing

MEND:JSON says what the model does if its reply is refused and it is asked to mend it (such a request is never read for
words): it says a JSON string, and calls tools for anything else, like CALL. Without the word it cannot do better.

Calls and earlier answers hold no words. A result of a tool does if its text begins with one, so that a result like
CALL:{...} makes the model call again; otherwise the model says what the tools say.

What happens around it:

    TOOL, TOOL2    agents look at the clock first, once or twice; flows have Tool nodes that do
    BADTOOL        agents do, and the tool does not exist
    AGENTNODE      the model speaks in an Agent node of the flow, which looks at the clock first and logs its rounds
    ASKHUMAN       the New Agent asks a human and waits
    PAUSE[:KIND]   flows stop for a human to fill in a form (1.16). KIND: files, twice, email (which has no token),
                   expired, lost (the stream after the submit ends too early), stale (the server is behind for a
                   moment after it), unresumable (released 1.16.1 stops workflows instead)
    FILE[:KIND]    the app makes a picture; the classic agent calls a tool for it. KIND: html, svg, txt, big (32 MiB)
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

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from opendify.demo.told_tools import CALL, RESULT, before_repair, brings_results, split

SPOKEN = ("HANG", "THINK", "DESCRIBE", "LONG", "SLOW", "BIG", "CJK", "SAY", "ECHO", "CALL")
"""The words that make the text, in the order in which they are said."""

KNOWN = frozenset(SPOKEN) | {  # the other words act on the run, not on the text
    "EMPTY", "TOOL", "TOOL2", "BADTOOL", "AGENTNODE", "ASKHUMAN", "PAUSE", "FILE", "CITE", "TTS", "TWO", "OUTPUTS_ONLY",
    "JSONOUT", "RETRY", "EXTRAS", "REPLACE", "REPLACE_PREFIX", "FINISH_LENGTH", "FINISH", "NOUSAGE", "STOPPED",
    "FAIL", "PARTIAL", "ERROR_START", "ERROR_MID", "FAULT", "MEND",
}  # fmt: skip
ANSWER = re.compile(r"^## Assistant\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
CANNOT = "I cannot do better."
WORD = re.compile(r"(?<![\w“])(?P<name>[A-Z][A-Z0-9_]+)(?::(?P<arg>[\w-]+))?(?P<numbers>(?: \d+(?:\.\d+)?){0,2})(?!\w)")


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the script with what belongs to it."""

    name: str
    arg: str = ""
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True)
class Script:
    """The words the model obeys, by name; of equal ones the last. `mends`: it is asked to mend its last reply."""

    words: dict[str, Word] = field(default_factory=dict)
    mends: bool = False

    def __contains__(self, name: str) -> bool:
        return name in self.words

    @property
    def fault(self) -> str:
        """KIND of FAULT:KIND, or nothing."""
        return self.words["FAULT"].arg if "FAULT" in self.words else ""

    @classmethod
    def read(cls, text: str) -> "Script":
        """The words on the last line that has any; calls asked for before the newest message are long made."""
        if before_repair(text) != text:
            return cls(mends=True)
        before, newest = split(text)
        words = _last(newest)
        if not words and not brings_results(newest):
            words = _last(before)
            words = {} if words.keys() & {"CALL", "MEND"} else words
        return cls(words)

    @classmethod
    def mending(cls, asked: Iterable[str]) -> "Script":
        """What the newest words say for the case that the reply is refused; `asked` is newest first."""
        words = next((words for text in asked if (words := _last(before_repair(text)))), {})
        arg = words["MEND"].arg if "MEND" in words else json.dumps(CANNOT)
        name = "CALL" if arg.startswith(("{", "[")) else "SAY"
        return cls({name: Word(name, arg)})


def _last(text: str) -> dict[str, Word]:
    """The words on the last line that has any."""
    told = RESULT.sub(_command, CALL.sub("", ANSWER.sub("", text)))
    lines = (_words(line.rstrip("\r")) for line in reversed(told.split("\n")))
    return next((words for line in lines if (words := {word.name: word for word in line})), {})


def _command(result: re.Match[str]) -> str:
    """The first line of a tool's result, if it begins with a word."""
    begun = WORD.match(result["text"])
    return result["text"].split("\n")[0] if begun and begun["name"] in KNOWN else ""


def _words(line: str) -> Iterator[Word]:
    position = 0
    while found := WORD.search(line, position):
        position = found.end()
        name = found["name"]
        if name in {"SAY", "ECHO", "CALL", "MEND"}:
            if line[found.end("name") :].startswith(":"):
                position = found.end("name") + 1
                value, position = (line[position:], position) if name == "ECHO" else _literal(line, position)
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
