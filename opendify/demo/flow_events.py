"""The events of a flow's run, as either generation shapes them."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from opendify.demo import chat
from opendify.demo.forms import Form
from opendify.demo.media import made_flow_file
from opendify.demo.model import Step
from opendify.demo.run import Frame, Run, usage
from opendify.demo.wire import Json, new_id

PARALLEL: Json = dict.fromkeys(
    ("parallel_id", "parallel_start_node_id", "parent_parallel_id", "parent_parallel_start_node_id")
)


@dataclass(slots=True)
class Node:
    """One execution of a node."""

    id: str
    type: str
    title: str
    execution: str = field(default_factory=new_id)
    created_at: int = field(default_factory=lambda: int(time.time()))
    started: float = field(default_factory=time.monotonic)

    def described(self) -> Json:
        """The keys that all events of a node share."""
        body: Json = {"id": self.execution, "node_id": self.id, "node_type": self.type, "title": self.title}
        return body | {"index": 1, "predecessor_node_id": None}


class FlowEvents:
    """What one run of a chatflow or a workflow sends, and what it counts on the way."""

    def __init__(self, run: Run, steps: Iterable[Step]) -> None:
        self.run = run
        self.steps = steps
        self.done = 0
        self.exceptions = 0
        self.asked_before = 0
        self.looked = 0
        self.speaker = "llm"  # the id of the node that tells the model's text
        self.reasoning = ""
        self.answer = ""
        self.outputs: Json = {}
        self.created_at = int(time.time())
        self.files = [made_flow_file(run, run.origin)] if "FILE" in run.script else []
        self.usage = usage(0, 0, 0.0)

    def event(self, name: str, data: Json) -> Json:
        """A workflow event: in chatflows the run's id stands beside the envelope, but not where an agent logs."""
        keys: Json = {} if self.run.is_workflow or name == "agent_log" else {"workflow_run_id": self.run.run_id}
        return self.run.event(name, **keys, data=data)

    def open(self, node: Node, **more: object) -> Json:
        """`node_started`; `more` replaces what most nodes say."""
        data = node.described() | {"inputs": None, "inputs_truncated": False, "created_at": node.created_at}
        data |= {"extras": {}} | self.placement()
        if not self.run.modern:
            data["parallel_run_id"] = None
        return self.event("node_started", data | {"agent_strategy": None} | more)

    def close(self, node: Node, name: str = "node_finished", **result: object) -> Json:
        """`node_finished`, or another event with a node's result; `result` changes what a success without data says."""
        self.done += 1
        data = node.described()
        for key in ("inputs", "process_data", "outputs"):
            data |= {key: result.pop(key, {}), f"{key}_truncated": False}
        data |= {"status": "succeeded", "error": None, "elapsed_time": round(time.monotonic() - node.started, 6)}
        data |= {"execution_metadata": None if self.run.modern else {}}
        data |= {"created_at": node.created_at, "finished_at": int(time.time()), "files": []} | self.placement()
        return self.event(name, data | result)

    def placement(self) -> Json:
        """Where in branches, iterations and loops a node runs; branches are gone in newer servers."""
        return ({} if self.run.modern else PARALLEL) | {"iteration_id": None, "loop_id": None}

    def say(self, text: str, *selector: str) -> Iterator[Frame]:
        """A piece of the answer; `selector` is the node and the field it comes from."""
        if "OUTPUTS_ONLY" in self.run.script or "JSONOUT" in self.run.script:
            return
        self.answer += text
        if self.run.is_workflow:
            yield self.event("text_chunk", {"text": text, "from_variable_selector": list(selector)})
        else:
            yield chat.message(self.run, text, list(selector))

    def reasoning_chunk(self, text: str, *, final: bool) -> Json:
        """A piece of separated reasoning; in chatflows it lacks the run's id."""
        message_id = None if self.run.is_workflow else self.run.message.id
        data = {"message_id": message_id, "reasoning": text, "node_id": "llm", "is_final": final}
        return self.run.event("reasoning_chunk", data=data)

    def inputs(self) -> Json:
        """The run's inputs together with the system's."""
        system: Json = {"sys.files": self.run.files, "sys.user_id": self.run.user}
        if self.run.conversation:
            system |= {"sys.query": self.run.query, "sys.dialogue_count": len(self.run.conversation.messages)}
        system |= {"sys.app_id": self.run.app.id, "sys.workflow_id": self.run.app.workflow_id}
        return {**self.run.inputs, **system, "sys.workflow_run_id": self.run.run_id}

    def workflow_started(self, reason: str) -> Json:
        """`workflow_started`; only newer servers give a reason."""
        data: Json = {"id": self.run.run_id, "workflow_id": self.run.app.workflow_id}
        data |= {"inputs": self.inputs(), "created_at": self.created_at}
        return self.event("workflow_started", data | ({"reason": reason} if self.run.modern else {}))

    def workflow_finished(self, status: str, error: str | None, outputs: Json | None) -> Json:
        """`workflow_finished`; older servers count nothing and have "" for no error."""
        modern = self.run.modern
        self.run.status = status
        data: Json = {"id": self.run.run_id, "workflow_id": self.run.app.workflow_id, "status": status}
        data |= {"outputs": outputs, "error": error if modern or error else ""}
        data |= {"elapsed_time": round(self.run.latency, 6)}
        data |= {"total_tokens": self.usage["total_tokens"] if modern else 0, "total_steps": self.done if modern else 0}
        data |= {"created_by": {"id": self.run.app.id, "user": self.run.user}, "created_at": self.created_at}
        data |= {"finished_at": int(time.time()), "exceptions_count": self.exceptions}
        made = self.files if self.run.is_workflow and status == "succeeded" else []
        self.run.finished = data | {"files": made}
        return self.event("workflow_finished", self.run.finished)

    def paused(self, form: Form) -> Json:
        """`workflow_paused`."""
        data: Json = {"workflow_run_id": self.run.run_id, "paused_nodes": ["human"], "outputs": {}}
        data |= {"reasons": [form.reason()], "status": "paused", "created_at": self.created_at}
        data |= {"elapsed_time": round(self.run.latency, 6), "total_tokens": self.usage["total_tokens"]}
        return self.event("workflow_paused", data | {"total_steps": self.done})

    def message_end(self) -> Json:
        """`message_end` with the files of the answer and the reasoning by node."""
        event = chat.message_end(self.run, self.usage if self.run.modern else usage(0, 0, 0.0))
        if self.reasoning:
            event["metadata"]["reasoning"] = {"llm": self.reasoning.strip()}
        event["files"] = self.files
        return event
