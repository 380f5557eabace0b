"""The tools that an app calls on its way: each call is told once, and its result once."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from opendify.dialogue import RUN_ID, Event, ToolResult, ToolRun

# So many calls of one answer are told, and so many characters of what goes into each and of what comes out.
MAX_CALLS: Final = 200
MAX_CHARS: Final = 65_536
MAX_NAME: Final = 200
_FOREIGN = re.compile("[^A-Za-z0-9]")


class Calls:
    """One for each answer."""

    def __init__(self) -> None:
        self._answered: dict[str, bool] = {}

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._answered

    def tell(self, call_id: str, name: str, arguments: str | None, observation: str | None) -> Iterator[Event]:
        """What is new of a call. Nothing of it is told before its arguments are known."""
        if call_id not in self._answered:
            if arguments is None or len(self._answered) >= MAX_CALLS:
                return
            self._answered[call_id] = False
            yield ToolRun(id=call_id, name=" ".join(name.split())[:MAX_NAME] or "tool", arguments=arguments)
        if observation is not None and not self._answered[call_id]:
            self._answered[call_id] = True
            yield ToolResult(call_id, observation)


def id_of_call(source: object, number: int = 1) -> str:
    """The id of a call, by Dify's id of what tells it; `number` where that tells several."""
    stem = f"{RUN_ID}{_FOREIGN.sub('', str(source))[:64]}"
    return stem if number == 1 else f"{stem}_{number}"


def parsed(value: object) -> Any:
    """What a text holds if it is JSON; else the same."""
    if not isinstance(value, str | msgspec.Raw):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value if isinstance(value, str) else None


def as_arguments(value: object) -> str:
    """A tool's input as the text of a JSON object; anything else stands in one as its `input`."""
    known = parsed(value)
    if known is None or known == "":
        known = {}
    text = as_json(known if isinstance(known, dict) else {"input": known})
    return text if len(text) <= MAX_CHARS else as_json({"input": cut(text)})


def as_observation(value: object) -> str:
    """What a tool returned, as text."""
    if value is None:
        return ""
    return cut(value if isinstance(value, str) else as_json(value))


def as_json(value: object) -> str:
    """Compact JSON."""
    return msgspec.json.encode(value).decode()


def cut(text: str) -> str:
    """A text that is too long ends in a note of that."""
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}... (cut: {len(text)} characters)"
