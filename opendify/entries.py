"""One client key and one app, as the configuration writes them."""

import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

Mode = Literal["chat", "agent-chat", "advanced-chat", "completion", "workflow", "agent"]


def hint_of(key: str) -> str:
    """The first characters of a secret: enough to recognise it, too few to use it."""
    return f"{key[: min(7, len(key) // 2)]}..."


def base_url(value: str) -> str:
    """Dify's address, ending in its API prefix. One that ends in `#` is used as it is, without the mark."""
    if value.endswith("#"):
        url = value[:-1].rstrip("/")
    else:
        url = value.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
    parts = urlsplit(url)
    url = url.replace(url[: len(parts.scheme)], parts.scheme, 1)  # urlsplit's is in lower case
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or re.search(r"\s", url):
        raise ValueError("must be an address such as https://dify.example.com/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain address, without user name, query or fragment")
    return url


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClientKey(_Part):
    """A key that clients present. `models` limits it to some models, by name."""

    name: str = Field("", pattern=r"^[\w.@-]*$")
    key: SecretStr = Field(min_length=1)
    models: tuple[str, ...] | None = None


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
