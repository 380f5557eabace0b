"""The processes of a benchmark: started on a core of their own, measured from outside, ended."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
END_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 0.005
CALM_SECONDS: Final = 10.0
CALM_NS: Final = 2_000_000
LOG_LINES: Final = 20


class Trouble(Exception):
    """The benchmark cannot go on."""


class Server:
    """A process that listens on a port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self._process = process
        self._log = log
        self.port = port
        self.seconds_to_start = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether it runs no longer."""
        return self._process.returncode is not None

    def cpu_ns(self) -> int:
        """CPU time so far, of all its threads and of its children."""
        return sum(_cpu_ns(pid) for pid in _tree(self._process.pid))

    def resident_kb(self) -> int:
        """Memory now, of all its processes."""
        return sum(_resident_kb(pid) for pid in _tree(self._process.pid))

    async def calm(self) -> None:
        """Wait until it does nothing any more."""
        until = time.monotonic() + CALM_SECONDS
        while time.monotonic() < until:
            before = self.cpu_ns()
            await asyncio.sleep(0.05)
            if self.cpu_ns() - before < CALM_NS:
                return

    async def answers(self) -> None:
        """Wait until it answers HTTP. Raises Trouble."""
        began = time.monotonic()
        while not await _answers(self.port):
            if self.has_ended or time.monotonic() - began > START_SECONDS:
                raise Trouble(f"{self._log.stem} did not start:\n{self.last_words()}")
            await asyncio.sleep(LOOK_SECONDS)
        self.seconds_to_start = time.monotonic() - began

    def last_words(self) -> str:
        """The end of its log."""
        return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:])

    async def end(self) -> None:
        """End it and wait for that."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def started(
    arguments: Sequence[str | Path], log: Path, core: int | None, port: int, environment: dict[str, str] | None = None
) -> AsyncIterator[Server]:
    """A Python server for as long as the block lasts. It runs in the log's directory, where no configuration is."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env=kept | (environment or {}),
        )
    server = Server(process, port, log)
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        await server.answers()
        yield server
    finally:
        await server.end()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def machine_ns() -> int:
    """CPU time of the whole machine so far, whoever used it."""
    user, nice, system, _idle, _waiting, *interrupts = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + sum(interrupts)) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        return bool(await reader.read(1))
    except OSError:
        return False
    finally:
        writer.close()


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            found += map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return found


def _cpu_ns(pid: int) -> int:
    """The kernel's clock of a process, whose number is made from the process' id; 0 for one that has ended."""
    with suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | 2)
    return 0


def _resident_kb(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    return 0
