"""Human input: the form a paused flow waits for, and what submitting it needs."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opendify.demo.wire import Json, new_id, refuse

if TYPE_CHECKING:
    from opendify.demo.flows import Flow
    from opendify.demo.run import Frame

FORM_SECONDS = 3600
INPUTS: list[Json] = [
    {
        "output_variable_name": "note",
        "type": "paragraph",
        "default": {"type": "constant", "selector": [], "value": "preset note"},
    },
    {
        "output_variable_name": "tone",
        "type": "select",
        "option_source": {"type": "constant", "selector": [], "value": ["formal", "casual"]},
    },
]
FILES: list[Json] = [
    {
        "output_variable_name": "doc",
        "allowed_file_types": ["document", "image"],
        "allowed_file_extensions": [],
        "allowed_file_upload_methods": ["local_file", "remote_url"],
        "type": "file",
    },
    {
        "output_variable_name": "docs",
        "allowed_file_types": ["document"],
        "allowed_file_extensions": [],
        "allowed_file_upload_methods": ["local_file"],
        "type": "file-list",
        "number_limits": 2,
    },
]
DRAFTED: Json = {
    "output_variable_name": "note",
    "type": "paragraph",
    "default": {"type": "variable", "selector": ["llm", "text"], "value": ""},
}
ACTIONS: list[Json] = [
    {"id": "approve", "title": "Approve", "button_style": "primary"},
    {"id": "reject", "title": "Reject it", "button_style": "default"},
]


@dataclass(slots=True)
class Form:
    """A form that a run waits for. `answer` is what was submitted; `submitted` wakes whoever waits for it.

    `kind` is that of PAUSE; `behind`: so often the server tells what was before the submit.
    """

    flow: "Flow"
    content: str
    kind: str = ""
    behind: int = 0
    id: str = field(default_factory=new_id)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    expires: int = field(default_factory=lambda: int(time.time()) + FORM_SECONDS)
    answer: Json | None = None
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    rest: "Iterator[Frame]" = field(init=False)

    def __post_init__(self) -> None:
        """Keep one telling of what follows: whoever subscribes later gets what is left of it."""
        self.rest = self.flow.continued(self)

    @property
    def inputs(self) -> list[Json]:
        """The fields."""
        return [DRAFTED, INPUTS[1], *FILES] if self.kind == "files" else INPUTS

    def shared(self) -> Json:
        """What all that tells of the form holds."""
        resolved = {"note": self.flow.run.text} if self.kind == "files" else {}
        return {"inputs": self.inputs, "resolved_default_values": resolved, "expiration_time": self.expires}

    def reached(self) -> Json:
        """How it is reached."""
        by_email = self.kind == "email"
        channels = ["console", "email"] if by_email else ["console"]
        return {"form_token": None if by_email else self.token, "approval_channels": channels}

    def required(self) -> Json:
        """The data of `human_input_required`."""
        told = self.shared() | self.reached()
        return {
            "form_id": self.id, "node_id": "human", "node_title": "Ask human", "form_content": self.content,
            "inputs": told["inputs"], "actions": ACTIONS, "display_in_ui": self.kind != "email",
            "form_token": told["form_token"], "approval_channels": told["approval_channels"],
            "resolved_default_values": told["resolved_default_values"], "expiration_time": self.expires,
        }  # fmt: skip

    def reason(self) -> Json:
        """The entry in `reasons` of a paused run."""
        told = self.shared() | self.reached()
        return {
            "TYPE": "human_input_required", "form_id": self.id, "form_content": self.content,
            "inputs": told["inputs"], "actions": ACTIONS, "node_id": "human", "node_title": "Ask human",
            "resolved_default_values": told["resolved_default_values"], "form_token": told["form_token"],
            "approval_channels": told["approval_channels"], "expiration_time": self.expires,
        }  # fmt: skip

    def described(self) -> Json:
        """The body of `GET /form/human_input/{token}`."""
        told = self.shared()
        return {
            "form_content": self.content, "inputs": told["inputs"],
            "resolved_default_values": told["resolved_default_values"], "user_actions": ACTIONS,
            "expiration_time": self.expires,
        }  # fmt: skip

    def check_open(self) -> None:
        """Refuse what comes too late."""
        if self.answer is not None:
            text = f"This form has already been submitted by another user, form_id={self.id}"
            raise refuse(412, "human_input_form_submitted", text)
        if time.time() > self.expires or self.kind == "expired":
            raise refuse(412, "human_input_form_expired", f"This form has expired, form_id={self.id}")

    def submit(self, inputs: Json, action: str) -> None:
        """Take an answer; `action` is an action's id, not its title."""
        if action not in {known["id"] for known in ACTIONS}:
            raise refuse(400, "invalid_form_data", f"Invalid action: {action}")
        missing = [
            field["output_variable_name"] for field in self.inputs if field["output_variable_name"] not in inputs
        ]
        if missing:
            raise refuse(400, "invalid_form_data", f"Missing required inputs: {', '.join(missing)}")
        if inputs["tone"] not in INPUTS[1]["option_source"]["value"]:
            text = f"Invalid value for select input 'tone': {inputs['tone']}"
            raise refuse(400, "invalid_form_data", text)
        if self.kind == "files":
            self.check_files(inputs)
        self.answer = {"inputs": inputs, "action": action}
        self.flow.run.status = "running"
        self.behind = 1 if self.kind in {"lost", "stale"} else 0
        self.submitted.set()

    def check_files(self, inputs: Json) -> None:
        """Refuse files that were never uploaded, and too many of them."""
        listed = inputs["docs"] if isinstance(inputs["docs"], list) else [inputs["docs"]]
        if len(listed) > FILES[1]["number_limits"]:
            text = "Invalid value for file list input 'docs': Number of files exceeds the maximum limit 2"
            raise refuse(400, "invalid_form_data", text)
        for name, kind, file in (("doc", "file", inputs["doc"]), *(("docs", "file list", file) for file in listed)):
            if not isinstance(file, dict) or file.get("upload_file_id") not in self.flow.run.state.uploads:
                text = f"Invalid value for {kind} input '{name}': Invalid upload file"
                raise refuse(400, "invalid_form_data", text)

    def tells_old(self) -> bool:
        """Whether the server still tells what was before the submit: once, where it is behind."""
        if self.answer is None or not self.behind:
            return False
        self.behind -= 1
        return True
