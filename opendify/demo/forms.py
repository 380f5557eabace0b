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
ACTIONS: list[Json] = [
    {"id": "approve", "title": "Approve", "button_style": "primary"},
    {"id": "reject", "title": "Reject it", "button_style": "default"},
]


@dataclass(slots=True)
class Form:
    """A form that a run waits for. `answer` is what was submitted; `submitted` wakes whoever waits for it."""

    flow: "Flow"
    content: str
    id: str = field(default_factory=new_id)
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    expires: int = field(default_factory=lambda: int(time.time()) + FORM_SECONDS)
    answer: Json | None = None
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    rest: "Iterator[Frame]" = field(init=False)

    def __post_init__(self) -> None:
        """Keep one telling of what follows: whoever subscribes later gets what is left of it."""
        self.rest = self.flow.continued(self)

    def required(self) -> Json:
        """The data of `human_input_required`."""
        return {
            "form_id": self.id, "node_id": "human", "node_title": "Ask human", "form_content": self.content,
            "inputs": INPUTS, "actions": ACTIONS, "display_in_ui": True, "form_token": self.token,
            "approval_channels": ["console"], "resolved_default_values": {}, "expiration_time": self.expires,
        }  # fmt: skip

    def reason(self) -> Json:
        """The entry in `reasons` of a paused run."""
        return {
            "TYPE": "human_input_required", "form_id": self.id, "form_content": self.content, "inputs": INPUTS,
            "actions": ACTIONS, "node_id": "human", "node_title": "Ask human", "resolved_default_values": {},
            "form_token": self.token, "approval_channels": ["console"], "expiration_time": self.expires,
        }  # fmt: skip

    def described(self) -> Json:
        """The body of `GET /form/human_input/{token}`."""
        return {
            "form_content": self.content, "inputs": INPUTS, "resolved_default_values": {},
            "user_actions": ACTIONS, "expiration_time": self.expires,
        }  # fmt: skip

    def check_open(self) -> None:
        """Refuse what comes too late."""
        if self.answer is not None:
            text = f"This form has already been submitted by another user, form_id={self.id}"
            raise refuse(412, "human_input_form_submitted", text)
        if time.time() > self.expires:
            raise refuse(412, "human_input_form_expired", f"This form has expired, form_id={self.id}")

    def submit(self, inputs: Json, action: str) -> None:
        """Take an answer; `action` is an action's id, not its title."""
        if action not in {known["id"] for known in ACTIONS}:
            raise refuse(400, "invalid_form_data", f"Invalid action: {action}")
        missing = [name for name in ("note", "tone") if name not in inputs]
        if missing:
            raise refuse(400, "invalid_form_data", f"Missing required inputs: {', '.join(missing)}")
        if inputs["tone"] not in INPUTS[1]["option_source"]["value"]:
            text = f"Invalid value for select input 'tone': {inputs['tone']}"
            raise refuse(400, "invalid_form_data", text)
        self.answer = {"inputs": inputs, "action": action}
        self.flow.run.status = "running"
        self.submitted.set()
