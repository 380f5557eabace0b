"""What Dify says of one app (`/info`, `/parameters`) as an App: its mode, its inputs, the files it takes."""

import hashlib
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from opendify.entries import AppConfig, Mode, hint_of

CHAT_MODES: Final = frozenset({"chat", "agent-chat", "advanced-chat", "agent"})
MEGABYTE: Final = 1024 * 1024


class Info(Struct):
    """`GET /info`. `mode` is missing before 1.4.0, the route itself before 0.6.2."""

    name: str = ""
    mode: str | None = None


class Switch(Struct):
    """A feature of `/parameters` that is on or off."""

    enabled: bool | None = False


class FileUpload(Struct):
    """`file_upload` of `/parameters`. Before 0.10 there is only `image`."""

    enabled: bool | None = None
    number_limits: int | None = None
    allowed_file_types: list[str] | None = None
    allowed_file_extensions: list[str] | None = None
    allowed_file_upload_methods: list[str] | None = None
    image: "ImageUpload | None" = None


class ImageUpload(Struct):
    """`file_upload.image`, the older form."""

    enabled: bool | None = False
    number_limits: int | None = None
    transfer_methods: list[str] | None = None


class Form(Struct):
    """One control of `user_input_form`; chat apps send fewer of these keys than flows do."""

    variable: str | None = None
    required: bool | None = False
    max_length: int | str | None = None
    options: list[str | int | float] | None = None
    default: Any = None
    allowed_file_types: list[str] | None = None
    allowed_file_extensions: list[str] | None = None
    allowed_file_upload_methods: list[str] | None = None


class Parameters(Struct):
    """`GET /parameters`, as far as we read it. Forms are keyed by the name of their control."""

    user_input_form: list[dict[str, Form]] | None = None
    file_upload: FileUpload | None = None
    system_parameters: dict[str, Any] | None = None
    sensitive_word_avoidance: Switch | None = None
    suggested_questions_after_answer: Switch | None = None


class FileRule(Struct, frozen=True):
    """Which files one place of an app takes; `count` at most, None for any number."""

    count: int | None
    types: frozenset[str]
    extensions: frozenset[str]
    methods: frozenset[str]

    def kind_of(self, kind: str, extension: str) -> str | None:
        """The type to declare for a file of this kind and extension, None where it is not taken."""
        if kind in self.types and (kind != "custom" or extension in {"", *self.extensions} or not self.extensions):
            return kind
        if "custom" in self.types and extension in self.extensions:
            return "custom"
        return None


class Input(Struct, frozen=True):
    """One declared variable of an app. `control` is Dify's name for its form control."""

    name: str
    control: str
    required: bool
    max_length: int | None = None
    options: tuple[str, ...] = ()
    default: object = None
    files: FileRule | None = None

    @property
    def takes_text(self) -> bool:
        """Whether a prompt can go in."""
        return self.control in {"text-input", "paragraph"}


class Access(Struct, frozen=True):
    """The way to one app: Dify's address, ending in its API prefix, and the app's key."""

    base: str
    key: str

    @property
    def id(self) -> str:
        """A stable name that does not give the key away: for caches and logs."""
        return hashlib.sha256(f"{self.base}\n{self.key}".encode()).hexdigest()[:12]

    @property
    def origin(self) -> str:
        """Dify's address without the API prefix: what its relative links start from."""
        return _origin(self.base)

    def __repr__(self) -> str:
        return f"Access({self.base}, {hint_of(self.key)})"


@cache
def _origin(base: str) -> str:
    parts = urlsplit(base)
    return f"{parts.scheme}://{parts.netloc}"


def access_of(config: AppConfig) -> Access:
    """The access that the configuration describes."""
    return Access(config.base, config.key.get_secret_value())


class Description(Struct, frozen=True):
    """What Dify said of an app: what the catalogue caches."""

    name: str
    mode: Mode
    parameters: Parameters


