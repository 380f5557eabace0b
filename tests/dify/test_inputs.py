"""A client's values -> the variables an app declares."""

import math
from typing import Any

import pytest
from app_samples import file_input, make_app, takes, text

from opendify.dify.apps import Input
from opendify.dify.inputs import check, collect, prompt_input
from opendify.errors import InvalidRequest


def checked(declared: Input, value: object) -> dict[str, Any]:
    return check(make_app("chat", declared), {declared.name: value})


# -- whose value counts


@pytest.mark.parametrize(
    ("configured", "metadata", "variables", "expected"),
    [
        ({}, {}, {}, {}),
        ({"a": 1}, {}, {}, {"a": 1}),
        ({"a": 1}, {"a": "2"}, {}, {"a": "2"}),
        ({"a": 1}, {"a": "2"}, {"a": 3}, {"a": 3}),
        ({"a": 1, "b": 1}, {"a": "2"}, {"other": 3}, {"a": "2", "b": 1, "other": 3}),
        ({}, {"session": "not ours", "b": "2"}, {}, {"b": "2"}),
        ({"a": 1}, {}, {"a": None}, {"a": None}),
    ],
)
def test_the_weakest_first_config_then_metadata_then_inputs(
    configured: dict[str, Any], metadata: dict[str, Any], variables: dict[str, Any], expected: dict[str, Any]
) -> None:
    app = make_app("chat", text("a"), text("b"), inputs=configured)
    assert collect(app, metadata, variables) == expected
    assert app.config.inputs == configured


# -- types


LENGTH = text("v", max_length=5)
SELECT = Input("v", "select", required=False, options=("formal", "casual", "3"))
NUMBER = Input("v", "number", required=False)
CHECKBOX = Input("v", "checkbox", required=False)
JSON = Input("v", "json_object", required=False)


