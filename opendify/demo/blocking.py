"""Blocking answers: a run's events folded into one object."""

import asyncio
from collections.abc import Iterable

from opendify.demo.model import Failure, Pause
from opendify.demo.run import Frame, Run, provider_error
from opendify.demo.wire import Json, Reply, answer, invalid, refuse

DATA_KEYS = ("id", "workflow_id", "status", "outputs", "error", "elapsed_time", "total_tokens", "total_steps")


async def fold(run: Run, frames: Iterable[Frame]) -> Reply:
    """Play the run without sending anything, then answer."""
    events: dict[str, Json] = {}
    for item in frames:
        if isinstance(item, Pause):
            await asyncio.sleep(item.seconds)
        elif isinstance(item, dict):
            events[item["event"]] = item
    if run.is_workflow:
        return answer(_workflow(run, events), end="")
    _refuse_failed(run)
    if "workflow_paused" in events:
        return answer(_paused_chat(run, events["workflow_paused"]["data"]), end="")
    return answer(_message(run, _metadata(run, events)), end="")


def _refuse_failed(run: Run) -> None:
    if run.status != "failed":
        return
    if run.app.is_flow:
        raise invalid(f"Run failed: {run.error}")
    words = run.script.words
    word = words.get("ERROR_START") or words.get("ERROR_MID")
    failure = Failure(word.arg if word else "RUNTIME")
    code, status, text = provider_error(failure, modern=run.modern, streaming=False)
    raise refuse(status, code, text)


def _message(run: Run, metadata: Json, event: str = "message") -> Json:
    keys: Json = {"event": event, "task_id": run.task_id, "id": run.message.id, "message_id": run.message.id}
    if run.conversation:
        keys["conversation_id"] = run.conversation.id
    keys |= {"mode": run.app.mode, "answer": run.message.answer, "metadata": metadata}
    return keys | {"created_at": run.message.created_at}


def _metadata(run: Run, events: dict[str, Json]) -> Json:
    """A stopped run has no `message_end` to take them from."""
    streamed = (
        events["message_end"]["metadata"] if "message_end" in events else {"retriever_resources": [], "usage": {}}
    )
    if not run.modern:
        return streamed
    timing: Json = {"time_to_first_token": None, "time_to_generate": None}
    return {"annotation_reply": None, **streamed, "usage": {**timing, **streamed["usage"]}}


def _paused_chat(run: Run, paused: Json) -> Json:
    metadata: Json = {"annotation_reply": None, "retriever_resources": [], "usage": None, "reasoning": {}}
    whole = _message(run, metadata, "workflow_paused") | {"workflow_run_id": run.run_id}
    return whole | {"data": {**_message(run, metadata), **paused}}


def _workflow(run: Run, events: dict[str, Json]) -> Json:
    head: Json = {"task_id": run.task_id, "workflow_run_id": run.run_id}
    if "workflow_paused" not in events:
        data = events["workflow_finished"]["data"]
        return head | {"data": {key: data[key] for key in (*DATA_KEYS, "created_at", "finished_at")}}
    paused = events["workflow_paused"]["data"]
    data = {
        "id": run.run_id,
        "workflow_id": run.app.workflow_id,
        "error": None,
        "finished_at": None,
        **paused,
    }
    keys = (*DATA_KEYS, "created_at", "finished_at", "paused_nodes", "reasons")
    return head | {"data": {key: data[key] for key in keys}}
