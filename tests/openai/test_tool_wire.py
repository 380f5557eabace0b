"""What requests declare, and what is refused."""

from typing import Any

import msgspec
import pytest

from opendify.dialogue import Format, Tool, ToolChoice, Tools
from opendify.errors import InvalidRequest
from opendify.openai.chat.tools import (
    MAX_SCHEMA_BYTES,
    MAX_TOOLS,
    FormatDef,
    FunctionChoiceDef,
    FunctionDef,
    ToolChoiceDef,
    ToolDef,
    format_of,
    tools_of,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


class Request(msgspec.Struct):
    """The part of a request that is read here."""

    tools: list[ToolDef] | None = None
    tool_choice: ToolChoiceDef | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDef] | None = None
    function_call: FunctionChoiceDef | None = None
    response_format: FormatDef | None = None


def read(**fields: Any) -> Tools | None:
    request = msgspec.json.decode(msgspec.json.encode(fields), type=Request)
    return tools_of(
        request.tools, request.tool_choice, request.parallel_tool_calls, request.functions, request.function_call
    )


def read_format(value: Any) -> Format | None:
    return format_of(msgspec.json.decode(msgspec.json.encode({"response_format": value}), type=Request).response_format)


def tool(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def test_tools() -> None:
    declared = read(tools=[tool("f", description="Does it", parameters=SCHEMA, strict=True), tool("g-_1")])
    assert declared == Tools((Tool("f", "Does it", SCHEMA), Tool("g-_1")))
    assert list(declared.callable) == ["f", "g-_1"]
    assert read() is None
    assert read(tools=[], tool_choice="auto") is None
    assert read(tools=None, tool_choice="none") is None


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        (None, ToolChoice(), "fg"),
        ("auto", ToolChoice(), "fg"),
        ("none", ToolChoice("none"), ""),
        ("required", ToolChoice("required"), "fg"),
        ({"type": "function", "function": {"name": "g"}}, ToolChoice("required", ("g",)), "g"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}},
            ToolChoice("required", ("g",)),
            "g",
        ),
        ({"type": "allowed_tools", "allowed_tools": {"tools": [tool("g")]}}, ToolChoice("auto", ("g",)), "g"),
    ],
)
def test_choices(choice: Any, expected: ToolChoice, names: str) -> None:
    declared = read(tools=[tool("f"), tool("g")], tool_choice=choice)
    assert declared
    assert declared.choice == expected
    assert "".join(declared.callable) == names


@pytest.mark.parametrize(("parallel", "expected"), [(None, True), (True, True), (False, False)])
def test_parallel(parallel: bool | None, expected: bool) -> None:
    declared = read(tools=[tool()], parallel_tool_calls=parallel)
    assert declared
    assert declared.parallel is expected


def test_functions_are_the_older_way() -> None:
    functions = [{"name": "f", "parameters": SCHEMA}, {"name": "g"}]
    assert read(functions=functions) == Tools((Tool("f", "", SCHEMA), Tool("g")), parallel=False, legacy=True)
    for choice, expected in (("none", ToolChoice("none")), ({"name": "g"}, ToolChoice("required", ("g",)))):
        declared = read(functions=functions, function_call=choice)
        assert declared
        assert declared.choice == expected
    both = read(tools=[tool("h")], functions=functions, function_call={"name": "g"})
    assert both == Tools((Tool("h"),))


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no schema": (
        {"tools": [tool("a"), tool("b"), tool("c", parameters={"type": "None"})]},
        "tools[2].function.parameters",
        "This is not a valid JSON schema: at type: ",
    ),
    "no schema, deep": (
        {"tools": [tool(parameters={"properties": {"x": {"type": "any"}}})]},
        "tools[0].function.parameters",
        "at properties.x.type: ",
    ),
    "reference": ({"tools": [tool(parameters={"$ref": "http://x/"})]}, "tools[0].function.parameters", "does not lead"),
    "name": ({"tools": [tool("a b")]}, "tools[0].function.name", "1 to 64 letters"),
    "name with a line end": ({"tools": [tool("a\n")]}, "tools[0].function.name", "1 to 64 letters"),
    "long name": ({"tools": [tool("a" * 65)]}, "tools[0].function.name", "1 to 64 letters"),
    "no name": ({"tools": [tool("")]}, "tools[0].function.name", "1 to 64 letters"),
    "double": ({"tools": [tool("a"), tool("b"), tool("a")]}, "tools[2].function.name", "two functions named 'a'"),
    "too many": ({"tools": [tool(f"f{n}") for n in range(MAX_TOOLS + 1)]}, "tools", "at most 128 tools, not 129"),
    "large schema": (
        {"tools": [tool(parameters={"description": "x" * MAX_SCHEMA_BYTES})]},
        "tools[0].function.parameters",
        "larger than 128 kB",
    ),
    "large in all": (
        {"tools": [tool(f"f{n}", parameters={"description": "x" * 120_000}) for n in range(9)]},
        "tools",
        "larger than 512 kB",
    ),
    "large descriptions": ({"tools": [tool(description="x" * 600_000)]}, "tools", "larger than 512 kB"),
    "other type": ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "not 'custom'"),
    "no function": ({"tools": [{"type": "function"}]}, "tools[0].function", "needs a function"),
    "unknown choice": (
        {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "tool_choice.function.name",
        "as 'x' is not",
    ),
    "no name in the choice": ({"tools": [tool()], "tool_choice": {}}, "tool_choice.function.name", "has to name"),
    "other choice": ({"tools": [tool()], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "neither"),
    "no allowed tools": (
        {"tools": [tool()], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": []}}},
        "tool_choice.allowed_tools.tools",
        "has to name",
    ),
    "required of none": ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    "named of none": ({"tool_choice": {"function": {"name": "x"}}}, "tool_choice", "there are no tools"),
    "function's name": ({"functions": [{"name": "a b"}]}, "functions[0].name", "1 to 64 letters"),
    "function's schema": (
        {"functions": [{"name": "a", "parameters": {"type": 1}}]},
        "functions[0].parameters",
        "at type",
    ),
    "unknown function": (
        {"functions": [{"name": "a"}], "function_call": {"name": "b"}},
        "function_call.name",
        "as 'b' is not",
    ),
}


@pytest.mark.parametrize(("fields", "param", "said"), WRONG.values(), ids=WRONG)
def test_what_is_refused(fields: dict[str, Any], param: str, said: str) -> None:
    declared = read(**fields)
    assert declared
    assert declared.problem
    assert declared.problem[1] == param
    assert said in declared.problem[0]


def test_a_schema_that_is_no_json() -> None:
    declared = tools_of([ToolDef(function=FunctionDef("f", parameters={"const": "\ud800"}))])
    assert declared
    assert declared.problem
    assert "it is no JSON" in declared.problem[0]


def test_formats() -> None:
    assert read_format(None) is None
    assert read_format({"type": "text"}) is None
    assert read_format({"type": "json_object"}) == Format("json_object")
    given = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    assert read_format(given) == Format("json_schema", SCHEMA)
    assert read_format({"type": "json_schema", "json_schema": {"name": "n"}}) == Format("json_object")


@pytest.mark.parametrize(
    ("value", "param", "said"),
    [
        ({"type": "json_schema"}, "response_format.json_schema", "needs json_schema"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": 1}}},
            "response_format.json_schema.schema",
            "not a valid JSON schema",
        ),
    ],
)
def test_formats_that_are_refused(value: Any, param: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_format(value)
    assert raised.value.param == param
    assert said in raised.value.message
