"""Tools that a prompt tells of, as a model knows them: calls and results between tags, and requests to mend a call."""

import json
import re
from collections.abc import Iterable, Iterator

NONCE = r"z[0-9][a-z0-9]{7}"
TAG = re.compile(rf"<(?:call|result)-({NONCE})\b")
CALL = re.compile(rf"<call-({NONCE})>.*?</call-\1>", re.DOTALL)
RESULT = re.compile(
    rf'<result-(?P<nonce>{NONCE}) call="\d+" tool="[^"]*">\n(?P<text>.*?)\n</result-(?P=nonce)>', re.DOTALL
)
REPAIR = re.compile(
    r"^(?:A call was not run:|Your call was not run,|You have not called a tool|Your reply is not what was asked for)",
    re.MULTILINE,
)
NEWEST = "## Last message, reply to this\n"
RESULTS = "Results of the calls in the reply before"
PIECE = 5
"""Characters of a piece of a call: less than any tag has."""


def nonce(texts: Iterable[str]) -> str:
    """The nonce of the newest tag in these texts, oldest first; nothing where no tools are told."""
    found = [tag for text in texts for tag in TAG.findall(text)]
    return found[-1] if found else ""


def written(calls: object, nonce: str) -> Iterator[str]:
    """Calls, one or a list of them, as a model writes them, in small pieces; a string is no call but stands in tags."""
    listed = calls if isinstance(calls, list) else [calls]
    inner = [call if isinstance(call, str) else json.dumps(call, ensure_ascii=False) for call in listed]
    text = "\n".join(f"<call-{nonce}>\n{call}\n</call-{nonce}>" for call in inner)
    yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def split(text: str) -> tuple[str, str]:
    """What stands before the newest message, and that message."""
    before, _, newest = text.rpartition(NEWEST)
    return before, newest


def brings_results(newest: str) -> bool:
    """Whether the newest message is nothing but results of calls."""
    return newest.startswith(RESULTS)


def results(text: str) -> list[str]:
    """The results that the newest message brings."""
    _, newest = split(text)
    return [found["text"] for found in RESULT.finditer(newest)] if brings_results(newest) else []


def before_repair(text: str) -> str:
    """What stands before the request to mend the reply; everything, where there is no such request in the end."""
    _, newest = split(RESULT.sub(lambda found: " " * len(found[0]), text))
    requests = list(REPAIR.finditer(newest))
    return text[: len(text) - len(newest) + requests[-1].start()] if requests else text
