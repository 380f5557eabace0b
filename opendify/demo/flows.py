"""A run of a chatflow or a workflow: from its nodes to its end, or to a pause and on from there."""

import re
import time
from collections.abc import Iterator
from itertools import chain

from opendify.demo import chat
from opendify.demo.apps import SampleApp
from opendify.demo.flow_nodes import Halted, NodeFailed
from opendify.demo.flow_tools import FlowTools
from opendify.demo.forms import Form
from opendify.demo.model import Until
from opendify.demo.run import Frame, usage
from opendify.demo.wire import PING, Json

NO_TERMINAL_EVENT = "Workflow stream ended without a terminal event"
PICTURE_LINK = re.compile(r"!\[.*?\]\(.*?\)")
SNAPSHOT_ORDER = ("event", "task_id", "workflow_run_id", "data", "answer", "reason")


class Flow(FlowTools):
    """One run of a chatflow or a workflow."""

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
        if self.pauses and not self.run.is_workflow:
            yield from self.say("Draft: ", "first", "answer")
        yield from self.start()
        for kind in self.plan():
            yield from self.node(kind)

    def plan(self) -> Iterator[str]:
        """The nodes after Start: Tool nodes stand before the model's, an Agent node in its place."""
        looks = 2 if "TOOL2" in self.run.script else int("TOOL" in self.run.script)
        speaker = "agent" if "AGENTNODE" in self.run.script else "llm"
        for kind in self.kinds():
            yield from [*["tool"] * looks, speaker] if kind == "llm" else [kind]

    def kinds(self) -> list[str]:
        """The same without tools."""
        kinds = list(self.run.app.steps)
        if "CITE" in self.run.script and "retrieval" not in kinds:
            kinds.insert(0, "retrieval")
        if "FAIL" in self.run.script:
            return [*kinds[:-1], "code"]
        if self.pauses:
            return ["llm", "human"] if self.run.is_workflow else ["llm", "draft", "human"]
        return kinds

    def node(self, kind: str) -> Iterator[Frame]:
        """The frames of one node."""
        told = {
            "llm": self.llm,
            "tool": self.tool,
            "agent": self.agent,
            "save": self.save,
            "retrieval": self.retrieval,
            "template": self.template,
            "code": self.code,
            "answer": self.reply,
            "end": self.finish,
            "draft": self.draft,
            "human": self.human,
        }
        return told[kind]()

    def human(self) -> Iterator[Frame]:
        """The form is known to the server before anybody hears of it."""
        kind = self.run.script.words["PAUSE"].arg
        content = f"Please review: {self.run.text}\n\nNote: {{{{#$output.note#}}}}"
        form = Form(self, content, "" if self.asked_before else kind)
        self.asked_before += 1
        self.run.state.forms[form.token] = form
        yield from self.asked(form)

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
        # Files are stored beside the answer, so that links to pictures go.
        answer = PICTURE_LINK.sub("", self.answer).strip() if self.files else self.answer
        self.run.save(answer if text is None else text)
        if text is not None:
            events.append(self.run.event("message_replace", answer=text, reason="output_moderation"))
        if self.run.script.fault != "lostend":
            events.append(self.message_end())
        return events

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
        finished = self.workflow_finished("stopped", error, {})
        self.run.save_partial()
        yield finished
        if not self.run.modern and not self.run.is_workflow:
            yield self.message_end()

    def preset_answer(self, text: str) -> Iterator[Frame]:
        """An answer without a run: newer servers add a failed one after the good end."""
        chat.finish(self.run, text)
        yield chat.message(self.run, text)
        if self.run.modern:
            self.usage |= {"time_to_first_token": 0.02, "time_to_generate": 0.0}
        yield chat.message_end(self.run, self.usage)
        if self.run.modern:
            yield from synthetic(self.run.app, self.run.task_id, self.run.run_id, NO_TERMINAL_EVENT)

    def continued(self, form: Form) -> Iterator[Frame]:
        """Silence until the form is submitted, then the rest of the run."""
        while form.answer is None:
            yield Until(form.submitted)
        yield self.workflow_started("resumption")
        if form.kind == "unresumable" and self.run.is_workflow:
            yield self.workflow_finished("stopped", "Stopped by user.", {})
            self.run.status, self.run.finished = "running", None  # which its detail says for ever
            return
        yield from self.guarded(chain(self.after_human(form), self.last(form)))

    def last(self, form: Form) -> Iterator[Frame]:
        """The flow ends as usual, or a human is asked again."""
        if form.kind == "twice":
            yield from self.say("\n", "llm2", "text")
            yield from self.human()
        else:
            yield from self.finish() if self.run.is_workflow else self.reply()

    def snapshot(self, form: Form) -> Iterator[Frame]:
        """What a late subscriber of a paused run is told first; its keys come in another order."""
        events = [self.workflow_started("initial")]
        if not self.run.is_workflow:
            events.append(self.run.event("message_replace", answer=self.answer, reason=""))
        events += [self.event("human_input_required", form.required()), self.paused(form)]
        for event in events:
            yield {key: event[key] for key in SNAPSHOT_ORDER if key in event} | event


def synthetic(app: SampleApp, task_id: str, run_id: str, error: str) -> Iterator[Json]:
    """The start and failed end that newer servers make up for a run that never started or never ended."""
    now = int(time.time())
    keys: Json = {"task_id": task_id, "workflow_run_id": run_id}
    data: Json = {"id": run_id, "workflow_id": app.workflow_id}
    started = data | {"inputs": {}, "created_at": now, "reason": "initial"}
    yield {"event": "workflow_started", **keys, "data": started}
    nothing: Json = {"status": "failed", "outputs": None, "error": error, "elapsed_time": 0.0}
    nothing |= {"total_tokens": 0, "total_steps": 0, "created_by": {}, "created_at": now, "finished_at": now}
    yield {"event": "workflow_finished", **keys, "data": data | nothing | {"exceptions_count": 1, "files": []}}
