"""Which Dify conversation a prompt continues."""

from typing import Protocol

from opendify.auth import Caller
from opendify.dialogue import Prompt
from opendify.dify.apps import App


class Memory(Protocol):
    """What the exchange asks before each turn of an app that converses."""

    async def recall(self, prompt: Prompt, app: App, caller: Caller) -> str | None:
        """The conversation's id, or None for a new one."""
        ...


class NoMemory:
    """Every request is a conversation of its own."""

    async def recall(self, prompt: Prompt, app: App, caller: Caller) -> str | None:  # noqa: ARG002 (the seam's signature)
        """None: a new conversation, with the whole dialogue as its first query."""
        return None
