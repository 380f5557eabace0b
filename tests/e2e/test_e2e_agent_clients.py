"""Agent loops of others, as they are used: what they call, run and go on with."""

import json
from typing import Any

import pytest
from conftest import CLIENT_KEY, Serve, Served
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolUnionParam
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

ULM = {"name": "weather", "arguments": {"city": "Ulm"}}
ASK = f"What is the weather in Ulm? CALL:{json.dumps(ULM)}"
SAYS = "18 degrees in Ulm"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


def went_on(served: Served, runs: int) -> bool:
    """Whether there were so many runs, all in one conversation."""
    conversations = [run.body.get("conversation_id") for run in served.runs()]
    return len(conversations) == runs and set(conversations[1:]) == set(served.dify.conversations)


async def test_the_tool_loop_of_the_openai_package(served: Served) -> None:
    parameters: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools: list[ChatCompletionToolUnionParam] = [
        {"type": "function", "function": {"name": "weather", "parameters": parameters, "strict": True}}
    ]
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": ASK}]
    answer = await served.openai.chat.completions.create(model="Helper", messages=messages, tools=tools)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    messages.append(choice.message.model_dump(exclude_none=True))  # type: ignore[arg-type]  # as its own examples do
    for call in choice.message.tool_calls:
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "Ulm"}
        messages.append({"role": "tool", "tool_call_id": call.id, "content": SAYS})
    answer = await served.openai.chat.completions.create(model="Helper", messages=messages, tools=tools)
    assert SAYS in (answer.choices[0].message.content or "")
    messages += [
        {"role": "assistant", "content": answer.choices[0].message.content},
        {"role": "user", "content": "ECHO:thanks"},
    ]
    async with served.openai.chat.completions.stream(model="Helper", messages=messages, tools=tools) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "thanks"
    assert went_on(served, 3)


async def test_the_streams_of_the_openai_package(served: Served) -> None:
    """Its helper puts a call together from the deltas, and parses what a schema promises."""

    class City(BaseModel):
        city: str

    parameters: dict[str, object] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools: list[ChatCompletionToolUnionParam] = [
        {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    ]
    asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": ASK}]
    async with served.openai.chat.completions.stream(model="Helper", messages=asked, tools=tools) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls
    (call,) = final.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ulm"})
    asked = [{"role": "user", "content": f"SAY:{json.dumps(json.dumps({'city': 'Ulm'}))}"}]
    parsed = await served.openai.chat.completions.parse(model="Helper", messages=asked, response_format=City)
    assert parsed.choices[0].message.parsed == City(city="Ulm")


def pydantic_agent(served: Served, model: str, **more: Any) -> Agent[None, Any]:
    provider = OpenAIProvider(openai_client=served.openai)
    return Agent(OpenAIChatModel(model, provider=provider), **more)


async def test_the_loop_of_pydantic_ai(served: Served) -> None:
    agent = pydantic_agent(served, "Helper")
    asked: list[str] = []

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return SAYS

    result = await agent.run(ASK)
    assert asked == ["Ulm"]
    assert SAYS in result.output
    result = await agent.run("ECHO:thanks", message_history=result.all_messages())
    assert result.output == "thanks"
    assert went_on(served, 3)
    async with agent.run_stream(ASK) as streamed:
        assert SAYS in await streamed.get_output()
    assert asked == ["Ulm", "Ulm"]


async def test_the_output_type_of_pydantic_ai(served: Served) -> None:
    """It asks for its result by a tool that has to be called."""

    class City(BaseModel):
        city: str

    agent = pydantic_agent(served, "Helper", output_type=City)
    call = {"name": "final_result", "arguments": {"city": "Ulm"}}
    result = await agent.run(f"Where? CALL:{json.dumps(call)}")
    assert result.output == City(city="Ulm")


async def test_the_tool_binding_of_langchain(served: Served) -> None:
    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"18 degrees in {city}"

    llm = ChatOpenAI(model="Helper", base_url=f"{served.url}/v1", api_key=lambda: CLIENT_KEY, max_retries=0)
    bound = llm.bind_tools([weather])
    messages: list[Any] = [HumanMessage(ASK)]
    called = await bound.ainvoke(messages)
    assert [(call["name"], call["args"]) for call in called.tool_calls] == [("weather", {"city": "Ulm"})]
    messages.append(called)
    for call in called.tool_calls:
        result = await weather.ainvoke(call)
        assert isinstance(result, ToolMessage)
        messages.append(result)
    answer = await bound.ainvoke(messages)
    assert SAYS in str(answer.content)
    messages += [answer, HumanMessage("ECHO:thanks")]
    pieces = [str(chunk.content) async for chunk in bound.astream(messages)]
    assert "".join(pieces) == "thanks"
    assert went_on(served, 3)


@pytest.mark.parametrize("way", ["tool_calls", "reasoning"])
async def test_an_agent_app_in_their_loops(serve: Serve, way: str) -> None:
    """What the app ran is the app's: a client with tools of its own does not get it to run."""
    served = await serve(agent_tools=way)
    answer = await served.openai.chat.completions.create(
        model="Clock Agent", messages=[{"role": "user", "content": "TOOL ECHO:noon"}]
    )
    message = answer.choices[0].message
    assert bool(message.tool_calls) is (way == "tool_calls")
    assert answer.choices[0].finish_reason == "stop"
    assert (message.content or "").endswith("noon")
    agent = pydantic_agent(served, "Clock Agent")

    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"18 degrees in {city}"

    result = await agent.run(f"TOOL {ASK}", usage_limits=UsageLimits(request_limit=3))
    assert SAYS in result.output
