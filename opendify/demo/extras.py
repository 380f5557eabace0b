"""Events that no sample app needs: iterations, loops, agent logs, and a name nobody knows yet."""

import time
from collections.abc import Iterator

from opendify.demo.agent_logs import Log
from opendify.demo.wire import Json, new_id


def events() -> Iterator[tuple[str, Json]]:
    """Name and data of each, in the order in which a server would send them."""
    yield from _repeated("iteration", "Iteration")
    yield from _repeated("loop", "Loop")
    yield from _logged()
    yield "some_future_event", {"text": "not for clients that do not know it"}


def _repeated(kind: str, title: str) -> Iterator[tuple[str, Json]]:
    now = int(time.time())
    node: Json = {"id": new_id(), "node_id": kind, "node_type": kind, "title": title}
    yield (
        f"{kind}_started",
        node | {"created_at": now, "extras": {}, "metadata": {}, "inputs": {"items": ["a"]}},
    )
    yield f"{kind}_next", node | {"index": 1, "created_at": now, "extras": {}}
    finished = {"status": "succeeded", "error": None, "elapsed_time": 0.01, "total_tokens": 0, "steps": 1}
    done = node | {"inputs": {"items": ["a"]}, "outputs": {"output": ["not for the user"]}, "created_at": now}
    yield f"{kind}_completed", done | finished | {"execution_metadata": {}, "finished_at": now}


def _logged() -> Iterator[tuple[str, Json]]:
    log = Log("agent", new_id(), "ROUND 1")
    yield "agent_log", log.told()
    yield "agent_log", log.finish({"thought": "not for the user"}, {}).told()
