"""The waist between the two protocols: a Prompt goes in, Events come out. Pure data; imports nothing of ours."""

import secrets
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Media: TypeAlias = Literal["image", "audio", "file"]
FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls"]
FieldKind: TypeAlias = Literal["paragraph", "select", "file", "file-list"]

# What the ids of an app's own runs of tools begin with: so they are known when clients send them back.
RUN_ID: Final = "call_dify_"


def new_call_id() -> str:
    """The id of a call of the client's tools, as OpenAI's look."""
    return f"call_{secrets.token_hex(12)}"


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
    """A call that an answer asks its client for; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def has_run(self) -> bool:
        """Whether it is one that the app ran itself: nothing is left to do."""
        return self.id.startswith(RUN_ID)


class Turn(Struct, frozen=True, kw_only=True):
    """One message of the dialogue. Of a tool's, `name` is the tool's and `call_id` the call's, where they are known."""

    role: Role
    text: str
    attachments: tuple[Attachment, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    call_id: str | None = None

    @property
    def asked(self) -> tuple[ToolCall, ...]:
        """The calls that were the client's to run."""
        return tuple(call for call in self.calls if not call.has_run)

    @property
    def is_spent(self) -> bool:
        """Whether it holds the result of a call that the app had run itself."""
        return self.role == "tool" and (self.call_id or "").startswith(RUN_ID)


class Tool(Struct, frozen=True):
    """A function of the client. `parameters` is the JSON schema of its arguments, None for none in particular."""

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None


class ToolChoice(Struct, frozen=True):
    """Whether this answer may, must or must not call, and which tools: `names`, all of them where it is empty.

    OpenAI's named tool is `required` with one name, its allowed tools are several names.
    """

    kind: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


class Tools(Struct, frozen=True):
    """All that a request says of tools. `parallel`: several calls in one answer; `legacy`: declared as `functions`.

    `problem`: what is wrong with them and where, which matters only to an app that is to be told of them.
    """

    tools: tuple[Tool, ...]
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    legacy: bool = False
    problem: tuple[str, str] | None = None

    @property
    def callable(self) -> dict[str, Tool]:
        """The tools that this answer may call, by name."""
        choice = self.choice
        if choice.kind == "none":
            return {}
        return {tool.name: tool for tool in self.tools if not choice.names or tool.name in choice.names}

    def without(self, name: str) -> "Tools | None":
        """The same without this tool, None where nothing is left."""
        tools = tuple(tool for tool in self.tools if tool.name != name)
        names = tuple(other for other in self.choice.names if other != name)
        choice = self.choice if names or not self.choice.names else ToolChoice()
        left = replace(self, tools=tools, choice=ToolChoice(choice.kind, names))
        return left if tools or self.problem else None


class Format(Struct, frozen=True):
    """The form of the answer: any JSON object, or JSON that fits a schema.

    `checked`: nothing is told before the whole of it is known to fit.
    """

    kind: Literal["json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    checked: bool = False


class Prompt(Struct, frozen=True, kw_only=True):
    """What a client asks, whichever surface it came through.

    `variables` are Dify inputs the client named on purpose; `metadata` counts where it names a declared input.
    `conversation_id` is Dify's, where the client names it.
    """

    model: str
    turns: tuple[Turn, ...]
    user: str | None = None
    conversation_id: str | None = None
    tools: Tools | None = None
    format: Format | None = None
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

    def after(self, before: "Ids") -> "Ids":
        """These, where one is not told the one before."""
        return Ids(
            self.conversation_id or before.conversation_id,
            self.message_id or before.message_id,
            self.task_id or before.task_id,
            self.workflow_run_id or before.workflow_run_id,
        )


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
    """A tool that the app itself is calling, once a call: its id begins with RUN_ID, `arguments` is JSON text."""

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


class FormField(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person is to fill in. `options` of a select: where none are known, any text is one.

    Of a place for files, `types` are Dify's kinds of them and `limit` is how many; None for no known limit.
    """

    name: str
    kind: FieldKind = "paragraph"
    options: tuple[str, ...] = ()
    default: str | None = None
    types: tuple[str, ...] = ()
    limit: int | None = None


class FormAction(Struct, frozen=True):
    """A button of a form; Dify knows it by its id."""

    id: str
    title: str


class Form(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a paused run waits for. Without a token it can be answered elsewhere only, as in the `channels`.

    `content` is Markdown in which `{{#$output.name#}}` stands for a field; `expires` is in seconds since 1970.
    """

    token: str | None = None
    title: str = ""
    content: str = ""
    fields: tuple[FormField, ...] = ()
    actions: tuple[FormAction, ...] = ()
    expires: float | None = None
    channels: tuple[str, ...] = ()


class Paused(Struct, frozen=True):
    """The run waits for a person. Only the end of the answer follows; the run goes on once a form is submitted.

    `spoken`: characters of the run's text so far, which Dify repeats when it tells the whole of it. `text`: what
    is shown of the forms, where that is text.
    """

    forms: tuple[Form, ...]
    spoken: int = 0
    text: str = ""


class Finished(Struct, frozen=True):
    """The answer is complete. Nothing follows. `stopped` by somebody else, it may lack its end.

    `suggestions` are what the user might ask next. `asks`: the app waits for a person's answer that no turn can give,
    so that the conversation cannot be gone on with.
    """

    reason: FinishReason
    usage: Usage
    stopped: bool = False
    suggestions: tuple[str, ...] = ()
    asks: bool = False


class Failed(Struct, frozen=True, kw_only=True):
    """The run failed with Dify's `code`, `message` and HTTP-like `status`. Nothing follows."""

    code: str
    message: str
    status: int


Event: TypeAlias = (
    Started
    | TextDelta
    | ReasoningDelta
    | ToolCall
    | ToolRun
    | ToolResult
    | Cited
    | Progress
    | TextReplaced
    | FileOut
    | Paused
    | Finished
    | Failed
)
