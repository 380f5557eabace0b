"""Dify's frames in short, and what a reader makes of them."""

from typing import Any

import msgspec

from opendify.dialogue import Event, Finished, ReasoningDelta, Started, TextDelta, Usage
from opendify.dify.reader import Reader

DONE = Finished("stop", Usage())


def event(kind: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"event": kind, "task_id": "task-1", **fields})


def message(answer: str) -> bytes:
    return event("message", answer=answer)


def delta(answer: str) -> bytes:
    return event("agent_message", answer=answer)


def chunk(text: str) -> bytes:
    return event("text_chunk", data={"text": text})


def reason(text: str, node: str = "llm", *, final: bool = False) -> bytes:
    return event("reasoning_chunk", data={"message_id": None, "reasoning": text, "node_id": node, "is_final": final})


def replace(answer: str) -> bytes:
    return event("message_replace", answer=answer, reason="output_moderation")


def end(**metadata: Any) -> bytes:
    return event("message_end", metadata={"usage": None, **metadata}, files=[])


def run(**fields: Any) -> bytes:
    return event("workflow_finished", data={"status": "succeeded", "outputs": {}, "total_tokens": 0, **fields})


def row(name: str | None, **columns: Any) -> bytes:
    """An `agent_thought`: every column is there, as Dify sends it."""
    blank = {"position": 1, "thought": "", "observation": "", "tool": "", "tool_labels": {}, "tool_input": ""}
    return event("agent_thought", id=name, **blank | {"message_files": []} | columns)


def as_json(**keyed: Any) -> str:
    return msgspec.json.encode(keyed).decode()


def log(name: str, label: str, status: str = "start", **fields: Any) -> bytes:
    """An `agent_log`."""
    known: dict[str, Any] = {"node_execution_id": "n", "node_id": "agent", "parent_id": None, "error": None}
    known |= {"data": {}, "metadata": {}}
    return event("agent_log", data={"id": name, "label": label, "status": status, **known | fields})


def node(kind: str, event_name: str = "node_finished", **fields: Any) -> bytes:
    """An event of a node."""
    known = {"id": "node-1", "node_id": "1", "title": kind.title(), "status": "succeeded", "error": None}
    return event(event_name, data={"node_type": kind, "inputs": None, "outputs": None, **known | fields})


def read(mode: str, frames: list[bytes], **settings: Any) -> list[Event]:
    """All that is said of an answer, without `Started`."""
    reader = Reader(mode, origin="http://dify.test", **settings)
    events = [event for data in frames for event in reader.read(data)] + list(reader.close())
    assert reader.done
    return [event for event in events if not isinstance(event, Started)]


def merged(events: list[Event]) -> list[Event]:
    """Neighbours of one kind as one."""
    told: list[Event] = []
    for event in events:
        match told[-1:], event:
            case [TextDelta(text=before)], TextDelta(text=text):
                told[-1] = TextDelta(before + text)
            case [ReasoningDelta(text=before)], ReasoningDelta(text=text):
                told[-1] = ReasoningDelta(before + text)
            case _:
                told.append(event)
    return told
