"""POST /v1/chat/completions: its schema, request -> Prompt, events -> chunks or one completion."""

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp
from msgspec import Meta, Struct

from opendify import sse
from opendify.dialogue import (
    Attachment,
    Event,
    FileOut,
    Finished,
    Ids,
    Media,
    Prompt,
    Role,
    TextDelta,
    TextReplaced,
    Turn,
    Usage,
)
from opendify.errors import InvalidRequest, OpenDifyError
from opendify.exchange import Exchange
from opendify.openai.bodies import decoder
from opendify.openai.delivery import Folding, Streaming
from opendify.openai.stops import StopScanner
from opendify.openapi import operation

MAX_MESSAGES: Final = 5000
MAX_STOPS: Final = 16


# -- the request


class ImageUrl(Struct):
    """`image_url` of an image part: an http(s) address or a data: URL."""

    url: str


class InputAudio(Struct):
    """Base64 audio; `format` is wav or mp3 in OpenAI's own API, here any that the app takes."""

    data: str
    format: str = "wav"


class FileData(Struct):
    """`file` of a file part: base64, bare or as a data: URL."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None


class TextPart(Struct, tag_field="type", tag="text"):
    """Text."""

    text: str


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """A picture."""

    image_url: ImageUrl | str


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """A sound."""

    input_audio: InputAudio


class FilePart(Struct, tag_field="type", tag="file"):
    """A document."""

    file: FileData


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """What the assistant said instead of an answer."""

    refusal: str


Part = TextPart | ImagePart | AudioPart | FilePart | RefusalPart


class FunctionCall(Struct):
    """The function of a tool call."""

    name: str = ""
    arguments: str = ""


class ToolCall(Struct):
    """A call that an earlier answer asked for."""

    id: str = ""
    function: FunctionCall | None = None


class Message(Struct):
    """One message of the request."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct):
    """What a streamed answer carries besides its text."""

    include_usage: bool | None = False


class ChatRequest(Struct):
    """The body. Fields that are not declared are accepted and have no effect: the Dify app owns them."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    user: str | dict[str, Any] | int | None = None
    n: int | None = None
    logprobs: bool | None = None
    metadata: dict[str, Any] | None = None
    inputs: dict[str, Any] | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured. Raises InvalidRequest."""
        if self.n not in {None, 1}:
            raise InvalidRequest("A Dify app gives one answer at a time: n must be 1.", param="n")
        if self.logprobs:
            raise InvalidRequest("Dify reports no log probabilities.", param="logprobs")
        if len(self.stops()) > MAX_STOPS or not all(self.stops()):
            raise InvalidRequest(f"stop takes up to {MAX_STOPS} texts, none of them empty.", param="stop")

    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def prompt(self) -> Prompt:
        """What is asked, without OpenAI's vocabulary. Raises InvalidRequest naming the part that does not fit."""
        names = {id: function.name for message in self.messages for id, function in _calls(message)}
        return Prompt(
            model=self.model,
            turns=tuple(_turn(message, f"messages[{place}]", names) for place, message in enumerate(self.messages)),
            user=_user(self.user),
            variables=self.inputs or {},
            metadata=self.metadata or {},
        )


ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}

decode_request = decoder(ChatRequest)


def _user(user: str | dict[str, Any] | int | None) -> str | None:
    """Open WebUI's pipelines send an object."""
    if isinstance(user, dict):
        names = (user.get(key) for key in ("id", "email", "name"))
        user = next((name for name in names if name and isinstance(name, str | int)), None)
    return None if user is None or user == "" else str(user)


def _turn(message: Message, param: str, names: dict[str, str]) -> Turn:
    texts: list[str] = []
    attachments: list[Attachment] = []
    parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content or []
    for place, part in enumerate(parts):
        match part:
            case TextPart(text=text) | RefusalPart(refusal=text):
                texts.append(text)
            case _:
                attachments.append(_attachment(part, f"{param}.content[{place}]"))
    texts += [f"[called {function.name} with {function.arguments}]" for _, function in _calls(message)]
    return Turn(
        role=ROLES[message.role],
        text="\n".join(texts),
        attachments=tuple(attachments),
        name=message.name or names.get(message.tool_call_id or ""),
    )


