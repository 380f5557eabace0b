"""What a server refuses before it runs an app, in the words of either generation."""

import math
from collections.abc import Callable
from typing import Any

from opendify.demo.apps import AGENT_MODES, CHAT_MODES, Control, ControlKind, SampleApp
from opendify.demo.wire import Json, Refused, answer, invalid, is_uuid, refuse

MAX_USER = 255
SHOWN = 50
PYDANTIC = "https://errors.pydantic.dev/2.12/v/"
WRONG_MODE = "Please check if your app mode matches the right API route."
UNAVAILABLE = refuse(400, "app_unavailable", "App unavailable, please check your app configurations.")
PAYLOADS = {
    "chat": "ChatRequestPayload",
    "completion": "CompletionRequestPayload",
    "workflow": "WorkflowRunPayload",
}
MISSING = "Missing required parameter in the JSON body"


def right_mode(app: SampleApp, kind: str) -> None:
    """Refuse an app whose mode the route does not serve. `kind`: chat, completion or workflow."""
    if kind == "chat" and app.mode not in CHAT_MODES:
        raise refuse(400, "not_chat_app", WRONG_MODE)
    if kind == "workflow" and app.mode != "workflow":
        raise refuse(400, "not_workflow_app", WRONG_MODE)
    if kind == "completion" and app.mode != "completion":
        raise UNAVAILABLE


def payload(kind: str, body: Json, *, modern: bool) -> None:
    """Refuse a body without the fields that the route needs, or with wrong ones."""
    if modern:
        _modern_payload(kind, body)
    else:
        _older_payload(kind, body)


def _modern_payload(kind: str, body: Json) -> None:
    fields: list[tuple[str, Callable[[Any], tuple[str, str] | None]]] = [("inputs", _dictionary)]
    if kind == "chat":
        fields.append(("query", _string))
    fields.append(("response_mode", _response_mode))
    if kind == "chat":
        fields.append(("conversation_id", _conversation_id))
    for name, check in fields:
        if name not in body and name in {"inputs", "query"}:
            raise _pydantic(kind, name, "Field required", "missing", body)
        if problem := check(body.get(name)):
            raise _pydantic(kind, name, *problem, body[name])


def _dictionary(value: object) -> tuple[str, str] | None:
    return None if isinstance(value, dict) else ("Input should be a valid dictionary", "dict_type")


def _string(value: object) -> tuple[str, str] | None:
    return None if isinstance(value, str) else ("Input should be a valid string", "string_type")


def _response_mode(value: object) -> tuple[str, str] | None:
    known = value in {None, "blocking", "streaming"} if isinstance(value, str | None) else False
    return None if known else ("Input should be 'blocking' or 'streaming'", "literal_error")


def _conversation_id(value: object) -> tuple[str, str] | None:
    if not value or is_uuid(str(value)):
        return None
    return "Value error, conversation_id must be a valid UUID", "value_error"


def _pydantic(kind: str, name: str, problem: str, code: str, value: object) -> Refused:
    shown = f"input_value={_shortened(repr(value))}, input_type={type(value).__name__}"
    return invalid(
        f"1 validation error for {PAYLOADS.get(kind, kind)}\n{name}\n  {problem} [type={code}, {shown}]\n"
        f"    For further information visit {PYDANTIC}{code}"
    )


def _shortened(text: str) -> str:
    """Pydantic's cut through the middle."""
    half = math.ceil(SHOWN / 2)
    return text if len(text) <= SHOWN else f"{text[:half]}...{text[-(half - 1) :]}"


def _older_payload(kind: str, body: Json) -> None:
    if "inputs" not in body:
        raise _errors("inputs", MISSING if kind == "workflow" else f"Input parameters for {kind} {MISSING}")
    if kind == "workflow" and body["inputs"] is None:
        raise _errors("inputs", "Must not be null!")
    if kind == "chat" and "query" not in body:
        raise _errors("query", f"The chat query {MISSING}")
    mode = body.get("response_mode", "blocking")
    if mode not in {"blocking", "streaming"}:
        problem = f"The value '{mode}' is not a valid choice for 'response_mode'."
        raise _errors("response_mode", problem if kind == "workflow" else f"Response mode {problem}")
    conversation = body.get("conversation_id")
    if conversation and not is_uuid(str(conversation)):
        raise _errors("conversation_id", f"Existing conversation ID {conversation} is not a valid uuid.")


