"""Starting and stopping runs: from a request to a telling of events."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from opendify.demo import chat, checks, faults
from opendify.demo.agents import ClassicAgent, NewAgent
from opendify.demo.apps import FLOW_MODES, SampleApp
from opendify.demo.blocking import fold
from opendify.demo.call import AppCall
from opendify.demo.flows import Flow, synthetic
from opendify.demo.model import Break, Prompt, Step
from opendify.demo.prompts import asked_text, prompt_of
from opendify.demo.run import Frame, Run
from opendify.demo.state import Conversation, Message, State, Stop
from opendify.demo.uploads import Files
from opendify.demo.wire import PING, Json, Refused, Reply, answer, invalid, is_uuid, not_found, refuse
from opendify.demo.words import Script

LATE_STOP_SECONDS = 1.0
SPEECHLESS = frozenset({"noheaders", "drop"})
CHAT_LIKE = ("/v1/chat-messages", "/api/chat-messages", "/v1/chat-messages/<string:task_id>/stop")


@dataclass(slots=True)
class Telling:
    """A run to be streamed: its frames, and the frames that end it if somebody stops it."""

    run: Run
    frames: Iterator[Frame]
    stopped: Callable[[], Iterator[Frame]]


@dataclass(slots=True)
class Runs:
    """Starts and stops the runs of one stand-in."""

    state: State
    modern: bool
    token_delay: float

    async def chat(self, call: AppCall) -> Reply | Telling:
        """`POST /chat-messages`."""
        body, user = call.body_of("chat")
        checks.payload("chat", body, modern=self.modern)
        streaming = checks.streaming(call.app, body.get("response_mode"))
        query = str(body.get("query") or "").replace("\x00", "")
        checks.query(call.app, query)
        script = self.admit(call.app, query, str(body.get("conversation_id") or ""))
        if call.app.mode == "advanced-chat" and body.get("workflow_id"):
            self.check_workflow(call.app, str(body["workflow_id"]), *CHAT_LIKE)
        conversation = self.conversation(call.app, user, str(body.get("conversation_id") or ""))
        starting = Starting(self, call, user, query, script, streaming, conversation)
        return await starting.answer(body)

    async def completion(self, call: AppCall) -> Reply | Telling:
        """`POST /completion-messages`."""
        body, user = call.body_of("completion")
        checks.payload("completion", body, modern=self.modern)
        return await self.from_inputs(call, body, user)

    async def workflow(self, call: AppCall, workflow_id: str = "") -> Reply | Telling:
        """`POST /workflows/run` and `/workflows/{workflow_id}/run`."""
        body, user = call.body_of("workflow")
        checks.payload("workflow", body, modern=self.modern)
        if workflow_id:
            self.check_workflow(call.app, workflow_id)
        return await self.from_inputs(call, body, user)

    async def from_inputs(self, call: AppCall, body: Json, user: str) -> Reply | Telling:
        """A run whose text stands in its inputs."""
        query = asked_text(call.app, body)
        script = self.admit(call.app, query, "")
        streaming = body.get("response_mode") == "streaming"
        return await Starting(self, call, user, query, script, streaming, None).answer(body)

    def admit(self, app: SampleApp, query: str, conversation_id: str) -> Script:
        """The script of the request, unless the app is not published, too busy, or a fault comes first."""
        if not app.published:
            raise invalid("Workflow not published") if app.is_flow else invalid("model is required")
        if app.max_active and self.state.active[app.key] >= app.max_active:
            raise invalid(faults.too_many(app))
        script = Script.read(query)
        faults.before_answer(self.state, app, script, query, conversation_id)
        return script

    @staticmethod
    def check_workflow(app: SampleApp, workflow_id: str, *likewise: str) -> None:
        """Refuse a version of the workflow that does not exist."""
        if not is_uuid(workflow_id):
            raise refuse(400, "bad_request", f"Invalid workflow_id format: '{workflow_id}'. ")
        if workflow_id != app.workflow_id:
            text = f"Workflow not found with id: {workflow_id}"
            if likewise:
                raise not_found(f"{text}.", likewise[0], *likewise)
            raise refuse(404, "not_found", text)

    def conversation(self, app: SampleApp, user: str, conversation_id: str) -> Conversation | None:
        """The conversation to go on with; None begins one."""
        if not conversation_id:
            return None
        known = self.state.conversations.get(conversation_id)
        if known is None or (known.app, known.user) != (app.key, user):
            if self.state.forgiving and app.mode == "advanced-chat":
                return None
            raise not_found("Conversation Not Exists.", CHAT_LIKE[0], *CHAT_LIKE)
        return known

    def stop(self, call: AppCall, kind: str, task_id: str) -> Reply:
        """A stop route: always a success, whether or not there is something to stop."""
        _, user = call.body_of(kind)
        self.state.stops.append(Stop(call.call.path, task_id, user, time.monotonic()))
        run = self.state.tasks.get(task_id)
        if run and run.app.key == call.app.key and (run.user == user or self.ignores_user(run)):
            self.end(run)
        return answer({"result": "success"})

    def ignores_user(self, run: Run) -> bool:
        """Whether anybody may stop this run."""
        return run.is_workflow or (self.modern and run.app.mode in FLOW_MODES)

    @staticmethod
    def end(run: Run) -> None:
        """Stop a run; one whose client left a moment ago is saved as if it had been stopped."""
        if run.ending == "left" and time.monotonic() - run.ended_at < LATE_STOP_SECONDS:
            run.save_partial()
        run.end("stopped")

    def telling(self, run: Run) -> Telling:
        """The frames of a run."""
        steps = run.steps(self.token_delay)
        if run.app.is_flow:
            flow = Flow(run, steps)
            frames, stopped = flow.tell(), flow.stopped
        else:
            frames, stopped = _without_flow(run, steps)
        if run.script.fault in SPEECHLESS:
            frames = chain((Break(run.script.fault),), frames)
        return Telling(run, frames, stopped)


def _without_flow(run: Run, steps: Iterator[Step]) -> tuple[Iterator[Frame], Callable[[], Iterator[Frame]]]:
    tell = {"agent-chat": ClassicAgent(run).tell, "agent": NewAgent(run).tell}.get(run.app.mode)
    frames = tell(steps) if tell else chat.tell(run, steps)
    return frames, lambda: chat.stopped(run)


@dataclass(slots=True)
class Starting:
    """A run about to start: everything known before its inputs and files are checked."""

    runs: Runs
    call: AppCall
    user: str
    query: str
    script: Script
    streaming: bool
    conversation: Conversation | None

    async def answer(self, body: Json) -> Reply | Telling:
        """Check the rest and start; newer servers tell a streaming flow's refusal as a failed run."""
        app = self.call.app
        try:
            inputs, files = self.checked(body)
        except Refused as refused:
            if not (self.streaming and app.is_flow and self.runs.modern):
                raise
            return self.failed_early(refused.message)
        telling = self.runs.telling(self.started(inputs, files))
        if self.streaming or self.script.fault in SPEECHLESS:
            return telling
        with self.runs.state.slot(app.key):
            return await fold(telling.run, telling.frames)

    def checked(self, body: Json) -> tuple[Json, list[Json]]:
        """Inputs and files."""
        app = self.call.app
        given = body.get("inputs")
        inputs = checks.inputs(app, given if isinstance(given, dict) else {}, modern=self.runs.modern)
        files = Files(self.runs.state, app, self.user, self.call.call.origin, modern=self.runs.modern)
        return files.of_inputs(inputs), files.of_message(body.get("files"))

    def started(self, inputs: Json, files: list[Json]) -> Run:
        """The run, known to the server by its ids; its message is stored before it has an answer."""
        app, state = self.call.app, self.runs.state
        if self.conversation is None and app.mode not in {"completion", "workflow"}:
            self.conversation = Conversation(app.key, self.user)
            state.conversations[self.conversation.id] = self.conversation
        prompt = prompt_of(app, self.conversation, self.query, inputs, files, stream=self.streaming)
        message = Message(self.query, inputs, files=files)
        if self.conversation:
            self.conversation.messages.append(message)
        run = self.run(message, prompt, inputs, files)
        state.tasks[run.task_id] = run
        if app.is_flow:
            state.runs[run.run_id] = run
        return run

    def run(self, message: Message, prompt: Prompt, inputs: Json, files: list[Json]) -> Run:
        """A run of what is known so far."""
        return Run(
            state=self.runs.state, app=self.call.app, modern=self.runs.modern, user=self.user, query=self.query,
            inputs=inputs, files=files, message=message, prompt=prompt, script=self.script,
            origin=self.call.call.origin, conversation=self.conversation,
        )  # fmt: skip

    def failed_early(self, error: str) -> Telling:
        """A run that never started, told as one that failed."""
        run = self.run(Message(self.query), Prompt([]), {}, [])
        run.task_id = run.run_id
        frames: Iterator[Frame] = chain((PING,), synthetic(run.app, run.run_id, run.run_id, error))
        return Telling(run, frames, lambda: iter(()))
