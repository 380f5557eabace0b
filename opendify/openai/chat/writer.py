"""Events -> the chunks of a streamed completion. Synchronous, without IO."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from opendify import sse
from opendify.dialogue import (
    Citation,
    Cited,
    Event,
    FileOut,
    Finished,
    FinishReason,
    Ids,
    Paused,
    Progress,
    ReasoningDelta,
    TextDelta,
    TextReplaced,
    ToolCall,
    ToolResult,
    ToolRun,
    Usage,
)
from opendify.errors import OpenDifyError
from opendify.links import markdown
from opendify.openai.chat.schema import Annotation, Dify, UrlCitation, UsageOut
from opendify.openai.stops import StopScanner

encode = msgspec.json.encode


def usage_out(usage: Usage) -> UsageOut:
    """`usage` as OpenAI writes it."""
    return UsageOut(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)


def annotations(citations: Sequence[Citation], end: int) -> list[Annotation]:
    """Sources of the whole text; no place of it is known, so that all stand at its `end` (characters)."""
    return [
        Annotation(UrlCitation(url=citation.url or "", title=citation.title, start_index=end, end_index=end))
        for citation in citations
    ]


class ChatWriter:
    """Events -> the text of one answer; what the streamed and the folded form have in common.

    Once `cut` (a stop sequence, or withdrawn text) only the usage is still of interest; `done` after the last event.
    `reasoning_key` is the field for the model's thinking. `legacy`: calls are told as they were before `tools`.
    """

    def __init__(self, model: str, stops: Sequence[str], *, legacy: bool = False) -> None:
        self.id = f"chatcmpl-{secrets.token_hex(16)}"
        self.created = int(time.time())
        self.model = model
        self.ids = Ids()
        self.reasoning_key = "reasoning_content"
        self.cut: FinishReason | None = None
        self.done = False
        self._stops = StopScanner(stops) if stops else None
        self._legacy = legacy

    def _text(self, event: Event) -> str:
        """The text to show for an event."""
        match event:
            case TextDelta(text=text):
                return self._until_stop(text)
            case FileOut():
                return self._until_stop(markdown(event))
        return ""

    def _reason(self, reason: FinishReason) -> FinishReason | Literal["function_call"]:
        """`finish_reason` as OpenAI writes it."""
        return "function_call" if self._legacy and reason == "tool_calls" else reason

    def _until_stop(self, text: str) -> str:
        if self.cut:
            return ""
        if not self._stops:
            return text
        shown, stopped = self._stops.feed(text)
        if stopped:
            self.cut = "stop"
        return shown

    def _held(self) -> str:
        """What might have begun a stop sequence."""
        return self._stops.rest() if self._stops else ""


class ChatStream(ChatWriter):
    """The chunks of a streamed answer. Idempotent in its ends: nothing follows `[DONE]` or an error."""

    def __init__(self, model: str, stops: Sequence[str], *, include_usage: bool, legacy: bool = False) -> None:
        super().__init__(model, stops, legacy=legacy)
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._head = encode(head)[:-1]
        self._include_usage = include_usage
        self._before = self._up_to("content")
        self._after = b'},"finish_reason":null}]' + self._no_usage() + b"}\n\n"
        self._finish_told = False
        self._calls = 0
        self._chars = 0

    def open(self) -> bytes:
        """The role chunk, which starts every stream."""
        return self._chunk(b'{"role":"assistant","content":""}', b"null")

    def feed(self, events: Iterable[Event]) -> bytes:
        """The chunks of events that came together, as one piece."""
        chunks: list[bytes] = []
        for event in events:
            if type(event) is TextDelta and not (self.cut or self._stops):  # as nearly all are
                self._chars += len(event.text)
                chunks.append(self._before + encode(event.text) + self._after)
            else:
                chunks.append(self._told(event))
        return b"".join(chunks)

    def close(self) -> bytes:
        """The end of an answer whose own end never came after it was cut."""
        return b"" if self.done else self._end(Finished("stop", Usage()))

    def fail(self, error: OpenDifyError) -> bytes:
        """The error frame; no finish_reason, no [DONE]."""
        if self.done:
            return b""
        self.done = True
        return sse.frame(error.body())

    # -- one event

    def _told(self, event: Event) -> bytes:
        match event:
            case TextDelta() | FileOut():
                return self._piece(self._text(event))
            case Finished():
                return self._end(event)
            case _ if self.cut:
                return b""
            case TextReplaced():
                self.cut = "content_filter"
                return self._finish("content_filter")
            case Paused(text=text):  # whose reply depends on all of it: no stop sequence cuts that
                return self._piece(self._held()) + self._piece(text)
            case _:
                return self._aside(event)

    def _aside(self, event: Event) -> bytes:
        """What is no text: each in its own place of a chunk."""
        match event:
            case ReasoningDelta(text=text):
                return self._up_to(self.reasoning_key) + encode(text) + self._after
            case ToolRun() | ToolCall():
                return self._call(event)
            case ToolResult():
                return self._delta({}, dify={"tool_result": event})
            case Cited(citations=citations, annotated=annotated):
                told = {"content": "", "annotations": annotations(citations, self._chars)} if annotated else {}
                return self._delta(told, dify={"citations": citations})
            case Progress(title=title, done=done):
                return self._delta({}, event={"type": "status", "data": {"description": title, "done": done}})
        return b""

    def _call(self, run: ToolRun | ToolCall) -> bytes:
        """A call as OpenAI streams it: first what is called, then with what."""
        name, arguments = {"name": run.name, "arguments": ""}, {"arguments": run.arguments}
        if self._legacy and self._calls:  # there was one call in an answer then
            return b""
        if self._legacy and isinstance(run, ToolCall):
            self._calls = 1
            return self._delta({"function_call": name}) + self._delta({"function_call": arguments})
        index, self._calls = self._calls, self._calls + 1
        called = {"index": index, "id": run.id, "type": "function", "function": name}
        return self._delta({"tool_calls": [called]}) + self._delta(
            {"tool_calls": [{"index": index, "function": arguments}]}
        )

    def _piece(self, text: str) -> bytes:
        self._chars += len(text)
        piece = self._before + encode(text) + self._after if text else b""
        return piece + self._finish("stop") if self.cut else piece

    # -- ends

    def _end(self, finished: Finished) -> bytes:
        self.done = True
        rest = self._piece("" if self.cut else self._held())
        return rest + self._finish(finished.reason, finished.suggestions) + self._usage(finished.usage) + sse.DONE

    def _finish(self, reason: FinishReason, suggestions: tuple[str, ...] = ()) -> bytes:
        if self._finish_told:
            return b""
        self._finish_told = True
        dify = Dify.of(self.ids, suggested_questions=suggestions)
        return self._chunk(b"{}", encode(self._reason(reason)), b',"dify":' + encode(dify))

    # -- frames

    def _up_to(self, name: str) -> bytes:
        """A chunk whose delta has one field, up to its value; `_after` follows."""
        return b'data: %b,"choices":[{"index":0,"delta":{"%b":' % (self._head, name.encode())

    def _delta(self, delta: dict[str, Any], **beside: Any) -> bytes:
        extra = b"".join(b',"%b":%b' % (name.encode(), encode(value)) for name, value in beside.items())
        return self._chunk(encode(delta), b"null", extra)

    def _chunk(self, delta: bytes, reason: bytes, extra: bytes = b"") -> bytes:
        choice = b'{"index":0,"delta":%b,"finish_reason":%b}' % (delta, reason)
        return b'data: %b,"choices":[%b]%b%b}\n\n' % (self._head, choice, self._no_usage(), extra)

    def _no_usage(self) -> bytes:
        return b',"usage":null' if self._include_usage else b""

    def _usage(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return b""
        told = encode(usage_out(usage))
        return b'data: %b,"choices":[],"usage":%b,"dify":%b}\n\n' % (self._head, told, encode(self.ids))
