"""Dify's events -> the waist's events. One Reader per answer, for every app mode; no IO, constant-size state."""

from collections.abc import Iterator, Sequence
from typing import Final

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
    ToolCall,
    Usage,
)
from opendify.dify.events import (
    NO_CALLS,
    AgentMessage,
    DifyEvent,
    Error,
    File,
    Message,
    MessageEnd,
    MessageFile,
    MessageReplace,
    Node,
    NodeFinished,
    Reasoning,
    ReasoningChunk,
    Run,
    TextChunk,
    WorkflowFinished,
    WorkflowPaused,
    decode,
    envelope,
)
from opendify.dify.making import Making
from opendify.dify.outputs import answer_after, answer_of, files_in, llm_outputs
from opendify.dify.pauses import LOST_RUN, NOT_RESUMED, UNFINISHED, Resumed
from opendify.dify.spoken import Spoken, Tail
from opendify.dify.voice import Voice

FLOWS: Final = ("advanced-chat", "workflow")
NO_SOURCES: Final = (b"", b"[]", b"null")  # they change nothing where none were found


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
        self._output = output
        self._origin = origin
        self._progress = progress
        self.ids = Ids()
        self._identified = False
        self.done = False
        self.closing: FinishReason | None = None
        self._resumed = resumed
        self._before = resumed.spoken if resumed else 0
        self._text = Spoken() if moderated or resumed else None
        self._tail = Tail() if mode == "agent" else None
        self._heeds = self._text is not None
        self._usage = Usage()
        self._cut_short = False
        self._voice = Voice()
        self._made: Making | None = None

    @property
    def spoken(self) -> int:
        """Characters of text so far."""
        return self._voice.spoken

    @property
    def told(self) -> int:
        """Characters of text and thinking so far."""
        return self._voice.spoken + self._voice.thought

    def read(self, frame: bytes) -> Sequence[Event]:
        """The events of one frame's data. Raises Malformed."""
        if self.done:
            return ()
        event = decode(frame)
        if not self._identified:
            return (*self._identify(frame), *self._feed(event))
        if (type(event) is Message or type(event) is AgentMessage) and event.tool_calls is NO_CALLS and not self._tail:
            return self._say(event.answer)  # as most are
        return self._feed(event)

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

    @property
    def _making(self) -> Making:
        """What there is beside the text; made with the first of it."""
        if self._made is None:
            bare = self._tail is not None
            self._made = Making(self._voice, self._origin, self._resumed, bare=bare, progress=self._progress)
        return self._made

    def _identify(self, frame: bytes) -> tuple[Event, ...]:
        self.ids = envelope(frame).ids()
        self._identified = bool(self.ids.task_id)
        return (Started(self.ids),) if self._identified else ()

    def _feed(self, event: DifyEvent | None) -> Sequence[Event]:
        match event:
            case TextChunk(data=data):
                return () if self._output else self._say(data.text)  # chunks do not tell outputs apart
            case Message() | AgentMessage() if event.tool_calls is not NO_CALLS:
                self._making.forwarded.take(event.tool_calls)
                event.tool_calls = NO_CALLS
                return self._feed(event)
            case AgentMessage(answer=text):
                if self._tail and text:
                    self._tail.add(text)
                return self._say(text)
            case Message(answer=text):
                return () if self._tail and self._tail.repeats(text or "") else self._say(text)
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
        """What is no text: how the answer is made, ends or pauses."""
        match event:
            case MessageEnd():
                yield from self._end(event)
            case WorkflowFinished(data=run):
                yield from self._run_over(run)
            case WorkflowPaused(data=pause):
                if (forms := self._making.pauses.paused(pause)) is not None:
                    yield from self._pause(forms)
            case Error(code=code, message=message, status=status):
                number = int(status or 0) if str(status).isdecimal() else 500
                yield from self._fail(code or "internal_server_error", message or "", number)
            case MessageFile(url=url, type=kind):
                if event.belongs_to != "user":
                    yield from self._making.files.show([File(url=url, type=kind)])
            case NodeFinished(data=node) if node.node_type in {"llm", "agent"}:
                self._count(node)
                yield from self._making.learn(event)
            case _:
                yield from self._making.learn(event)

    # -- text

    def _say(self, text: str | None) -> Sequence[Event]:
        if not text:
            return ()
        if self._heeds or "/" in text:
            self._heed(text)
        return self._voice.say(text)

    def _heed(self, text: str) -> None:
        """Remember a text that may be withdrawn or gone on with, and the links in it."""
        if self._text:
            self._text.add(text)
        if self._is_flow:
            self._making.files.note(text)
            self._heeds = self._text is not None or bool(self._making.files.window)

    def _replace(self, text: str | None) -> Sequence[Event]:
        """The new text continues what was sent, or withdraws it. An empty one only announces a snapshot."""
        if not text:
            return ()
        if self._text.goes_on(text) if self._text else not self.spoken:
            return self._say(text[self.spoken :])
        if self._text:
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
        if files:
            yield from self._making.files.show(files)
        if event.tool_calls is not NO_CALLS:
            self._making.forwarded.take(event.tool_calls)
        if event.metadata:
            if self._made or bytes(event.metadata.retriever_resources) not in NO_SOURCES:
                self._making.sources.settle(event.metadata.retriever_resources)
            reported = event.metadata.usage.to_usage() if event.metadata.usage else Usage()
            is_known = self._resumed and self._usage.total_tokens  # what is reported counts from before the pause
            self._usage = reported if reported.total_tokens and not is_known else self._usage
        yield from self._finish(self.closing or "stop")

    def _count(self, node: Node) -> None:
        """What a node with a model has used, and whether it had to stop."""
        outputs = llm_outputs(node.outputs)
        if outputs.usage:
            self._usage += outputs.usage.to_usage()
        self._cut_short = outputs.finish_reason in {"length", "max_tokens"}

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
            yield from self._say(self._text.rest(text) if self._text else text)
        yield from self._voice.close()
        yield from self._making.files.show([*(run.files or []), *files_in(outputs)])

    def _pause(self, forms: tuple[Form, ...]) -> Iterator[Event]:
        yield from self._rest()
        yield Paused(forms, self._before + self.spoken)
        yield from self._finish("stop")

    def _finish(self, reason: FinishReason) -> Iterator[Event]:
        yield from self._rest()
        calls: Sequence[ToolCall] = ()
        if made := self._made:
            if citations := made.sources.cited():
                yield Cited(citations)
            calls = tuple(made.forwarded.close())
            yield from calls
        stopped, asks = reason == "length", bool(self._tail and made and made.questions)
        reason = "length" if self._cut_short else "tool_calls" if calls else reason
        yield Finished(reason, self._usage, stopped=stopped, asks=asks)

    def _fail(self, code: str, message: str, status: int) -> Iterator[Event]:
        yield from self._rest()
        yield Failed(code=code, message=message, status=status)

    def _rest(self) -> Iterator[Event]:
        """What was held back until the end."""
        self.done = True
        yield from self._voice.close()
        if self._made:
            yield from self._made.close()
