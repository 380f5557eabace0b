"""One client key and one app, as the configuration writes them."""

import hashlib
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from opendify.fields import (
    AgentTools,
    BackgroundTasks,
    Citations,
    CitationUrl,
    ClientTools,
    Conversations,
    Files,
    Progress,
    Reasoning,
    Switch,
    base_url,
)

Mode = Literal["chat", "agent-chat", "advanced-chat", "completion", "workflow", "agent"]

# A name is the beginning of Dify's `user`, whose column holds 255 characters.
NAME_CHARS = 100


def hint_of(key: str) -> str:
    """The first characters of a secret: enough to recognise it, too few to use it."""
    return f"{key[: min(7, len(key) // 2)]}..."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClientKey(_Part):
    """A key that clients present. `models` limits it to some models, by name.

    What headers say of users and chats counts for `trusted` keys: without a word, for the only one.
    """

    name: str = Field("", pattern=r"^[\w.@-]*$", max_length=NAME_CHARS)
    key: SecretStr = Field(min_length=1)
    models: tuple[str, ...] | None = None
    trusted: bool | None = None

    @property
    def known_as(self) -> str:
        """Its name in logs and in Dify's users: no two keys have the same."""
        return self.name or f"key-{hashlib.sha256(self.key.get_secret_value().encode()).hexdigest()[:8]}"


class AppConfig(_Part):
    """One Dify app: its key, and what the file says about it. Times in seconds."""

    key: SecretStr
    name: str | None = None
    base: str = ""
    mode: Mode | None = None
    aliases: tuple[str, ...] = ()
    inputs: dict[str, Any] = {}
    input: str | None = None
    output: str | None = None
    timeout: float | None = Field(None, gt=0)
    max_run_seconds: float | None = Field(None, gt=0)
    first_event_seconds: float | None = Field(None, gt=0)
    max_files: int | None = Field(None, ge=0)
    conversations: Conversations | None = None
    background_tasks: BackgroundTasks | None = None
    system_inputs: tuple[str, ...] = ()
    reasoning: Reasoning = "reasoning_content"
    agent_tools: AgentTools = "tool_calls"
    client_tools: ClientTools = "emulate"
    citations: Citations = "annotations"
    citation_url: CitationUrl = ""
    progress: Progress = "off"
    suggestions: Switch = "off"
    files: Files = "proxy"

    @field_validator("key")
    @classmethod
    def _is_an_app_key(cls, key: SecretStr) -> SecretStr:
        secret = key.get_secret_value()
        if not re.fullmatch(r"app-[!-~]+", secret):
            raise ValueError(f"holds {hint_of(secret)!r}, which is no Dify app key: those start with app-")
        return key

    @field_validator("base")
    @classmethod
    def _is_an_address(cls, base: str) -> str:
        return base_url(base) if base else base


def client_key(entry: object) -> object:
    """`name:key` or `key` from the environment's line."""
    if not isinstance(entry, str):
        return entry
    name, colon, key = entry.partition(":")
    if colon and re.fullmatch(r"[\w.@-]+", name):
        return {"name": name, "key": key}
    return {"key": entry}


def app_config(entry: object) -> object:
    """`model-name=app-...` or `app-...` from the environment's line."""
    if not isinstance(entry, str):
        return entry
    name, equals, key = entry.rpartition("=")
    return {"name": name.strip() or None, "key": key.strip()} if equals else {"key": entry}
