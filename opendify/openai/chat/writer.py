"""Events -> the chunks of a streamed completion, or one completion. Synchronous, without IO."""

import time
import uuid
from collections.abc import Iterable, Sequence

import msgspec

from opendify import sse
from opendify.dialogue import Event, FileOut, Finished, FinishReason, Ids, TextDelta, TextReplaced, Usage
from opendify.errors import OpenDifyError
from opendify.links import markdown
from opendify.openai.chat.schema import Choice, Completion, MessageOut, UsageOut
from opendify.openai.stops import StopScanner

encode = msgspec.json.encode


def _usage_out(usage: Usage) -> UsageOut:
    return UsageOut(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)


class ChatWriter:
    """Events -> the text of one answer; what the streamed and the folded form have in common.

    Once `cut` (a stop sequence, or withdrawn text) only the usage is still of interest; `done` after the last event.
    """

    def __init__(self, model: str, stops: Sequence[str]) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.ids = Ids()
        self.cut: FinishReason | None = None
        self.done = False
        self._stops = StopScanner(stops)

    def _text(self, event: Event) -> str:
        """The text to show for an event."""
        match event:
            case TextDelta(text=text):
                return self._until_stop(text)
            case FileOut():
                return self._until_stop(markdown(event))
        return ""

    def _until_stop(self, text: str) -> str:
        if self.cut:
            return ""
        shown, stopped = self._stops.feed(text)
        if stopped:
            self.cut = "stop"
        return shown


class ChatStream(ChatWriter):
    """The chunks of a streamed answer. Idempotent in its ends: nothing follows `[DONE]` or an error."""

    def __init__(self, model: str, stops: Sequence[str], *, include_usage: bool) -> None:
        super().__init__(model, stops)
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": model}
        self._head = encode(head)[:-1]
        self._include_usage = include_usage
        self._before = b"data: " + self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._after = b'},"finish_reason":null}]' + self._no_usage() + b"}\n\n"
        self._finish_told = False

    def open(self) -> bytes:
        """The role chunk, which starts every stream."""
        return self._chunk(b'{"role":"assistant","content":""}', b"null")

    def feed(self, events: Iterable[Event]) -> bytes:
        """The chunks of events that came together, as one piece."""
        out = []
        for event in events:
            match event:
                case Finished(reason=reason, usage=usage):
                    out.append(self._end(reason, usage))
                case TextReplaced() if not self.cut:
                    self.cut = "content_filter"
                    out.append(self._finish("content_filter"))
                case _:
                    out.append(self._piece(self._text(event)))
        return b"".join(out)

    def close(self) -> bytes:
        """The end of an answer whose own end never came after it was cut."""
        return b"" if self.done else self._end("stop", Usage())

    def fail(self, error: OpenDifyError) -> bytes:
        """The error frame; no finish_reason, no [DONE]."""
        if self.done:
            return b""
        self.done = True
        return sse.frame(error.body())

    def _piece(self, text: str) -> bytes:
        piece = self._before + encode(text) + self._after if text else b""
        return piece + self._finish("stop") if self.cut else piece

    def _end(self, reason: str, usage: Usage) -> bytes:
        self.done = True
        rest = self._piece("" if self.cut else self._stops.rest())
        return rest + self._finish(reason) + self._usage(usage) + sse.DONE

    def _finish(self, reason: str) -> bytes:
        if self._finish_told:
            return b""
        self._finish_told = True
        return self._chunk(b"{}", encode(reason), b',"dify":' + encode(self.ids))

    def _chunk(self, delta: bytes, reason: bytes, extra: bytes = b"") -> bytes:
        choice = b'{"index":0,"delta":%b,"finish_reason":%b}' % (delta, reason)
        return b'data: %b,"choices":[%b]%b%b}\n\n' % (self._head, choice, self._no_usage(), extra)

    def _no_usage(self) -> bytes:
        return b',"usage":null' if self._include_usage else b""

    def _usage(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return b""
        told = encode(_usage_out(usage))
        return b'data: %b,"choices":[],"usage":%b,"dify":%b}\n\n' % (self._head, told, encode(self.ids))


class ChatFold(ChatWriter):
    """The same events folded into one completion."""

    def __init__(self, model: str, stops: Sequence[str]) -> None:
        super().__init__(model, stops)
        self._parts: list[str] = []
        self._withdrawn = False
        self._finished: Finished | None = None

    def feed(self, events: Iterable[Event]) -> bytes:
        """Take events in; there is nothing to send before the end."""
        for event in events:
            match event:
                case Finished():
                    self._finished = event
                    self.done = True
                case TextReplaced(text=text):
                    self._withdrawn = True
                    self._stops.rest()
                    self._parts = [self._until_stop(text)]
                case _:
                    self._parts.append(self._text(event))
        return b""

    def close(self) -> bytes:
        """The end of an answer whose own end never came after it was cut."""
        self.done = True
        return b""

    def result(self) -> bytes:
        """The completion."""
        reason, usage = (self._finished.reason, self._finished.usage) if self._finished else ("stop", Usage())
        content = "".join(self._parts) + self._stops.rest()
        choice = Choice(MessageOut(content), "content_filter" if self._withdrawn else self.cut or reason)
        return encode(Completion(self.id, self.created, self.model, [choice], _usage_out(usage), self.ids))
