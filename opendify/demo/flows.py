"""The events of chatflows and workflows: a run is told node by node."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from opendify.demo import chat, extras
from opendify.demo.apps import SampleApp
from opendify.demo.forms import Form
from opendify.demo.media import made_flow_file, passage, spoken_audio
from opendify.demo.model import BREAKS, Break, Failure, Pause, Step, Text, Thought, ToolCall, tagged
from opendify.demo.run import Frame, Run, provider_text, usage
from opendify.demo.wire import PING, Json, new_id

MODEL: Json = {"model_provider": "demo/model/model", "model_name": "demo-chat"}
TRACEBACK = (
    'Traceback (most recent call last):\n  File "<string>", line 14, in <module>\n'
    '  File "<string>", line 3, in main\nValueError: boom from code node\n'
)
PARALLEL: Json = dict.fromkeys(
    ("parallel_id", "parallel_start_node_id", "parent_parallel_id", "parent_parallel_start_node_id")
)
NO_TERMINAL_EVENT = "Workflow stream ended without a terminal event"
EVENT_KEYS = (
    "id",
    "workflow_id",
    "status",
    "outputs",
    "error",
    "elapsed_time",
    "total_tokens",
    "total_steps",
)


class NodeFailed(Exception):
    """A node failed and nothing handles it: the run fails with this text."""


class Halted(Exception):  # noqa: N818  stopping is no error
    """The run is stopped from inside."""


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
        return {
            "id": self.execution, "node_id": self.id, "node_type": self.type, "title": self.title, "index": 1,
            "predecessor_node_id": None,
        }  # fmt: skip


class Flow:
    """One run of a chatflow or a workflow."""

    def __init__(self, run: Run, steps: Iterable[Step]) -> None:
        self.run = run
        self.steps = steps
        self.done = 0
        self.exceptions = 0
        self.reasoning = ""
        self.answer = ""
        self.outputs: Json = {}
        self.created_at = int(time.time())
        self.files = [made_flow_file(run, run.origin)] if "FILE" in run.script else []
        self.usage = usage(0, 0, 0.0)

    def tell(self) -> Iterator[Frame]:
        """The run from its first frame to its last."""
        if self.run.modern:
            yield PING
        if preset := self.run.preset():
            yield from self.preset_answer(preset)
            return
        yield self.workflow_started("initial")
        yield from self.guarded(self.nodes())

    def guarded(self, nodes: Iterator[Frame]) -> Iterator[Frame]:
        """Tell the nodes, then the end that they lead to."""
        try:
            yield from nodes
        except NodeFailed as failure:
            yield from self.failed(str(failure))
        except Halted:
            yield from self.stopped()
        else:
            if self.run.status != "paused":
                yield from self.succeeded()

    def nodes(self) -> Iterator[Frame]:
        """Start, then the nodes of the app, changed by what the script asks for."""
        lead = "Draft: " if self.pauses and not self.run.is_workflow else ""
        if lead:
            yield from self.say(lead, "first")
        yield from self.start()
        for kind in self.plan():
            yield from NODES[kind](self)

    @property
    def pauses(self) -> bool:
        """Whether a human is asked; older servers cannot."""
        return "PAUSE" in self.run.script and self.run.modern

    def plan(self) -> list[str]:
        """The nodes after Start."""
        kinds = list(self.run.app.steps)
        if "CITE" in self.run.script and "retrieval" not in kinds:
            kinds.insert(0, "retrieval")
        if "FAIL" in self.run.script:
            return [*kinds[: kinds.index("llm") + 1], "code"]
        if self.pauses:
            return ["llm", "human"] if self.run.is_workflow else ["llm", "draft", "human"]
        return kinds

    # -- events -----------------------------------------------------------

    def event(self, name: str, data: Json) -> Json:
        """A workflow event: in chatflows the run's id stands beside the envelope."""
        keys: Json = {} if self.run.is_workflow else {"workflow_run_id": self.run.run_id}
        return self.run.event(name, **keys, data=data)

    def open(self, node: Node) -> Json:
        """`node_started`."""
        data = node.described() | {"inputs": None, "inputs_truncated": False, "created_at": node.created_at}
        data |= {"extras": {}} | self.placement()
        if not self.run.modern:
            data["parallel_run_id"] = None
        return self.event("node_started", data | {"agent_strategy": None})

    def close(self, node: Node, name: str = "node_finished", **result: object) -> Json:
        """`node_finished`, or another event that carries a node's result."""
        if name == "node_finished":
            self.done += 1
        data = node.described()
        for key in ("inputs", "process_data", "outputs"):
            data |= {key: result.pop(key, {}), f"{key}_truncated": False}
        data |= {
            "status": "succeeded",
            "error": None,
            "elapsed_time": round(time.monotonic() - node.started, 6),
        }
        data |= {"execution_metadata": None if self.run.modern else {}}
        data |= {
            "created_at": node.created_at,
            "finished_at": int(time.time()),
            "files": [],
        } | self.placement()
        return self.event(name, data | result)

    def placement(self) -> Json:
        """Where in branches, iterations and loops a node runs; branches are gone in newer servers."""
        return ({} if self.run.modern else PARALLEL) | {"iteration_id": None, "loop_id": None}

    def say(self, text: str, *source: str) -> Iterator[Frame]:
        """A piece of the answer from a node; `source` is its id and field."""
        if "OUTPUTS_ONLY" in self.run.script or "JSONOUT" in self.run.script:
            return
        selector = [source[0], source[1] if source[1:] else "answer"]
        self.answer += text
        if self.run.is_workflow:
            yield self.event("text_chunk", {"text": text, "from_variable_selector": selector})
        else:
            yield chat.message(self.run, text, selector)

    def workflow_started(self, reason: str) -> Json:
        """`workflow_started`; only newer servers give a reason."""
        data: Json = {"id": self.run.run_id, "workflow_id": self.run.app.workflow_id}
        data |= {"inputs": self.inputs(), "created_at": self.created_at}
        return self.event("workflow_started", data | ({"reason": reason} if self.run.modern else {}))

    def inputs(self) -> Json:
        """The run's inputs together with the system's."""
        system: Json = {"sys.files": self.run.files, "sys.user_id": self.run.user}
        if self.run.conversation:
            turn = len(self.run.conversation.messages)
            system |= {"sys.query": self.run.query, "sys.dialogue_count": turn}
        system |= {"sys.app_id": self.run.app.id, "sys.workflow_id": self.run.app.workflow_id}
        return {**self.run.inputs, **system, "sys.workflow_run_id": self.run.run_id}

    def workflow_finished(self, status: str, error: str | None, outputs: Json | None) -> Json:
        """`workflow_finished`; older servers count nothing and have "" for no error."""
        self.run.status = status
        modern = self.run.modern
        data = {
            "id": self.run.run_id, "workflow_id": self.run.app.workflow_id, "status": status, "outputs": outputs,
            "error": error if modern or error else "", "elapsed_time": round(self.run.latency, 6),
            "total_tokens": self.usage["total_tokens"] if modern else 0, "total_steps": self.done if modern else 0,
            "created_by": {"id": self.run.app.id, "user": self.run.user}, "created_at": self.created_at,
            "finished_at": int(time.time()), "exceptions_count": self.exceptions,
            "files": self.files if status == "succeeded" and self.run.is_workflow else [],
        }  # fmt: skip
        self.run.finished = data
        return self.event("workflow_finished", data)

    # -- nodes ------------------------------------------------------------

    def start(self) -> Iterator[Frame]:
        """The Start node passes the inputs on; older servers include the system's."""
        node = Node("start", "start", "Start")
        inputs = self.run.inputs if self.run.modern else self.inputs()
        yield self.open(node)
        yield self.close(node, inputs=inputs, outputs=inputs)

    def retrieval(self) -> Iterator[Frame]:
        """Knowledge is looked up."""
        node = Node("kr", "knowledge-retrieval", "Knowledge")
        yield self.open(node)
        found = [passage(1, in_flow=True), passage(2, in_flow=True)]
        yield self.close(node, inputs={"query": self.run.query}, outputs={"result": found})

    def llm(self) -> Iterator[Frame]:
        """The model speaks; its node carries the whole prompt."""
        node = Node("llm", "llm", "LLM")
        yield self.open(node)
        if "RETRY" in self.run.script:
            yield from self.retries(node)
        yield from self.spoken(node)
        self.count()
        result = self.model_result()
        if "PARTIAL" in self.run.script:
            self.exceptions += 1
            outputs = result["outputs"] | {
                "error_message": provider_text(Failure("")),
                "error_type": "InvokeError",
            }
            handled = {"error_strategy": "default-value"}
            result |= {"outputs": outputs, "status": "exception", "error": "Unknown error"}
            result["execution_metadata"] = handled
        yield self.close(node, **result)

    def spoken(self, node: Node) -> Iterator[Frame]:
        """The model's steps; thoughts are events of their own if the app separates them."""
        separated = self.run.app.separated_reasoning and self.run.modern
        for step in self.steps if separated else tagged(self.steps):
            match step:
                case Text(text):
                    yield from self.piece(text)
                case Thought(text):
                    self.reasoning += text
                    yield self.reasoning_chunk(text, final=False)
                case Failure():
                    yield self.model_failed(node, step)
                    raise NodeFailed(provider_text(step))
                case Pause() | Break():
                    yield step
                case ToolCall():
                    pass  # the model node has no tools
        yield from self.after_text()

    def piece(self, text: str) -> Iterator[Frame]:
        """A piece of the model's text; the blank lines after separated thoughts are dropped."""
        text = text.lstrip() if self.reasoning and not self.run.text else text
        if text:
            self.run.said.append(text)
            if not (self.pauses and self.run.is_workflow):
                yield from self.say(text, "llm", "text")

    def after_text(self) -> Iterator[Frame]:
        """What ends the model's part of the stream."""
        if "STOPPED" in self.run.script:
            raise Halted
        if "TTS" in self.run.script and not self.run.is_workflow:
            yield self.run.event("tts_message", audio=spoken_audio())
        if self.reasoning:
            yield self.reasoning_chunk("", final=True)
        elif not (self.pauses and self.run.is_workflow):
            yield from self.say("", "llm", "text")
        if not (self.pauses and self.run.is_workflow):
            yield from self.say("", "llm", "text")
        if self.run.is_workflow and "TWO" in self.run.script:
            yield from self.say("\n", "end")
            yield from self.say(self.word_count(), "count", "text")
        if "EXTRAS" in self.run.script:
            yield from (self.event(name, data) for name, data in extras.events())

    def reasoning_chunk(self, text: str, *, final: bool) -> Json:
        """A piece of separated reasoning; in chatflows it lacks the run's id."""
        message_id = None if self.run.is_workflow else self.run.message.id
        data = {"message_id": message_id, "reasoning": text, "node_id": "llm", "is_final": final}
        return self.run.event("reasoning_chunk", data=data)

    def model_result(self) -> Json:
        """Inputs, process data and outputs of the model's node: everything a client should not see."""
        prompts = [
            {"role": message["role"], "text": "\n".join(map(str, message["content"])), "files": []}
            for message in self.run.prompt.messages
        ]
        reason = "length" if "FINISH_LENGTH" in self.run.script else "stop"
        process = {
            "model_mode": "chat",
            "prompts": prompts,
            "usage": self.usage,
            "finish_reason": reason,
            **MODEL,
        }
        outputs = {"text": self.run.text, "reasoning_content": self.reasoning.strip(), "usage": self.usage}
        spent = {key: self.usage[key] for key in ("total_tokens", "total_price", "currency")}
        return {
            "inputs": MODEL if self.run.modern else {}, "process_data": process,
            "outputs": outputs | {"finish_reason": reason}, "execution_metadata": spent,
        }  # fmt: skip

    def count(self) -> None:
        """Price what the model said; newer servers also time it."""
        self.usage = self.run.usage()
        if self.run.modern:
            self.usage |= {"time_to_first_token": 0.009, "time_to_generate": round(self.run.latency, 3)}

    def retries(self, node: Node) -> Iterator[Frame]:
        """Two attempts that failed."""
        for attempt in (1, 2):
            self.exceptions += 1
            self.done += 1
            failed: Json = {"status": "retry", "error": provider_text(Failure("")), "retry_index": attempt}
            yield self.close(node, "node_retry", inputs=MODEL, **failed)

    def model_failed(self, node: Node, failure: Failure) -> Json:
        """The model's node fails."""
        self.exceptions += 1
        inputs = MODEL if self.run.modern else {}
        return self.close(node, inputs=inputs, status="failed", error=provider_text(failure))

    def save(self) -> Iterator[Frame]:
        """A variable of the conversation is set."""
        node = Node("save", "assigner", "Save")
        yield self.open(node)
        yield self.close(node, inputs={"items": []}, process_data={"last_query": self.run.query})

    def template(self) -> Iterator[Frame]:
        """Text without a model: one piece."""
        node = Node("tmpl", "template-transform", "Template")
        yield self.open(node)
        text = f"Hello {next(iter(self.run.inputs.values()), '')}!"
        self.run.said.append(text)
        yield from self.say(text, "tmpl", "output")
        yield self.close(node, inputs=self.run.inputs, outputs={"output": text})

    def code(self) -> Iterator[Frame]:
        """A node that raises."""
        node = Node("code", "code", "Code")
        yield self.open(node)
        self.exceptions += 1
        yield self.close(node, status="failed", error=TRACEBACK)
        raise NodeFailed(TRACEBACK)

    def reply(self) -> Iterator[Frame]:
        """The Answer node of a chatflow; a file is also a link in the text."""
        for file in self.files:
            yield from self.say(f"\n![{file['filename']}]({file['url']})", "tool", "files")
        self.outputs = {"answer": self.answer, "files": self.files}
        node = Node("answer", "answer", "Answer")
        yield self.open(node)
        yield self.close(node, outputs=self.outputs)

    def draft(self) -> Iterator[Frame]:
        """The first of two Answer nodes, before the pause."""
        yield from self.say("\n", "first")
        node = Node("first", "answer", "First")
        yield self.open(node)
        yield self.close(node, outputs={"answer": self.answer, "files": []})

    def finish(self) -> Iterator[Frame]:
        """The End node of a workflow."""
        self.outputs = self.end_outputs()
        node = Node("end", "end", "End")
        yield self.open(node)
        yield self.close(node, inputs=self.outputs, outputs=self.outputs, files=self.files)

    def end_outputs(self) -> Json:
        """What the workflow returns."""
        if "JSONOUT" in self.run.script:
            return {"result": {"answer": self.run.text, "score": 0.5}, "count": len(self.run.said)}
        outputs: Json = {"answer": self.run.text}
        if "TWO" in self.run.script:
            outputs["words"] = self.word_count()
        return outputs | ({"picture": self.files[0]} if self.files else {})

    def word_count(self) -> str:
        """The second End output of TWO."""
        return f"{len(self.run.text.split())} words"

    def human(self) -> Iterator[Frame]:
        """A human is asked: the run pauses."""
        node = Node("human", "human-input", "Ask human")
        yield self.open(node)
        form = Form(self, f"Please review: {self.run.text}\n\nNote: {{{{#$output.note#}}}}")
        self.run.state.forms[form.token] = form
        yield self.event("human_input_required", form.required())
        self.run.status = "paused"
        self.run.save(self.answer)
        yield self.event("workflow_paused", self.paused(form))

    def paused(self, form: Form) -> Json:
        """The data of `workflow_paused`."""
        return {
            "workflow_run_id": self.run.run_id, "paused_nodes": ["human"], "outputs": {}, "reasons": [form.reason()],
            "status": "paused", "created_at": self.created_at, "elapsed_time": round(self.run.latency, 6),
            "total_tokens": self.usage["total_tokens"], "total_steps": self.done,
        }  # fmt: skip

    # -- endings ----------------------------------------------------------

    def succeeded(self) -> Iterator[Frame]:
        """The end of a run that went well; generations disagree on the order."""
        status = "partial-succeeded" if "PARTIAL" in self.run.script else "succeeded"
        finished = self.workflow_finished(status, None, self.outputs)
        if self.run.is_workflow:
            yield finished
            return
        closing = self.chat_closing()
        yield from [*closing, finished] if self.run.modern else [finished, *closing]

    def chat_closing(self) -> list[Json]:
        """`message_replace` if there is one, then `message_end` unless that gets lost."""
        events = []
        text = self.run.replacement()
        self.run.save(self.answer if text is None else text)
        if text is not None:
            events.append(self.run.event("message_replace", answer=text, reason="output_moderation"))
        if self.run.script.fault != "lostend":
            events.append(self.message_end())
        return events

    def message_end(self) -> Json:
        """`message_end` with the files of the answer and the reasoning by node."""
        event = chat.message_end(self.run, self.usage if self.run.modern else usage(0, 0, 0.0))
        if self.reasoning:
            event["metadata"]["reasoning"] = {"llm": self.reasoning.strip()}
        event["files"] = self.files
        return event

    def failed(self, error: str) -> Iterator[Frame]:
        """The end of a run that failed; in older chatflows an `error` follows."""
        yield self.workflow_finished("failed", error, {})
        self.run.fail(error)
        self.run.save()
        if not self.run.modern and not self.run.is_workflow:
            yield chat.error_event(self.run, "invalid_param", 400, f"Run failed: {error}")

    def stopped(self) -> Iterator[Frame]:
        """The end of a run that somebody stopped; newer chatflows send no `message_end`."""
        error = "Aborted: User requested stop" if self.run.modern else "Stopped by user."
        self.usage = usage(0, 0, 0.0)
        yield self.workflow_finished("stopped", error, {})
        self.run.save_partial()
        if not self.run.modern and not self.run.is_workflow:
            yield self.message_end()

    def preset_answer(self, text: str) -> Iterator[Frame]:
        """An answer without a run: newer servers add a failed one after the good end."""
        chat.finish(self.run, text)
        yield chat.message(self.run, text)
        self.usage |= {"time_to_first_token": 0.02, "time_to_generate": 0.0} if self.run.modern else {}
        yield chat.message_end(self.run, self.usage)
        if self.run.modern:
            yield from synthetic(self.run.app, self.run.task_id, self.run.run_id, NO_TERMINAL_EVENT)

    def resumed(self, form: Form) -> Iterator[Frame]:
        """The rest of a paused run, once its form is submitted."""
        yield self.workflow_started("resumption")
        yield from self.guarded(self.after_human(form))

    def awaited(self, form: Form) -> Iterator[Frame]:
        """Silence until the form is submitted, then the rest of the run."""
        while form.answer is None:
            yield Pause(0.05)
        yield from self.resumed(form)

    def snapshot(self, form: Form) -> Iterator[Frame]:
        """What a late subscriber of a paused run is told first; its keys come in another order."""
        order = ("event", "task_id", "workflow_run_id", "data", "answer", "reason")
        events = [self.workflow_started("initial")]
        if not self.run.is_workflow:
            events.append(self.run.event("message_replace", answer=self.answer, reason=""))
        events.append(self.event("human_input_required", form.required()))
        events.append(self.event("workflow_paused", self.paused(form)))
        for event in events:
            yield {key: event[key] for key in order if key in event} | event

    def after_human(self, form: Form) -> Iterator[Frame]:
        """The human's node ends, and a last node says what came of it."""
        filled = form.answer or {"inputs": {}, "action": ""}
        node = Node("human", "human-input", "Ask human")
        yield self.open(node)
        yield self.close(node, outputs={**filled["inputs"], "__action_id": filled["action"]})
        node = Node("llm2", "llm", "LLM 2")
        yield self.open(node)
        text = f"{'Approved' if filled['action'] == 'approve' else 'Rejected'}: {filled['inputs'].get('note', '')}"
        self.run.said.append(text)
        yield from self.say(text, "llm2", "text")
        yield self.close(node, **self.model_result())
        yield from self.finish() if self.run.is_workflow else self.reply()


NODES = {
    "llm": Flow.llm, "save": Flow.save, "retrieval": Flow.retrieval, "template": Flow.template, "code": Flow.code,
    "answer": Flow.reply, "end": Flow.finish, "draft": Flow.draft, "human": Flow.human,
}  # fmt: skip


def synthetic(app: SampleApp, task_id: str, run_id: str, error: str) -> Iterator[Json]:
    """The start and failed end that newer servers make up for a run that never started or never ended."""
    now = int(time.time())
    keys: Json = {"task_id": task_id, "workflow_run_id": run_id}
    data: Json = {"id": run_id, "workflow_id": app.workflow_id}
    started = data | {"inputs": {}, "created_at": now, "reason": "initial"}
    yield {"event": "workflow_started", **keys, "data": started}
    finished = data | {
        "status": "failed", "outputs": None, "error": error, "elapsed_time": 0.0, "total_tokens": 0,
        "total_steps": 0, "created_by": {}, "created_at": now, "finished_at": now, "exceptions_count": 1, "files": [],
    }  # fmt: skip
    yield {"event": "workflow_finished", **keys, "data": finished}
