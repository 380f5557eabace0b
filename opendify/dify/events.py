"""A Struct per Dify event that means something to us, and how bytes become one.

Only the fields we read are declared. Everything else a frame holds (prompts, node inputs, prices) is skipped by
the decoder and so cannot leak. Servers differ in what they leave out: every field has a default.
"""

from collections.abc import Callable
from typing import Final, TypeAlias, get_args

import msgspec
from msgspec import Raw, Struct

from opendify.dialogue import Ids, Usage


class Malformed(Exception):
    """A frame that is not JSON, or a known event without its shape."""


# Where an event carries no calls: the very object.
NO_CALLS: Final = Raw(b"null")


class TokenUsage(Struct):
    """`usage` of message_end and of LLM nodes; prices and latencies are left alone."""

    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    total_tokens: int | None = 0

    def to_usage(self) -> Usage:
        """The waist's usage; a missing total is the sum."""
        prompt, completion = self.prompt_tokens or 0, self.completion_tokens or 0
        return Usage(prompt, completion, self.total_tokens or prompt + completion)


class File(Struct):
    """A file in message_end, workflow_finished or a workflow's outputs."""

    url: str | None = None
    remote_url: str | None = None
    filename: str | None = None
    type: str | None = None
    mime_type: str | None = None
    transfer_method: str | None = None


class Message(Struct, tag_field="event", tag="message", gc=False):
    """A text delta of chat, completion and chatflow apps; the New Agent's closing text. Forks add `tool_calls`."""

    answer: str | None = ""
    tool_calls: Raw = NO_CALLS


class AgentMessage(Struct, tag_field="event", tag="agent_message", gc=False):
    """A text delta of both agents. Forks add `tool_calls`."""

    answer: str | None = ""
    tool_calls: Raw = NO_CALLS


class MessageFile(Struct, tag_field="event", tag="message_file"):
    """A file made by a tool. With `answer` and no `url` it is a text delta (1.11.2 to 1.12)."""

    answer: str | None = None
    url: str | None = None
    type: str | None = None
    belongs_to: str | None = None


class MessageReplace(Struct, tag_field="event", tag="message_replace"):
    """The whole text anew, from output moderation; in a flow without a `reason` it is the text of a snapshot."""

    answer: str | None = ""
    reason: str | None = None


class Metadata(Struct):
    """The part of `message_end.metadata` that we read. `retriever_resources` is empty where the server has none."""

    usage: TokenUsage | None = None
    retriever_resources: Raw = Raw(b"")


class MessageEnd(Struct, tag_field="event", tag="message_end"):
    """The end of a chat or completion answer. Forks add `tool_calls`."""

    tool_calls: Raw = NO_CALLS
    metadata: Metadata | None = None
    files: list[File] | None = None


class Text(Struct, gc=False):
    """`text_chunk.data`."""

    text: str | None = ""


class TextChunk(Struct, tag_field="event", tag="text_chunk", gc=False):
    """A text delta of a workflow's End node."""

    data: Text


class AgentThought(Struct, tag_field="event", tag="agent_thought"):
    """A row of an agent's record, sent whole whenever it changes."""

    id: str | None = None
    position: int | None = None
    thought: str | None = None
    tool: str | None = None
    tool_input: object = None
    observation: object = None


class Log(Struct):
    """`agent_log.data`: a step of a flow's agent, sent again when it is over. What `data` holds is the strategy's."""

    id: str | None = None
    parent_id: str | None = None
    label: str | None = None
    status: str | None = None
    error: object = None
    data: Raw = Raw(b"null")


class AgentLog(Struct, tag_field="event", tag="agent_log"):
    """What an agent in a flow does."""

    data: Log


class Reasoning(Struct, gc=False):
    """`reasoning_chunk.data`."""

    reasoning: str | None = None
    node_id: str | None = None
    is_final: bool | None = None


class ReasoningChunk(Struct, tag_field="event", tag="reasoning_chunk", gc=False):
    """A piece of a flow's model's thinking that is kept apart from its text (since 1.15)."""

    data: Reasoning


class Node(Struct):
    """A node of a flow. `inputs` and `outputs` stay raw: few nodes' are read."""

    id: object = None
    node_type: str | None = None
    title: object = None
    inputs: Raw = Raw(b"null")
    outputs: Raw = Raw(b"null")
    status: object = None
    error: object = None


