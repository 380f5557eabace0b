"""What the nodes of a flow tell on its way: their titles, and what its Tool nodes call."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Raw, Struct

from opendify.dialogue import Event, Progress
from opendify.dify.agents import Logs
from opendify.dify.calls import Calls, as_arguments, as_json, as_observation, id_of_call, parsed
from opendify.dify.events import Log, Node
from opendify.error_texts import clean

MAX_TITLE: Final = 200
# They take no time, or have a word of their own (text, a form, the events of an iteration): nothing to wait for.
SILENT: Final = frozenset(
    {
        "start",
        "end",
        "answer",
        "if-else",
        "assigner",
        "variable-assigner",
        "variable-aggregator",
        "template-transform",
        "list-operator",
        "iteration",
        "iteration-start",
        "loop",
        "loop-start",
        "loop-end",
    }
)
# What a Tool node puts out beside its variables, where there is none of it.
NO_JSON: Final[tuple[object, ...]] = ([], [{"data": []}])


class AgentOutputs(Struct):
    """The outputs of an Agent node; `json` holds its logs once more."""

    json: list[Raw] = []


class Nodes:
    """One for each answer. Titles are told only to those who want `progress`."""

    def __init__(self, calls: Calls, *, progress: bool) -> None:
        self._calls = calls
        self._progress = progress
        self.logs = Logs(calls)

    def begun(self, node: Node) -> Iterator[Event]:
        """A node begins."""
        if node.node_type not in SILENT:
            yield from self.titled(node, done=False)
        if node.node_type == "tool" and (given := parsed(node.inputs)):
            yield from self._calls.tell(id_of_call(node.id), title_of(node), as_arguments(given), None)

    def finished(self, node: Node) -> Iterator[Event]:
        """A node is over."""
        if node.node_type == "tool":
            arguments = as_arguments(parsed(node.inputs))
            yield from self._calls.tell(id_of_call(node.id), title_of(node), arguments, observed(node))
        elif node.node_type == "agent":
            for log in logs_of(node):
                yield from self.logs.read(log)
        if node.node_type not in SILENT:
            yield from self.titled(node, done=True)

    def titled(self, node: Node, *, done: bool) -> Iterator[Event]:
        """The title of what begins or is over."""
        if self._progress and (title := title_of(node)):
            yield Progress(title, done)


def title_of(node: Node) -> str:
    """A node's title on one line."""
    words = " ".join(node.title.split()) if isinstance(node.title, str) else ""
    return "".join(filter(str.isprintable, words))[:MAX_TITLE]


def observed(node: Node) -> str:
    """What a Tool node returned: its text, else its JSON, else its variables; or why it failed."""
    if node.error and node.status != "succeeded":
        return clean(as_observation(node.error))
    outputs = parsed(node.outputs)
    if not isinstance(outputs, dict):
        return as_observation(outputs)
    text, listed = outputs.pop("text", None), outputs.pop("json", None)
    if text:
        return as_observation(text)
    if listed and listed not in NO_JSON:
        return as_observation(listed)
    return as_observation(as_json(outputs)) if any(outputs.values()) else ""


def logs_of(node: Node) -> Iterator[Log]:
    """The logs among the outputs of an Agent node, for servers that did not send them on the way."""
    try:
        entries = msgspec.json.decode(node.outputs, type=AgentOutputs | None)
    except msgspec.DecodeError:
        return
    for entry in entries.json if entries else ():
        try:
            yield msgspec.json.decode(entry, type=Log)
        except msgspec.DecodeError:
            continue
