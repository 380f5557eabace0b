"""Many clients, any mode, any fault, any moment of leaving: every answer ends properly and nothing is left behind."""

import asyncio
import random
from collections import Counter

import httpx
import pytest
from conftest import CLIENT_KEY, MODELS, Serve, Served, eventually

WORDS = (
    *(
        "ECHO:hi",
        "LONG 30",
        "SLOW 20 20",
        "HANG 0.3 ECHO:x",
        "THINK ECHO:a",
        "TOOL ECHO:b",
        "CJK",
        "BIG 200000",
        "EMPTY",
    ),
    *("REPLACE LONG 5", "FILE ECHO:f", "TTS ECHO:t", "STOPPED ECHO:h", "PAUSE ECHO:p", "FAIL ECHO:z"),
    *("ERROR_START", "ERROR_MID", "FAULT:noheaders", "FAULT:drop", "FAULT:500", "FAULT:html200", "FAULT:pingforever"),
    *("LONG 9 FAULT:cut", "LONG 9 FAULT:eof", "LONG 9 FAULT:garbage", "LONG 9 FAULT:silence", "FAULT:lostend ECHO:l"),
)
CLIENTS = 20
SECONDS = 3.0


async def visit(client: httpx.AsyncClient, dice: random.Random) -> str:
    """One request; what became of it."""
    stream, leaves = dice.random() < 0.6, dice.random() < 0.35
    words, model = dice.choice(WORDS), dice.choice(list(MODELS.values()))
    body = {"model": model, "messages": [{"role": "user", "content": words}], "stream": stream}
    if dice.random() < 0.2:
        body["stop"] = ["w3", "s2"]
    try:
        async with asyncio.timeout(dice.random() * 0.6 if leaves else 20):
            answer = await client.post("/v1/chat/completions", json=body)
    except TimeoutError:
        assert leaves, f"{words!r} to {model} never ended"
        return "left"
    if not (stream and answer.is_success):
        return str(answer.status_code)
    done = answer.text.endswith("data: [DONE]\n\n")
    assert done != ('data: {"error":{' in answer.text), answer.text[-300:]
    return "done" if done else "failed"


async def keep_visiting(served: Served, dice: random.Random, told: Counter[str]) -> None:
    until = asyncio.get_running_loop().time() + SECONDS
    headers = {"authorization": f"Bearer {CLIENT_KEY}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=None) as client:
        while asyncio.get_running_loop().time() < until:
            told[await visit(client, dice)] += 1


@pytest.mark.usefixtures("short_goodbyes")
async def test_nothing_is_left_behind(serve: Serve) -> None:
    pace = {"timeout": 1, "max_run_seconds": 4, "first_event_seconds": 2, "first_packet_seconds": 0.2}
    served = await serve(dify={"token_delay": 0.005, "ping_seconds": 0.3}, keep_alive_seconds=0.2, **pace)
    told: Counter[str] = Counter()
    await asyncio.gather(*(keep_visiting(served, random.Random(seed), told) for seed in range(CLIENTS)))
    assert {"left", "done", "failed", "200", "502"} <= told.keys()
    exchange = served.app.state.exchange
    await eventually(lambda: not exchange._answers and not exchange.tasks._tasks)
    await eventually(lambda: served.dify.open_streams == 0)
    assert [wire.open_runs for wire in exchange.gateway._wires.values()] == [0]
    assert not served.told.lines("unexpected")
    assert not served.told.lines("answer_failed")
    assert not served.told.lines("delivery_failed")