class Step(Struct, tag_field="event"):
    """What begins or ends in a flow."""

    data: Node


class NodeStarted(Step, tag="node_started"):
    """A node begins; most servers do not tell its inputs yet."""


class IterationStarted(Step, tag="iteration_started"):
    """An iteration begins; it is a node, but has its own events."""


class IterationCompleted(Step, tag="iteration_completed"):
    """An iteration is over."""


class LoopStarted(Step, tag="loop_started"):
    """A loop begins; so is it."""


class LoopCompleted(Step, tag="loop_completed"):
    """A loop is over."""


class NodeFinished(Step, tag="node_finished"):
    """A node has run; LLM nodes report their usage here."""


class Run(Struct):
    """`workflow_finished.data`. `outputs` stays raw: only workflow apps' are read."""

    status: str = ""
    outputs: Raw = Raw(b"null")
    error: str | None = None
    total_tokens: int | None = 0
    files: list[File] | None = None


class WorkflowFinished(Struct, tag_field="event", tag="workflow_finished"):
    """The end of a workflow's run, or of a chatflow's."""

    data: Run


class HumanInputRequired(Struct, tag_field="event", tag="human_input_required"):
    """A form that the run is about to wait for. What it holds is read with patience: see `pauses`."""

    data: Raw = Raw(b"null")


class WorkflowPaused(Struct, tag_field="event", tag="workflow_paused"):
    """The run waits for a person; `reasons` repeat the forms."""

    data: Raw = Raw(b"null")


class Error(Struct, tag_field="event", tag="error"):
    """The run failed."""

    code: str | None = None
    message: str | None = None
    status: int | str | None = None


Speech: TypeAlias = Message | AgentMessage | MessageFile | MessageReplace | TextChunk
Making: TypeAlias = ReasoningChunk | AgentThought | AgentLog
Steps: TypeAlias = (
    NodeStarted | IterationStarted | IterationCompleted | LoopStarted | LoopCompleted | HumanInputRequired
)
Ends: TypeAlias = NodeFinished | MessageEnd | WorkflowFinished | WorkflowPaused | Error
DifyEvent: TypeAlias = Speech | Making | Steps | Ends

# Without these an answer is not what it should be. The others only tell of its making, and may have any shape.
KNOWN: Final = frozenset(kind.__struct_config__.tag for kind in get_args(Speech | Ends))


class Envelope(Struct):
    """What every event may carry around its own fields."""

    event: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    task_id: str | None = None
    workflow_run_id: str | None = None

    def ids(self) -> Ids:
        """The answer's names in Dify."""
        return Ids(self.conversation_id, self.message_id, self.task_id, self.workflow_run_id)


class BareError(Struct):
    """An error of the 0.3 line: no `event`."""

    code: str
    status: int
    message: str | None = None


_decode_event: Callable[[bytes], DifyEvent] = msgspec.json.Decoder(DifyEvent).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_bare_error = msgspec.json.Decoder(BareError).decode
# msgspec reports text that is no UTF-8, and what is nested too deeply, as Python does.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def envelope(frame: bytes) -> Envelope:
    """The envelope alone. Raises Malformed."""
    try:
        return _decode_envelope(frame)
    except _UNREADABLE as error:
        raise Malformed(_place(error)) from None


def decode(frame: bytes) -> DifyEvent | None:
    """The event of a frame, or None for one that means nothing to us. Raises Malformed."""
    try:
        return _decode_event(frame)
    except _UNREADABLE as error:
        name = envelope(frame).event
        if name in KNOWN:
            raise Malformed(f"{name}: {_place(error)}") from None
    return _bare_error(frame) if name is None else None


def _bare_error(frame: bytes) -> Error | None:
    try:
        bare = _decode_bare_error(frame)
    except _UNREADABLE:
        return None  # neither an event nor an error: nothing that we know
    return Error(bare.code, bare.message, bare.status)


def _place(error: Exception) -> str:
    """What kind of trouble it is and where; never the content, which str() of a UnicodeDecodeError would show."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error) if isinstance(error, msgspec.DecodeError) else "not UTF-8"
