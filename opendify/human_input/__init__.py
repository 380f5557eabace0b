"""Forms of paused runs in a dialogue: shown as text or as a tool call, answered by a turn. Pure; no IO."""

from collections.abc import Iterable
from typing import Final

from opendify.dialogue import Form

# The tool that a client declares to get forms as calls of it.
TOOL: Final = "dify_human_input"


def open_form(forms: Iterable[Form]) -> Form | None:
    """The form that the next turn can answer; None where all are answered elsewhere."""
    return next((form for form in forms if form.token), None)
