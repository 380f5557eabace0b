"""A client's values -> the variables an app declares, checked here because some servers hang on bad ones.

Servers 1.13 and 1.14 answer a bad variable of a chatflow with 300 seconds of pings; every server checks all
variables again on each turn.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from opendify.dify.apps import App, Input
from opendify.errors import InvalidRequest

TRUE = {1, "true", "1", "yes", "on"}
FALSE = {0, "false", "0", "no", "off", ""}


def collect(app: App, metadata: Mapping[str, object], variables: Mapping[str, object]) -> dict[str, Any]:
    """The values somebody set, weakest first: the app's configuration, the request's metadata, its `inputs`."""
    declared = {declared.name for declared in app.inputs}
    named = {name: value for name, value in metadata.items() if name in declared}
    return {**app.config.inputs, **named, **variables}


def prompt_input(app: App) -> Input | None:
    """The variable that takes the prompt's text; None where the app takes no text at all.

    The configured one, else `query`, else the only required text, else the only text. Raises InvalidRequest
    where that leaves a choice.
    """
    texts = {
        declared.name: declared for declared in app.inputs if declared.takes_text and declared.name != app.system_input
    }
    if app.config.input:
        return texts.get(app.config.input) or _unknown_input(app, app.config.input)
    if "query" in texts or not texts:
        return texts.get("query")
    required = [declared for declared in texts.values() if declared.required]
    for candidates in (required, list(texts.values())):
        if len(candidates) == 1:
            return candidates[0]
    message = f"'{app.name}' has several text inputs ({', '.join(texts)}): set `input` for it in litestar.toml."
    raise InvalidRequest(message, param="model")


def _unknown_input(app: App, name: str) -> Input:
    message = f"'{app.name}' is configured to take the prompt as '{name}', which is no text input of it."
    raise InvalidRequest(message, param="model")


def check(app: App, values: Mapping[str, Any]) -> dict[str, Any]:
    """Every variable of the app in the type it declares. Raises InvalidRequest naming `inputs.<name>`.

    Text that nobody set is sent as "": Dify renders a missing one as the word None. Names that the app does not
    declare are left out, as Dify itself does.
    """
    checked = {}
    for declared in app.inputs:
        value = values.get(declared.name)
        if value is None:
            value = _default(declared)
        if value is not None:
            checked[declared.name] = _coerce(declared, value)
        elif declared.required and declared.control != "external_data_tool":
            raise _missing(app, declared)
    return checked


def _default(declared: Input) -> object:
    """What stands for a value nobody set. Servers apply defaults themselves only from 1.10.1 on."""
    if declared.files is None and declared.default not in (None, ""):
        return declared.default
    return "" if declared.takes_text and not declared.required else None


def _missing(app: App, declared: Input) -> InvalidRequest:
    expected = ", ".join(_describe(other) for other in app.inputs)
    return InvalidRequest(
        f"'{app.name}' needs the input '{declared.name}'. It expects: {expected}.",
        param=f"inputs.{declared.name}",
    )


def _describe(declared: Input) -> str:
    need = "required" if declared.required else "optional"
    options = f", one of {list(declared.options)}" if declared.control == "select" else ""
    return f"{declared.name} ({declared.control}, {need}{options})"


def _coerce(declared: Input, value: object) -> object:
    match declared.control:
        case "text-input" | "paragraph" | "external_data_tool":
            return _text(declared, value)
        case "select":
            return _select(declared, value)
        case "number":
            return _number(declared, value)
        case "checkbox":
            return _checkbox(declared, value)
        case "json_object":
            return _json(declared, value)
        case _:
            return value


def _refuse(declared: Input, expectation: str) -> InvalidRequest:
    return InvalidRequest(f"The input '{declared.name}' must be {expectation}.", param=f"inputs.{declared.name}")


def _text(declared: Input, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _refuse(declared, "a text")
    text = str(value)
    if declared.max_length and len(text) > declared.max_length:
        raise _refuse(declared, f"at most {declared.max_length} characters long, not {len(text)}")
    return text


def _select(declared: Input, value: object) -> str:
    text = str(value) if isinstance(value, str | int | float) else ""
    if text not in declared.options:
        raise _refuse(declared, f"one of {list(declared.options)}")
    return text


def _number(declared: Input, value: object) -> float | int | str:
    if value == "" and not declared.required:
        return ""
    try:
        number: float | int = msgspec.convert(value, int | float, strict=False)
    except msgspec.ValidationError:
        raise _refuse(declared, "a number") from None
    if isinstance(value, bool) or (isinstance(number, float) and not math.isfinite(number)):
        raise _refuse(declared, "a number")
    return number


def _checkbox(declared: Input, value: object) -> bool:
    plain = value.strip().lower() if isinstance(value, str) else value
    if isinstance(plain, str | int | float):
        if plain in TRUE:
            return True
        if plain in FALSE:
            return False
    raise _refuse(declared, "true or false")


def _json(declared: Input, value: object) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(value) if isinstance(value, str) else value
    except msgspec.DecodeError:
        parsed = None
    if not isinstance(parsed, dict):
        raise _refuse(declared, "a JSON object")
    return parsed
