"""What agents tell of their work: the rows of the two agent apps, and the logs of a flow's Agent node."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from opendify.dialogue import Event
from opendify.dify.calls import Calls, as_arguments, as_observation, id_of_call, parsed
from opendify.dify.events import AgentThought, Log
from opendify.dify.voice import Voice
from opendify.error_texts import clean

# Of so many rows it is known how much was told.
MAX_ROWS: Final = 500
# The calls that the models of so many rounds have asked for, and so many of each, wait until they are made.
MAX_ROUNDS: Final = 8
MAX_PLANNED: Final = 32


class Rows:
    """Reads `agent_thought`. A row is one round of the classic agent, and one part of a round of the New Agent.

    The New Agent's rows hold its thinking, and `bare` arguments and results. In the classic agent's these are keyed by
    the tools' names: of two calls of one tool Dify keeps only the last, and both are told with it. The thought in them
    is the text again.
    """

    def __init__(self, calls: Calls, voice: Voice, *, bare: bool) -> None:
        self._calls = calls
        self._voice = voice
        self._bare = bare
        self._thought: dict[str, int] = {}  # characters told of each row's thought
        self._waiting: AgentThought | None = None  # the last row, where the input of a call is not known yet

    def read(self, row: AgentThought) -> Iterator[Event]:
        """What is new in a row."""
        name = row.id or str(row.position)
        if name not in self._thought:
            yield from self._begin(name)
        elif self._waiting and self._waiting.id != row.id:
            yield from self.close()
        if self._bare:
            yield from self._think(name, row.thought or "")
        yield from self._call(row)

    def close(self) -> Iterator[Event]:
        """What waited for an input that never came."""
        row, self._waiting = self._waiting, None
        if row:
            yield from self._call(row, settled=True)

    def _begin(self, name: str) -> Iterator[Event]:
        """A block of thinking that the last round left open does not reach into this one."""
        yield from self.close()
        yield from self._voice.restart()
        if len(self._thought) >= MAX_ROWS:
            del self._thought[next(iter(self._thought))]
        self._thought[name] = 0

    def _think(self, name: str, thought: str) -> Iterator[Event]:
        told = self._thought[name]
        if len(thought) > told:
            self._thought[name] = len(thought)
            yield from self._voice.think(name, thought[told:])

    def _call(self, row: AgentThought, *, settled: bool = False) -> Iterator[Event]:
        tools = tools_of(row.tool)
        inputs, results = (each_of(value, tools, bare=self._bare) for value in (row.tool_input, row.observation))
        for number, (tool, given, result) in enumerate(zip(tools, inputs, results, strict=True), 1):
            call_id = id_of_call(row.id or row.position, number)
            observation = None if result is None else as_observation(result)
            arguments = self._arguments(given, settled=settled, observed=result is not None)
            yield from self._calls.tell(call_id, tool, arguments, observation)
            if call_id not in self._calls and not settled:
                self._waiting = row

    def _arguments(self, given: object, *, settled: bool, observed: bool) -> str | None:
        """None until they are whole: bare ones may come as they grow."""
        if given is None:
            return "{}" if settled else None
        is_growing = self._bare and not (settled or observed) and not isinstance(parsed(given), dict)
        return None if is_growing else as_arguments(given)


def tools_of(value: str | None) -> Sequence[str]:
    """The names in `tool`: joined by `;`, in old versions also a JSON list."""
    listed = parsed(value) if value and value.startswith("[") else None
    names = listed if isinstance(listed, list) else (value or "").split(";")
    return [name.strip() for name in names if isinstance(name, str) and name.strip()]


def each_of(value: object, tools: Sequence[str], *, bare: bool) -> Sequence[object]:
    """The part of `tool_input` or `observation` that belongs to each tool; None where there is none yet."""
    if value is None or value == "":
        return [None] * len(tools)
    held = None if bare else parsed(value)
    if isinstance(held, dict) and not held.keys().isdisjoint(tools):
        return ["" if name in held and held[name] is None else held.get(name) for name in tools]
    if isinstance(held, list) and len(held) == len(tools) > 1:
        return held
    return [value] * len(tools)


class Logs:
    """Reads `agent_log`. Strategies are plugins and log what they like: a call is known by its label, or by its id.

    The usual ones log a round, in it the model's thought with the calls it asks for, and then these calls, which tell
    their arguments only when they are over, if at all.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._planned: dict[str, list[tuple[str, str]]] = {}

    def read(self, log: Log) -> Iterator[Event]:
        """What is new in a log."""
        data = parsed(log.data)
        data = data if isinstance(data, dict) else {}
        called = called_tool(log.label or "", data)
        if called:
            yield from self._call(log, called, data)
        elif calls := planned_calls(data):
            if len(self._planned) >= MAX_ROUNDS:
                del self._planned[next(iter(self._planned))]
            self._planned[log.parent_id or ""] = calls

    def _call(self, log: Log, tool: str, data: dict[str, Any]) -> Iterator[Event]:
        call_id, is_over = id_of_call(log.id), log.status != "start"
        arguments = None
        if call_id not in self._calls:
            arguments = self._take(log.parent_id or "", tool) or given_arguments(data)
        if arguments is None and is_over:
            arguments = "{}"
        yield from self._calls.tell(call_id, tool, arguments, returned(log, data) if is_over else None)

    def _take(self, parent: str, tool: str) -> str | None:
        """The arguments of the next call of a tool that the model of this round has asked for."""
        planned = self._planned.get(parent, [])
        for call in planned:
            if call[0] == tool:
                planned.remove(call)
                return call[1]
        return None


def called_tool(label: str, data: Mapping[str, Any]) -> str | None:
    """The tool that a log tells the call of; None if it tells of something else."""
    output = data.get("output")
    inner = output if isinstance(output, dict) else {}
    if label.upper().startswith("CALL "):
        names = (data.get("tool_name"), inner.get("tool_call_name"), label[5:])
    elif data.get("tool_call_id"):
        names = (data.get("tool_name"), data.get("tool_call_name"), label)
    else:
        return None
    return next((name for name in names if isinstance(name, str) and name.strip()), None)


def planned_calls(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The calls that a model's thought asks for, in function calling and in ReAct."""
    listed = data.get("tool_input")
    if not isinstance(listed, list):
        listed = [{"name": data.get("action"), "args": data.get("action_input")}]
    named = [call for call in listed if isinstance(call, dict) and isinstance(call.get("name"), str)]
    return [(call["name"], as_arguments(call.get("args"))) for call in named[:MAX_PLANNED]]


def given_arguments(data: Mapping[str, Any]) -> str | None:
    """The arguments as the log of the call itself tells them."""
    output = data.get("output")
    inner = output.get("tool_call_input") if isinstance(output, dict) else None
    told = (*map(data.get, ("tool_call_args", "tool_args", "tool_input", "input")), inner)
    return next((as_arguments(value) for value in told if value is not None), None)


def returned(log: Log, data: Mapping[str, Any]) -> str:
    """What the call returned, or why it failed."""
    output = data.get("output")
    if isinstance(output, dict) and "tool_response" in output:
        output = output["tool_response"]
    if log.status == "error" and isinstance(log.error, str):
        return clean(log.error)
    told = (output, data.get("observation"), data.get("error"))
    return next((as_observation(value) for value in told if value is not None), "")
