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
    if tools is None or app.config.client_tools == "ignore":
        return replace(prompt, tools=None)
    if app.config.client_tools == "reject":
        param = "functions" if tools.legacy else "tools"
        raise InvalidRequest(f"'{app.name}' takes no tools: leave them out.", param=param)
    if tools.problem:
        message, param = tools.problem
        raise InvalidRequest(message, param=param)
    return replace(prompt, tools=tools)


def style_of(app: App, prompt: Prompt) -> Style:
    """How this app's extras are shown.

    A client with tools of its own runs every call that it sees: what the app ran itself is not among them.
    """
    own = app.config
    tools = "reasoning" if prompt.tools and own.agent_tools == "tool_calls" else own.agent_tools
    form_calls = prompt.tools is not None and human_input.TOOL in prompt.tools.callable
    reasoning, citations = own.reasoning, own.citations
    if prompt.format:  # the text is JSON, and nothing else
        reasoning = "reasoning_content" if reasoning == "inline" else reasoning
        citations = "annotations" if citations in {"footnotes", "both"} else citations
    return Style(reasoning, tools, citations, own.citation_url, own.progress, form_calls)
