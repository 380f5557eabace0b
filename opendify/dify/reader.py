"""Dify's events -> the waist's events. One Reader per answer, for every app mode; no IO, constant-size state."""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from opendify.dialogue import (
    Cited,
    Event,
    Failed,
    Finished,
    FinishReason,
    Ids,
    Started,
    TextReplaced,
    Usage,
)
from opendify.dify.agents import Rows
from opendify.dify.calls import Calls
from opendify.dify.citations import Sources
from opendify.dify.events import (
    AgentLog,
    AgentMessage,
    AgentThought,
    DifyEvent,
    Error,
    File,
    IterationCompleted,
    IterationStarted,
    LoopCompleted,
    LoopStarted,
    Message,
    MessageEnd,
    MessageFile,
    MessageReplace,
    Node,
    NodeFinished,
    NodeStarted,
    Reasoning,
    ReasoningChunk,
    Run,
    TextChunk,
    WorkflowFinished,
    WorkflowPaused,
    decode,
    envelope,
)
from opendify.dify.nodes import Nodes
from opendify.dify.outputs import answer_of, files_in, llm_outputs
from opendify.dify.shown_files import ShownFiles
from opendify.dify.voice import Voice

# The New Agent repeats its last round in a closing message: this much of the stream's end is kept to notice.
TAIL_CHARS = 8192
FLOWS = ("advanced-chat", "workflow")


