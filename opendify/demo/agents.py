"""The events of the two kinds of agent: the classic one (agent-chat) and the New Agent (agent)."""

import json
from collections.abc import Iterable, Iterator

from opendify.demo import chat
from opendify.demo.media import made, tool_link
from opendify.demo.model import Break, Failure, Pause, Step, Text, Thought, ToolCall, tagged
from opendify.demo.run import Frame, Run
from opendify.demo.wire import Json, new_id

BATCH_SECONDS = 0.5
CLOCK_LABELS = {
    "zh_Hans": "获取当前时间",
    "en_US": "Current Time",
    "pt_BR": "Current Time",
    "ja_JP": "Current Time",
}


def thought_row(run: Run, row: str, position: int, **columns: object) -> Json:
    """An `agent_thought`: the whole current row of one step, sent again whenever it changes."""
    blank: Json = {"thought": "", "observation": "", "tool": "", "tool_labels": {}, "tool_input": ""}
    return run.event("agent_thought", id=row, position=position, **blank | {"message_files": []} | columns)


def agent_message(run: Run, text: str) -> Json:
    """A piece of an agent's answer."""
    return run.event("agent_message", id=run.message.id, answer=text)


class ClassicAgent:
    """A run of the classic agent: each model round is one row, sent when it opens and when it changes."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rounds: list[str] = []
        self.position = 0
        self.row = ""
        self.thought = ""

    def tell(self, steps: Iterable[Step]) -> Iterator[Frame]:
        """The run from its first row to its end."""
        if preset := self.run.preset():
            yield from chat.preset_answer(self.run, preset)
            return
        for step in tagged(steps):
            match step:
                case Text(text):
                    yield from self.say(text)
                case ToolCall():
                    yield from self.call(step)
                case Failure():
                    yield chat.failed(self.run, step)
                    return
                case Pause() | Break():
                    yield step
        yield from self.end()

    def say(self, text: str) -> Iterator[Frame]:
        """A piece of text; the first one of a round opens its row."""
        if not self.row:
            self.position += 1
            self.row, self.thought = new_id(), ""
            yield thought_row(self.run, self.row, self.position)
        self.thought += text
        self.run.said.append(text)
        yield agent_message(self.run, text)

    def call(self, call: ToolCall) -> Iterator[Frame]:
        """The round ends with a tool call: the row gets the call, then the file, then the result."""
        for _ in range(2):
            yield from self.say("")
        labels = {call.name: CLOCK_LABELS}
        row: Json = {"thought": self.thought, "tool": call.name, "tool_labels": labels}
        row["tool_input"] = json.dumps({call.name: call.arguments})
        yield thought_row(self.run, self.row, self.position, **row)
        if call.name == "make_picture":
            file_id = new_id()
            yield self.made_file(file_id)
            row["message_files"] = [file_id]
        observation = json.dumps({call.name: call.result})
        yield thought_row(self.run, self.row, self.position, **row | {"observation": observation})
        self.close()

    def made_file(self, file_id: str) -> Json:
        """The file that a tool made; its URL is relative."""
        content = made(self.run, file_id)
        url = tool_link(self.run, file_id, content, origin="")
        return self.run.event("message_file", id=file_id, type=content.kind, belongs_to="assistant", url=url)

    def close(self) -> None:
        """The round is over."""
        self.rounds.append(self.thought)
        self.row = ""

    def end(self) -> Iterator[Frame]:
        """The last round has no tool."""
        if ended := list(chat.ended_early(self.run)):
            yield from ended
            return
        yield from self.say("")
        yield thought_row(self.run, self.row, self.position, thought=self.thought)
        self.close()
        yield from chat.closing(self.run, "\n".join(self.rounds))


class NewAgent:
    """A run of the New Agent: text comes in batches, a row is sent before each, the last round comes again."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.position = 0
        self.row = ""
        self.thought = ""
        self.batch = ""
        self.waited = 0.0
        self.round = ""

    def tell(self, steps: Iterable[Step]) -> Iterator[Frame]:
        """The run from its first row to its end."""
        if early := self.refusal():
            yield early
            return
        if preset := self.run.preset():
            yield from chat.preset_answer(self.run, preset)
            return
        for step in steps:
            if isinstance(step, Failure):
                yield from self.flush()
                yield chat.failed(self.run, step)
                return
            yield from self.step(step)
            if isinstance(step, ToolCall) and step.name == "ask_human":
                yield from self.ask(str(step.arguments["question"]), str(step.arguments["markdown"]))
                return
        yield from self.end()

    def refusal(self) -> Json | None:
        """While a human's answer is awaited no other turn works."""
        if not self.run.conversation or not self.run.conversation.asking:
            return None
        return self.refused(
            "Cannot provide a new user prompt when the message history contains unprocessed tool calls."
        )

    def refused(self, text: str) -> Json:
        """The agent's backend does not go on."""
        self.run.fail(text)
        self.run.save()
        return chat.error_event(self.run, "completion_request_error", 400, text)

    def step(self, step: Step) -> Iterator[Frame]:
        """One step of the model."""
        match step:
            case Text(text):
                yield from self.say(text)
            case Thought(text):
                yield from self.think(text)
            case ToolCall():
                yield from self.call(step)
            case Pause(seconds):
                self.waited += seconds
                yield step
            case Break():
                yield from self.flush()
                yield step

    def open(self) -> None:
        """Begin another row."""
        self.position += 1
        self.row, self.thought = new_id(), ""

    def say(self, text: str) -> Iterator[Frame]:
        """A piece of text: the first of a round goes out at once, later ones wait for half a second's worth."""
        if not text:
            return
        if not self.row or self.thought:
            self.open()
        first = not self.round
        self.round += text
        self.batch += text
        self.run.said.append(text)
        if first or self.waited >= BATCH_SECONDS:
            yield from self.flush()

    def flush(self) -> Iterator[Frame]:
        """Send the batch behind its row."""
        self.waited = 0.0
        if self.batch:
            text, self.batch = self.batch, ""
            yield thought_row(self.run, self.row, self.position)
            yield agent_message(self.run, text)

    def think(self, text: str) -> Iterator[Frame]:
        """A piece of reasoning: the growing row, which no text repeats."""
        yield from self.flush()
        if not self.thought:
            self.open()
        self.thought += text
        yield thought_row(self.run, self.row, self.position, thought=self.thought)

    def call(self, call: ToolCall) -> Iterator[Frame]:
        """A tool call has its own row: twice without a result, then with it."""
        yield from self.flush()
        self.open()
        row: Json = {
            "tool": call.name,
            "tool_labels": {call.name: {"en_US": call.name, "zh_Hans": call.name}},
        }
        row["tool_input"] = json.dumps(call.arguments)
        yield thought_row(self.run, self.row, self.position, **row)
        yield thought_row(self.run, self.row, self.position, **row)
        if call.name != "ask_human":
            yield thought_row(self.run, self.row, self.position, **row | {"observation": call.result})
        self.row = self.round = ""

    def ask(self, question: str, details: str) -> Iterator[Frame]:
        """The question comes only in the closing message; the conversation then waits."""
        if self.run.conversation:
            self.run.conversation.asking = True
        self.round = f"{question}\n\n{details}"
        yield chat.message(self.run, self.round)
        chat.finish(self.run, self.round)
        yield chat.message_end(self.run, self.run.usage(zero=True))

    def end(self) -> Iterator[Frame]:
        """The closing message repeats the last model round."""
        yield from self.flush()
        if ended := list(chat.ended_early(self.run)):
            yield from ended
        elif self.round:
            yield chat.message(self.run, self.round)
            yield from chat.closing(self.run, self.round)
        else:
            yield self.refused("The model returned an empty answer.")
