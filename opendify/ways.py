"""What an app's settings make of a request: the tools it is told of, and how its extras are shown."""

from msgspec.structs import replace

from opendify import human_input
from opendify.dialogue import Prompt
from opendify.dify.apps import App
from opendify.errors import InvalidRequest
from opendify.presentation import Style


def with_tools(prompt: Prompt, app: App) -> Prompt:
    """The prompt with the tools that the app is told of. Raises InvalidRequest where it takes none."""
    tools = prompt.tools.without(human_input.TOOL) if prompt.tools else None
    prompt = replace(prompt, tools=tools)
    if app.config.client_tools == "reject" and prompt.tools:
        param = "functions" if prompt.tools.legacy else "tools"
        raise InvalidRequest(f"'{app.name}' takes no tools: leave them out.", param=param)
    return replace(prompt, tools=None) if app.config.client_tools == "ignore" else prompt


def style_of(app: App, prompt: Prompt) -> Style:
    """How this app's extras are shown.

    A client with tools of its own runs every call that it sees: what the app ran itself is not among them.
    """
    own = app.config
    tools = "reasoning" if prompt.tools and own.agent_tools == "tool_calls" else own.agent_tools
    form_calls = prompt.tools is not None and any(tool.name == human_input.TOOL for tool in prompt.tools.tools)
    return Style(own.reasoning, tools, own.citations, own.citation_url, own.progress, form_calls)
