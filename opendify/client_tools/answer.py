"""One answer of an app that was told of tools: its text in, text and checked calls out, with one silent repair."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

from opendify.client_tools import texts
from opendify.client_tools.reading import Asked, calls_in, compact
from opendify.client_tools.scanner import MAX_BLOCK, After, Block, CallScanner, Said
from opendify.client_tools.schemas import Schema, schema_of
from opendify.client_tools.tags import Tags
from opendify.dialogue import Tool, ToolCall, Tools, new_call_id

Piece: TypeAlias = str | ToolCall

MAX_CALLS: Final = 64
MAX_PROBLEMS: Final = 8


class Misfit(NamedTuple):
    """A call that cannot be handed over: what is wrong with it, and what the model wrote."""

    problem: str
    text: str


class ToolAnswer:
    """Feed it an answer's text in pieces: text comes out as it comes in, calls as soon as each is complete.

    At the end `close` it. If it then has a `repair`, ask the app that, in the same conversation, feed what it says and
    close it again. `called` is the number of calls: with any, the answer's finish_reason is `tool_calls`.
    """

    def __init__(self, tools: Tools, tags: Tags, new_id: Callable[[], str] = new_call_id) -> None:
        self._tools = tools
        self._callable = tools.callable
        self._most = MAX_CALLS if tools.parallel else 1
        self._schemas: dict[str, Schema] = {}
        self._tags = tags
        self._new_id = new_id
        self._scanner = CallScanner(tags)
        self._misfits: list[Misfit] = []
        self._withheld = _Withheld()
        self._first: str | None = None  # what is handed over if the repair fails as well, once there is one
        self._spoke = False
        self._asked = 0
        self.called = 0
        self.repair: str | None = None

    def feed(self, text: str) -> list[Piece]:
        """What can be told by now, in order."""
        said = self._scanner.feed(text)
        if self._first is None and len(said) == 1 and isinstance(only := said[0], str):
            self._spoke = True
            return [only]
        return self._told(said)

    def close(self) -> list[Piece]:
        """What was held back. Then there is a `repair` to be asked for, or the answer is over."""
        pieces = self._told(self._scanner.close())
        self.repair = None
        if self._first is None and self._is_wanting():
            problems = [misfit.problem for misfit in self._misfits[:MAX_PROBLEMS]]
            self.repair = texts.repair(problems, self._tools, self._tags, called=self.called > 0)
            self._first = self._refused()
            self.forget()
        elif self._first is not None and not self.called:
            pieces += self._last_resort(self._first)
        return pieces

    def forget(self) -> None:
        """What was said since the repair was asked for does not count: the app broke off."""
        self._scanner, self._misfits, self._withheld = CallScanner(self._tags), [], _Withheld()

    def _is_wanting(self) -> bool:
        """Whether a call is missing; where no more calls are taken, a further one that does not fit is none."""
        has_room = self.called < self._most
        return (bool(self._misfits) and has_room) or (self._tools.choice.kind == "required" and not self.called)

    def _told(self, said: list[Said]) -> list[Piece]:
        pieces: list[Piece] = []
        for each in said:
            if isinstance(each, Block):
                pieces += self._calls(each)
            elif isinstance(each, After) or self._first is not None:
                self._withheld.take(each.text if isinstance(each, After) else each)
            else:
                self._spoke = True
                pieces.append(each)
        return pieces

    # -- calls

    def _calls(self, block: Block) -> Iterator[ToolCall]:
        """The calls of a block that can be handed over; the others are kept for the repair."""
        if block.value is None:
            self._refuse("What stands between the tags is not one JSON object.", block)
            return
        for asked in islice(calls_in(block.value), MAX_CALLS):
            if self.called >= self._most or self._asked >= MAX_CALLS:
                return
            self._asked += 1
            try:
                yield self._call(asked)
            except ValueError as error:
                self._refuse(str(error), block)

    def _call(self, asked: Asked) -> ToolCall:
        """The call. Raises ValueError with what is wrong with it."""
        if asked.problem:
            raise ValueError(asked.problem)
        tool = self._tool(asked.name)
        arguments = compact(asked.arguments)
        if problem := self._problem(tool, asked.arguments):
            raise ValueError(texts.misfit(tool, problem))
        self.called += 1
        return ToolCall(self._new_id(), tool.name, self._tags.hide(arguments))

    def _tool(self, name: str) -> Tool:
        tool = self._callable.get(name) or self._callable.get(name.removeprefix("functions."))
        if tool is None:
            raise ValueError(texts.unknown(name, self._callable))
        return tool

    def _problem(self, tool: Tool, arguments: dict[str, Any]) -> str | None:
        if not tool.parameters:
            return None
        if tool.name not in self._schemas:
            self._schemas[tool.name] = schema_of(tool.parameters)
        return self._schemas[tool.name].problem(arguments)

    def _refuse(self, problem: str, block: Block) -> None:
        text = "" if self._misfits and self._misfits[-1].text == block.text else block.text
        self._misfits.append(Misfit(problem, text))

    # -- what becomes of the rest

    def _refused(self) -> str:
        """The text of the calls that were refused, and what followed it."""
        parts = [misfit.text.lstrip(">").strip() for misfit in self._misfits]
        parts.append(self._withheld.text().strip())
        return self._tags.hide("\n\n".join(part for part in parts if part))

    def _last_resort(self, first: str) -> list[Piece]:
        """The repair failed: what the app said in words instead, else what it said first. Nothing twice."""
        if self._spoke and not first:
            return []
        words = "" if self._misfits else self._tags.hide(self._withheld.text().strip())
        text = words or first or self._refused()
        return [text] if text else []


class _Withheld:
    """Text that may not be told, as much of it as can be handed over in the end."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._room = MAX_BLOCK

    def take(self, text: str) -> None:
        if self._room > 0:
            self._parts.append(text[: self._room])
            self._room -= len(text)

    def text(self) -> str:
        return "".join(self._parts)
