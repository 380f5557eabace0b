"""Forms -> Markdown for a person, or the arguments of a call for a program."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from opendify.dialogue import Form, FormField
from opendify.human_input import open_form

PLACEHOLDER: Final = re.compile(r"\{\{#\$output\.([^#{}\n]{1,200})#\}\}")
WAITING: Final = "The app is paused until somebody goes on with it in Dify."
CLOSED_FORMS: Final = {
    "expired": "This form has expired and takes no answer any more. The app goes on the way its author has foreseen.",
    "submitted": "This form has been answered already, and takes no other answer.",
    "unknown": "Dify does not have this form any more, so that it takes no answer.",
    "unsupported": "This release of Dify takes answers to forms in its own pages only: this one has to be given there.",
}
CHANNELS: Final = {"email": "by email", "console": "in Dify", "webapp": "in the web app"}
LONG_DEFAULT: Final = 200


def markdown(forms: Sequence[Form]) -> str:
    """The forms of a pause with all that an answer needs. Several are answered one after the other."""
    if not forms:
        return WAITING
    first, many = open_form(forms), len(forms) > 1
    shown = []
    for number, form in enumerate(forms, 1):
        heading = f"**Form {number} of {len(forms)}**" if many else ""
        later = "It can be answered after the one above." if form.token and form is not first else ""
        shown.append("\n\n".join(filter(None, (heading, *parts(form, later)))))
    return "\n\n---\n\n".join(shown)


def parts(form: Form, later: str = "") -> Iterator[str]:
    """The paragraphs of one form."""
    if form.title:
        yield f"**{inline(form.title)}**"
    yield readable(form.content).strip()
    if form.fields:
        yield "\n".join(["Fields:", *(f"- {field_line(field)}" for field in form.fields)])
    if form.actions:
        yield "\n".join(["Actions:", *(f"- {code(action.id)}: {inline(action.title)}" for action in form.actions)])
    if form.expires is not None:
        yield f"Expires: {moment(form.expires):%Y-%m-%d %H:%M} UTC"
    yield later or how_to_answer(form)


def field_line(field: FormField) -> str:
    """A field's name, and what it takes."""
    match field.kind:
        case "select":
            takes = f"one of {listed(field.options)}" if field.options else "a choice"
        case "file" | "file-list":
            kinds = f" ({', '.join(map(inline, field.types))})" if field.types else ""
            most = f", at most {field.limit}" if field.limit else ""
            takes = f"a file{kinds}" if field.kind == "file" else f"files{kinds}{most}"
        case _:
            takes = "text"
    return f"{code(field.name)}: {takes}{preset(field)}"


def preset(field: FormField) -> str:
    """What a field holds if nobody fills it in."""
    if field.default is None:
        return ""
    text = inline(field.default)
    return f" (default: {text if len(text) <= LONG_DEFAULT else f'{text[:LONG_DEFAULT]}...'})"


def how_to_answer(form: Form) -> str:
    """What to reply."""
    if not form.token:
        return elsewhere(form)
    texts = [field for field in form.fields if field.kind in {"paragraph", "select"}]
    free = [field for field in texts if field.kind == "paragraph"]
    sentences = [f"Reply with {listed([action.id for action in form.actions])}."] if form.actions else []
    if len(form.actions) == 1 and len(free) == 1:
        sentences = [f"Reply with the text for {code(free[0].name)}, or with {code(form.actions[0].id)} alone."]
    if texts:
        sentences.append(f"Fields stand on lines of their own, like {code(f'{texts[0].name}: ...')}.")
    if len(texts) < len(form.fields):
        sentences.append("Files are attached to the reply.")
    return " ".join(sentences)


def elsewhere(form: Form) -> str:
    """What to say of a form that no reply reaches."""
    ways = [CHANNELS.get(channel, inline(channel)) for channel in form.channels]
    where = f" ({' or '.join(ways)})" if ways else ""
    return f"This form cannot be answered here: it is answered where it was sent to{where}, and the app goes on then."


def told_back(problem: str, form: Form) -> str:
    """An answer that does not fit: what is wrong with it, and how to answer."""
    return f"{problem}\n\n{how_to_answer(form)}"


def call_arguments(forms: Sequence[Form]) -> str:
    """The arguments of the call that asks a program for an answer: JSON of the form that can be answered."""
    form = open_form(forms) or Form()
    told: dict[str, Any] = {"title": form.title, "content": readable(form.content)}
    told["fields"] = [field_of(field) for field in form.fields]
    told["actions"] = form.actions
    told["expires_at"] = None if form.expires is None else moment(form.expires)
    return msgspec.json.encode(told).decode()


def field_of(field: FormField) -> dict[str, Any]:
    """A field for a program."""
    told: dict[str, Any] = {"name": field.name, "type": field.kind}
    more = {"options": field.options, "default": field.default, "file_types": field.types, "max_files": field.limit}
    return told | {name: value for name, value in more.items() if value}


def moment(seconds: float) -> datetime:
    """A point in time, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC)


def readable(content: str) -> str:
    """The text of a form, with the names of fields in their places."""
    return PLACEHOLDER.sub(lambda found: f"[{found[1]}]", content)


def listed(values: Sequence[str]) -> str:
    """Values as they are to be written: `a`, `b` or `c`."""
    *others, last = map(code, values)
    return f"{', '.join(others)} or {last}" if others else last


def code(text: str) -> str:
    """Text as it is to be written, whatever it holds."""
    return f"`{inline(text).replace('`', chr(39))}`"


def inline(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())
