"""What a paused run waits for: the forms that its events tell. Whatever they hold, no answer breaks on it.

A form is told twice, in `human_input_required` and in the `reasons` of `workflow_paused`, with the same `form_id`;
`GET /form/human_input/{token}` tells it without its token and calls its actions `user_actions`. Only the defaults of
type `variable` stand in `resolved_default_values`, the constant ones with their field (workflow-human-file-pause).
The New Agent asks without a form: a row of its record calls `ask_human` and gets no result (newagent-ask-1).
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from opendify.dialogue import FieldKind, Form, FormAction, FormField
from opendify.dify.calls import as_json, cut
from opendify.dify.events import AgentThought
from opendify.errors import OpenDifyError, Refused

MAX_FORMS: Final = 16
MAX_FIELDS: Final = 50
MAX_OPTIONS: Final = 200
MAX_NAME: Final = 200
MAX_SECONDS: Final = 253_402_300_800.0  # the year 10000
KINDS: Final[dict[str, FieldKind]] = {
    "paragraph": "paragraph",
    "select": "select",
    "file": "file",
    "file-list": "file-list",
}
ASKING_TOOL: Final = "ask_human"
MAX_ASKED: Final = 200
# How a New Agent refuses a turn while its question is open: an `error` in the stream, and then no run of it.
OPEN_QUESTION_CODE: Final = "completion_request_error"
OPEN_QUESTION: Final = "unprocessed tool calls"
# How 1.16.1 ends a paused workflow instead of resuming it, before any of its nodes (workflow-human-v1161-events).
# A person's stop reads "Aborted: User requested stop".
LOST_RUN: Final = "Stopped by user."
NOT_RESUMED: Final = (
    "This release of Dify cannot resume a paused workflow: it has stopped the run. Newer ones can, and every one can"
    " resume a chatflow."
)
UNFINISHED: Final = frozenset({"running", "paused"})


class Resumed(Struct, frozen=True):
    """What is known of a run that goes on: the tokens of the forms submitted so far, and the `spoken` of its pause."""

    tokens: frozenset[str] = frozenset()
    spoken: int = 0


class Pauses:
    """The forms that one answer has told, each once."""

    def __init__(self, resumed: Resumed | None) -> None:
        self._submitted = resumed.tokens if resumed else frozenset()
        self._forms: dict[str, Form] = {}

    def required(self, data: Raw) -> None:
        """A form, told by its own event."""
        self._note(_decoded(data))

    def paused(self, data: Raw) -> tuple[Form, ...] | None:
        """What the run waits for. None where that was submitted: a snapshot that is stale."""
        told = _decoded(data)
        for reason in _listed(told.get("reasons") if isinstance(told, dict) else None, MAX_FORMS):
            if isinstance(reason, dict) and reason.get("TYPE", "human_input_required") == "human_input_required":
                self._note(reason)
        forms = tuple(form for form in self._forms.values() if form.token not in self._submitted)
        is_stale = bool(self._forms) and not forms
        self._forms.clear()
        return None if is_stale else forms

    def _note(self, told: object) -> None:
        if isinstance(told, dict) and len(self._forms) < MAX_FORMS:
            key = _text(told.get("form_id")) or _text(told.get("form_token")) or str(len(self._forms))
            self._forms[key] = form_of(told)


class Questions:
    """Whether a New Agent waits for a person: it has asked, and its record holds no answer."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def read(self, row: AgentThought) -> None:
        """A row of its record."""
        name = row.id or str(row.position)
        if row.observation:
            self._asked.discard(name)
        elif ASKING_TOOL in (row.tool or "").split(";") and len(self._asked) < MAX_ASKED:
            self._asked.add(name)

    def __bool__(self) -> bool:
        return bool(self._asked)


def is_open_question(error: OpenDifyError) -> bool:
    """Whether a New Agent's turn failed since its question is still open: nothing of it has run."""
    return isinstance(error, Refused) and error.upstream_code == OPEN_QUESTION_CODE and OPEN_QUESTION in error.message


def form_of(told: dict[str, Any], token: str | None = None) -> Form:
    """A form of an event, of a reason, or of the form's own route, which leaves out the token."""
    resolved = told.get("resolved_default_values")
    actions = told.get("actions") or told.get("user_actions")
    return Form(
        token=_text(told.get("form_token")) or token,
        title=_text(told.get("node_title"))[:MAX_NAME],
        content=cut(_text(told.get("form_content"))),
        fields=tuple(_fields(told.get("inputs"), resolved if isinstance(resolved, dict) else {})),
        actions=tuple(_actions(actions)),
        expires=_seconds(told.get("expiration_time")),
        channels=tuple(filter(None, map(_text, _listed(told.get("approval_channels"), MAX_FORMS)))),
    )


def _fields(told: object, resolved: dict[str, Any]) -> Iterator[FormField]:
    names = set()
    for item in _listed(told, MAX_FIELDS):
        name = _text(item.get("output_variable_name")) if isinstance(item, dict) else ""
        if name and name not in names:
            names.add(name)
            yield _field(name, item, resolved.get(name))


def _field(name: str, told: dict[str, Any], resolved: object) -> FormField:
    """A kind that nobody knows yet is a text."""
    kind = KINDS.get(_text(told.get("type")), "paragraph")
    limit = told.get("number_limits")
    return FormField(
        name=name,
        kind=kind,
        options=_options(told, resolved) if kind == "select" else (),
        default=_default(told, resolved) if kind in {"paragraph", "select"} else None,
        types=tuple(filter(None, map(_text, _listed(told.get("allowed_file_types"), MAX_FIELDS)))),
        limit=limit if isinstance(limit, int) and limit > 0 else None,
    )


def _options(told: dict[str, Any], resolved: object) -> tuple[str, ...]:
    """Those that stand in the form, else those that a variable holds, where the server tells them at all."""
    source = told.get("option_source")
    value = source.get("value") if isinstance(source, dict) else source
    listed = _listed(value, MAX_OPTIONS) or _listed(resolved, MAX_OPTIONS)
    return tuple(dict.fromkeys(text for text in map(_as_text, listed) if text))


def _default(told: dict[str, Any], resolved: object) -> str | None:
    """The value of a variable counts before a constant; an empty one is none."""
    source = told.get("default")
    constant = source.get("value") if isinstance(source, dict) else source
    value = constant if resolved is None or isinstance(resolved, list) else resolved
    return cut(_as_text(value)) or None


def _actions(told: object) -> Iterator[FormAction]:
    for item in _listed(told, MAX_FIELDS):
        action = _text(item.get("id")) if isinstance(item, dict) else ""
        if action:
            yield FormAction(action, _text(item.get("title"))[:MAX_NAME] or action)


def _seconds(value: object) -> float | None:
    """A point in time; no number is none, and neither is one that no clock shows."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < MAX_SECONDS else None


def _decoded(data: Raw) -> object:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _listed(value: object, most: int) -> list[Any]:
    return value[:most] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _as_text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else as_json(value)
