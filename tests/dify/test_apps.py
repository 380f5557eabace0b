"""What Dify says of an app -> App."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from app_samples import BASE, KEY, config_of, make_app

from opendify.dify.apps import (
    Access,
    App,
    Description,
    FileRule,
    Info,
    Input,
    access_of,
    app_of,
    parse_info,
    parse_parameters,
)


def app(parameters: dict[str, Any], **config: Any) -> App:
    parsed = parse_parameters(msgspec.json.encode(parameters))
    return app_of(config_of(**config), "Helper", Description("theirs", "chat", parsed))


def inputs(*form: dict[str, Any]) -> tuple[Input, ...]:
    return app({"user_input_form": list(form)}).inputs


def rule(
    types: set[str], count: int | None = None, extensions: Iterable[str] = (), methods: Iterable[str] = ()
) -> FileRule:
    return FileRule(count, frozenset(types), frozenset(extensions), frozenset(methods))


@pytest.mark.parametrize(
    ("body", "info"),
    [
        (b'{"name":"Helper","description":"","tags":["x"],"mode":"advanced-chat"}', Info("Helper", "advanced-chat")),
        (b'{"name":"Helper","description":""}', Info("Helper", None)),
        (b'{"name":"Helper","mode":null}', Info("Helper", None)),
        (b"{}", Info("", None)),
    ],
)
def test_info(body: bytes, info: Info) -> None:
    assert parse_info(body) == info


# -- inputs


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            {"text-input": {"label": "L", "variable": "v", "required": True, "max_length": 48, "default": ""}},
            Input("v", "text-input", required=True, max_length=48, default=""),
        ),
        ({"paragraph": {"variable": "v", "required": False}}, Input("v", "paragraph", required=False)),
        ({"paragraph": {"variable": "v", "max_length": None}}, Input("v", "paragraph", required=False)),
        ({"paragraph": {"variable": "v", "max_length": 0}}, Input("v", "paragraph", required=False)),
        ({"paragraph": {"variable": "v", "max_length": "48"}}, Input("v", "paragraph", required=False, max_length=48)),
        ({"paragraph": {"variable": "v", "max_length": ""}}, Input("v", "paragraph", required=False)),
        ({"paragraph": {"variable": "v", "max_length": -1}}, Input("v", "paragraph", required=False)),
        (
            {"select": {"variable": "v", "required": True, "options": ["a", 3], "default": "a"}},
            Input("v", "select", required=True, options=("a", "3"), default="a"),
        ),
        ({"select": {"variable": "v", "options": None}}, Input("v", "select", required=False)),
        ({"number": {"variable": "v", "default": 7}}, Input("v", "number", required=False, default=7)),
        ({"checkbox": {"variable": "v", "default": False}}, Input("v", "checkbox", required=False, default=False)),
        ({"json_object": {"variable": "v", "json_schema": {"a": 1}}}, Input("v", "json_object", required=False)),
        (
            {"external_data_tool": {"variable": "v", "required": True, "config": {"api": "x"}, "type": "api"}},
            Input("v", "external_data_tool", required=True),
        ),
        (
            {"file": {"variable": "v", "required": True, "allowed_file_types": ["image", "custom"],
                      "allowed_file_extensions": ["JSON", ".zip"], "allowed_file_upload_methods": ["local_file"],
                      "max_length": 5}},
            Input("v", "file", required=True, max_length=5,
                  files=rule({"image", "custom"}, 1, {".json", ".zip"}, {"local_file"})),
        ),
        (
            {"file-list": {"variable": "v", "required": False, "allowed_file_types": ["document"], "max_length": 5}},
            Input("v", "file-list", required=False, max_length=5, files=rule({"document"}, 5)),
        ),
        ({"file-list": {"variable": "v"}}, Input("v", "file-list", required=False, files=rule(set()))),
    ],
)  # fmt: skip
def test_an_input(form: dict[str, Any], expected: Input) -> None:
    assert inputs(form) == (expected,)


def test_inputs_keep_their_order_and_need_a_name() -> None:
    form = [{"text-input": {"variable": "b"}}, {"text-input": {"label": "?"}}, {}, {"number": {"variable": "a"}}]
    assert [declared.name for declared in inputs(*form)] == ["b", "a"]


@pytest.mark.parametrize(
    ("control", "takes_text"), [("text-input", True), ("paragraph", True), ("select", False), ("number", False)]
)
def test_which_inputs_take_a_text(control: str, takes_text: bool) -> None:
    assert Input("v", control, required=False).takes_text is takes_text


# -- files


OLD = {"image": {"enabled": True, "number_limits": 2, "detail": "high", "transfer_methods": ["remote_url"]}}
NEW = {
    "enabled": True,
    "image": {"enabled": True, "number_limits": 2, "transfer_methods": ["remote_url"]},
    "allowed_file_types": ["image", "document"],
    "allowed_file_extensions": ["MD", ".json"],
    "allowed_file_upload_methods": ["local_file"],
    "number_limits": 5,
    "fileUploadConfig": {"file_size_limit": 15},
}


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        (None, None),
        ({}, None),
        (OLD, rule({"image"}, 2, methods={"remote_url"})),
        ({"image": {"enabled": False, "number_limits": 2}}, None),
        ({"image": {"enabled": True}}, rule({"image"})),
        (NEW, rule({"image", "document"}, 5, {".md", ".json"}, {"local_file"})),
        (NEW | {"enabled": False}, None),
        (NEW | {"image": {"enabled": False}}, rule({"image", "document"}, 5, {".md", ".json"}, {"local_file"})),
        ({"enabled": True} | OLD, rule({"image"}, 2, methods={"remote_url"})),
        ({"enabled": None} | OLD, rule({"image"}, 2, methods={"remote_url"})),
        ({"enabled": True, "allowed_file_types": [], "image": None}, rule({"image"})),
    ],
)
def test_files_beside_the_prompt(upload: dict[str, Any] | None, expected: FileRule | None) -> None:
    assert app({"file_upload": upload}).files == expected


@pytest.mark.parametrize(
    ("kind", "extension", "expected"),
    [
        ("image", ".png", "image"),
        ("document", ".md", "custom"),
        ("document", ".pdf", None),
        ("custom", ".json", None),
        ("custom", ".md", "custom"),
        ("custom", "", "custom"),
    ],
)
def test_the_kind_to_declare(kind: str, extension: str, expected: str | None) -> None:
    assert rule({"image", "custom"}, extensions={".md"}).kind_of(kind, extension) == expected


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ({}, {}),
        ({"image_file_size_limit": "10"}, {"image": 10}),
        (
            {"image_file_size_limit": 1, "audio_file_size_limit": 2, "video_file_size_limit": 3, "file_size_limit": 4,
             "workflow_file_upload_limit": 10},
            {"image": 1, "audio": 2, "video": 3, "document": 4, "custom": 4},
        ),
        ({"image_file_size_limit": "10MB", "file_size_limit": None}, {}),
    ],
)  # fmt: skip
def test_size_limits_in_bytes(system: dict[str, Any], expected: dict[str, int]) -> None:
    limits = app({"system_parameters": system}).size_limits
    assert limits == {kind: size * 1_048_576 for kind, size in expected.items()}


# -- the rest


@pytest.mark.parametrize(
    ("parameters", "moderated"),
    [
        ({}, False),
        ({"sensitive_word_avoidance": None}, False),
        ({"sensitive_word_avoidance": {"enabled": False}}, False),
        ({"sensitive_word_avoidance": {"enabled": True, "type": "keywords", "configs": []}}, True),
    ],
)
def test_whether_the_text_can_be_withdrawn(parameters: dict[str, Any], moderated: bool) -> None:
    assert app(parameters).moderated is moderated


def test_the_configured_mode_wins() -> None:
    assert app({}).mode == "chat"
    assert app({}, mode="agent-chat").mode == "agent-chat"


@pytest.mark.parametrize(
    ("mode", "converses"),
    [
        ("chat", True),
        ("agent-chat", True),
        ("advanced-chat", True),
        ("agent", True),
        ("completion", False),
        ("workflow", False),
    ],
)
def test_which_apps_converse(mode: Any, converses: bool) -> None:
    assert make_app(mode).converses is converses


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"user_input_form": None, "file_upload": None, "system_parameters": None, "sensitive_word_avoidance": None},
        {"file_upload": {"enabled": None, "image": {"enabled": None}}, "sensitive_word_avoidance": {"enabled": None}},
        {"user_input_form": [], "system_parameters": {"image_file_size_limit": 1.5, "file_size_limit": []}},
    ],
)
def test_what_older_servers_leave_out(parameters: dict[str, Any]) -> None:
    made = app(parameters)
    assert (made.inputs, made.files, made.size_limits, made.moderated) == ((), None, {}, False)


def test_what_newer_servers_add_is_ignored() -> None:
    made = app(
        {
            "opening_statement": None,
            "suggested_questions": [],
            "speech_to_text": {"enabled": True, "x": 1},
            "user_input_form": [],
            "system_parameters": {},
        }
    )
    assert (made.inputs, made.files, made.name, made.access) == ((), None, "Helper", Access(BASE, KEY))


# -- access


def test_an_access_names_itself_without_its_key() -> None:
    access = access_of(config_of())
    assert access == Access(BASE, KEY)
    assert repr(access) == f"Access({BASE}, app-012...)"
    assert KEY not in repr(make_app())
    assert len(access.id) == 12
    assert access.id == Access(BASE, KEY).id
    assert access.id not in {Access(BASE, KEY + "x").id, Access(BASE + "x", KEY).id}


@pytest.mark.parametrize(
    ("base", "origin"),
    [
        ("https://dify.example.com/v1", "https://dify.example.com"),
        ("http://10.0.0.5:8080/sub/v1", "http://10.0.0.5:8080"),
    ],
)
def test_the_origin_of_relative_links(base: str, origin: str) -> None:
    assert Access(base, KEY).origin == origin
