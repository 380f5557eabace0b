"""What a client declares with a request: its tools, and the form of the answer. Pure data; imports nothing of ours."""

from typing import Any, Literal

from msgspec import Struct


class Tool(Struct, frozen=True):
    """A function of the client. `parameters` is the JSON schema of its arguments, None for none in particular.

    `strict` is the client's word; arguments are checked either way.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False


class ToolChoice(Struct, frozen=True):
    """Whether this answer may, must or must not call, and which tools: `names`, all of them where it is empty.

    OpenAI's named tool is `required` with one name, its allowed tools are several names.
    """

    kind: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


class Tools(Struct, frozen=True):
    """All that a request says of tools. `parallel`: several calls in one answer; `legacy`: declared as `functions`."""

    tools: tuple[Tool, ...]
    choice: ToolChoice = ToolChoice()
    parallel: bool = True
    legacy: bool = False

    @property
    def callable(self) -> dict[str, Tool]:
        """The tools that this answer may call, by name."""
        choice = self.choice
        if choice.kind == "none":
            return {}
        return {tool.name: tool for tool in self.tools if not choice.names or tool.name in choice.names}


class Format(Struct, frozen=True):
    """The form of the answer: any JSON object, or JSON that fits a schema."""

    kind: Literal["json_object", "json_schema"]
    schema: dict[str, Any] | None = None
    name: str = ""
    strict: bool = False
