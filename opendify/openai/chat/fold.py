"""Events -> one completion. Synchronous, without IO."""

from collections.abc import Iterable, Sequence

from msgspec import UNSET

from opendify.dialogue import (
    Cited,
    Event,
    Finished,
    FinishReason,
    Paused,
    ReasoningDelta,
    TextDelta,
    TextReplaced,
    ToolCall,
    ToolResult,
    ToolRun,
    Usage,
)
from opendify.openai.chat.schema import CallOut, Choice, Completion, Dify, FunctionOut, MessageDify, MessageOut, Ran
from opendify.openai.chat.writer import ChatWriter, annotations, encode, usage_out


class ChatFold(ChatWriter):
    """The same events as those of a stream, folded into one completion."""

    def __init__(self, model: str, stops: Sequence[str], *, legacy: bool = False) -> None:
        super().__init__(model, stops, legacy=legacy)
        self._parts: list[str] = []
        self._thoughts: list[str] = []
        self._runs: dict[str, Ran] = {}
        self._calls: list[CallOut] = []
        self._cited: Cited | None = None
        self._withdrawn = False
        self._finished: Finished | None = None

    def feed(self, events: Iterable[Event]) -> bytes:
        """Take events in; there is nothing to send before the end."""
        for event in events:
            if type(event) is TextDelta and not (self.cut or self._stops):  # as nearly all are
                self._parts.append(event.text)
            else:
                self._take(event)
        return b""

    def close(self) -> bytes:
        """The end of an answer whose own end never came after it was cut."""
        self.done = True
        return b""

    def result(self) -> bytes:
        """The completion."""
        finished = self._finished or Finished("stop", Usage())
        reason: FinishReason = "content_filter" if self._withdrawn else self.cut or finished.reason
        cited = self._cited.citations if self._cited else ()
        dify = Dify.of(self.ids, citations=cited, suggested_questions=finished.suggestions)
        choice = Choice(self._message(), self._reason(reason))
        return encode(Completion(self.id, self.created, self.model, [choice], usage_out(finished.usage), dify))

    def _take(self, event: Event) -> None:
        match event:
            case Finished():
                self._finished = event
                self.done = True
            case TextReplaced(text=text):
                self._withdrawn = True
                self._held()
                self._parts = [self._until_stop(text)]
            case _ if self.cut:
                return
            case Paused(text=text):  # whose reply depends on all of it: no stop sequence cuts that
                self._parts += (self._held(), text)
            case _:
                self._add(event)

    def _add(self, event: Event) -> None:
        match event:
            case ReasoningDelta(text=text):
                self._thoughts.append(text)
            case ToolRun(id=id, name=name, arguments=arguments):
                self._runs[id] = Ran(id, name, arguments)
                self._calls.append(CallOut(id, FunctionOut(name, arguments)))
            case ToolCall(id=id, name=name, arguments=arguments):
                self._calls.append(CallOut(id, FunctionOut(name, arguments)))
            case ToolResult(id=id, observation=observation):
                if run := self._runs.get(id):
                    run.observation = observation
            case Cited():
                self._cited = event
            case _:
                self._parts.append(self._text(event))

    def _message(self) -> MessageOut:
        content = "".join(self._parts) + self._held()
        message = MessageOut(content)
        if self._calls and self._legacy:
            message.function_call = self._calls[0].function
        elif self._calls:
            message.tool_calls = self._calls
        if len(self._calls) > len(self._runs) and not content:  # as OpenAI writes an answer that only calls
            message.content = None
        if self._runs:
            message.dify = MessageDify(list(self._runs.values()))
        if self._cited and self._cited.annotated:
            message.annotations = annotations(self._cited.citations, len(content))
        if self._thoughts:
            told = "".join(self._thoughts)
            message.reasoning_content = told if self.reasoning_key == "reasoning_content" else UNSET
            message.reasoning = told if self.reasoning_key == "reasoning" else UNSET
        return message