@pytest.mark.parametrize(
    ("declared", "given", "expected"),
    [
        (LENGTH, "汉字汉字汉", "汉字汉字汉"),
        (LENGTH, 12, "12"),
        (LENGTH, 1.5, "1.5"),
        (LENGTH, "", ""),
        (text("v", control="paragraph"), "a\nb", "a\nb"),
        (Input("v", "external_data_tool", required=True), 5, "5"),
        (SELECT, "formal", "formal"),
        (SELECT, 3, "3"),
        (NUMBER, 3, 3),
        (NUMBER, 0, 0),
        (NUMBER, -1.5, -1.5),
        (NUMBER, "3", 3),
        (NUMBER, "-2.50", -2.5),
        (NUMBER, "1e3", 1000.0),
        (NUMBER, "", ""),
        (CHECKBOX, True, True),
        (CHECKBOX, False, False),
        (CHECKBOX, "true", True),
        (CHECKBOX, " Yes ", True),
        (CHECKBOX, "on", True),
        (CHECKBOX, "1", True),
        (CHECKBOX, 1, True),
        (CHECKBOX, "False", False),
        (CHECKBOX, "no", False),
        (CHECKBOX, "off", False),
        (CHECKBOX, "0", False),
        (CHECKBOX, 0, False),
        (CHECKBOX, "", False),
        (JSON, {"a": [1]}, {"a": [1]}),
        (JSON, '{"a": [1]}', {"a": [1]}),
        (Input("v", "control_of_tomorrow", required=False), ["as", "is"], ["as", "is"]),
    ],
)
def test_a_value_gets_the_declared_type(declared: Input, given: object, expected: object) -> None:
    value = checked(declared, given)["v"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("declared", "given", "expectation"),
    [
        (LENGTH, "123456", "at most 5 characters long, not 6"),
        (LENGTH, True, "a text"),
        (LENGTH, ["a"], "a text"),
        (LENGTH, {"a": 1}, "a text"),
        (SELECT, "rude", "one of ['formal', 'casual', '3']"),
        (SELECT, "Formal", "one of ['formal', 'casual', '3']"),
        (SELECT, "", "one of ['formal', 'casual', '3']"),
        (SELECT, ["formal"], "one of ['formal', 'casual', '3']"),
        (NUMBER, "three", "a number"),
        (NUMBER, True, "a number"),
        (NUMBER, [3], "a number"),
        (Input("v", "number", required=True), "", "a number"),
        (CHECKBOX, "maybe", "true or false"),
        (CHECKBOX, 2, "true or false"),
        (CHECKBOX, [], "true or false"),
        (JSON, "{", "a JSON object"),
        (JSON, "[1]", "a JSON object"),
        (JSON, [1], "a JSON object"),
        (JSON, 5, "a JSON object"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(declared: Input, given: object, expectation: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        checked(declared, given)
    assert caught.value.param == "inputs.v"
    assert caught.value.message == f"The input 'v' must be {expectation}."


@pytest.mark.parametrize("given", ["nan", "inf", "-Infinity", math.nan, math.inf])
def test_a_number_is_finite(given: object) -> None:
    with pytest.raises(InvalidRequest):
        checked(NUMBER, given)


@pytest.mark.parametrize("given", [10**400, "1" + "0" * 400])
def test_a_number_may_be_large(given: object) -> None:
    assert checked(NUMBER, given) == {"v": 10**400}


# -- values that nobody set


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (text("v"), {"v": ""}),
        (text("v", control="paragraph"), {"v": ""}),
        (text("v", default=""), {"v": ""}),
        (text("v", default="hello"), {"v": "hello"}),
        (text("v", required=True, default="hello"), {"v": "hello"}),
        (SELECT, {}),
        (Input("v", "select", required=False, options=("a", "b"), default="b"), {"v": "b"}),
        (NUMBER, {}),
        (Input("v", "number", required=False, default="7"), {"v": 7}),
        (Input("v", "number", required=False, default=0), {"v": 0}),
        (CHECKBOX, {}),
        (Input("v", "checkbox", required=False, default=False), {"v": False}),
        (JSON, {}),
        (Input("v", "external_data_tool", required=True), {}),
        (Input("v", "external_data_tool", required=False), {}),
        (file_input("v", takes("image")), {}),
        (Input("v", "file-list", required=False, default=[{"type": "image"}], files=takes("image")), {}),
    ],
)
def test_nobody_set_it(declared: Input, expected: dict[str, Any]) -> None:
    assert check(make_app("chat", declared), {}) == expected
    assert check(make_app("chat", declared), {"v": None}) == expected


def test_a_required_text_may_be_empty() -> None:
    assert checked(text("v", required=True), "") == {"v": ""}


@pytest.mark.parametrize("control", ["text-input", "paragraph", "select", "number", "checkbox", "json_object", "file"])
def test_a_missing_required_one_is_named_with_all_that_is_expected(control: str) -> None:
    options = ("a", "b") if control == "select" else ()
    app = make_app("workflow", text("topic"), Input("v", control, required=True, options=options), SELECT)
    with pytest.raises(InvalidRequest) as caught:
        check(app, {"topic": "x"})
    assert caught.value.status == 400
    assert caught.value.param == "inputs.v"
    choice = ", one of ['a', 'b']" if options else ""
    assert caught.value.message == (
        "'Helper' needs the input 'v'. It expects: topic (text-input, optional), "
        f"v ({control}, required{choice}), v (select, optional, one of ['formal', 'casual', '3'])."
    )


def test_what_the_app_does_not_declare_is_left_out() -> None:
    assert check(make_app("chat", text("a")), {"a": "1", "b": "2"}) == {"a": "1"}


# -- where the prompt goes


@pytest.mark.parametrize(
    ("inputs", "config", "expected"),
    [
        ([], {}, None),
        ([NUMBER], {}, None),
        ([text("query"), text("topic", required=True)], {}, "query"),
        ([text("topic", required=True), text("tone")], {}, "topic"),
        ([text("topic"), text("body", required=True, control="paragraph"), NUMBER], {}, "body"),
        ([text("topic"), SELECT], {}, "topic"),
        ([text("a"), text("b")], {"input": "b"}, "b"),
        ([text("query"), text("b")], {"input": "b"}, "b"),
        ([Input("query", "select", required=True), text("b")], {}, "b"),
    ],
)
def test_the_variable_that_takes_the_prompt(inputs: list[Input], config: dict[str, Any], expected: str | None) -> None:
    found = prompt_input(make_app("workflow", *inputs, **config))
    assert (found and found.name) == expected


@pytest.mark.parametrize(
    "inputs", [[text("a"), text("b")], [text("a", required=True), text("b", required=True), text("c")]]
)
def test_a_choice_is_not_guessed(inputs: list[Input]) -> None:
    with pytest.raises(InvalidRequest, match=r"several text inputs \(a, b.*\): set `input` for it in litestar.toml"):
        prompt_input(make_app("workflow", *inputs))


@pytest.mark.parametrize("name", ["nope", "n"])
def test_a_configured_variable_that_is_no_text(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"take the prompt as '{name}', which is no text input of it") as caught:
        prompt_input(make_app("workflow", text("a"), Input("n", "number", required=False), input=name))
    assert caught.value.param == "model"
