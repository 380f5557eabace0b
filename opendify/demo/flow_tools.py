"""The nodes of the sample flows that call tools: Tool nodes, and an Agent node in place of the model's."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from opendify.demo.agent_logs import Log
from opendify.demo.apps import TOOL_ICON
from opendify.demo.flow_events import Node
from opendify.demo.flow_nodes import MODEL, FlowNodes
from opendify.demo.model import LOOKING, ToolCall
from opendify.demo.run import Frame
from opendify.demo.wire import Json, new_id

PROVIDER = "time"
STRATEGY: Json = {"name": "function_calling", "icon": None}


def look_at_clock() -> ToolCall:
    """The one call that flows make."""
    return ToolCall("current_time", {"timezone": "UTC"}, f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", LOOKING)


@dataclass(slots=True)
class Agent:
    """What an Agent node has logged so far."""

    node: Node
    logs: list[Log] = field(default_factory=list)
    rounds: int = 0

    def begin(self, label: str, parent: Log | None = None, provider: str = "") -> Log:
        """Begin a log."""
        log = Log(self.node.id, self.node.execution, label, parent.id if parent else None, provider)
        self.logs.append(log)
        return log


class FlowTools(FlowNodes):
    """The nodes of one run that call tools."""

    def tool(self) -> Iterator[Frame]:
        """A Tool node looks at the clock. Its input is told when it is over."""
        self.looked += 1
        number = "" if self.looked == 1 else f" {self.looked}"
        node = Node(f"clock{number.strip()}", "tool", f"Current Time{number}")
        yield self.open(node, extras={"icon": self.run.origin + TOOL_ICON})
        call = look_at_clock()
        info: Json = {"provider_type": "builtin", "provider_id": PROVIDER, "plugin_unique_identifier": None}
        outputs: Json = {"text": call.result, "files": [], "json": [{"data": []}]}
        yield self.close(node, inputs=call.arguments, outputs=outputs, execution_metadata={"tool_info": info})

    def agent(self) -> Iterator[Frame]:
        """An Agent node: a round that looks at the clock, then one that says what the model says."""
        agent = Agent(Node("agent", "agent", "Agent"))
        self.speaker = agent.node.id
        yield self.open(agent.node, agent_strategy=STRATEGY)
        call = look_at_clock()
        yield from self.round(agent, self.pieces(call.before), call)
        yield from self.round(agent, self.spoken(agent.node))
        yield from self.after_text()
        self.count()
        yield self.close(agent.node, **self.agent_result(agent) | self.handled_failure())

    def pieces(self, texts: Iterable[str]) -> Iterator[Frame]:
        """What the model says before it asks for a call."""
        for text in texts:
            yield from self.piece(text)

    def round(self, agent: Agent, speaking: Iterator[Frame], *calls: ToolCall) -> Iterator[Frame]:
        """A round: the model's thought, then the calls that it asks for; a blank line parts it from the next one."""
        agent.rounds += 1
        known = len(self.run.text)
        whole = agent.begin(f"ROUND {agent.rounds}")
        yield self.logged(whole)
        thought = agent.begin(f"{MODEL['model_name']} Thought", whole, MODEL["model_provider"])
        yield self.logged(thought)
        yield from speaking
        said = self.run.text[known:]
        asked = [{"name": call.name, "args": call.arguments} for call in calls]
        data: Json = {"output": said, "tool_name": ";".join(call.name for call in calls), "tool_input": asked}
        yield self.logged(thought.finish(data, self.spent()))
        answers = [self.answer_to(call) for call in calls]
        for call, answer in zip(calls, answers, strict=True):
            log = agent.begin(f"CALL {call.name}", whole, PROVIDER)
            yield self.logged(log)
            yield self.logged(log.finish({"output": answer}, {}))
        yield from self.pieces("\n" if calls else ())
        data = {"output": {"llm_response": said, "tool_responses": answers}}
        yield self.logged(whole.finish(data, self.spent()))

    @staticmethod
    def answer_to(call: ToolCall) -> Json:
        """What a call returned, beside what it was."""
        body: Json = {"tool_call_id": f"call_{new_id()}", "tool_call_name": call.name}
        return body | {"tool_call_input": call.arguments, "tool_response": call.result}

    def logged(self, log: Log) -> Json:
        """`agent_log`."""
        return self.event("agent_log", log.told())

    def spent(self) -> Json:
        """What the model has cost so far."""
        spent = self.run.usage()
        return {key: spent[key] for key in ("total_price", "currency", "total_tokens")}

    def agent_result(self, agent: Agent) -> Json:
        """Inputs and outputs of an Agent node: its prompt, its answer, and its logs once more."""
        instruction = "\n".join(self.run.prompt.texts("system"))
        inputs: Json = {"query": self.run.query, "instruction": instruction, "model": MODEL}
        outputs: Json = {"text": self.run.text, "usage": self.usage, "files": []}
        outputs["json"] = [*(log.kept() for log in agent.logs), {"data": []}]
        info: Json = {"icon": STRATEGY["icon"], "agent_strategy": STRATEGY["name"]}
        metadata = self.spent() | {"tool_info": info, "agent_log": [log.told() for log in agent.logs]}
        return {"inputs": inputs, "outputs": outputs, "execution_metadata": metadata}