class Reader:
    """Feed it one answer's frames in order; it says what they mean for a client.

    `moderated` apps may withdraw their text. `output` chooses one of a workflow's outputs as the answer. `origin` is
    Dify's address without the API prefix, for relative file links. `progress` asks for the steps of a flow.
    """

    def __init__(
        self, mode: str, *, origin: str, output: str | None = None, moderated: bool = False, progress: bool = False
    ) -> None:
        self._mode = mode
        self._is_flow = mode in FLOWS
        self._repeats = mode == "agent"
        self._output = output
        self.ids = Ids()
        self._identified = False
        self.done = False
        self.closing: FinishReason | None = None
        self._tail: list[str] = []
        self._tail_chars = 0
        self.spoken = 0
        self._fingerprint = hashlib.blake2b() if moderated else None
        self._chunked = False
        self._usage = Usage()
        self._cut_short = False
        self._files = ShownFiles(origin)
        self._voice = Voice()
        self._sources = Sources()
        calls = Calls()
        self._rows = Rows(calls, self._voice, bare=self._repeats)
        self._nodes = Nodes(calls, progress=progress)

    @property
    def told(self) -> int:
        """Characters of text and thinking so far."""
        return self.spoken + self._voice.thought

    def read(self, frame: bytes) -> Sequence[Event]:
        """The events of one frame's data. Raises Malformed."""
        if self.done:
            return ()
        event = decode(frame)
        if self._identified:
            return self._feed(event)
        return (*self._identify(frame), *self._feed(event))

    def close(self) -> Sequence[Event]:
        """The stream ended, or nothing more is worth waiting for."""
        if self.done:
            return ()
        if self.closing:
            return tuple(self._finish(self.closing))
        return tuple(self._fail("upstream_error", "Dify ended the answer in the middle.", 502))

    def _identify(self, frame: bytes) -> tuple[Event, ...]:
        self.ids = envelope(frame).ids()
        self._identified = bool(self.ids.task_id)
        return (Started(self.ids),) if self._identified else ()

    def _feed(self, event: DifyEvent | None) -> Sequence[Event]:
        match event:
            case Message(answer=text) if not self._repeats:
                return self._say(text)
            case TextChunk(data=data):
                return self._chunk(data.text)
            case AgentMessage(answer=text):
                if self._repeats and text:
                    self._remember(text)
                return self._say(text)
            case Message(answer=text):
                return self._say_closing(text)
            case MessageFile(answer=str(text), url=url) if not url:
                return self._say(text)
            case MessageFile():
                return self._tool_file(event)
            case MessageReplace(answer=text):
                return self._replace(text)
            case ReasoningChunk(data=data):
                return self._reason(data)
            case None:
                return ()
            case _:
                return tuple(self._learn(event))

    def _learn(self, event: DifyEvent) -> Iterator[Event]:
        """How an answer is made, and how it ends."""
        match event:
            case AgentThought():
                yield from self._rows.read(event)
            case AgentLog(data=log):
                yield from self._nodes.logs.read(log)
            case NodeStarted(data=node):
                yield from self._nodes.begun(node)
            case NodeFinished(data=node):
                self._note(node)
                yield from self._nodes.finished(node)
            case IterationStarted(data=node) | LoopStarted(data=node):
                yield from self._nodes.titled(node, done=False)
            case IterationCompleted(data=node) | LoopCompleted(data=node):
                yield from self._nodes.titled(node, done=True)
            case MessageEnd():
                yield from self._end(event)
            case WorkflowFinished(data=run):
                yield from self._run_over(run)
            case WorkflowPaused():
                yield from self._fail("human_input_required", "The app waits for a person's input in Dify.", 400)
            case Error(code=code, message=message, status=status):
                number = int(status or 0) if str(status).isdecimal() else 500
                yield from self._fail(code or "internal_server_error", message or "", number)

    # -- text

    def _say(self, text: str | None) -> Sequence[Event]:
        if not text:
            return ()
        self.spoken += len(text)
        if self._fingerprint:
            self._fingerprint.update(text.encode("utf-8", "surrogatepass"))
        if self._is_flow and ("/" in text or self._files.window):
            self._files.note(text)
        return self._voice.say(text)

    def _remember(self, text: str) -> None:
        self._tail.append(text)
        self._tail_chars += len(text)
        if self._tail_chars > 2 * TAIL_CHARS:
            self._tail = ["".join(self._tail)[-TAIL_CHARS:]]
            self._tail_chars = TAIL_CHARS

    def _say_closing(self, text: str | None) -> Sequence[Event]:
        """The New Agent's closing text is new only where it does not repeat the end of the stream."""
        said = "".join(self._tail)[-TAIL_CHARS:].rstrip()
        repeated = text and said and said.endswith(text.rstrip()[-TAIL_CHARS:])
        return () if repeated else self._say(text)

    def _chunk(self, text: str | None) -> Sequence[Event]:
        if self._output:  # one output was chosen, and chunks do not tell outputs apart
            return ()
        self._chunked = self._chunked or bool(text)
        return self._say(text)

    def _replace(self, text: str | None) -> Sequence[Event]:
        """The new text continues what was sent, or withdraws it. An empty one only announces a snapshot."""
        if not text:
            return ()
        if self._continues(text):
            return self._say(text[self.spoken :])
        self.spoken = len(text)
        if self._fingerprint:
            self._fingerprint = hashlib.blake2b(text.encode("utf-8", "surrogatepass"))
        return (TextReplaced(self._voice.replace(text)),)

    def _continues(self, text: str) -> bool:
        if not self.spoken or self._fingerprint is None:
            return not self.spoken
        sent = text[: self.spoken].encode("utf-8", "surrogatepass")
        return hashlib.blake2b(sent).digest() == self._fingerprint.digest()

    def _reason(self, piece: Reasoning) -> Sequence[Event]:
        """A model's thinking beside its text, which two nodes may do at once."""
        told = self._voice.think(piece.node_id or "", piece.reasoning or "")
        if piece.is_final:
            self._voice.end_thought()
        return told

    # -- files

    def _tool_file(self, event: MessageFile) -> Sequence[Event]:
        if event.belongs_to == "user":
            return ()
        return tuple(self._files.show([File(url=event.url, type=event.type)]))

    # -- ends

    def _end(self, event: MessageEnd) -> Iterator[Event]:
        """In chat, agent and completion apps `files` repeats the user's own attachments; the app's are `tool_file`."""
        yield from self._voice.close()
        files = event.files or []
        if self._mode != "advanced-chat":
            files = [file for file in files if file.transfer_method == "tool_file"]
        yield from self._files.show(files)
        if event.metadata:
            self._sources.settle(event.metadata.retriever_resources)
            reported = event.metadata.usage.to_usage() if event.metadata.usage else Usage()
            self._usage = reported if reported.total_tokens else self._usage
        yield from self._finish(self.closing or "stop")

    def _note(self, node: Node) -> None:
        """What a node leaves for the end of the answer."""
        if node.node_type == "llm":
            outputs = llm_outputs(node.outputs)
            if outputs.usage:
                self._usage += outputs.usage.to_usage()
            self._cut_short = outputs.finish_reason in {"length", "max_tokens"}
        elif node.node_type == "knowledge-retrieval":
            self._sources.found(node.outputs)

    def _run_over(self, run: Run) -> Iterator[Event]:
        if run.status == "failed":
            yield from self._fail("run_failed", run.error or "", 500)
            return
        if not self._usage.total_tokens:
            self._usage = Usage(total_tokens=run.total_tokens or 0)
        # Stopped by someone else, or by Dify's own time limit: the text is incomplete.
        self.closing = "length" if run.status == "stopped" else "stop"
        if self._mode == "workflow":
            yield from self._outputs(run)
            yield from self._finish(self.closing)

    def _outputs(self, run: Run) -> Iterator[Event]:
        outputs = msgspec.json.decode(run.outputs)
        if isinstance(outputs, dict) and not self._chunked:
            yield from self._say(answer_of(outputs, self._output))
        yield from self._voice.close()
        yield from self._files.show([*(run.files or []), *files_in(outputs)])

    def _finish(self, reason: FinishReason) -> Iterator[Event]:
        yield from self._rest()
        if citations := self._sources.cited():
            yield Cited(citations)
        yield Finished("length" if self._cut_short else reason, self._usage, stopped=reason == "length")

    def _fail(self, code: str, message: str, status: int) -> Iterator[Event]:
        yield from self._rest()
        yield Failed(code=code, message=message, status=status)

    def _rest(self) -> Iterator[Event]:
        """What was held back until the end."""
        self.done = True
        yield from self._voice.close()
        yield from self._rows.close()