def _calls(message: Message) -> Iterator[tuple[str, FunctionCall]]:
    """The calls of an earlier answer, by id."""
    return ((call.id, call.function) for call in message.tool_calls or () if call.function)


def _attachment(part: ImagePart | AudioPart | FilePart, param: str) -> Attachment:
    match part:
        case ImagePart(image_url=image):
            url = image if isinstance(image, str) else image.url
            return _from_url(url, "image", f"{param}.image_url")
        case AudioPart(input_audio=audio):
            name = f"audio.{audio.format}"
            return Attachment(media="audio", param=f"{param}.input_audio", base64=audio.data, name=name)
        case FilePart(file=file):
            return _from_file(file, f"{param}.file")


def _from_file(file: FileData, param: str) -> Attachment:
    if file.file_data is None:
        raise InvalidRequest("A file needs file_data; files by file_id are not kept here.", param=param)
    if file.file_data.startswith(("data:", "http://", "https://")):
        return _from_url(file.file_data, "file", f"{param}.file_data", file.filename)
    return Attachment(media="file", param=f"{param}.file_data", base64=file.file_data, name=file.filename)


def _from_url(url: str, media: Media, param: str, name: str | None = None) -> Attachment:
    """A link goes to Dify as it is, we never fetch it; the data of a data: URL is uploaded."""
    if url.startswith(("http://", "https://")):
        return Attachment(media=media, param=param, url=url, name=name)
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise InvalidRequest("Expected an http(s) address or a base64 data: URL.", param=param)
    mime_type = head[len("data:") : -len(";base64")]
    return Attachment(media=media, param=param, base64=data, name=name, mime_type=mime_type)


# -- the answer


class UsageOut(Struct):
    """`usage` of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class MessageOut(Struct):
    """The assistant's message of a folded answer."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(Struct):
    """The one choice."""

    message: MessageOut
    finish_reason: Literal["stop", "length", "content_filter"]
    index: int = 0
    logprobs: None = None


class Completion(Struct):
    """A folded answer. `dify` holds Dify's own ids."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: UsageOut
    dify: Ids
    object: Literal["chat.completion"] = "chat.completion"


encode = msgspec.json.encode


def _usage_out(usage: Usage) -> UsageOut:
    return UsageOut(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)


def markdown(file: FileOut) -> str:
    """A file of the app as a line of Markdown."""
    name = file.name.replace("[", "(").replace("]", ")")
    return f"\n\n{'!' if file.is_image else ''}[{name}](<{file.url}>)"


class ChatWriter:
    """Events -> the text of one answer; what the streamed and the folded form have in common.

    Once `cut` (a stop sequence, or withdrawn text) only the usage is still of interest; `done` after the last event.
    """

    def __init__(self, model: str, stops: Sequence[str]) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model
        self.ids = Ids()
        self.cut: Literal["stop", "content_filter"] | None = None
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


# -- the route


class ChatController(Controller):
    """Chat completions over every kind of Dify app."""

    path = "/v1/chat/completions"
    tags = ("Chat",)

    @post(
        summary="Create a chat completion, streamed or whole",
        status_code=200,
        operation_class=operation(ChatRequest, Completion),
    )
    async def create(self, request: Request[Any, Any, Any], exchange: NamedDependency[Exchange]) -> ASGIApp:
        """Answer with chunks (`stream: true`) or with one completion."""
        body = decode_request(await request.body())
        body.check()
        answer = exchange.answer(body.prompt(), request.state.caller)
        request.state.answer = answer
        if not body.stream:
            return await Folding(answer, ChatFold(body.model, body.stops()), request.receive).response()
        usage = bool(body.stream_options and body.stream_options.include_usage)
        writer = ChatStream(body.model, body.stops(), include_usage=usage)
        return await Streaming(answer, writer, request.receive).response()
