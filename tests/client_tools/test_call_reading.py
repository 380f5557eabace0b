"""JSON as models write it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opendify.client_tools.reading import (
    MAX_FENCES,
    MAX_STARTS,
    MAX_WRAPS,
    calls_in,
    canonical,
    compact,
    documents_in,
    parse,
    tidy,
)

ARGS = {"city": "Oslo"}
SHAPES: dict[str, Any] = {
    "as asked": {"name": "f", "arguments": ARGS},
    "parameters": {"name": "f", "parameters": ARGS},
    "args": {"tool": "f", "args": ARGS},
    "input": {"tool_name": "f", "input": ARGS},
    "function": {"function": "f", "arguments": ARGS},
    "JSON in a string": {"name": "f", "arguments": '{"city": "Oslo",}'},
    "as OpenAI's API has it": {
        "id": "x",
        "type": "function",
        "function": {"name": "f", "arguments": '{"city":"Oslo"}'},
    },
    "legacy": {"function_call": {"name": "f", "arguments": ARGS}},
    "wrapped": {"tool_call": {"name": "f", "arguments": ARGS}},
    "wrapped list": {"tool_calls": [{"function": {"name": "f", "arguments": ARGS}}]},
    "list": [{"name": "f", "arguments": ARGS}],
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES)
def test_the_shapes_of_a_call(value: Any) -> None:
    assert list(calls_in(value)) == [("f", ARGS, "")]


@pytest.mark.parametrize("given", [{}, {"arguments": None}, {"arguments": ""}, {"arguments": " "}, {"arguments": "{}"}])
def test_no_arguments(given: dict[str, Any]) -> None:
    assert list(calls_in({"name": "f", **given})) == [("f", {}, "")]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"name": "f", "arguments": [1]}, "no JSON object"),
        ({"name": "f", "arguments": "[1]"}, "no JSON object"),
        ({"name": "f", "arguments": 5}, "no JSON object"),
        ({"name": "f", "arguments": "Oslo"}, "no JSON: Expecting value"),
        ({"name": "f", "arguments": "[" * 9999}, "no JSON: nested too deeply"),
    ],
)
def test_arguments_that_are_none(value: Any, problem: str) -> None:
    ((name, arguments, told),) = calls_in(value)
    assert (name, arguments) == ("f", {})
    assert problem in told


def test_what_is_no_call() -> None:
    assert list(calls_in({})) == [("", {}, "")]
    assert list(calls_in({"name": 5})) == [("", {}, "")]
    assert list(calls_in([])) == []
    assert [call.problem for call in calls_in([5, [{}]])] == ["A call is an object."] * 2
    value: Any = {"name": "f"}
    for _ in range(MAX_WRAPS + 1):
        value = {"tool_call": value}
    assert list(calls_in(value)) == [("", {}, "")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1,}', {"a": 1}),
        ("[1, 2 , \n]", [1, 2]),
        ('{"a":",}","b":",]" ,}', {"a": ",}", "b": ",]"}),
        ('{"a":"x\n\ty"}', {"a": "x\n\ty"}),
        (r'{"a":"\",}",}', {"a": '",}'}),
    ],
)
def test_what_is_mended(text: str, value: Any) -> None:
    assert parse(text) == value


@pytest.mark.parametrize("text", ["", "{", "[1,,]", "{'a':1}", '{"a":NaN}', "[" * 5000, '"', "1" * 5000])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(text)


@pytest.mark.parametrize("filler", ['"', '\\"', ",", ", ", '",', "{"])
def test_much_of_anything_takes_little_time(filler: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(f'"{filler * 200_000}')


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf"), {"a": ["\udfff"]}])
def test_what_json_cannot_say(value: Any) -> None:
    with pytest.raises(ValueError, match=r".*"):
        compact(value)


def test_json_that_is_nested_too_deeply() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="nested too deeply"):
        compact(value)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.booleans() | st.none()))
def test_what_is_written_is_read(value: dict[str, Any]) -> None:
    assert parse(compact(value)) == value
    assert tidy(compact(value), value) == compact(value)


def test_tidy() -> None:
    assert tidy('{ "a": 1 }', {"a": 1}) == '{ "a": 1 }'
    assert tidy('{"a":1,}', {"a": 1}) == '{"a":1}'


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": [2]}', '{"b":[2],"a":1}'),
        ('{"a": 1.0}', '{"a":1}'),
        ('{"a": "\\u00e9"}', '{"a":"é"}'),
        ("", "{}"),
        (" no JSON ", "no JSON"),
        ('{"a": 1e999}', '{"a":1e999 }'),
    ],
)
def test_clients_write_arguments_anew(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


def test_other_arguments_are_others() -> None:
    texts = ['{"a":1}', '{"a":"1"}', '{"a":1.5}', '{"a":true}', "{}", "[" * 9999, '{"a":NaN}']
    assert len({canonical(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (' {"a":1} ', ['{"a":1}', '{"a":1}']),
        ('```json\n{"a":1}\n```', ['{"a":1}', '{"a":1}']),
        ('Here:\n```\n{"a":1}\n```\nand [1]', ['{"a":1}', '{"a":1}', "[1]"]),
        ('It is {"a":1}, so {} [x', ['{"a":1}', "{}"]),
        ('{"a":1}{"a":2}', ['{"a":1}', '{"a":2}']),
        ("nothing", []),
        ("[" * 3000, []),
    ],
)
def test_the_documents_of_an_answer(text: str, found: list[str]) -> None:
    assert [document for document, _ in documents_in(text)] == found


def test_no_more_documents_than_a_number() -> None:
    assert len(list(documents_in("```\n1\n```\n" * 99))) == MAX_FENCES
    assert len(list(documents_in("a {} " * 99))) == MAX_STARTS