def _errors(name: str, problem: str) -> Refused:
    return Refused(answer({"errors": {name: problem}, "message": "Input payload validation failed"}, 400))


def form_payload(body: Json) -> None:
    """Refuse an incomplete answer to a human input form."""
    if not isinstance(body.get("inputs"), dict):
        raise _pydantic("HumanInputFormSubmitPayload", "inputs", "Field required", "missing", body)
    if "action" not in body:
        raise _pydantic("HumanInputFormSubmitPayload", "action", "Field required", "missing", body)


def query(app: SampleApp, text: str) -> None:
    """Refuse an empty question; only the New Agent refuses a blank one."""
    if not (text.strip() if app.mode == "agent" else text):
        raise invalid("query is required")


def streaming(app: SampleApp, mode: str | None) -> bool:
    """Whether the answer is streamed; agents refuse anything else."""
    if app.mode == "agent" and mode == "blocking":
        raise refuse(400, "bad_request", "Agent App only supports streaming response mode.")
    if app.mode == "agent-chat" and mode != "streaming":
        raise invalid("Agent Chat App does not support blocking mode")
    return mode == "streaming" or app.mode in AGENT_MODES


def inputs(app: SampleApp, given: Json, *, modern: bool) -> Json:
    """The inputs of a run, checked and complete. Files among them are checked elsewhere."""
    return {control.variable: _value(control, given.get(control.variable), modern) for control in app.form}


def _value(control: Control, value: object, modern: bool) -> object:
    if value is None:
        if control.required:
            raise invalid(f"{control.variable} is required in input form")
        return (control.default or None) if modern else None
    return CHECKS[control.kind](control, value, modern)


def _text(control: Control, value: object, _: bool) -> object:
    if not isinstance(value, str):
        raise invalid(f"(type '{control.kind}') {control.variable} in input form must be a string")
    if control.max_length and len(value) > control.max_length:
        raise invalid(f"{control.variable} in input form must be less than {control.max_length} characters")
    return value


def _select(control: Control, value: object, _: bool) -> object:
    if value not in control.options and value != "":
        options = list(control.options)
        raise invalid(f"{control.variable} in input form must be one of the following: {options}")
    return value


def _number(control: Control, value: object, _: bool) -> object:
    if not isinstance(value, str):
        return value
    try:
        return (float(value) if "." in value else int(value)) if value else None
    except ValueError:
        raise invalid(f"{control.variable} in input form must be a valid number") from None


def _checkbox(control: Control, value: object, modern: bool) -> object:
    spelled = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False}
    if modern and str(value).lower() in spelled:
        return spelled[str(value).lower()]
    if not isinstance(value, bool):
        raise invalid(f"{control.variable} in input form must be a valid boolean value")
    return value


def _object(control: Control, value: object, _: bool) -> object:
    if not isinstance(value, dict):
        raise invalid(f"{control.variable} in input form must be a dict")
    return value


def _file(control: Control, value: object, _: bool) -> object:
    if not isinstance(value, dict):
        raise invalid(f"{control.variable} in input form must be a file")
    return value


def _files(control: Control, value: object, _: bool) -> object:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise invalid(f"{control.variable} in input form must be a list of files")
    if control.max_length and len(value) > control.max_length:
        raise invalid(f"{control.variable} in input form must be less than {control.max_length} files")
    return value


CHECKS: dict[ControlKind, Callable[[Control, object, bool], object]] = {
    "text-input": _text, "paragraph": _text, "select": _select, "number": _number, "checkbox": _checkbox,
    "json_object": _object, "file": _file, "file-list": _files,
}  # fmt: skip
