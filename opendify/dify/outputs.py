"""What a flow's nodes and workflows put out: the answer's text, the files, an LLM node's usage."""

from typing import Any

import msgspec

from opendify.dify.events import File, TokenUsage


class LlmOutputs(msgspec.Struct):
    """What an LLM node reports beside its text."""

    usage: TokenUsage | None = None
    finish_reason: str | None = None


_decode_llm_outputs = msgspec.json.Decoder(LlmOutputs | None).decode


def llm_outputs(outputs: msgspec.Raw) -> LlmOutputs:
    """The outputs of an LLM node; the 1.9 line cuts large ones into texts, which tell nothing."""
    try:
        return _decode_llm_outputs(outputs) or LlmOutputs()
    except msgspec.ValidationError:
        return LlmOutputs()


ANSWER_NAMES = ("text", "answer", "result", "output")


def answer_of(outputs: dict[str, Any], chosen: str | None = None) -> str:
    """The text of a workflow's outputs: the chosen one, else the only string, else a usual name, else all as JSON."""
    if chosen in outputs:
        return _as_text(outputs[chosen])
    values = {name: value for name, value in outputs.items() if not _holds_files(value)}
    strings = [value for value in values.values() if isinstance(value, str)]
    if len(strings) == 1:
        return strings[0]
    for name in ANSWER_NAMES:
        if values.get(name) is not None:
            return _as_text(values[name])
    return _as_text(values) if values else ""


def answer_after(outputs: dict[str, Any], spoken: int) -> str:
    """What a chatflow's outputs, which hold all of its answer, tell after so many characters."""
    return _as_text(outputs.get("answer"))[spoken:]


def files_in(outputs: object) -> list[File]:
    """The file objects among a workflow's outputs."""
    values = outputs.values() if isinstance(outputs, dict) else ()
    listed = (item for value in values for item in (value if isinstance(value, list) else [value]))
    return [_file(item) for item in listed if _is_file(item)]


def _file(value: dict[str, Any]) -> File:
    return File(**{name: value[name] for name in File.__struct_fields__ if isinstance(value.get(name), str)})


def _is_file(value: object) -> bool:
    return isinstance(value, dict) and value.get("dify_model_identity") == "__dify__file__"


def _holds_files(value: object) -> bool:
    return _is_file(value) or (isinstance(value, list) and bool(value) and all(map(_is_file, value)))


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
