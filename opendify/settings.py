"""Environment, .env and litestar.toml -> one frozen Settings. The only file that reads the environment."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Self

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from opendify.entries import AppConfig, ClientKey, app_config, client_key
from opendify.fields import (
    LIST,
    Address,
    AgentTools,
    BackgroundTasks,
    CacheUrl,
    Citations,
    CitationUrl,
    ClientTools,
    Conversations,
    Count,
    Days,
    File,
    Files,
    Headers,
    Hours,
    LogFormat,
    LogLevel,
    Minutes,
    Origins,
    Progress,
    Reasoning,
    Seconds,
    Secret,
    Switch,
    Words,
)
from opendify.sentences import sentence
from opendify.sources import Lines, SettingsError, check_file, refuse_doubles

CONFIG_FILE: Final = "litestar.toml"
# What an app may say for itself, else it is said for all.
WAYS: Final = (
    *("conversations", "background_tasks", "system_inputs"),
    *("reasoning", "agent_tools", "client_tools", "citations", "citation_url", "progress", "suggestions", "files"),
)


def _from_env(entry: object) -> object:
    """Resolve `key_env = "VARIABLE"` of an entry in the file."""
    if not isinstance(entry, dict) or "key_env" not in entry:
        return entry
    rest = dict(entry)
    variable = rest.pop("key_env")
    if not (secret := os.environ.get(str(variable)) or dotenv_values(".env").get(str(variable))):
        raise ValueError(f"names key_env {variable!r}, which is set neither in the environment nor in .env")
    return {**rest, "key": secret}


class Settings(BaseSettings):
    """Every setting, validated. Each description is one line of `.env.example`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    valid_api_keys: Annotated[tuple[Annotated[ClientKey, BeforeValidator(client_key)], ...], NoDecode, LIST] = Field(
        (), description="keys that clients present, comma-separated; name:key gives one a name for the logs"
    )
    auth: Switch = Field("on", description="off serves everyone without a key, on purpose")
    dify_api_keys: Annotated[tuple[Annotated[AppConfig, BeforeValidator(app_config)], ...], NoDecode, LIST] = Field(
        (), description="Dify app keys, comma-separated; model-name=app-... fixes the model's name"
    )
    dify_api_base: Address = Field("", description="Dify's address, with or without /v1; a trailing # uses it as it is")
    dify_ca_file: File | None = Field(None, description="PEM file of the authority that signed Dify's certificate")
    timeout: Seconds = Field(30.0, description="longest silence accepted from Dify, seconds (Dify pings every 10)")
    connect_timeout: Seconds = Field(5.0, description="longest wait for a connection to Dify, seconds")
    first_packet_seconds: Seconds = Field(
        2.0,
        description="start a streamed answer at the latest after this long, seconds; later failures are error frames",
    )
    first_event_seconds: Seconds = Field(
        300.0, description="longest wait for a run's first event, pings aside, seconds"
    )
    max_run_seconds: Seconds = Field(1200.0, description="longest run, seconds (Dify's own limit is 1200)")
    keep_alive_seconds: Seconds = Field(15.0, description="silence after which a stream gets a comment, seconds")
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="how long running answers may go on after SIGTERM, seconds"
    )
    model_cache_seconds: Seconds = Field(300.0, description="how long an app's description is trusted, seconds")
    max_body_mb: Count = Field(50, description="largest request body, megabytes")
    max_answer_mb: Count = Field(16, description="largest answer, megabytes of text")
    max_files: Annotated[int, Field(ge=0)] = Field(20, description="most files in one request")
    max_connections: Count = Field(1000, description="most simultaneous runs of one Dify; more are refused with 503")
    http2: bool = Field(
        False,
        description="speak HTTP/2 with an https Dify that offers it; a connection that it retires takes its run along",
    )
    default_model: str = Field("", description="the model for requests that name an unknown one; empty: they get a 404")
    conversations: Conversations = Field(
        "auto",
        description="auto finds the conversation that a history continues; explicit: only by its id or the chat's; off",
    )
    conversation_ttl_days: Days = Field(30.0, description="how long a conversation is remembered after its last turn")
    cache_url: CacheUrl = Field(
        SecretStr("mem://"),
        description="where conversations are remembered; redis://HOST:6379/0 shares them among workers and replicas",
    )
    upload_cache_hours: Hours = Field(24.0, description="how long a file sent to Dify is not sent again, hours")
    files_kept_mb: Count = Field(
        100, description="most megabytes of files that wait here for the first chat which names their app"
    )
    files_kept_minutes: Minutes = Field(60.0, description="how long such a file waits, minutes")
    chat_id_headers: Headers = Field(
        ("X-OpenWebUI-Chat-Id", "X-LibreChat-Conversation-Id", "X-Chat-Id", "X-Session-Id"),
        description="headers that name the client's chat, for trusted keys; the first that is sent counts",
    )
    user_headers: Headers = Field(
        ("X-OpenWebUI-User-Id", "X-LibreChat-User-Id"),
        description="headers that name the end user, for trusted keys; the first that is sent counts",
    )
    openwebui_jwt_secret: Secret = Field(
        SecretStr(""),
        description="Open WebUI's FORWARD_USER_INFO_HEADER_JWT_SECRET, 32 bytes or more: verifies who its users are",
    )
    hash_users: bool = Field(False, description="true shows Dify a digest in place of the end user's name")
    hash_secret: Secret = Field(
        SecretStr(""),
        description="secret of the digests; empty: each app's Dify key, so that users behind a new key are new ones",
    )
    task_headers: Headers = Field(
        ("X-OpenWebUI-Task",), description="headers whose value marks a background task: titles, tags, follow-ups"
    )
    background_tasks: BackgroundTasks = Field(
        "isolated", description="what becomes of background tasks: isolated, local, route:MODEL or pass"
    )
    system_inputs: Words = Field(
        ("system", "system_prompt", "instructions"),
        description="variables of an app that take the system text, the first that it declares",
    )
    reasoning: Reasoning = Field(
        "reasoning_content",
        description="where thinking goes: the field reasoning_content or reasoning, inline as <think>, or drop",
    )
    agent_tools: AgentTools = Field(
        "tool_calls", description="how runs of an app's own tools are told: tool_calls, reasoning or off"
    )
    client_tools: ClientTools = Field(
        "emulate", description="what becomes of tools that a client declares: emulate, ignore or reject"
    )
    citations: Citations = Field("annotations", description="how sources are told: annotations, footnotes, both or off")
    citation_url: CitationUrl = Field(
        "", description="address of a source that has none, with places such as {dataset_id} and {document_id}"
    )
    progress: Progress = Field("off", description="how the steps of flows are told: off, reasoning or status")
    suggestions: Switch = Field("off", description="on tells with an answer what Dify suggests to ask next")
    files: Files = Field(
        "proxy", description="proxy serves files that apps make under links of this server; link passes Dify's own on"
    )
    file_link_hours: Hours = Field(24.0, description="how long such a link holds, hours")
    public_url: Address = Field(
        "", description="where users reach this server, for links to files; empty: as the client's request names it"
    )
    file_links_mb: Annotated[int, Field(ge=0)] = Field(
        50, description="most megabytes of files kept here because Dify does not sign their links anew"
    )
    workers: Count = Field(1, description="processes of opendify serve; several need CACHE_URL=redis://...")
    cors_origins: Origins = Field(
        (), description="web origins allowed to call from a browser, comma-separated; * for any"
    )
    log_level: LogLevel = Field("info", description="least severity logged")
    log_format: LogFormat = Field("console", description="console for people, json for machines")
    server_host: str = Field("127.0.0.1", description="address to listen on")
    server_port: int = Field(8000, ge=1, le=65535, description="port to listen on")

    # Only in litestar.toml: tables do not fit one line of the environment.
    keys: Annotated[tuple[Annotated[ClientKey, BeforeValidator(_from_env)], ...], NoDecode] = ()
    apps: Annotated[tuple[Annotated[AppConfig, BeforeValidator(_from_env)], ...], NoDecode] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic-settings' signature)
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, .env, litestar.toml: the strongest first."""
        lines = (Lines(env_settings), Lines(dotenv_settings))
        return init_settings, *lines, TomlConfigSettingsSource(settings_cls, CONFIG_FILE)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.client_keys and self.auth == "on":
            raise SettingsError(
                "VALID_API_KEYS is not set: list the keys that clients may present, comma-separated, "
                "for example VALID_API_KEYS=team:sk-choose-a-long-one (or set AUTH=off to serve everyone)."
            )
        refuse_doubles("VALID_API_KEYS", [key.key for key in self.client_keys])
        refuse_doubles("DIFY_API_KEYS", [app.key for app in self.dify_api_keys])
        refuse_doubles(f"{CONFIG_FILE} [[apps]]", [app.key for app in self.apps])
        names = [key.known_as for key in self.client_keys]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SettingsError(f"VALID_API_KEYS gives the name {twice!r} to two keys: their users would be the same.")
        if not self.all_apps:
            raise SettingsError(
                "DIFY_API_KEYS is not set: list the API keys of your Dify apps, comma-separated, "
                "for example DIFY_API_KEYS=app-xxxxxxxx,my-model=app-yyyyyyyy."
            )
        if any(not app.base for app in self.all_apps):
            raise SettingsError(
                "DIFY_API_BASE is not set: give Dify's address, for example DIFY_API_BASE=https://dify.example.com/v1."
            )
        self.check_workers(self.workers)
        return self

    def check_workers(self, workers: int) -> None:
        """Whether so many processes would know the same conversations. Raises SettingsError."""
        if workers > 1 and not self.is_shared:
            raise SettingsError(
                f"CACHE_URL is mem://, which {workers} workers cannot share: set it to a Redis that all of them reach, "
                "for example CACHE_URL=redis://localhost:6379/0 (or serve with one worker)."
            )

    @property
    def is_shared(self) -> bool:
        """Whether other processes remember the same."""
        return not self.cache_url.get_secret_value().startswith("mem://")

    @property
    def client_keys(self) -> tuple[ClientKey, ...]:
        """The keys of the environment, then those of the file."""
        return self.valid_api_keys + self.keys

    @property
    def all_apps(self) -> tuple[AppConfig, ...]:
        """The apps of the environment, then those of the file; one listed in both is one, under the former's name.

        What an app does not set for itself is set for all.
        """
        in_file = {app.key.get_secret_value(): app for app in self.apps}
        merged: dict[str, AppConfig] = {}
        for app in self.dify_api_keys + self.apps:
            secret = app.key.get_secret_value()
            known = in_file.get(secret, app)
            name = app.name or known.name
            base = known.base or self.dify_api_base
            own = {"name": name, "base": base} | self._ways_of(known)
            merged.setdefault(secret, known.model_copy(update=own))
        return tuple(merged.values())

    def _ways_of(self, app: AppConfig) -> dict[str, Any]:
        return {name: getattr(app if name in app.model_fields_set else self, name) for name in WAYS}


class _Isolated(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (pydantic-settings' signature)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def only(**values: Any) -> Settings:
    """Settings of these values alone, whatever the environment holds: for the demo and the tests."""
    return _Isolated(**values)


def load() -> Settings:
    """Read the settings of the working directory. Raises SettingsError."""
    try:
        check_file(CONFIG_FILE, Settings.model_fields)
        return Settings()
    except ValidationError as error:
        raise SettingsError(sentence(error, Settings.model_fields, CONFIG_FILE)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{CONFIG_FILE} is not valid TOML: {error}.") from None
    except UnicodeDecodeError:
        raise SettingsError(".env is not UTF-8 text.") from None


def documented() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Each environment variable with its description, for the documents' tests."""
    for name, field in Settings.model_fields.items():
        if field.description:
            yield name.upper(), field.description, {"default": field.default}
