"""One line an event, in either form."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime

import pytest
import structlog

from opendify import logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The process's logging, put back afterwards."""
    level = logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.setLevel(level)


class NotShown:
    def __repr__(self) -> str:
        return "two\nlines"


def fail_with(password: str) -> None:
    raise RuntimeError("it broke")


def test_a_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("opendify.access").info("request", id="req_1", status=200, model="帮手", path="/a\nb")
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    line = json.loads(err)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo
    assert line == {"event": "request", "level": "info", "id": "req_1", "status": 200, "model": "帮手", "path": "/a\nb"}


@pytest.mark.parametrize("odd", ["\x9b31m", "\u2028", "\u202egpj", "\ud800"])
def test_a_json_line_shows_nothing_but_text(odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger("opendify.access").info("request", path=odd)
    err = capsys.readouterr().err
    assert err.isascii()
    assert json.loads(err)["path"] == odd


def test_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "console")
    structlog.get_logger("opendify").warning("app_unusable", app="helper", reason="a\nforged line \x1b[31m")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "warning" in err
    assert "app_unusable" in err
    assert "app=helper" in err


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("req_1", "req_1"),
        ("帮手", "帮手"),
        ("/v1/models/a%20b", "/v1/models/a%20b"),
        ("two words", "'two words'"),
        ("a=b", "'a=b'"),
        ("", "''"),
        ("\x1b[31m", r"'\x1b[31m'"),
        ("\u2028", r"'\u2028'"),
        (None, "None"),
        (0.25, "0.25"),
        (["a b"], "['a b']"),
        (NotShown(), r"'two\nlines'"),
    ],
)
def test_a_value_is_quoted_where_it_could_be_taken_for_another(value: object, shown: str) -> None:
    line = {"timestamp": "now", "level": "info", "event": "it_happened", "value": value, "more": 1}
    assert logs.for_people(colors=False)(None, "", line) == f"now [info] it_happened value={shown} more=1"


def test_levels_have_colors_on_a_terminal() -> None:
    line = {"timestamp": "now", "level": "error", "event": "it_happened", "exception": "Traceback ..."}
    shown = logs.for_people(colors=True)(None, "", line)
    assert shown == "now \x1b[31m[error]\x1b[0m it_happened\nTraceback ..."


@pytest.mark.parametrize("value", ["\ud800", 2**80])
def test_a_value_that_json_hardly_takes(value: object) -> None:
    assert json.loads(logs.for_machines(None, "", {"event": "it_happened", "value": value}))["value"] == value


def test_a_value_without_a_form_in_json() -> None:
    assert json.loads(logs.for_machines(None, "", {"value": NotShown()})) == {"value": "two\nlines"}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    ("level", "seen"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_levels(level: str, seen: list[str], form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level, form)
    log = structlog.get_logger()
    for name in logs.LEVELS:
        getattr(log, name)(f"event_{name}")
    err = capsys.readouterr().err
    assert [name for name in logs.LEVELS if f"event_{name}" in err] == seen


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_without_the_values_of_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", form)
    password = "sk-not-for-the-log"
    try:
        fail_with(password)
    except RuntimeError as error:
        structlog.get_logger().error("unexpected", exc_info=error)
    err = capsys.readouterr().err
    assert "RuntimeError: it broke" in err
    assert "Traceback" in err
    assert password not in err


def test_the_libraries_tell_only_their_troubles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(logging.root, "handlers", [])
        logs.configure("debug", "json")
        logging.getLogger("httpx").info("HTTP Request: POST http://dify/v1/chat-messages")
        logging.getLogger("asyncio").warning("a slow callback")
    assert capsys.readouterr().err == "WARNING asyncio: a slow callback\n"


def test_it_can_be_configured_again(capsys: pytest.CaptureFixture[str]) -> None:
    log = structlog.get_logger()
    logs.configure("error", "json")
    log.info("one")
    logs.configure("info", "json")
    log.info("two")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["two"]
