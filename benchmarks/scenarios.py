"""What is measured: how clients ask, and which figures come of it."""

import asyncio
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from benchmarks.load import Heard, check, clients, delays, request, words
from benchmarks.servers import Server
from benchmarks.upstream import MODEL, told

PER_EVENT: Final = "µs CPU/event"
PER_REQUEST: Final = "µs CPU/request"
DELAY: Final = "ms from Dify to client"
MANY: Final = 256


class Scenario(Struct, frozen=True):
    """So many clients that ask so many times; answers in so many pieces, `together` in a write every `gap_ms`.

    Short ones are worth several `repeats` in a round.
    """

    name: str
    unit: str
    clients: int
    times: int = 1
    pieces: int = 1
    together: int = 1
    gap_ms: float = 0.0
    stream: bool = True
    repeats: int = 1

    @property
    def is_timed(self) -> bool:
        """Whether the delays of the pieces are of interest."""
        return self.unit == DELAY

    @property
    def seconds(self) -> float:
        """How long one answer takes at least."""
        return self.pieces / self.together * self.gap_ms / 1000

    def is_right(self, text: str) -> bool:
        """Whether an answer has the right text; of a timed one only the number of words is known."""
        return len(text.split()) == self.pieces if self.is_timed else text == words(self.pieces)


class Figure(Struct, frozen=True):
    """One row of the table, for one server in one round."""

    row: str
    unit: str
    value: float


# In this order: the slow streams leave many idle connections behind, over which the two after them go.
SCENARIOS: Final = (
    Scenario("streamed request, one event", PER_REQUEST, clients=16, times=40, repeats=2),
    Scenario("plain request", PER_REQUEST, clients=16, times=40, pieces=5, stream=False, repeats=2),
    Scenario(f"{MANY} slow streams", DELAY, clients=MANY, pieces=60, gap_ms=50),
    Scenario(f"streamed request, {MANY} connections idle", PER_REQUEST, clients=16, times=40, repeats=2),
    Scenario(
        f"plain request, {MANY} connections idle", PER_REQUEST, clients=16, times=40, pieces=5, stream=False, repeats=2
    ),
    Scenario("lone event, 32 streams", PER_EVENT, clients=32, pieces=100, gap_ms=20),
    Scenario("one event after the other, 64 streams", PER_EVENT, clients=64, pieces=300, gap_ms=1, repeats=2),
    Scenario("ten events at once, 64 streams", PER_EVENT, clients=64, pieces=400, together=10, gap_ms=10, repeats=2),
)
WARM_UP: Final = (
    Scenario("warm-up", PER_REQUEST, clients=8, times=20, pieces=5, stream=False),
    Scenario("warm-up", PER_EVENT, clients=16, times=4, pieces=20, gap_ms=1),
)


async def measured(server: Server, scenario: Scenario) -> tuple[list[Figure], Heard]:
    """One measurement: its figures, and what was heard, already checked."""
    prompt = told(scenario.pieces, scenario.together, scenario.gap_ms, timed=scenario.is_timed)
    asked = request(server.port, MODEL, prompt, stream=scenario.stream)
    spread = scenario.seconds / 3 if scenario.is_timed else min(scenario.seconds, 0.1)
    memory, cpu = server.resident_kb(), server.cpu_ns()
    grown = asyncio.create_task(_resident_after(server, (scenario.seconds + spread) / 2))
    heard = await clients(server.port, asked, scenario.clients, scenario.times, spread=spread)
    cpu = server.cpu_ns() - cpu
    check(heard, scenario.is_right, stream=scenario.stream)
    if not heard.replies:
        grown.cancel()
        return [], heard
    return list(_figures(scenario, heard, cpu, await grown - memory)), heard


async def _resident_after(server: Server, seconds: float) -> int:
    """The memory in the middle of a measurement, when all its streams are open."""
    await asyncio.sleep(seconds)
    return server.resident_kb()


def _figures(scenario: Scenario, heard: Heard, cpu_ns: int, grown_kb: int) -> Iterator[Figure]:
    answers = len(heard.replies)
    if scenario.is_timed:
        on_the_way = sorted(delay for reply in heard.replies for delay in delays(reply))
        for percent in (50, 99):
            value = on_the_way[len(on_the_way) * percent // 100] / 1e6
            yield Figure(f"delay p{percent}, {scenario.name}", DELAY, value)
        yield Figure(f"memory, {scenario.name}", "KB/stream", grown_kb / answers)
    else:
        parts = answers * (scenario.pieces if scenario.unit == PER_EVENT else 1)
        yield Figure(scenario.name, scenario.unit, cpu_ns / parts / 1000)
    if not scenario.stream:
        yield Figure(f"{scenario.name}, rate", "requests/s, 16 clients", answers / heard.seconds)
