"""The waist between the two protocols: a Prompt goes in, Events come out. Pure data; imports nothing of ours."""

from typing import Literal, TypeAlias

from msgspec import Struct

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Media: TypeAlias = Literal["image", "audio", "file"]
FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]


class Ahead(Struct, frozen=True):
    """What is known of a file sent ahead: the key of its record, and Dify's id of it or its bytes."""

    key: str
    upload_id: str | None = None
    data: bytes | None = None


class Attachment(Struct, frozen=True, kw_only=True):
    """A file that belongs to a turn: a URL that Dify fetches itself, base64 text to upload, or a file sent ahead.

    `param` is its place in the client's request, for error messages; `file_id` is ours, from POST /v1/files, and
    `ahead` what was found under it.
    """

    media: Media
    param: str
    url: str | None = None
    base64: str | None = None
    file_id: str | None = None
    ahead: Ahead | None = None
    name: str | None = None
    mime_type: str | None = None


class ToolCall(Struct, frozen=True):
    """A call that an earlier answer asked for."""

    id: str
    name: str
    arguments: str


class Turn(Struct, frozen=True, kw_only=True):
    """One message of the dialogue; `name` is the tool's for role `tool`."""

    role: Role
    text: str
    attachments: tuple[Attachment, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    name: str | None = None


class Prompt(Struct, frozen=True, kw_only=True):
    """What a client asks, whichever surface it came through.

    `variables` are Dify inputs the client named on purpose; `metadata` counts where it names a declared input.
    `conversation_id` is Dify's, where the client names it.
    """

    model: str
    turns: tuple[Turn, ...]
    user: str | None = None
    conversation_id: str | None = None
    variables: dict[str, object] = {}
    metadata: dict[str, object] = {}


class Usage(Struct, frozen=True):
    """Tokens of one answer; zeros where Dify reports none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


class Ids(Struct, frozen=True, omit_defaults=True):
    """Dify's own names for one answer: what a client needs to find it again in Dify."""

    conversation_id: str | None = None
    message_id: str | None = None
    task_id: str | None = None
    workflow_run_id: str | None = None


class Started(Struct, frozen=True):
    """The run is under way and can be stopped."""

    ids: Ids


class TextDelta(Struct, frozen=True, gc=False):
    """The next piece of the answer's text, never empty."""

    text: str


class ReasoningDelta(Struct, frozen=True, gc=False):
    """The next piece of the model's thinking, never empty."""

    text: str


class ToolRun(Struct, frozen=True, kw_only=True):
    """A tool that the app itself is calling: told once for each call. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


class ToolResult(Struct, frozen=True):
    """What the tool of a ToolRun returned, as text; at most once for each."""

    id: str
    observation: str


class Citation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passage of a knowledge base that the answer rests on. `url` is the source's own address, where it has one."""

    title: str
    url: str | None = None
    dataset_id: str | None = None
    dataset_name: str | None = None
    document_id: str | None = None
    document_name: str | None = None
    segment_id: str | None = None
    score: float | None = None
    content: str | None = None


class Cited(Struct, frozen=True):
    """What the whole answer rests on, each passage once; told at most once, after the text.

    Not `annotated` where the text itself tells it already.
    """

    citations: tuple[Citation, ...]
    annotated: bool = True


class Progress(Struct, frozen=True):
    """A step of a flow has begun or is `done`. The title is its author's; never what goes in or comes out."""

    title: str
    done: bool


class TextReplaced(Struct, frozen=True):
    """All text so far is withdrawn in favour of `text`, which does not continue it (output moderation)."""

    text: str


class FileOut(Struct, frozen=True, kw_only=True):
    """A file the app made; `url` is absolute."""

    url: str
    name: str
    is_image: bool


class Finished(Struct, frozen=True):
    """The answer is complete. Nothing follows. `stopped` by somebody else, it may lack its end.

    `suggestions` are what the user might ask next.
    """

    reason: FinishReason
    usage: Usage
    stopped: bool = False
    suggestions: tuple[str, ...] = ()


class Failed(Struct, frozen=True, kw_only=True):
    """The run failed with Dify's `code`, `message` and HTTP-like `status`. Nothing follows."""

    code: str
    message: str
    status: int


Event: TypeAlias = (
    Started
    | TextDelta
    | ReasoningDelta
    | ToolRun
    | ToolResult
    | Cited
    | Progress
    | TextReplaced
    | FileOut
    | Finished
    | Failed
)
