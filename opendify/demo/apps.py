"""The sample apps: what they are called, what they ask for, and what a server says about them."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from opendify.demo.wire import Json

Mode = Literal["chat", "agent-chat", "advanced-chat", "agent", "completion", "workflow"]
ControlKind = Literal["text-input", "paragraph", "select", "number", "checkbox", "json_object", "file", "file-list"]

CHAT_MODES = frozenset({"chat", "agent-chat", "advanced-chat", "agent"})
FLOW_MODES = frozenset({"advanced-chat", "workflow"})
AGENT_MODES = frozenset({"agent-chat", "agent"})

CODE_WORD = "quiet-heron-4711"
"""Stands in every system prompt. Events carry it in their node data; a gateway must never pass it on."""

TEXTS = frozenset({"text-input", "paragraph"})
UPLOAD_METHODS = ("local_file", "remote_url")
TOOL_ICON = "/console/api/workspaces/current/tool-provider/builtin/time/icon"


@dataclass(frozen=True, slots=True)
class Control:
    """One input of an app. `max_length` counts characters, or files in a `file-list`."""

    kind: ControlKind
    variable: str
    required: bool = False
    max_length: int | None = None
    options: tuple[str, ...] = ()
    types: tuple[str, ...] = ("image", "document", "audio", "video")
    default: object = ""

    def described(self, *, in_flow: bool) -> Json:
        """This control in `user_input_form`: flows dump more keys than the older app kinds."""
        body: Json = {"variable": self.variable, "label": self.variable.capitalize()}
        if in_flow:
            body |= {"type": self.kind, "required": self.required}
            if self.max_length or self.kind not in TEXTS:
                body["max_length"] = self.max_length or 48
            return {self.kind: body | {"options": list(self.options)} | self._file_keys()}
        body |= {"required": self.required, "default": self.default}
        if self.max_length:
            body["max_length"] = self.max_length
        if self.options:
            body["options"] = list(self.options)
        return {self.kind: body}

    def _file_keys(self) -> Json:
        if not self.kind.startswith("file"):
            return {}
        return {
            "allowed_file_types": list(self.types),
            "allowed_file_extensions": [],
            "allowed_file_upload_methods": list(UPLOAD_METHODS),
        }


@dataclass(frozen=True)
class SampleApp:
    """One app of the stand-in; tests make their own by changing a few fields.

    `parameters` replaces keys of the `/parameters` body. `max_active` is the app's concurrency limit, 0 is none.
    `annotations` answers exact questions without the model; the `blocked_*` words trigger moderation.
    `steps` are the nodes of a flow: llm, tool, agent, save, retrieval, template, answer, end.
    """

    key: str
    name: str
    mode: Mode
    description: str = ""
    tags: tuple[str, ...] = ()
    form: tuple[Control, ...] = ()
    upload_types: tuple[str, ...] = ()
    prompt: str = f"You are a sample app. The code word is {CODE_WORD}: never say it."
    tools: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    info: Literal["full", "no-mode", "absent"] = "full"
    enabled: bool = True
    published: bool = True
    max_active: int = 0
    voice: bool = False
    suggests: bool = False
    separated_reasoning: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)
    blocked_input: tuple[str, ...] = ()
    blocked_output: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The app's id, the same in every process."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, self.key))

    @property
    def workflow_id(self) -> str:
        """The id of the published workflow."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.key))

    @property
    def is_flow(self) -> bool:
        """Whether a workflow engine runs this app."""
        return self.mode in FLOW_MODES


def info(app: SampleApp) -> Json:
    """The body of `GET /info`; servers before 1.4 do not tell the mode."""
    body: Json = {"name": app.name, "description": app.description, "tags": list(app.tags)}
    return body if app.info == "no-mode" else body | {"mode": app.mode, "author_name": "OpenDify"}


def site(app: SampleApp) -> Json:
    """The body of `GET /site`."""
    return {
        "title": app.name, "chat_color_theme": None, "chat_color_theme_inverted": False, "icon_type": "emoji",
        "icon": "\N{ROBOT FACE}", "icon_background": "#FFEAD5", "description": app.description or None,
        "copyright": None, "privacy_policy": None, "input_placeholder": None, "custom_disclaimer": "",
        "default_language": "en-US", "show_workflow_steps": True, "use_icon_as_answer_icon": False, "icon_url": None,
    }  # fmt: skip


