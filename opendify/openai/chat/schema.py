"""What POST /v1/chat/completions takes and gives, as far as we read and write it."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from opendify.dialogue import Citation, FinishReason, Ids
from opendify.errors import InvalidRequest
from opendify.openai.bodies import decoder
from opendify.openai.chat.tools import FormatDef, FunctionChoiceDef, FunctionDef, ToolChoiceDef, ToolDef

MAX_MESSAGES: Final = 5000
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 500
MAX_MODEL_CHARS: Final = 256


class ImageUrl(Struct):
    """`image_url` of an image part: an http(s) address or a data: URL."""

    url: str


class InputAudio(Struct):
    """Base64 audio; `format` is wav or mp3 in OpenAI's own API, here any that the app takes."""

    data: str
    format: str = "wav"


class FileData(Struct):
    """`file` of a file part: base64, bare or as a data: URL; or the id of a file sent ahead."""

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
    """The function of a call."""

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
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None


class StreamOptions(Struct):
    """What a streamed answer carries besides its text."""

    include_usage: bool | None = False


class ChatRequest(Struct):
    """The body. Fields that are not declared are accepted and have no effect: the Dify app owns them."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    user: str | dict[str, Any] | int | None = None
    tools: list[ToolDef] | None = None
    tool_choice: ToolChoiceDef | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDef] | None = None
    function_call: FunctionChoiceDef | None = None
    response_format: FormatDef | None = None
    n: int | None = None
    logprobs: bool | None = None
    metadata: dict[str, Any] | None = None
    inputs: dict[str, Any] | None = None
    conversation_id: str | None = None

    def check(self) -> None:
        """Refuse what cannot be honoured. Raises InvalidRequest."""
        if self.n not in {None, 1}:
            raise InvalidRequest("A Dify app gives one answer at a time: n must be 1.", param="n")
        if self.logprobs:
            raise InvalidRequest("Dify reports no log probabilities.", param="logprobs")
        if len(self.stops()) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_CHARS for stop in self.stops()):
            raise InvalidRequest(
                f"stop takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters.", param="stop"
            )

    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


decode_request = decoder(ChatRequest)


# -- the answer


class UsageOut(Struct):
    """`usage` of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UrlCitation(Struct):
    """Where a source is; the indices are characters of the text."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(Struct):
    """A source of the answer."""

    url_citation: UrlCitation
    type: Literal["url_citation"] = "url_citation"


class FunctionOut(Struct):
    """The function of a call."""

    name: str
    arguments: str


class CallOut(Struct):
    """A call of a tool."""

    id: str
    function: FunctionOut
    type: Literal["function"] = "function"


class Ran(Struct):
    """A tool that the app has run itself, with what came of it."""

    id: str
    name: str
    arguments: str
    observation: str | None = None


class MessageDify(Struct):
    """What OpenAI has no place for in a message."""

    tool_runs: list[Ran]


class MessageOut(Struct):
    """The assistant's message of a folded answer."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    tool_calls: list[CallOut] | UnsetType = UNSET
    function_call: FunctionOut | UnsetType = UNSET
    annotations: list[Annotation] | UnsetType = UNSET
    dify: MessageDify | UnsetType = UNSET


class Choice(Struct):
    """The one choice."""

    message: MessageOut
    finish_reason: FinishReason | Literal["function_call"]
    index: int = 0
    logprobs: None = None


class Dify(Struct, omit_defaults=True):
    """What only Dify knows: its own ids, the sources with their scores, what the user might ask next."""

    conversation_id: str | None = None
    message_id: str | None = None
    task_id: str | None = None
    workflow_run_id: str | None = None
    citations: tuple[Citation, ...] = ()
    suggested_questions: tuple[str, ...] = ()

    @classmethod
    def of(cls, ids: Ids, citations: tuple[Citation, ...] = (), suggested_questions: tuple[str, ...] = ()) -> "Dify":
        """With these ids."""
        return cls(
            ids.conversation_id, ids.message_id, ids.task_id, ids.workflow_run_id, citations, suggested_questions
        )


class Completion(Struct):
    """A folded answer."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: UsageOut
    dify: Dify
    object: Literal["chat.completion"] = "chat.completion"
