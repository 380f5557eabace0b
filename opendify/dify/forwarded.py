"""Calls for the client in Dify's own events, as forks of Dify send them: in OpenAI's form, whole or in pieces."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from opendify.dialogue import ToolCall, new_call_id
from opendify.dify.calls import as_json

MAX_CALLS: Final = 64
MAX_CHARS: Final = 256 * 1024


class Forming(Struct):
    """A call as far as its pieces have come."""

    id: str = ""
    name: str = ""
    arguments: list[str] = []
    room: int = MAX_CHARS


class Forwarded:
    """One for each answer."""

    def __init__(self) -> None:
        self._calls: dict[object, Forming] = {}

    def take(self, told: Raw) -> None:
        """`tool_calls` of an event. What has no name in the end is none."""
        try:
            listed = msgspec.json.decode(told)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        for place, call in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(call, dict):
                self._add(call, place)

    def close(self) -> Iterator[ToolCall]:
        """The calls, each once."""
        for call in self._calls.values():
            if call.name:
                yield ToolCall(call.id or new_call_id(), call.name, "".join(call.arguments) or "{}")
        self._calls.clear()

    def _add(self, told: dict[str, Any], place: int) -> None:
        """A piece belongs to the call of its index. Without one it is a call of its own, told whole, maybe again."""
        index = told.get("index")
        is_piece = isinstance(index, int)
        key = index if is_piece else _text(told.get("id")) or f"at {place}"
        if key not in self._calls and len(self._calls) >= MAX_CALLS:
            return
        call = self._calls.setdefault(key, Forming())
        function = told.get("function")
        given = function if isinstance(function, dict) else told
        call.id = call.id or _text(told.get("id"))
        call.name = call.name or _text(given.get("name"))
        arguments = given.get("arguments")
        text = as_json(arguments) if isinstance(arguments, dict) else _text(arguments)
        if not is_piece:
            call.arguments, call.room = [], MAX_CHARS
        call.arguments.append(text[: call.room])
        call.room -= len(text[: call.room])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
