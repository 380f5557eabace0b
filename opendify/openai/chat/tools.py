"""What OpenAI's requests say of tools and of the answer's form -> ours. What is wrong is a 400 that names its place."""

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from opendify.client_tools.schemas import NotASchema, schema_of
from opendify.dialogue import Format, Tool, ToolChoice, Tools
from opendify.errors import InvalidRequest

MAX_TOOLS: Final = 128
MAX_TOOLS_BYTES: Final = 512 * 1024
MAX_SCHEMA_BYTES: Final = 128 * 1024
_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class FunctionDef(Struct):
    """A function of the client; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolDef(Struct):
    """An entry of `tools`."""

    type: str = "function"
    function: FunctionDef | None = None


class NamedFunction(Struct):
    """The name of a function."""

    name: str


class NamedTool(Struct):
    """A tool, by its name."""

    type: str = "function"
    function: NamedFunction | None = None


class AllowedTools(Struct):
    """Some of the tools, any or at least one of which is to be called."""

    tools: list[NamedTool]
    mode: Literal["auto", "required"] = "auto"


class ChoiceDef(Struct):
    """`tool_choice` that names a tool, or several allowed ones."""

    type: str = "function"
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class SchemaFormat(Struct):
    """`json_schema` of a response format; answers are checked whether or not it is strict."""

    schema: dict[str, Any] | None = None


class FormatDef(Struct):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


ToolChoiceDef: TypeAlias = Literal["none", "auto", "required"] | ChoiceDef
FunctionChoiceDef: TypeAlias = Literal["none", "auto"] | NamedFunction


def tools_of(
    tools: Sequence[ToolDef] | None = None,
    choice: ToolChoiceDef | None = None,
    parallel: bool | None = None,
    functions: Sequence[FunctionDef] | None = None,
    function_call: FunctionChoiceDef | None = None,
) -> Tools | None:
    """What is declared, None without any tools; what is wrong with it is its `problem`.

    `functions` and `function_call` are how it was before `tools`; they count where there are no tools.
    """
    legacy = bool(functions and not tools)
    try:
        if functions and legacy:
            return _functions(functions, function_call)
        return _tools(tools or (), choice, parallel=parallel is not False)
    except InvalidRequest as error:
        return Tools((), legacy=legacy, problem=(error.message, error.param or "tools"))


def _functions(functions: Sequence[FunctionDef], choice: FunctionChoiceDef | None) -> Tools:
    places = [(function, f"functions[{place}]") for place, function in enumerate(functions)]
    declared = _declared(places, "functions")
    return Tools(declared, _old_choice(choice, declared), parallel=False, legacy=True)


def _tools(tools: Sequence[ToolDef], choice: ToolChoiceDef | None, *, parallel: bool) -> Tools | None:
    if tools:
        declared = _declared([_function(tool, f"tools[{place}]") for place, tool in enumerate(tools)], "tools")
        return Tools(declared, _choice(choice, declared), parallel=parallel)
    if choice == "required" or isinstance(choice, ChoiceDef):
        raise InvalidRequest("tool_choice asks for a tool, and there are no tools.", param="tool_choice")
    return None


def format_of(wanted: FormatDef | None, *, checked: bool = False) -> Format | None:
    """The form of the answer, None for text; `checked` before it is told. Raises InvalidRequest."""
    if wanted is None or wanted.type == "text":
        return None
    param = "response_format.json_schema"
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise InvalidRequest("A response_format of type json_schema needs json_schema.", param=param)
    schema = wanted.json_schema.schema if wanted.type == "json_schema" and wanted.json_schema else None
    if schema is None:  # OpenAI's API takes that, and promises nothing but JSON
        return Format("json_object", checked=checked)
    _check(schema, f"{param}.schema")
    return Format("json_schema", schema, checked)


def _function(tool: ToolDef, param: str) -> tuple[FunctionDef, str]:
    if tool.type != "function":
        message = f"Only tools of type 'function' can be called here, not {tool.type[:64]!r}."
        raise InvalidRequest(message, param=f"{param}.type")
    if tool.function is None:
        raise InvalidRequest("A tool of type 'function' needs a function.", param=f"{param}.function")
    return tool.function, f"{param}.function"


def _declared(functions: Sequence[tuple[FunctionDef, str]], param: str) -> tuple[Tool, ...]:
    if len(functions) > MAX_TOOLS:
        raise InvalidRequest(f"There can be at most {MAX_TOOLS} tools, not {len(functions)}.", param=param)
    tools = {}
    size = 0
    for function, place in functions:
        if not _NAME.fullmatch(function.name):
            message = "A function's name is 1 to 64 letters of a-z, A-Z, 0-9, underscore and dash."
            raise InvalidRequest(message, param=f"{place}.name")
        if function.name in tools:
            raise InvalidRequest(f"There are two functions named {function.name!r}.", param=f"{place}.name")
        size += len(function.description or "") + _check(function.parameters or {}, f"{place}.parameters")
        if size > MAX_TOOLS_BYTES:
            raise InvalidRequest(f"The tools are larger than {MAX_TOOLS_BYTES // 1024} kB.", param=param)
        tools[function.name] = _tool(function)
    return tuple(tools.values())


def _tool(function: FunctionDef) -> Tool:
    return Tool(function.name, function.description or "", function.parameters)


def _check(schema: dict[str, Any], param: str) -> int:
    """The size of a schema, in bytes."""
    try:
        size = len(msgspec.json.encode(schema))
    except (ValueError, RecursionError):
        raise InvalidRequest("This is not a valid JSON schema: it is no JSON.", param=param) from None
    if size > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"This JSON schema is larger than {MAX_SCHEMA_BYTES // 1024} kB.", param=param)
    try:
        schema_of(schema)
    except NotASchema as error:
        raise InvalidRequest(f"This is not a valid JSON schema: {error}.", param=param) from None
    return size


def _choice(choice: ToolChoiceDef | None, tools: Sequence[Tool]) -> ToolChoice:
    if choice is None or isinstance(choice, str):
        return ToolChoice(choice or "auto")
    if choice.type == "allowed_tools" and choice.allowed_tools:
        named = [tool.function for tool in choice.allowed_tools.tools]
        return ToolChoice(choice.allowed_tools.mode, _names(named, tools, "tool_choice.allowed_tools.tools"))
    if choice.type != "function":
        raise InvalidRequest("This names neither a function nor allowed tools.", param="tool_choice.type")
    return ToolChoice("required", _names([choice.function], tools, "tool_choice.function.name"))


def _old_choice(choice: FunctionChoiceDef | None, tools: Sequence[Tool]) -> ToolChoice:
    if choice is None or isinstance(choice, str):
        return ToolChoice(choice or "auto")
    return ToolChoice("required", _names([choice], tools, "function_call.name"))


def _names(named: Sequence[NamedFunction | None], tools: Sequence[Tool], param: str) -> tuple[str, ...]:
    names = tuple(function.name for function in named if function)
    missing = [name for name in names if name not in {tool.name for tool in tools}]
    if not names or len(names) < len(named) or missing:
        told = f", as {missing[0][:64]!r} is not" if missing else ""
        raise InvalidRequest(f"This has to name functions that are declared{told}.", param=param)
    return names
