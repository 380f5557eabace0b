"""Environment, .env and litestar.toml -> Settings; what is wrong is one sentence that names the variable."""

import hashlib
import itertools
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr
from pydantic_settings import EnvSettingsSource

from opendify import settings as module
from opendify.__main__ import main
from opendify.app import create_app
from opendify.auth import KeyRing
from opendify.entries import AppConfig, ClientKey, hint_of
from opendify.fields import base_url
from opendify.settings import Settings, documented, load, only
from opendify.sources import Lines, SettingsError

ROOT = Path(__file__).parent.parent
CLIENT_KEY = "sk-client-0123456789abcdef"
APP_KEY = "app-Abcdefghijkl0123456789"
OTHER_KEY = "app-Zyxwvutsrqpo9876543210"
NAME_OF_SK_1 = f"key-{hashlib.sha256(b'sk-1').hexdigest()[:8]}"
REQUIRED = {
    "VALID_API_KEYS": CLIENT_KEY,
    "DIFY_API_KEYS": APP_KEY,
    "DIFY_API_BASE": "https://dify.example.com",
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment with only what is required."""
    ours = set(Settings.model_fields)
    for variable in [name for name in os.environ if name.lower() in ours]:
        monkeypatch.delenv(variable)
    for variable, value in REQUIRED.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_toml(text: str) -> None:
    Path("litestar.toml").write_text(text, "utf-8")


def problem() -> str:
    """The sentence that stops the start; nothing else is shown of its cause."""
    with pytest.raises(SettingsError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert CLIENT_KEY not in sentence
    assert APP_KEY not in sentence
    return sentence


def keys_of(settings: Settings) -> list[str]:
    return [app.key.get_secret_value() for app in settings.all_apps]


# -- what a wrong value is told


@pytest.mark.parametrize(
    ("variable", "fix"),
    [
        ("VALID_API_KEYS", ["comma-separated", "VALID_API_KEYS=", "AUTH=off"]),
        ("DIFY_API_KEYS", ["comma-separated", "DIFY_API_KEYS=app-"]),
        ("DIFY_API_BASE", ["DIFY_API_BASE=https://"]),
    ],
)
@pytest.mark.parametrize("value", [None, "", " , "])
def test_what_is_required_and_missing(
    variable: str, fix: list[str], value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None or variable == "DIFY_API_BASE":
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    sentence = problem()
    assert sentence.startswith(f"{variable} is not set: ")
    for hint in fix:
        assert hint in sentence


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("TIMEOUT", "soon", "a valid number"),
        ("TIMEOUT", "0", "greater than 0"),
        ("TIMEOUT", "-3", "greater than 0"),
        ("TIMEOUT", "inf", "a finite number"),
        ("TIMEOUT", "nan", "a finite number"),
        ("CONNECT_TIMEOUT", "0", "greater than 0"),
        ("FIRST_PACKET_SECONDS", "0", "greater than 0"),
        ("FIRST_EVENT_SECONDS", "0", "greater than 0"),
        ("MAX_RUN_SECONDS", "0", "greater than 0"),
        ("KEEP_ALIVE_SECONDS", "0", "greater than 0"),
        ("MODEL_CACHE_SECONDS", "0", "greater than 0"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("MAX_BODY_MB", "0", "greater than or equal to 1"),
        ("MAX_BODY_MB", "1.5", "a valid integer"),
        ("MAX_ANSWER_MB", "0", "greater than or equal to 1"),
        ("MAX_FILES", "-1", "greater than or equal to 0"),
        ("MAX_CONNECTIONS", "0", "greater than or equal to 1"),
        ("HTTP2", "maybe", "a valid boolean"),
        ("AUTH", "maybe", "'on' or 'off'"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'console' or 'json'"),
        ("SERVER_PORT", "0", "greater than or equal to 1"),
        ("SERVER_PORT", "65536", "less than or equal to 65535"),
        ("SERVER_PORT", "http", "a valid integer"),
        ("CORS_ORIGINS", "https://a.example.com,b.example.com", "holds 'b.example.com': an origin looks like https://"),
        ("CORS_ORIGINS", "https://a.example.com/", "an origin looks like https://chat.example.com"),
        ("DIFY_CA_FILE", "/nowhere/ca.pem", "names /nowhere/ca.pem, which is not a file"),
        ("DIFY_API_BASE", "dify.example.com", "must be an address such as https://dify.example.com/v1"),
        ("DIFY_API_BASE", "ftp://dify.example.com", "must be an address such as https://"),
        ("DIFY_API_BASE", "https://", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://dify example", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://dify:0", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://me:secret@dify", "without user name, query or fragment"),
        ("DIFY_API_BASE", "http://:secret@dify", "without user name, query or fragment"),
        ("DIFY_API_BASE", "http://dify/v1?a=b", "without user name, query or fragment"),
        ("DIFY_API_BASE", "http://dify/v1#part", "without user name, query or fragment"),
        ("DIFY_API_BASE", "http://dify:http", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://dify:70000", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://[::1", "must be an address such as https://"),
        ("DIFY_API_BASE", "http://me:secret/more@dify", "must be an address such as https://"),
        ("DIFY_API_KEYS", CLIENT_KEY, "holds 'sk-clie...', which is no Dify app key: those start with app-"),
        ("DIFY_API_KEYS", f"{APP_KEY},dataset-0123456789abcdef", "holds 'dataset...', which is no Dify app key"),
        ("DIFY_API_KEYS", f"helper={CLIENT_KEY}", "holds 'sk-clie...'"),
        ("DIFY_API_KEYS", "helper=", "no Dify app key"),
        ("DIFY_API_KEYS", "app-", "no Dify app key"),
        ("DIFY_API_KEYS", "app-one app-two", "no Dify app key"),
        ("CONVERSATIONS", "on", "'auto', 'explicit' or 'off'"),
        ("CONVERSATION_TTL_DAYS", "0", "greater than 0"),
        ("CONVERSATION_TTL_DAYS", "3651", "less than or equal to 3650"),
        ("CONVERSATION_TTL_DAYS", "nan", "a finite number"),
        ("UPLOAD_CACHE_HOURS", "0", "greater than 0"),
        ("UPLOAD_CACHE_HOURS", "8761", "less than or equal to 8760"),
        ("FILES_KEPT_MB", "0", "greater than or equal to 1"),
        ("FILES_KEPT_MINUTES", "0", "greater than 0"),
        ("FILES_KEPT_MINUTES", "1441", "less than or equal to 1440"),
        ("CACHE_URL", "memory", "must be mem:// or a plain address such as redis://localhost:6379/0"),
        ("CACHE_URL", "mem://size", "must be mem://"),
        ("CACHE_URL", "redis", "must be mem://"),
        ("CACHE_URL", "redis://", "must be mem://"),
        ("CACHE_URL", "redis://:secret@", "must be mem://"),
        ("CACHE_URL", "redis://:secret@/0", "must be mem://"),
        ("CACHE_URL", "redis://user:secret/more@host", "must be mem://"),
        ("CACHE_URL", "redis://:secret#more@host:6379/0", "must be mem://"),
        ("CACHE_URL", "redis://:secret@host:0", "must be mem://"),
        ("CACHE_URL", "redis://:secret@host:port", "must be mem://"),
        ("CACHE_URL", "redis://:secret@host:6379/first", "must be mem://"),
        ("CACHE_URL", "redis://:secret@host?db=secret", "must be mem://"),
        ("CACHE_URL", "redis://:secret @host", "must be mem://"),
        ("CACHE_URL", "redis://[::1", "must be mem://"),
        ("CACHE_URL", "http://:secret@host", "must be mem://"),
        ("CACHE_URL", "unix://:secret@/run/redis.sock", "must be mem://"),
        ("CHAT_ID_HEADERS", "X Chat", "holds 'X Chat': a header's name looks like X-Chat-Id"),
        ("CHAT_ID_HEADERS", "X-Chat-Id,X-Chat:", "holds 'X-Chat:': a header's name looks like X-Chat-Id"),
        ("USER_HEADERS", "X-Üser", "a header's name looks like X-Chat-Id"),
        ("USER_HEADERS", "Authorization", "holds 'Authorization', whose value is a key and no name"),
        ("USER_HEADERS", "X-User,cookie", "holds 'cookie', whose value is a key and no name"),
        ("TASK_HEADERS", "{task}", "a header's name looks like X-Chat-Id"),
        ("HASH_USERS", "maybe", "a valid boolean"),
        ("BACKGROUND_TASKS", "sometimes", "holds 'sometimes': it must be isolated, local, pass or route:MODEL"),
        ("BACKGROUND_TASKS", "route", "holds 'route': it must be"),
        ("BACKGROUND_TASKS", "route:", "holds 'route:': it must be"),
        ("BACKGROUND_TASKS", "route:  ", "it must be isolated, local, pass or route:MODEL"),
        ("BACKGROUND_TASKS", "local:Helper", "holds 'local:Helper': it must be"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("WORKERS", "-1", "greater than or equal to 1"),
        ("WORKERS", "two", "a valid integer"),
    ],
)
def test_what_is_wrong_is_one_sentence(variable: str, value: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    sentence = problem()
    assert sentence.startswith(f"{variable} is wrong: ")
    assert fix in sentence
    assert str(Settings.model_fields[variable.lower()].description) in sentence
    assert "secret" not in sentence


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 'blue'", "litestar.toml has the unknown setting 'colour'"),
        ("TIMEOUT = 5", "litestar.toml has the unknown setting 'TIMEOUT'"),
        ("timeout = = 5", "litestar.toml is not valid TOML: "),
        ("timeout = 'soon'", "TIMEOUT is wrong: "),
        ("[apps]\nkey = 'app-one123'", "litestar.toml [[apps]] is wrong: "),
        ("[[apps]]\nname = 'one'", "litestar.toml [[apps]] number 1 key is wrong: field required"),
        ("[[apps]]\nkey = 5", "litestar.toml [[apps]] number 1 key is wrong: "),
        ("[[apps]]\nkey = 'app-one123'\nnmae = 'one'", "litestar.toml [[apps]] number 1 nmae is wrong: "),
        (
            "[[apps]]\nkey = 'app-one123'\n[[apps]]\nkey = 'sk-0123456789abcdef'",
            "[[apps]] number 2 key is wrong: holds",
        ),
        (
            "[[apps]]\nkey = 'app-one123'\nmode = 'chatty'",
            "number 1 mode is wrong: input should be 'chat', ",
        ),
        ("[[apps]]\nkey = 'app-one123'\nbase = 'dify'", "number 1 base is wrong: must be an address"),
        ("[[apps]]\nkey = 'app-one123'\naliases = 'gpt-4o'", "number 1 aliases is wrong: "),
        ("[[apps]]\nkey = 'app-one123'\ntimeout = 0", "number 1 timeout is wrong: input should be greater than 0"),
        ("[[apps]]\nkey = 'app-one123'\nmax_files = -1", "number 1 max_files is wrong: "),
        ("[[apps]]\nkey_env = 'NO_SUCH_KEY'", "number 1 is wrong: names key_env 'NO_SUCH_KEY', which is set neither"),
        ("[[keys]]\nname = 'team'", "litestar.toml [[keys]] number 1 key is wrong: field required"),
        ("[[keys]]\nkey_env = 'NO_SUCH_KEY'", "litestar.toml [[keys]] number 1 is wrong: names key_env 'NO_SUCH_KEY'"),
        ("[[keys]]\nkey = 'sk-1'\nmodel = 'one'", "litestar.toml [[keys]] number 1 model is wrong: "),
        ("[[keys]]\nkey = 'sk-1'\nname = 'a:b'", "litestar.toml [[keys]] number 1 name is wrong: "),
        ("[[keys]]\nkey = 'sk-1'\nname = 'a#b'", "litestar.toml [[keys]] number 1 name is wrong: "),
        (f"[[keys]]\nkey = 'sk-1'\nname = '{'n' * 101}'", "number 1 name is wrong: string should have at most 100"),
        ("[[keys]]\nkey = 'sk-1'\ntrusted = 'who knows'", "number 1 trusted is wrong: input should be a valid boolean"),
        (
            "[[apps]]\nkey = 'app-one123'\nconversations = 'on'",
            "number 1 conversations is wrong: input should be 'auto'",
        ),
        ("[[apps]]\nkey = 'app-one123'\nbackground_tasks = 'route:'", "background_tasks is wrong: holds 'route:'"),
        ("[[apps]]\nkey = 'app-one123'\nsystem_inputs = 'persona'", "number 1 system_inputs is wrong: "),
        ("cache_url = 'memory'", "CACHE_URL is wrong: must be mem://"),
        ("cache_url = 6379", "CACHE_URL is wrong: input should be a valid string"),
        ("user_headers = ['X User']", "USER_HEADERS is wrong: holds 'X User'"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence(text: str, said: str) -> None:
    write_toml(text)
    sentence = problem()
    assert said in sentence
    assert "sk-0123456789abcdef" not in sentence


@pytest.mark.parametrize("file", [".env", "litestar.toml"])
def test_a_file_that_is_not_utf8_is_one_sentence(file: str) -> None:
    Path(file).write_bytes(b"# caf\xe9\n")
    assert problem().startswith(file)


def test_a_source_without_the_tables_is_otherwise_the_same() -> None:
    source = EnvSettingsSource(Settings)
    field = Settings.model_fields["dify_api_base"]
    found = Lines(source).get_field_value(field, "dify_api_base")
    assert found == source.get_field_value(field, "dify_api_base")
    assert found[0] == REQUIRED["DIFY_API_BASE"]


@pytest.mark.parametrize("variable", ["APPS", "KEYS"])
@pytest.mark.parametrize("value", ["somebody else's", "[]", '[{"key": "app-0123456789"}]'])
def test_variables_that_only_look_like_the_files_tables_are_not_ours(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    Path(".env").write_text(f"{variable}={value}\n")
    settings = load()
    assert (settings.apps, settings.keys) == ((), ())


@pytest.mark.parametrize("value", ["team:", "sk-1,team:"])
def test_a_client_key_that_is_empty(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALID_API_KEYS", value)
    assert problem().startswith("VALID_API_KEYS is wrong: ")


@pytest.mark.parametrize("value", ["2", "16"])
def test_several_workers_cannot_share_what_one_remembers(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", value)
    sentence = problem()
    assert sentence.startswith(f"CACHE_URL is mem://, which {value} workers cannot share")
    assert "CACHE_URL=redis://" in sentence
    monkeypatch.setenv("CACHE_URL", "redis://localhost:6379/0")
    assert load().workers == int(value)


@pytest.mark.parametrize(
    ("url", "workers", "refused"),
    [("mem://", 1, False), ("mem://", 2, True), ("redis://one", 1, False), ("rediss://one:6380/3", 2, False)],
)
def test_workers_and_what_they_share(url: str, workers: int, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", url)
    settings = load()
    if refused:
        with pytest.raises(SettingsError, match="which 2 workers cannot share"):
            settings.check_workers(workers)
    else:
        settings.check_workers(workers)
    assert settings.is_shared == (url != "mem://")


@pytest.mark.parametrize(("variables", "arguments"), [({}, ["--workers", "2"]), ({"WORKERS": "2"}, [])])
def test_serving_with_several_workers_is_refused_before_anything_is_served(
    variables: dict[str, str], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: pytest.fail("served"))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 1
    assert result.output.startswith("opendify: CACHE_URL is mem://, which 2 workers cannot share: set it to a Redis")
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("variables", "arguments", "workers"),
    [
        ({}, [], 1),
        ({}, ["--workers", "1"], 1),
        ({"CACHE_URL": "redis://localhost:6379/0"}, ["--workers", "3"], 3),
        ({"CACHE_URL": "redis://localhost:6379/0", "WORKERS": "2"}, [], 2),
        ({"CACHE_URL": "redis://localhost:6379/0", "WORKERS": "2"}, ["--workers", "1"], 1),
    ],
)
def test_serving_with_workers(
    variables: dict[str, str], arguments: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("uvicorn.run", lambda *_, **options: served.append(options["workers"]))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert CliRunner().invoke(main, ["serve", *arguments]).exit_code == 0
    assert served == [workers]


def test_no_workers_at_all_are_refused() -> None:
    result = CliRunner().invoke(main, ["serve", "--workers", "0"])
    assert (result.exit_code, "'--workers': 0 is not in the range" in result.output) == (2, True)


@pytest.mark.parametrize(("variable", "value"), [("TIMEOUT", "soon"), ("DIFY_API_KEYS", "")])
def test_the_start_ends_with_the_sentence_alone(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as exit_:
        create_app()
    assert str(exit_.value.code).startswith(f"opendify: {variable} is ")


# -- the values


def test_defaults() -> None:
    settings = load()
    assert {name: getattr(settings, name) for name in Settings.model_fields if name not in {"apps", "keys"}} | {
        "valid_api_keys": (),
        "dify_api_keys": (),
        "dify_api_base": "",
    } == {
        "valid_api_keys": (),
        "auth": "on",
        "dify_api_keys": (),
        "dify_api_base": "",
        "dify_ca_file": None,
        "timeout": 30.0,
        "connect_timeout": 5.0,
        "first_packet_seconds": 2.0,
        "first_event_seconds": 300.0,
        "max_run_seconds": 1200.0,
        "keep_alive_seconds": 15.0,
        "drain_seconds": 30.0,
        "model_cache_seconds": 300.0,
        "max_body_mb": 50,
        "max_answer_mb": 16,
        "max_files": 20,
        "max_connections": 1000,
        "http2": False,
        "default_model": "",
        "conversations": "auto",
        "conversation_ttl_days": 30.0,
        "cache_url": SecretStr("mem://"),
        "upload_cache_hours": 24.0,
        "files_kept_mb": 100,
        "files_kept_minutes": 60.0,
        "chat_id_headers": ("X-OpenWebUI-Chat-Id", "X-LibreChat-Conversation-Id", "X-Chat-Id", "X-Session-Id"),
        "user_headers": ("X-OpenWebUI-User-Id", "X-LibreChat-User-Id"),
        "openwebui_jwt_secret": SecretStr(""),
        "hash_users": False,
        "hash_secret": SecretStr(""),
        "task_headers": ("X-OpenWebUI-Task",),
        "background_tasks": "isolated",
        "system_inputs": ("system", "system_prompt", "instructions"),
        "reasoning": "reasoning_content",
        "agent_tools": "tool_calls",
        "client_tools": "emulate",
        "citations": "annotations",
        "citation_url": "",
        "progress": "off",
        "suggestions": "off",
        "files": "proxy",
        "file_link_hours": 24.0,
        "public_url": "",
        "file_links_mb": 50,
        "workers": 1,
        "cors_origins": (),
        "log_level": "info",
        "log_format": "console",
        "server_host": "127.0.0.1",
        "server_port": 8000,
    }


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().timeout = 1.0  # type: ignore[misc]


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TIMEOUT", "HTTP2", "AUTH", "SERVER_PORT", "CORS_ORIGINS", "DIFY_CA_FILE"):
        monkeypatch.setenv(variable, "")
    settings = load()
    assert (settings.timeout, settings.http2, settings.auth, settings.server_port) == (30.0, False, "on", 8000)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("LOG_LEVEL", "WARNING", "warning"),
        ("LOG_FORMAT", "Json", "json"),
        ("AUTH", "OFF", "off"),
        ("HTTP2", "true", True),
        ("CORS_ORIGINS", " https://a.example.com , http://localhost:3000,", ("https://a.example.com", "http://localhost:3000")),
        ("CORS_ORIGINS", "*", ("*",)),
        ("DEFAULT_MODEL", "帮手", "帮手"),
        ("MAX_FILES", "0", 0),
        ("DRAIN_SECONDS", "0", 0.0),
        ("CONVERSATIONS", "Explicit", "explicit"),
        ("CONVERSATIONS", "off", "off"),
        ("CONVERSATION_TTL_DAYS", "0.5", 0.5),
        ("CACHE_URL", "mem://", SecretStr("mem://")),
        ("CACHE_URL", "redis://localhost", SecretStr("redis://localhost")),
        ("CACHE_URL", "redis://:s%23cret@[::1]:6379/1", SecretStr("redis://:s%23cret@[::1]:6379/1")),
        ("CACHE_URL", "rediss://user:secret@redis.example.com:6380/", SecretStr("rediss://user:secret@redis.example.com:6380/")),
        ("CHAT_ID_HEADERS", "X-Room, x_room,", ("X-Room", "x_room")),
        ("USER_HEADERS", ",", ()),
        ("TASK_HEADERS", "X-Errand", ("X-Errand",)),
        ("OPENWEBUI_JWT_SECRET", "  a secret \n", SecretStr("a secret")),
        ("HASH_SECRET", " pepper ", SecretStr("pepper")),
        ("HASH_USERS", "true", True),
        ("BACKGROUND_TASKS", "LOCAL", "local"),
        ("BACKGROUND_TASKS", "pass", "pass"),
        ("BACKGROUND_TASKS", "Route: my Model ", "route:my Model"),
        ("BACKGROUND_TASKS", "route:team/help:v2", "route:team/help:v2"),
        ("SYSTEM_INPUTS", "persona, rules", ("persona", "rules")),
    ],
)  # fmt: skip
def test_values(variable: str, value: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert getattr(load(), variable.lower()) == expected


def test_a_certificate_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "ca.pem").touch()
    monkeypatch.setenv("DIFY_CA_FILE", "ca.pem")
    assert load().dify_ca_file == Path("ca.pem")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sk-one", [("", "sk-one")]),
        ("sk-one, sk-two ,", [("", "sk-one"), ("", "sk-two")]),
        ("team:sk-one,ann@example.com:sk-two", [("team", "sk-one"), ("ann@example.com", "sk-two")]),
        ("团队:sk-one", [("团队", "sk-one")]),
        ("team:sk:with:colons", [("team", "sk:with:colons")]),
        (":sk-one", [("", ":sk-one")]),
        ("two words:sk-one", [("", "two words:sk-one")]),
    ],
)
def test_client_keys(line: str, expected: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VALID_API_KEYS", line)
    assert [(key.name, key.key.get_secret_value()) for key in load().client_keys] == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (APP_KEY, [(None, APP_KEY)]),
        (f" {APP_KEY} ,{OTHER_KEY},", [(None, APP_KEY), (None, OTHER_KEY)]),
        (f"helper={APP_KEY}", [("helper", APP_KEY)]),
        (f"helper = {APP_KEY}", [("helper", APP_KEY)]),
        (f"my helper={APP_KEY},客服 助手={OTHER_KEY}", [("my helper", APP_KEY), ("客服 助手", OTHER_KEY)]),
        (f"team/helper:latest={APP_KEY}", [("team/helper:latest", APP_KEY)]),
        (f"a=b=c={APP_KEY}", [("a=b=c", APP_KEY)]),
        (f"={APP_KEY}", [(None, APP_KEY)]),
    ],
)
def test_app_keys(line: str, expected: list[tuple[str | None, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFY_API_KEYS", line)
    assert [(app.name, app.key.get_secret_value()) for app in load().all_apps] == expected


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("DIFY_API_KEYS", f"one={APP_KEY},two={APP_KEY}", "DIFY_API_KEYS lists the key 'app-Abc...' twice"),
        ("VALID_API_KEYS", f"one:{CLIENT_KEY},two:{CLIENT_KEY}", "VALID_API_KEYS lists the key 'sk-clie...' twice"),
        ("VALID_API_KEYS", "one:sk-1,one:sk-2", "VALID_API_KEYS gives the name 'one' to two keys"),
        ("VALID_API_KEYS", f"sk-1,{NAME_OF_SK_1}:sk-2", f"VALID_API_KEYS gives the name '{NAME_OF_SK_1}' to two keys"),
    ],
)
def test_what_is_listed_twice_is_refused(variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert problem().startswith(said)


def test_an_app_that_the_file_lists_twice_is_refused() -> None:
    write_toml(f"[[apps]]\nkey = '{OTHER_KEY}'\nname = 'a'\n[[apps]]\nkey = '{OTHER_KEY}'\nname = 'b'")
    assert problem().startswith("litestar.toml [[apps]] lists the key 'app-Zyx...' twice")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://dify.example.com", "https://dify.example.com/v1"),
        ("https://dify.example.com/", "https://dify.example.com/v1"),
        ("https://dify.example.com/v1", "https://dify.example.com/v1"),
        ("https://dify.example.com/v1///", "https://dify.example.com/v1"),
        ("http://10.0.0.5:8080", "http://10.0.0.5:8080/v1"),
        ("http://[::1]:5001/", "http://[::1]:5001/v1"),
        ("https://example.com/dify", "https://example.com/dify/v1"),
        ("https://example.com/dify/v1/", "https://example.com/dify/v1"),
        ("https://example.com/gate/dify#", "https://example.com/gate/dify"),
        ("https://example.com/gate/#", "https://example.com/gate"),
        ("https://example.com/myv1", "https://example.com/myv1/v1"),
    ],
)
def test_the_address_ends_in_its_prefix(given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert base_url(given) == expected
    monkeypatch.setenv("DIFY_API_BASE", given)
    assert [app.base for app in load().all_apps] == [expected]


@pytest.mark.parametrize(
    ("key", "hint"),
    [("app-0123456789abcdef", "app-012..."), ("sk-0123456789", "sk-012..."), ("sk-01", "sk..."), ("", "...")],
)
def test_a_key_is_told_by_its_first_characters_never_whole(key: str, hint: str) -> None:
    assert hint_of(key) == hint


def test_no_secret_is_printed_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", "redis://:s3cret-1@localhost:6379/0")
    monkeypatch.setenv("OPENWEBUI_JWT_SECRET", "s3cret-2")
    monkeypatch.setenv("HASH_SECRET", "s3cret-3")
    write_toml(f"[[keys]]\nkey = 's3cret-4'\n[[apps]]\nkey = '{OTHER_KEY}'")
    settings = load()
    printed = f"{settings!r} {settings} {settings.client_keys!r} {settings.all_apps!r} {settings.model_dump_json()}"
    assert not [secret for secret in (CLIENT_KEY, APP_KEY, OTHER_KEY, "s3cret") if secret in printed]


@pytest.mark.parametrize(
    ("variable", "value"), [("CACHE_URL", "redis://:s3cret@localhost/x"), ("CACHE_URL", "s3cret"), ("WORKERS", "2")]
)
def test_no_secret_is_told_with_what_is_wrong(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENWEBUI_JWT_SECRET", "s3cret")
    monkeypatch.setenv("HASH_SECRET", "s3cret")
    monkeypatch.setenv(variable, value)
    assert "s3cret" not in problem()


# -- where they come from


def test_auth_can_be_off_only_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VALID_API_KEYS")
    assert problem().startswith("VALID_API_KEYS")
    monkeypatch.setenv("AUTH", "off")
    assert load().client_keys == ()


def test_the_nearest_source_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    write_toml("timeout = 1\nconnect_timeout = 1\nmax_files = 1\nmax_body_mb = 1")
    Path(".env").write_text("TIMEOUT=2\nCONNECT_TIMEOUT=2\nMAX_FILES=2\nsomething_else=x\n")
    monkeypatch.setenv("TIMEOUT", "3")
    monkeypatch.setenv("CONNECT_TIMEOUT", "3")
    settings = Settings(timeout=4)
    assert (settings.timeout, settings.connect_timeout, settings.max_files, settings.max_body_mb) == (4, 3, 2, 1)


def test_three_lines_of_dotenv_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in REQUIRED:
        monkeypatch.delenv(variable)
    Path(".env").write_text("".join(f"{variable}={value}\n" for variable, value in REQUIRED.items()))
    assert keys_of(load()) == [APP_KEY]


def test_settings_of_their_own_see_nothing_around_them(monkeypatch: pytest.MonkeyPatch) -> None:
    write_toml("timeout = 1")
    Path(".env").write_text("MAX_FILES=2\n")
    monkeypatch.setenv("MAX_BODY_MB", "3")
    settings = only(valid_api_keys="sk-1", dify_api_keys=OTHER_KEY, dify_api_base="http://own")
    assert (settings.timeout, settings.max_files, settings.max_body_mb) == (30.0, 20, 50)
    assert keys_of(settings) == [OTHER_KEY]


def test_lists_of_the_file_may_be_written_as_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in REQUIRED:
        monkeypatch.delenv(variable)
    write_toml(f"""
        dify_api_base = "https://dify.example.com"
        valid_api_keys = ["team:sk-1", {{ name = "ann", key = "sk-2" }}]
        dify_api_keys = ["helper={APP_KEY}", {{ name = "flow", key = "{OTHER_KEY}" }}]
        cors_origins = ["https://chat.example.com"]
    """)
    settings = load()
    assert [key.name for key in settings.client_keys] == ["team", "ann"]
    assert [app.name for app in settings.all_apps] == ["helper", "flow"]
    assert settings.cors_origins == ("https://chat.example.com",)


def test_the_file_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in REQUIRED:
        monkeypatch.delenv(variable)
    write_toml(f"[[apps]]\nkey = '{APP_KEY}'\nbase = 'https://one'\n[[keys]]\nkey = '{CLIENT_KEY}'")
    settings = load()
    assert keys_of(settings) == [APP_KEY]
    assert [key.key.get_secret_value() for key in settings.client_keys] == [CLIENT_KEY]


def test_an_app_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", OTHER_KEY)
    write_toml("""
        [[apps]]
        name = "my flow"
        key_env = "OTHER_KEY"
        base = "http://other:5001/"
        mode = "workflow"
        aliases = ["gpt-4o", "流"]
        inputs = { language = "de", depth = 3 }
        input = "question"
        output = "report"
        timeout = 5
        max_run_seconds = 60
        first_event_seconds = 30.5
        max_files = 0
    """)
    first, second = load().all_apps
    assert first.key.get_secret_value() == APP_KEY
    assert second.key.get_secret_value() == OTHER_KEY
    assert second.model_dump(exclude={"key"}) == {
        "name": "my flow",
        "base": "http://other:5001/v1",
        "mode": "workflow",
        "aliases": ("gpt-4o", "流"),
        "inputs": {"language": "de", "depth": 3},
        "input": "question",
        "output": "report",
        "timeout": 5,
        "max_run_seconds": 60,
        "first_event_seconds": 30.5,
        "max_files": 0,
        "conversations": "auto",
        "background_tasks": "isolated",
        "system_inputs": ("system", "system_prompt", "instructions"),
        "reasoning": "reasoning_content",
        "agent_tools": "tool_calls",
        "client_tools": "emulate",
        "citations": "annotations",
        "citation_url": "",
        "progress": "off",
        "suggestions": "off",
        "files": "proxy",
    }


def ways_of(settings: Settings) -> list[tuple[object, object, object]]:
    return [(app.conversations, app.background_tasks, app.system_inputs) for app in settings.all_apps]


def test_what_an_app_does_not_say_is_said_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVERSATIONS", "explicit")
    monkeypatch.setenv("BACKGROUND_TASKS", "local")
    monkeypatch.setenv("SYSTEM_INPUTS", "rules")
    write_toml(f"""
        [[apps]]
        key = "{APP_KEY}"
        conversations = "Off"
        background_tasks = "route:Cheap One"

        [[apps]]
        key = "{OTHER_KEY}"
        system_inputs = ["persona", "role"]

        [[apps]]
        key = "app-third123456"
        conversations = "auto"
        background_tasks = "isolated"
        system_inputs = []
    """)
    assert ways_of(load()) == [
        ("off", "route:Cheap One", ("rules",)),
        ("explicit", "local", ("persona", "role")),
        ("auto", "isolated", ()),
    ]


def test_an_app_of_the_environment_alone_has_what_is_said_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ways_of(load()) == [("auto", "isolated", ("system", "system_prompt", "instructions"))]
    monkeypatch.setenv("CONVERSATIONS", "off")
    assert ways_of(load()) == [("off", "isolated", ("system", "system_prompt", "instructions"))]


def trust(settings: Settings) -> dict[str, bool]:
    """Whose headers count, by the keys' names."""
    ring = KeyRing(settings.client_keys)
    presented = [f"Bearer {key.key.get_secret_value()}".encode() for key in settings.client_keys]
    return {caller.name: caller.trusted for caller in map(ring.identify, presented)}


@pytest.mark.parametrize(
    ("line", "file", "expected"),
    [
        ("one:sk-1", "", {"one": True}),
        ("one:sk-1,two:sk-2", "", {"one": False, "two": False}),
        ("one:sk-1", "[[keys]]\nname = 'two'\nkey = 'sk-2'", {"one": False, "two": False}),
        ("one:sk-1", "[[keys]]\nname = 'two'\nkey = 'sk-2'\ntrusted = true", {"one": False, "two": True}),
        ("", "[[keys]]\nname = 'two'\nkey = 'sk-2'", {"two": True}),
        ("", "[[keys]]\nname = 'two'\nkey = 'sk-2'\ntrusted = false", {"two": False}),
    ],
)
def test_whose_headers_are_believed(
    line: str, file: str, expected: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALID_API_KEYS", line)
    write_toml(file)
    assert trust(load()) == expected


def test_the_settings_of_the_environment_may_stand_in_the_file() -> None:
    write_toml("""
        conversations = "explicit"
        conversation_ttl_days = 7
        cache_url = "redis://:secret@localhost:6379/2"
        chat_id_headers = ["X-Room"]
        user_headers = "X-Employee, X-Guest"
        openwebui_jwt_secret = "0123456789abcdef0123456789abcdef"
        hash_users = true
        background_tasks = "local"
        system_inputs = ["persona"]
        workers = 2
    """)
    settings = load()
    assert (settings.conversations, settings.conversation_ttl_days, settings.workers) == ("explicit", 7.0, 2)
    assert (settings.chat_id_headers, settings.user_headers) == (("X-Room",), ("X-Employee", "X-Guest"))
    assert settings.cache_url == SecretStr("redis://:secret@localhost:6379/2")
    assert (settings.hash_users, settings.background_tasks, settings.system_inputs) == (True, "local", ("persona",))


def test_a_key_of_the_file_may_stand_in_dotenv() -> None:
    Path(".env").write_text(f"OTHER_KEY={OTHER_KEY}\n")
    write_toml("[[apps]]\nkey_env = 'OTHER_KEY'")
    assert keys_of(load()) == [APP_KEY, OTHER_KEY]


def test_an_app_without_an_address_is_on_the_common_one() -> None:
    write_toml(f"[[apps]]\nkey = '{OTHER_KEY}'\n[[apps]]\nkey = 'app-third123456'\nbase = 'https://two'")
    assert [app.base for app in load().all_apps] == [
        "https://dify.example.com/v1",
        "https://dify.example.com/v1",
        "https://two/v1",
    ]


def test_each_app_needs_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIFY_API_BASE")
    write_toml(f"[[apps]]\nkey = '{OTHER_KEY}'\nbase = 'https://two'")
    assert problem().startswith("DIFY_API_BASE is not set")
    write_toml(f"[[apps]]\nkey = '{APP_KEY}'\nbase = 'https://two'")
    assert [app.base for app in load().all_apps] == ["https://two/v1"]


@pytest.mark.parametrize(
    ("in_environment", "in_file", "name"),
    [
        (f"env name={APP_KEY}", "name = 'file name'", "env name"),
        (APP_KEY, "name = 'file name'", "file name"),
        (APP_KEY, "", None),
    ],
)
def test_an_app_in_both_is_one(
    in_environment: str, in_file: str, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFY_API_KEYS", f"{in_environment},{OTHER_KEY}")
    write_toml(f"[[apps]]\nkey = '{APP_KEY}'\noutput = 'report'\n{in_file}")
    settings = load()
    assert keys_of(settings) == [APP_KEY, OTHER_KEY]
    assert (settings.all_apps[0].name, settings.all_apps[0].output) == (name, "report")


def test_client_keys_of_the_file_come_after_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "sk-team")
    write_toml("""
        [[keys]]
        name = "team"
        key_env = "TEAM_KEY"
        models = ["helper", "my flow"]

        [[keys]]
        key = "sk-all"
    """)
    assert [(key.name, key.key.get_secret_value(), key.models) for key in load().client_keys] == [
        ("", CLIENT_KEY, None),
        ("team", "sk-team", ("helper", "my flow")),
        ("", "sk-all", None),
    ]


@pytest.mark.parametrize("file", ["", "# nothing but a comment\n"])
def test_an_empty_file_says_nothing(file: str) -> None:
    write_toml(file)
    assert keys_of(load()) == [APP_KEY]


# -- the documents


def written(default: object) -> str:
    """A default as it stands in .env.example."""
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case float():
            return f"{default:g}"
        case tuple():
            return ",".join(default)
        case SecretStr():
            return default.get_secret_value()
        case _:
            return str(default)


def example_settings() -> dict[str, tuple[str, str]]:
    """`NAME=value`, commented out or not, with the comment line above it."""
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    found = {}
    for above, line in itertools.pairwise(lines):
        if match := re.fullmatch(r"(?:# ?)?([A-Z][A-Z0-9_]+)=(.*)", line):
            found[match[1]] = (above, match[2])
    return found


def test_every_setting_of_the_environment_is_documented() -> None:
    names = {name for name, _, _ in documented()}
    assert names == {name.upper() for name in Settings.model_fields} - {"APPS", "KEYS"}


@pytest.mark.parametrize(("name", "description", "details"), tuple(documented()), ids=lambda value: str(value)[:20])
def test_the_example_environment_is_in_step(name: str, description: str, details: dict[str, Any]) -> None:
    above, value = example_settings()[name]
    assert above == f"# {description}"
    if name not in REQUIRED:
        assert value == written(details["default"])


def test_the_example_environment_has_nothing_else() -> None:
    assert example_settings().keys() - {name for name, _, _ in documented()} <= {"LITESTAR_APP"}


def shipped_file(*, with_examples: bool) -> dict[str, Any]:
    """The shipped litestar.toml; its examples are settings behind `# `."""
    text = (ROOT / "litestar.toml").read_text("utf-8")
    if with_examples:
        text = re.sub(r"(?m)^# ?(?=\[\[?\w+\]?\]|\w+ *= )", "", text)
    return tomllib.loads(text)


def test_the_shipped_file_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load()
    write_toml((ROOT / "litestar.toml").read_text("utf-8"))
    assert load() == before


@pytest.mark.parametrize(("table", "entry"), [("apps", AppConfig), ("keys", ClientKey)])
def test_the_shipped_file_explains_every_part_of_its_tables(table: str, entry: type[AppConfig | ClientKey]) -> None:
    shown = {name for example in shipped_file(with_examples=True)[table] for name in example}
    assert shown == {*entry.model_fields, "key_env"}
    text = (ROOT / "litestar.toml").read_text("utf-8")
    for name in shown:
        line = next(line for line in text.splitlines() if re.match(rf"# ?{name} *= ", line))
        assert re.search(r"\s# \w+", line), f"{name} has no word of explanation"


def test_the_examples_of_the_shipped_file_work(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = shipped_file(with_examples=True)
    for table in ("apps", "keys"):
        for example in examples[table]:
            if "key_env" in example:
                monkeypatch.setenv(example["key_env"], OTHER_KEY)
    text = re.sub(r"(?m)^# ?(?=\[\[?\w+\]?\]|\w+ *= )", "", (ROOT / "litestar.toml").read_text("utf-8"))
    write_toml(text)
    settings = load()
    assert len(settings.apps) == len(examples["apps"])
    assert len(settings.keys) == len(examples["keys"])


def test_only_descriptions_that_are_one_line() -> None:
    for _, description, _ in documented():
        assert "\n" not in description
        assert len(description) <= 118
    assert module.CONFIG_FILE == "litestar.toml"
