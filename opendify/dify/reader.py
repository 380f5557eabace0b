"""Dify's events -> the waist's events. One Reader per answer, for every app mode; no IO, constant-size state."""

from collections.abc import Iterator, Sequence

import msgspec

from opendify.dialogue import (
    Cited,
    Event,
    Failed,
    Finished,
    FinishReason,
    Form,
    Ids,
    Paused,
    Started,
    TextReplaced,
    Usage,
)
from opendify.dify.agents import Rows
from opendify.dify.calls import Calls
from opendify.dify.citations import Sources
from opendify.dify.events import (
    NO_CALLS,
    AgentLog,
    AgentMessage,
    AgentThought,
    DifyEvent,
    Error,
    File,
    HumanInputRequired,
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
from opendify.dify.forwarded import Forwarded
from opendify.dify.nodes import Nodes
from opendify.dify.outputs import answer_after, answer_of, files_in, llm_outputs
from opendify.dify.pauses import LOST_RUN, NOT_RESUMED, UNFINISHED, Pauses, Questions, Resumed
from opendify.dify.shown_files import ShownFiles
from opendify.dify.spoken import Spoken, Tail
from opendify.dify.voice import Voice

FLOWS = ("advanced-chat", "workflow")


class Reader:
    """Feed it one answer's frames in order; it says what they mean for a client.

    `moderated` apps may withdraw their text. `output` chooses one of a workflow's outputs as the answer. `origin` is
    Dify's address without the API prefix, for relative file links. `progress` asks for the steps of a flow.
    A `resumed` run has told the beginning of its text already; it may end without a `message_end`.
    """

    def __init__(
        self,
        mode: str,
        *,
        origin: str,
        output: str | None = None,
        moderated: bool = False,
        progress: bool = False,
        resumed: Resumed | None = None,
    ) -> None:
        self._mode = mode
        self._is_flow = mode in FLOWS
        self._repeats = mode == "agent"
        self._output = output
        self.ids = Ids()
        self._identified = False
        self.done = False
        self.closing: FinishReason | None = None
        self._tail = Tail()
        self._resumed = resumed is not None
        self._before = resumed.spoken if resumed else 0
        self._text = Spoken(remembered=moderated or self._resumed)
        self._usage = Usage()
        self._cut_short = False
        self._files = ShownFiles(origin)
        self._voice = Voice()
        self._sources = Sources()
        self._pauses = Pauses(resumed)
        self._questions = Questions()
        self._forwarded = Forwarded()
        calls = Calls()
        self._rows = Rows(calls, self._voice, bare=self._repeats)
        self._nodes = Nodes(calls, progress=progress)

    @property
    def spoken(self) -> int:
        """Characters of text so far."""
        return self._text.chars

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

    def recover(self, run: Run, forms: tuple[Form, ...] | None = None) -> Sequence[Event]:
        """The rest of a resumed run whose stream was lost, as its detail tells it; nothing while it goes on.

        `forms` are what it waits for if it has paused again.
        """
        if self.done or (run.status in UNFINISHED and forms is None):
            return ()
        return tuple(self._run_over(run, lost=True) if forms is None else self._pause(forms))

    def _identify(self, frame: bytes) -> tuple[Event, ...]:
        self.ids = envelope(frame).ids()
        self._identified = bool(self.ids.task_id)
        return (Started(self.ids),) if self._identified else ()

    def _feed(self, event: DifyEvent | None) -> Sequence[Event]:
        match event:
            case Message() | AgentMessage() if event.tool_calls is not NO_CALLS:
                self._forwarded.take(event.tool_calls)
                event.tool_calls = NO_CALLS
                return self._feed(event)
            case Message(answer=text) if not self._repeats:
                return self._say(text)
            case TextChunk(data=data):
                return () if self._output else self._say(data.text)  # chunks do not tell outputs apart
            case AgentMessage(answer=text):
                if self._repeats and text:
                    self._tail.add(text)
                return self._say(text)
            case Message(answer=text):
                return () if self._tail.repeats(text or "") else self._say(text)
            case MessageFile(answer=str(text), url=url) if not url:
                return self._say(text)
            case MessageReplace(answer=text):
                return () if self._resumed and not event.reason else self._replace(text)
            case ReasoningChunk(data=data):
                return self._reason(data)
            case None:
                return ()
            case _:
                return tuple(self._learn(event))

    def _learn(self, event: DifyEvent) -> Iterator[Event]:
        """How an answer is made."""
        match event:
            case MessageFile(url=url, type=kind):
                if event.belongs_to != "user":
                    yield from self._files.show([File(url=url, type=kind)])
            case AgentThought():
                self._questions.read(event)
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
            case _:
                yield from self._conclude(event)

    def _conclude(self, event: DifyEvent) -> Iterator[Event]:
        """How it ends, or pauses."""
        match event:
            case MessageEnd():
                yield from self._end(event)
            case WorkflowFinished(data=run):
                yield from self._run_over(run)
            case HumanInputRequired(data=form):
                self._pauses.required(form)
            case WorkflowPaused(data=pause):
                if (forms := self._pauses.paused(pause)) is not None:
                    yield from self._pause(forms)
            case Error(code=code, message=message, status=status):
                number = int(status or 0) if str(status).isdecimal() else 500
                yield from self._fail(code or "internal_server_error", message or "", number)

    # -- text

    def _say(self, text: str | None) -> Sequence[Event]:
        if not text:
            return ()
        self._text.add(text)
        if self._is_flow and ("/" in text or self._files.window):
            self._files.note(text)
        return self._voice.say(text)

    def _replace(self, text: str | None) -> Sequence[Event]:
        """The new text continues what was sent, or withdraws it. An empty one only announces a snapshot."""
        if not text:
            return ()
        if self._text.goes_on(text):
            return self._say(text[self.spoken :])
        self._text.replace(text)
        return (TextReplaced(self._voice.replace(text)),)

    def _reason(self, piece: Reasoning) -> Sequence[Event]:
        """A model's thinking beside its text, which two nodes may do at once."""
        told = self._voice.think(piece.node_id or "", piece.reasoning or "")
        if piece.is_final:
            self._voice.end_thought()
        return told

    # -- ends

    def _end(self, event: MessageEnd) -> Iterator[Event]:
        """In chat, agent and completion apps `files` repeats the user's own attachments; the app's are `tool_file`."""
        yield from self._voice.close()
        files = event.files or []
        if self._mode != "advanced-chat":
            files = [file for file in files if file.transfer_method == "tool_file"]
        yield from self._files.show(files)
        self._forwarded.take(event.tool_calls)
        if event.metadata:
            self._sources.settle(event.metadata.retriever_resources)
            reported = event.metadata.usage.to_usage() if event.metadata.usage else Usage()
            is_known = self._resumed and self._usage.total_tokens  # what is reported counts from before the pause
            self._usage = reported if reported.total_tokens and not is_known else self._usage
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

    def _run_over(self, run: Run, *, lost: bool = False) -> Iterator[Event]:
        if run.status == "failed":
            yield from self._fail("run_failed", run.error or "", 500)
            return
        if self._resumed and run.error == LOST_RUN and not self.told:
            yield from self._fail("human_input_not_resumable", NOT_RESUMED, 400)
            return
        if not self._usage.total_tokens:
            self._usage = Usage(total_tokens=run.total_tokens or 0)
        # Stopped by someone else, or by Dify's own time limit: the text is incomplete.
        self.closing = "length" if run.status == "stopped" else "stop"
        if self._mode == "workflow" or self._resumed:
            yield from self._outputs(run, lost=lost)
            yield from self._finish(self.closing)

    def _outputs(self, run: Run, *, lost: bool) -> Iterator[Event]:
        outputs = msgspec.json.decode(run.outputs)
        if isinstance(outputs, dict) and (lost or not self.spoken):
            in_chat = self._mode != "workflow"
            text = answer_after(outputs, self._before) if in_chat else answer_of(outputs, self._output)
            yield from self._say(self._text.rest(text))
        yield from self._voice.close()
        yield from self._files.show([*(run.files or []), *files_in(outputs)])

    def _pause(self, forms: tuple[Form, ...]) -> Iterator[Event]:
        yield from self._rest()
        yield Paused(forms, self._before + self.spoken)
        yield from self._finish("stop")

    def _finish(self, reason: FinishReason) -> Iterator[Event]:
        yield from self._rest()
        if citations := self._sources.cited():
            yield Cited(citations)
        calls = list(self._forwarded.close())
        yield from calls
        stopped = reason == "length"
        reason = "length" if self._cut_short else "tool_calls" if calls else reason
        yield Finished(reason, self._usage, stopped=stopped, asks=self._repeats and bool(self._questions))

    def _fail(self, code: str, message: str, status: int) -> Iterator[Event]:
        yield from self._rest()
        yield Failed(code=code, message=message, status=status)

    def _rest(self) -> Iterator[Event]:
        """What was held back until the end."""
        self.done = True
        yield from self._voice.close()
        yield from self._rows.close()
