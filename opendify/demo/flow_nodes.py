"""The nodes of the sample flows, each told from its start to its end."""

from collections.abc import Iterator

from opendify.demo import extras
from opendify.demo.flow_events import FlowEvents, Node
from opendify.demo.forms import Form
from opendify.demo.media import result, spoken_audio
from opendify.demo.model import Break, Failure, Pause, Text, Thought, tagged
from opendify.demo.run import Frame, provider_text
from opendify.demo.wire import Json

MODEL: Json = {"model_provider": "demo/model/model", "model_name": "demo-chat"}
TRACEBACK = (
    'Traceback (most recent call last):\n  File "<string>", line 14, in <module>\n'
    '  File "<string>", line 3, in main\nValueError: boom from code node\n'
)


class NodeFailed(Exception):
    """A node failed and nothing handles it: the run fails with this text."""


class Halted(Exception):
    """The run is stopped from inside."""


class FlowNodes(FlowEvents):
    """The nodes of one run."""

    @property
    def pauses(self) -> bool:
        """Whether a human is asked; older servers cannot."""
        return "PAUSE" in self.run.script and self.run.modern

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
        yield self.close(node, inputs={"query": self.run.query}, outputs={"result": [result(1), result(2)]})

    def llm(self) -> Iterator[Frame]:
        """The model speaks; its node carries the whole prompt."""
        node = Node("llm", "llm", "LLM")
        yield self.open(node)
        if "RETRY" in self.run.script:
            yield from self.retries(node)
        yield from self.spoken(node)
        yield from self.after_text()
        self.count()
        yield self.close(node, **self.model_result() | self.handled_failure())

    def spoken(self, node: Node) -> Iterator[Frame]:
        """The model's steps; thoughts are events of their own if the app separates them."""
        separated = self.run.app.separated_reasoning and self.run.modern and node.type == "llm"
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

    def piece(self, text: str) -> Iterator[Frame]:
        """A piece of the model's text; the blank lines after separated thoughts are dropped."""
        text = text.lstrip() if self.reasoning and not self.run.text else text
        if text:
            self.run.said.append(text)
            yield from self.model_says(text)

    def model_says(self, text: str) -> Iterator[Frame]:
        """Text from the model, unless the End node will not use it."""
        if not (self.pauses and self.run.is_workflow):
            yield from self.say(text, self.speaker, "text")

    def after_text(self) -> Iterator[Frame]:
        """What ends the model's part of the stream."""
        if "STOPPED" in self.run.script:
            raise Halted
        if "TTS" in self.run.script and not self.run.is_workflow:
            yield self.run.event("tts_message", audio=spoken_audio())
        if self.reasoning:
            yield self.reasoning_chunk("", final=True)
        else:
            yield from self.model_says("")
        yield from self.model_says("")
        yield from self.other_text()
        if "EXTRAS" in self.run.script:
            yield from (self.event(name, data) for name, data in extras.events())

    def other_text(self) -> Iterator[Frame]:
        """Text beside the model's: a second End output, the rest of the first answer, the link of a file."""
        if self.run.is_workflow and "TWO" in self.run.script:
            yield from self.say("\n", "end", "answer")
            yield from self.say(self.word_count(), "count", "text")
        if not self.run.is_workflow and self.pauses:
            yield from self.say("\n", "first", "answer")
        for file in self.files if not self.run.is_workflow else ():
            yield from self.say(f"\n![{file['filename']}]({file['url']})", "tool", "files")

    def count(self) -> None:
        """Price what the model said; newer servers also time it."""
        self.usage = self.run.usage()
        if self.run.modern:
            self.usage |= {"time_to_first_token": 0.009, "time_to_generate": round(self.run.latency, 3)}

    def model_result(self) -> Json:
        """Inputs, process data and outputs of the model's node: everything a client should not see."""
        prompts = [
            {"role": message["role"], "text": "\n".join(map(str, message["content"])), "files": []}
            for message in self.run.prompt.messages
        ]
        reason = "length" if "FINISH_LENGTH" in self.run.script else "stop"
        process = {"model_mode": "chat", "prompts": prompts, "usage": self.usage, "finish_reason": reason, **MODEL}
        outputs = {"text": self.run.text, "reasoning_content": self.reasoning.strip(), "usage": self.usage}
        spent = {key: self.usage[key] for key in ("total_tokens", "total_price", "currency")}
        body: Json = {"inputs": MODEL if self.run.modern else {}, "process_data": process}
        return body | {"outputs": outputs | {"finish_reason": reason}, "execution_metadata": spent}

    def handled_failure(self) -> Json:
        """What PARTIAL changes: the model failed and a default value took its place."""
        if "PARTIAL" not in self.run.script:
            return {}
        self.exceptions += 1
        failed = {"error_message": provider_text(Failure("")), "error_type": "InvokeServerUnavailableError"}
        body: Json = {"process_data": {}, "outputs": {"text": self.run.text} | failed, "status": "exception"}
        return body | {"error": "Unknown error", "execution_metadata": {"error_strategy": "default-value"}}

    def retries(self, node: Node) -> Iterator[Frame]:
        """Two attempts that failed."""
        for attempt in (1, 2):
            self.exceptions += 1
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
        """The Answer node of a chatflow."""
        self.outputs = {"answer": self.answer, "files": self.files}
        yield from self.answered(Node("answer", "answer", "Answer"), self.outputs)

    def draft(self) -> Iterator[Frame]:
        """The first of two Answer nodes, before the pause."""
        yield from self.answered(Node("first", "answer", "First"), {"answer": self.answer, "files": []})

    def answered(self, node: Node, outputs: Json) -> Iterator[Frame]:
        """An Answer node."""
        yield self.open(node)
        yield self.close(node, outputs=outputs)

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

    def asked(self, form: Form) -> Iterator[Frame]:
        """A human is asked: the run pauses."""
        yield self.open(Node("human", "human-input", "Ask human"))
        yield self.event("human_input_required", form.required())
        self.run.status = "paused"
        self.run.save(self.answer)
        yield self.paused(form)

    def after_human(self, form: Form) -> Iterator[Frame]:
        """The human's node ends, and another one says what came of it."""
        filled = form.answer or {"inputs": {}, "action": ""}
        node = Node("human", "human-input", "Ask human")
        yield self.open(node)
        yield self.close(node, outputs={**filled["inputs"], "__action_id": filled["action"]})
        node = Node("llm2", "llm", "LLM 2")
        yield self.open(node)
        result, note = "Approved" if filled["action"] == "approve" else "Rejected", filled["inputs"].get("note", "")
        self.run.said = [f"{result}: {note}"]
        yield from self.say(f"{result}: ", "llm2", "text")
        if form.kind == "lost":
            yield Break("eof")
        yield from self.say(str(note), "llm2", "text")
        yield self.close(node, **self.model_result())