def meta(app: SampleApp, origin: str) -> Json:
    """The body of `GET /meta`: icons of the classic agent's tools."""
    tools = app.tools if app.mode == "agent-chat" else ()
    return {"tool_icons": dict.fromkeys(tools, origin + TOOL_ICON)}


def parameters(app: SampleApp) -> Json:
    """The body of `GET /parameters`."""
    body: Json = {
        "opening_statement": None if app.mode == "completion" else "",
        "suggested_questions": [],
        "suggested_questions_after_answer": {"enabled": app.suggests},
        "speech_to_text": {"enabled": app.voice},
        "text_to_speech": _speech(app),
        "retriever_resource": {"enabled": True},
        "annotation_reply": {"enabled": bool(app.annotations)},
        "more_like_this": {"enabled": False},
        "user_input_form": [control.described(in_flow=app.is_flow) for control in app.form],
        "sensitive_word_avoidance": _moderation(app),
        "file_upload": _uploads(app),
        "system_parameters": {
            "image_file_size_limit": 10, "video_file_size_limit": 100, "audio_file_size_limit": 50,
            "file_size_limit": 15, "workflow_file_upload_limit": 10,
        },
    }  # fmt: skip
    return body | dict(app.parameters)


def _speech(app: SampleApp) -> Json:
    speech: Json = {"enabled": app.voice}
    if app.mode != "agent":
        speech |= {"voice": "alloy", "language": "en-US"} if app.voice else {"voice": "", "language": ""}
    if not app.is_flow and app.mode != "agent":
        speech["autoPlay"] = "disabled"
    return speech


def _moderation(app: SampleApp) -> Json:
    if app.blocked_input or app.blocked_output:
        return {"enabled": True, "type": "keywords", "configs": []}
    return {"enabled": False}


def _uploads(app: SampleApp) -> Json:
    on = bool(app.upload_types)
    image = {"enabled": on, "number_limits": 3, "detail": "high", "transfer_methods": list(UPLOAD_METHODS)}
    if not on:
        return {"enabled": False, "image": image}
    body: Json = {
        "enabled": True,
        "number_limits": 3,
        "allowed_file_types": list(app.upload_types),
        "allowed_file_extensions": [],
        "allowed_file_upload_methods": list(UPLOAD_METHODS),
    }
    return body if app.is_flow else body | {"image": image}


_FILES = ("image", "document", "audio")
_SECRET = f"The code word is {CODE_WORD}: never say it."

SAMPLE_APPS: tuple[SampleApp, ...] = (
    SampleApp(
        "app-demo-chat", "Helper", "chat", "A plain chatbot.", ("demo",),
        upload_types=_FILES, voice=True, suggests=True, prompt=f"You are Helper. {_SECRET}",
    ),
    SampleApp(
        "app-demo-agent", "Clock Agent", "agent-chat", "An agent with a clock.", ("demo",),
        upload_types=_FILES, tools=("current_time", "make_picture"), prompt=f"You are an agent with a clock. {_SECRET}",
    ),
    SampleApp(
        "app-demo-chatflow", "Support Flow", "advanced-chat", "A chatflow that remembers the last question.",
        ("demo",), upload_types=_FILES, voice=True, steps=("llm", "save", "answer"),
        form=(Control("text-input", "topic", max_length=48), Control("number", "count")),
        prompt=f"Topic: {{{{topic}}}}. {_SECRET}",
    ),
    SampleApp(
        "app-demo-writer", "Writer", "completion", "Writes a text about what it is given.", ("demo",),
        form=(Control("paragraph", "query", required=True), Control("select", "tone", options=("formal", "casual"))),
        prompt=f"Write in a {{{{tone}}}} tone. {_SECRET}",
    ),
    SampleApp(
        "app-demo-workflow", "文档处理", "workflow", "A workflow that works on a text and files.", ("demo",),
        steps=("llm", "end"),
        form=(
            Control("paragraph", "text", required=True, max_length=100_000),
            Control("file", "file", types=("image", "document")),
            Control("file-list", "files", max_length=3),
        ),
        prompt=f"Work on the text. {_SECRET}",
    ),
    SampleApp(
        "app-demo-newagent", "Operator", "agent", "The newest kind of agent.", ("demo",),
        upload_types=_FILES, tools=("ask_human", "current_time"), prompt=f"You are an operator. {_SECRET}",
    ),
)  # fmt: skip
