"""What a run sends to the model: system prompt, history, the question with its files."""

import re

from opendify.demo.apps import TEXTS, SampleApp
from opendify.demo.model import Prompt
from opendify.demo.state import Conversation, Message
from opendify.demo.wire import Json

VARIABLE = re.compile(r"\{\{(\w+)\}\}")


def asked_text(app: SampleApp, body: Json) -> str:
    """The text of a run without a question: its first text input, or the old top-level `query`."""
    given = body.get("inputs")
    inputs = given if isinstance(given, dict) else {}
    texts = [inputs.get(control.variable) for control in app.form if control.kind in TEXTS]
    return next((text for text in texts if isinstance(text, str)), "") or str(body.get("query") or "")


def prompt_of(
    app: SampleApp,
    conversation: Conversation | None,
    query: str,
    inputs: Json,
    files: list[Json],
    *,
    stream: bool,
) -> Prompt:
    """The prompt of a run; a turn that got no answer stands in the history with an empty one."""
    unset = "" if app.is_flow else "None"
    system = VARIABLE.sub(lambda name: _shown(inputs.get(name[1]), unset), app.prompt)
    messages: list[Json] = [{"role": "system", "content": [system]}] if system else []
    for turn in conversation.messages if conversation else ():
        messages += _turn(turn)
    messages.append({"role": "user", "content": [*map(_file, files), *_input_files(inputs), query]})
    return Prompt(messages, app.tools, stream=stream)


def _shown(value: object, unset: str) -> str:
    return unset if value is None else str(value)


def _turn(turn: Message) -> list[Json]:
    asked = {"role": "user", "content": [*map(_file, turn.files), turn.query]}
    return [asked, {"role": "assistant", "content": [turn.answer]}]


def _input_files(inputs: Json) -> list[Json]:
    values = (item for value in inputs.values() for item in (value if isinstance(value, list) else [value]))
    return [_file(value) for value in values if isinstance(value, dict) and "dify_model_identity" in value]


def _file(file: Json) -> Json:
    kind = file["extension"].removeprefix(".")
    return {
        "type": file["type"], "format": kind, "mime": file["mime_type"], "filename": file["filename"],
        "url": file["remote_url"], "bytes": file["size"], "detail": "high",
    }  # fmt: skip
