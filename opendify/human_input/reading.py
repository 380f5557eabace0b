"""What a reply says of a form: the action that it names, and values of fields. Whether they fit is another question."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from opendify.dialogue import Form, FormField
from opendify.human_input.shown import code, inline, listed

# No name of a field or an action is longer.
MAX_NAME: Final = 500
SHOWN_CHARS: Final = 80
ACTION_NAMES: Final = ("action", "action id", "button")
INPUTS_NAMES: Final = ("inputs", "values", "fields")
NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_EDGES: Final = re.compile(r"^[\W_]+|[\W_]+$")
_FENCED: Final = re.compile(r"```[\w-]*[ \t]*\n(.*?)\n?```", re.DOTALL)
_SEPARATOR: Final = re.compile("[:=\uff1a]")  # the last is the wide colon of Chinese and Japanese


T = TypeVar("T")


class BadReply(Exception):
    """An answer that does not fit: `problem` is to be told back. `inputs` is what was understood of it."""

    def __init__(self, problem: str, inputs: Mapping[str, object] = NOTHING) -> None:
        super().__init__(problem)
        self.problem = problem
        self.inputs = dict(inputs)


class Said(Struct):
    """An action's id, and values of fields by name."""

    action: str | None = None
    values: dict[str, object] = {}


class Index(Generic[T]):
    """Things by name. Case, and what stands around a name, matter only where it could mean several of them."""

    def __init__(self, named: Iterable[tuple[str, T]]) -> None:
        self._exact: dict[str, T] = {}
        self._alike: dict[str, list[T]] = {}
        for name, thing in named:
            self._exact.setdefault(name, thing)
            self._alike.setdefault(key(name), []).append(thing)

    def get(self, name: str) -> T | None:
        """The one that is meant; None where it is not known or not sure."""
        if len(name) > MAX_NAME or not name.strip():
            return None
        alike = self._alike.get(key(name), [])
        return self._exact.get(name.strip()) or (alike[0] if len(alike) == 1 else None)


class Names:
    """What a form calls its fields and actions."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self._fields = Index((field.name, field) for field in form.fields)
        self._ids = Index((action.id, action.id) for action in form.actions)
        self._titles = Index((action.title, action.id) for action in form.actions)

    def field(self, name: str) -> FormField | None:
        """The field of this name."""
        return self._fields.get(name)

    def action(self, text: str) -> str | None:
        """The id of the action that a text is the id or the title of."""
        return self._ids.get(text) or self._titles.get(text)

    def is_text(self, name: str) -> bool:
        """Whether a field is filled in with words; files are attached, whatever a reply says of them."""
        field = self.field(name)
        return field is not None and field.kind in {"paragraph", "select"}

    def paragraph(self, given: Mapping[str, object] = NOTHING) -> FormField | None:
        """The field that takes any text: the form's single paragraph, unless it has some already."""
        paragraphs = [field for field in self.form.fields if field.kind == "paragraph"]
        return paragraphs[0] if len(paragraphs) == 1 and paragraphs[0].name not in given else None

    def fields_told(self) -> str:
        """A sentence, or nothing."""
        return f" Its fields are {listed([field.name for field in self.form.fields])}." if self.form.fields else ""

    def actions_asked(self) -> str:
        """Which one it is."""
        if not self.form.actions:
            return "The form has no action, so that nothing can be submitted."
        return f"Which action is it: {listed([action.id for action in self.form.actions])}?"


def of_json(text: str, names: Names) -> Said | None:
    """None for what is no JSON object, and for one that names nothing of a form that takes any text."""
    fenced = _FENCED.fullmatch(text)
    try:
        told = msgspec.json.decode((fenced[1] if fenced else text).encode("utf-8", "replace"))
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(told, dict):
        return None
    action, values = _parts(told, names)
    said, unknown = Said(), []
    for name, value in values.items():
        if not (field := names.field(name)):
            unknown.append(name)
        elif value is not None:
            said.values[field.name] = value
    if action is None and not said.values and names.paragraph():
        return None
    if unknown:
        problem = f"The form has no field {listed([short(name) for name in unknown[:5]])}.{names.fields_told()}"
        raise BadReply(problem, said.values)
    if action is not None:
        said.action = names.action(action)
        if said.action is None:
            raise BadReply(f"{code(short(action))} is no action. {names.actions_asked()}", said.values)
    return said


def _parts(told: dict[str, object], names: Names) -> tuple[str | None, dict[str, object]]:
    """The action, and the values: in an object of their own, or beside the action."""
    keys = {key(name): name for name in reversed(told) if not names.field(name)}
    action = next((told[keys[name]] for name in ACTION_NAMES if name in keys), None)
    inner = next((told[keys[name]] for name in INPUTS_NAMES if name in keys), None)
    others = {name: value for name, value in told.items() if key(name) not in ACTION_NAMES or names.field(name)}
    return as_text(action) or None, inner if isinstance(inner, dict) else others


class Lines:
    """Reads text line by line: lines of `field: value`, an action on a line of its own, and other text."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._action: str | None = None
        self._values: dict[str, list[str]] = {}
        self._free: list[str] = []
        self._open: list[str] | None = None  # the paragraph that the next lines belong to

    def read(self, text: str) -> Said:
        """What all of a text says. Raises BadReply where that is not clear."""
        lines = [line.rstrip("\r") for line in text.strip().split("\n")]
        for number, line in enumerate(lines, 1):
            action = self._names.action(line) if number in {1, len(lines)} else None
            if action:
                self._act(action)
            elif not self._field(line):
                (self._free if self._open is None else self._open).append(line)
        self._place("\n".join(self._free).strip())
        return Said(self._action, self._said)

    @property
    def _said(self) -> dict[str, object]:
        return {name: "\n".join(lines).strip() for name, lines in self._values.items()}

    def _act(self, action: str) -> None:
        if self._action not in {None, action}:
            raise BadReply(f"The reply names two actions. {self._names.actions_asked()}", self._said)
        self._action = action

    def _field(self, line: str) -> bool:
        """Whether a line names a field, or an action after the word."""
        name, value = named(line)
        if field := self._names.field(name):
            self._values[field.name] = lines = [value]
            self._open = lines if field.kind == "paragraph" else None
            return True
        if key(name) in ACTION_NAMES and (action := self._names.action(value)):
            self._act(action)
            self._open = None
            return True
        return False

    def _place(self, text: str) -> None:
        """Text that names no field is for the only paragraph that has none; before its colon may stand an action."""
        name, value = named(text)
        if self._action is None and (action := self._names.action(name)):
            self._action, text = action, value
        if not text:
            return
        field = self._names.paragraph(self._values)
        if field is None:
            raise BadReply(f"It is not clear what “{short(text)}” is for.{self._names.fields_told()}", self._said)
        self._values[field.name] = [text]


def named(text: str) -> tuple[str, str]:
    """What stands before the first colon or equals sign, and after it; nothing where there is none."""
    found = _SEPARATOR.search(text[:MAX_NAME])
    return (text[: found.start()], text[found.end() :].strip()) if found else ("", "")


def key(name: str) -> str:
    """A name without case and without what stands around it; underscores and hyphens are spaces."""
    bare = _EDGES.sub("", name[:MAX_NAME]) or name[:MAX_NAME].strip()
    return " ".join(bare.casefold().replace("_", " ").replace("-", " ").split())


def as_text(value: object) -> str:
    """A value of JSON as text."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def short(text: str) -> str:
    """The beginning of a text."""
    line = inline(text[: 4 * SHOWN_CHARS])
    return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]}..."
