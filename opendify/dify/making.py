"""How an answer is made, beside its text: what it calls, its steps, sources and files, and what it waits for."""

from collections.abc import Iterator

from opendify.dialogue import Event
from opendify.dify.agents import Rows
from opendify.dify.calls import Calls
from opendify.dify.citations import Sources
from opendify.dify.events import (
    AgentLog,
    AgentThought,
    DifyEvent,
    HumanInputRequired,
    IterationCompleted,
    IterationStarted,
    LoopCompleted,
    LoopStarted,
    NodeFinished,
    NodeStarted,
)
from opendify.dify.forwarded import Forwarded
from opendify.dify.nodes import Nodes
from opendify.dify.pauses import Pauses, Questions, Resumed
from opendify.dify.shown_files import ShownFiles
from opendify.dify.voice import Voice


class Making:
    """One for each answer that tells any of it; most are only text. Their arguments are those of the Reader."""

    __slots__ = ("_nodes", "_rows", "files", "forwarded", "pauses", "questions", "sources")

    def __init__(self, voice: Voice, origin: str, resumed: Resumed | None, *, bare: bool, progress: bool) -> None:
        calls = Calls()
        self._rows = Rows(calls, voice, bare=bare)
        self._nodes = Nodes(calls, progress=progress)
        self.files = ShownFiles(origin)
        self.forwarded = Forwarded()
        self.pauses = Pauses(resumed)
        self.questions = Questions()
        self.sources = Sources()

    def learn(self, event: DifyEvent) -> Iterator[Event]:
        """What is new with an event."""
        match event:
            case AgentThought():
                self.questions.read(event)
                yield from self._rows.read(event)
            case AgentLog(data=log):
                yield from self._nodes.logs.read(log)
            case NodeStarted(data=node):
                yield from self._nodes.begun(node)
            case NodeFinished(data=node):
                if node.node_type == "knowledge-retrieval":
                    self.sources.found(node.outputs)
                yield from self._nodes.finished(node)
            case IterationStarted(data=node) | LoopStarted(data=node):
                yield from self._nodes.titled(node, done=False)
            case IterationCompleted(data=node) | LoopCompleted(data=node):
                yield from self._nodes.titled(node, done=True)
            case HumanInputRequired(data=form):
                self.pauses.required(form)

    def close(self) -> Iterator[Event]:
        """What was held back until the end."""
        yield from self._rows.close()