class App(Struct, frozen=True, kw_only=True):
    """A usable Dify app: where it is, what it is, what it takes."""

    access: Access
    name: str
    mode: Mode
    inputs: tuple[Input, ...]
    files: FileRule | None
    size_limits: dict[str, int]
    moderated: bool
    suggests: bool = False
    config: AppConfig

    @property
    def takes_text(self) -> bool:
        """Whether any input takes text."""
        return any(declared.takes_text for declared in self.inputs)

    @property
    def system_input(self) -> str | None:
        """The input that takes the system text, if the app declares one; never that of the prompt."""
        texts = {declared.name for declared in self.inputs if declared.takes_text} - {self.config.input}
        if not self.converses and len(texts) == 1 and not self.config.input:
            return None
        return next((name for name in self.config.system_inputs if name in texts), None)

    @property
    def converses(self) -> bool:
        """Whether the app has conversations."""
        return self.mode in CHAT_MODES


def app_of(config: AppConfig, name: str, description: Description) -> App:
    """Put together what the configuration and Dify say."""
    parameters = description.parameters
    moderation = parameters.sensitive_word_avoidance
    suggestions = parameters.suggested_questions_after_answer
    return App(
        access=access_of(config),
        name=name,
        mode=config.mode or description.mode,
        inputs=tuple(_inputs(parameters)),
        files=_upload_rule(parameters.file_upload),
        size_limits=_size_limits(parameters.system_parameters or {}),
        moderated=bool(moderation and moderation.enabled),
        suggests=bool(suggestions and suggestions.enabled),
        config=config,
    )


def _inputs(parameters: Parameters) -> list[Input]:
    return [
        _input(form.variable, control, form)
        for entry in parameters.user_input_form or ()
        for control, form in entry.items()
        if form.variable
    ]


def _input(name: str, control: str, form: Form) -> Input:
    limit = int(form.max_length or 0) or None if str(form.max_length).isdecimal() else None
    return Input(
        name=name,
        control=control,
        required=bool(form.required),
        max_length=limit,
        options=tuple(map(str, form.options or ())),
        default=form.default,
        files=_input_rule(control, form, limit) if control in {"file", "file-list"} else None,
    )


def _input_rule(control: str, form: Form, limit: int | None) -> FileRule:
    return FileRule(
        count=1 if control == "file" else limit,
        types=frozenset(form.allowed_file_types or ()),
        extensions=_extensions(form.allowed_file_extensions),
        methods=frozenset(form.allowed_file_upload_methods or ()),
    )


def _upload_rule(upload: FileUpload | None) -> FileRule | None:
    """The rule for files beside the prompt; the flat keys decide, where a server has them (0.10 and newer)."""
    if upload is None:
        return None
    image = upload.image or ImageUpload()
    if upload.enabled if upload.enabled is not None else image.enabled:
        return FileRule(
            count=upload.number_limits or image.number_limits,
            types=frozenset(upload.allowed_file_types or ["image"]),
            extensions=_extensions(upload.allowed_file_extensions),
            methods=frozenset(upload.allowed_file_upload_methods or image.transfer_methods or ()),
        )
    return None


def _extensions(names: list[str] | None) -> frozenset[str]:
    """Extensions as `.md`; servers write them with and without the dot, in either case."""
    return frozenset(f".{name.lower().lstrip('.')}" for name in names or ())


def _size_limits(system: dict[str, Any]) -> dict[str, int]:
    """The largest upload per kind, in bytes. The value was a string once."""
    limits = {}
    for kind, name in (
        ("image", "image_file_size_limit"),
        ("audio", "audio_file_size_limit"),
        ("video", "video_file_size_limit"),
        ("document", "file_size_limit"),
        ("custom", "file_size_limit"),
    ):
        if (value := str(system.get(name))).isdecimal():
            limits[kind] = int(value) * MEGABYTE
    return limits


parse_info = msgspec.json.Decoder(Info).decode
parse_parameters = msgspec.json.Decoder(Parameters, strict=False).decode
