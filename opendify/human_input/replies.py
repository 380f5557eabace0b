"""A turn, or the result of a tool -> what is submitted with a form, or the reason why it does not fit.

Taken in this order: an action alone; JSON; lines of `field: value` with an action on a line of its own; and else, where
the form has a single paragraph, all of the text for that.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from opendify.dialogue import Form, FormField
from opendify.human_input.reading import NOTHING, BadReply, Lines, Names, Said, as_text, key, of_json, short
from opendify.human_input.shown import code, inline, listed

MAX_REPLY_CHARS: Final = 200_000


class Reply(Struct, frozen=True):
    """An answer that fits: an action's id, and a value for every field of the form."""

    action_id: str
    inputs: dict[str, object]


def read_reply(
    text: str, form: Form, *, files: Sequence[Mapping[str, str]] = (), known: Mapping[str, object] = NOTHING
) -> Reply:
    """What is submitted. Raises BadReply.

    `files` are Dify's file objects of the turn's attachments; `known` is what earlier bad replies have said.
    """
    if len(text) > MAX_REPLY_CHARS:
        raise BadReply(f"The reply has {len(text)} characters; at most {MAX_REPLY_CHARS} are read.", known)
    names = Names(form)
    try:
        said = _said(text.strip(), names)
    except BadReply as bad:
        bad.inputs = {**known, **bad.inputs}
        raise
    values = {**known, **{name: value for name, value in said.values.items() if names.is_text(name)}}
    problems = [*_texts(values, form), *_files(values, form, files)]
    action = said.action or (form.actions[0].id if len(form.actions) == 1 else None)
    if action is None:
        problems.insert(0, names.actions_asked())
    if problems or action is None:
        raise BadReply(" ".join(problems), values)
    return Reply(action, values)


def _said(text: str, names: Names) -> Said:
    if action := names.action(text):
        return Said(action)
    said = of_json(text, names)
    return Lines(names).read(text) if said is None else said


def _texts(values: dict[str, object], form: Form) -> Iterator[str]:
    """Fill in the texts and choices that are missing, since Dify fills in nothing; say what is wrong."""
    for field in form.fields:
        if field.kind == "paragraph":
            values[field.name] = as_text(values.get(field.name, field.default))
        elif field.kind == "select":
            text = as_text(values.pop(field.name, None)).strip() or field.default or ""
            if chosen := _chosen(text, field):
                values[field.name] = chosen
            else:
                yield _no_choice(text, field)


def _chosen(text: str, field: FormField) -> str | None:
    """An option as the form writes it; any text where the options are not known."""
    if not field.options:
        return text or None
    if not text:
        return field.options[0] if len(field.options) == 1 else None
    alike = [option for option in field.options if key(option) == key(text)]
    return text if text in field.options else alike[0] if alike else None


def _no_choice(text: str, field: FormField) -> str:
    options = f" Its options are {listed(field.options)}." if field.options else ""
    wrong = f"{code(short(text))} is no option of {code(field.name)}." if text else f"{code(field.name)} is missing."
    return wrong + options


def _files(values: dict[str, object], form: Form, files: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Give each file its place; say what is wrong. What earlier replies have brought stays until it is replaced."""
    left = [dict(file) for file in files]
    for field in form.fields:
        if field.kind not in {"file", "file-list"}:
            continue
        taken = [file for file in left if not field.types or {file.get("type"), "custom"} & set(field.types)]
        brought = values.pop(field.name, None)
        if field.kind == "file-list":
            values[field.name] = taken or (brought if isinstance(brought, list) else [])
            if field.limit and len(taken) > field.limit:
                yield f"{code(field.name)} takes at most {field.limit} files, not {len(taken)}."
        elif (taken := taken[:1]) or isinstance(brought, dict):
            values[field.name] = taken[0] if taken else brought
        else:
            kinds = f" ({', '.join(map(inline, field.types))})" if field.types else ""
            yield f"{code(field.name)} needs a file{kinds}: attach it to the reply."
        left = [file for file in left if file not in taken]
    if left:
        yield f"The form has no place for {'a file' if len(left) == 1 else f'{len(left)} files'} of the reply."
