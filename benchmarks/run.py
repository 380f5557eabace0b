"""OpenDify beside the floor, both in front of the same Dify: one table.

    python -m benchmarks.run [--rounds 3]

Both run at the same time and take turns, scenario by scenario and in another order each round, so that what slows the
machine down for a while slows both. Exit status: 0, 1 after a wrong answer, 2 if it could not be measured.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import chain, repeat
from pathlib import Path
from typing import Final

import click
import uvloop

from benchmarks.load import KEY
from benchmarks.scenarios import SCENARIOS, WARM_UP, Figure, Scenario, measured
from benchmarks.servers import Server, Trouble, free_port, machine_ns, started
from benchmarks.table import Results, table
from benchmarks.upstream import KEY as APP_KEY

HERE: Final = Path(__file__).parent
COMMANDS: Final = {"OpenDify": ("-m", "opendify", "serve"), "floor": (str(HERE / "floor.py"),)}
# No round begins that may last longer than until then.
LONGEST_SECONDS: Final = 118.0
# What a server still does after its first answer.
SETTLE_SECONDS: Final = 0.3


class Bench:
    """The rounds of a comparison."""

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        # One for whoever is measured, another for the rest; with one core there is nothing to choose.
        self._core = cores[0] if len(cores) > 1 else None
        self._other_core = cores[1] if len(cores) > 1 else None
        self.results = Results(tuple(COMMANDS))

    async def run(self, rounds: int) -> None:
        """So many rounds, or as many as there is time for. Raises Trouble."""
        began, longest = time.monotonic(), 0.0
        if self._other_core is not None:
            os.sched_setaffinity(0, {self._other_core})
        while self.results.rounds < rounds and time.monotonic() + longest - began < LONGEST_SECONDS:
            round_began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="opendify-bench-") as directory:
                await self._round(Path(directory))
            self.results.rounds += 1
            seconds = time.monotonic() - round_began
            longest = max(longest, seconds)
            click.echo(f"round {self.results.rounds} of {rounds}: {seconds:.0f} s", err=True)

    async def _round(self, directory: Path) -> None:
        async with AsyncExitStack() as stack:
            port = free_port()
            command = (HERE / "upstream.py", str(port))
            upstream = await stack.enter_async_context(
                started(command, directory / "upstream.log", self._other_core, port)
            )
            servers = {}
            for name in self._in_turn(COMMANDS):
                server = await stack.enter_async_context(self._serving(name, directory, upstream.port))
                servers[name] = server
                await asyncio.sleep(SETTLE_SECONDS)
                self.results.add(name, Figure("start", "s", server.seconds_to_start))
                self.results.add(name, Figure("memory after the start", "MB", server.resident_kb() / 1024))
            for scenario in chain.from_iterable(repeat(each, each.repeats) for each in (*WARM_UP, *SCENARIOS)):
                for name in self._in_turn(servers):
                    for server in servers.values():
                        await server.calm()
                    await self._measure(name, scenario, servers[name], upstream)

    def _serving(self, name: str, directory: Path, upstream: int) -> AbstractAsyncContextManager[Server]:
        port = free_port()
        environment = {
            "VALID_API_KEYS": KEY,
            "DIFY_API_KEYS": APP_KEY,
            "DIFY_API_BASE": f"http://127.0.0.1:{upstream}/v1",
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": str(port),
        }
        return started(COMMANDS[name], directory / f"{name}.log", self._core, port, environment)

    def _in_turn(self, names: Iterable[str]) -> list[str]:
        return sorted(names, reverse=self.results.rounds % 2 == 1)

    async def _measure(self, name: str, scenario: Scenario, server: Server, upstream: Server) -> None:
        ours, machine, began = self._own_ns(server, upstream), machine_ns(), time.monotonic_ns()
        figures, heard = await measured(server, scenario)
        passed = time.monotonic_ns() - began
        others = machine_ns() - machine - (self._own_ns(server, upstream) - ours)
        for what, number in heard.wrong.items():
            self.results.wrong[f"{name}, {scenario.name}: {what}"] += number
        if scenario not in WARM_UP:
            self.results.others.append(max(others / passed, 0.0))
            for figure in figures:
                self.results.add(name, figure)
        elif heard.wrong:
            raise Trouble(f"{name} gives wrong answers: {dict(heard.wrong)}")

    @staticmethod
    def _own_ns(*servers: Server) -> int:
        return time.process_time_ns() + sum(server.cpu_ns() for server in servers)


@click.command()
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 20), help="How often all is measured.")
def main(rounds: int) -> None:
    """Measure OpenDify and the floor in turns, and show one table."""
    if not sys.platform.startswith("linux"):
        click.echo("bench: the CPU time of another process is read the Linux way.", err=True)
        sys.exit(2)
    bench = Bench()
    try:
        uvloop.run(bench.run(rounds))
    except Trouble as trouble:
        click.echo(f"bench: {trouble}", err=True)
        sys.exit(1 if bench.results.wrong else 2)
    click.echo(table(bench.results))
    sys.exit(1 if bench.results.wrong else 0)


if __name__ == "__main__":
    main()
