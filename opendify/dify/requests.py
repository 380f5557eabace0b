"""Prompt + App -> what is uploaded first, then the path and body of the run."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from opendify.dialogue import Attachment, Prompt, Turn
from opendify.dify import inputs
from opendify.dify.apps import App, Input
from opendify.dify.files import PlannedFile, plan
from opendify.dify.transcript import answered, flatten, follow_up, instructions, newest
from opendify.errors import InvalidRequest

RUN_PATH = {"completion": "/completion-messages", "workflow": "/workflows/run"}
CHAT_PATH = "/chat-messages"


class RunPlan(Struct, frozen=True):
    """A checked request, complete but for the ids of its uploads."""

    app: App
    query: str
    inputs: dict[str, Any]
    files: list[PlannedFile]

    @property
    def path(self) -> str:
        """Where this app's runs are started, below the API prefix."""
        return RUN_PATH.get(self.app.mode, CHAT_PATH)

    def body(self, user: str, upload_ids: Sequence[str | None], conversation_id: str | None) -> bytes:
        """The JSON of the run. `upload_ids` match `files`, None for those sent as links."""
        values, beside = dict(self.inputs), []
        for file, upload_id in zip(self.files, upload_ids, strict=True):
            reference = file.reference(upload_id)
            if file.place is None:
                beside.append(reference)
            elif file.is_list:
                values[file.place] = [*values.get(file.place, ()), reference]
            else:
                values[file.place] = reference
        return msgspec.json.encode(self._body(user, values, beside, conversation_id))

    def _body(
        self, user: str, values: dict[str, Any], beside: list[dict[str, str]], conversation_id: str | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"inputs": values, "response_mode": "streaming", "user": user}
        if self.app.converses:
            # Naming a conversation would cost a model call of its own.
            body |= {"query": self.query, "auto_generate_name": False}
            if conversation_id:
                body["conversation_id"] = conversation_id
        elif self.app.mode == "completion" and not self.app.takes_text:
            body["query"] = self.query  # Dify's older way, for prompts without a variable of their own
        if beside:
            body["files"] = beside
        return body


def stop_path(mode: str, task_id: str) -> str:
    """Where a run of this mode is stopped; `task_id` is already quoted."""
    if mode == "workflow":
        return f"/workflows/tasks/{task_id}/stop"
    return f"{RUN_PATH.get(mode, CHAT_PATH)}/{task_id}/stop"


class Told(Struct, frozen=True):
    """How much of a dialogue goes to Dify: all, or for a conversation it knows what is new in it."""

    is_known: bool = False
    instructions: bool = True


EVERYTHING = Told()


def build(prompt: Prompt, app: App, max_files: int, told: Told = EVERYTHING) -> RunPlan:
    """Check the prompt against the app and lay it out. Raises InvalidRequest before anything is sent."""
    current, earlier = _attachments(prompt.turns)
    earlier = () if told.is_known else earlier
    text = _text(prompt.turns, app, told)
    if not text.strip():  # Dify refuses it
        text = "\n".join(f"[{item.name or item.media}]" for item in current) or "(empty)"
    values = inputs.collect(app, prompt.metadata, prompt.variables)
    system = instructions(prompt.turns)
    if app.system_input and system and app.system_input not in prompt.variables:
        values[app.system_input] = system
    target = None if app.converses else inputs.prompt_input(app)
    if target and target.name not in prompt.variables:
        _check_length(target, text)
        values[target.name] = text
    planned = plan(app, current, earlier, max_files, given=set(values))
    placed = {file.place for file in planned}
    checked = inputs.check(app, {**values, **{name: () for name in placed if name}})
    return RunPlan(app, text, {name: value for name, value in checked.items() if name not in placed}, planned)


def _text(turns: Sequence[Turn], app: App, told: Told) -> str:
    """The prompt's text: without instructions where they have their own input or Dify knows them."""
    new = turns[answered(turns) :] if told.is_known else turns
    wanted = told.instructions and not app.system_input
    if told.is_known and wanted:
        new = [*(turn for turn in turns[: answered(turns)] if turn.role == "system"), *new]
    if not wanted and any(turn.role != "system" for turn in new):
        new = [turn for turn in new if turn.role != "system"]
    return follow_up(new) if told.is_known else flatten(new)


def _attachments(turns: Sequence[Turn]) -> tuple[Sequence[Attachment], Sequence[Attachment]]:
    """The files of the turn to reply to, and those before. Raises InvalidRequest for a turn that holds nothing."""
    place = newest(turns)
    turn = turns[place]
    if not turn.text.strip() and not turn.attachments and turn.role != "tool":
        raise InvalidRequest("The newest message has neither text nor files.", param="messages")
    return turn.attachments, [item for other in (*turns[:place], *turns[place + 1 :]) for item in other.attachments]


def _check_length(target: Input, text: str) -> None:
    if target.max_length and len(text) > target.max_length:
        message = f"The text has {len(text)} characters; this app's '{target.name}' takes at most {target.max_length}."
        raise InvalidRequest(message, param="messages")
