"""How many instructions the pure conversion of an event takes: counted and not timed, to compare two commits.

    python -m benchmarks.count [--bytecode]

Recorded runs of a real Dify go through everything between its bytes and the client's, without a server or a loop. With
valgrind the processor's instructions are counted: two counts of the same code differ by less than two thousandths.
Without it Python's own are, always to the same number, but they do not see what is written in C.
"""

import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

import click
import msgspec
from msgspec import Struct

from opendify import sse
from opendify.dialogue import Event
from opendify.dify.reader import Reader
from opendify.history import Listener
from opendify.linked import Linked
from opendify.openai.chat.writer import ChatStream
from opendify.presentation import Presenter, Style

HERE: Final = Path(__file__).parent
TRANSCRIPTS: Final = HERE.parent / "tests" / "transcripts"
RECORDED: Final = (
    "1.16.1/chat-plain-stream-cjk",
    "1.16.1/agent-stream-cjk",
    "1.16.1/agent-stream-tool-think",
    "1.16.1/newagent-stream-tool-thinktool-think",
    "2.0.0-beta2/chatflow-stream-cjk",
    "1.16.1/chatflow-kb-stream",
    "1.16.1/chatflow-moderated-stream-blocked",
    "1.16.1/workflow-stream-think",
)
TOGETHER: Final = (1, 10)
# Each case is run so often, then twice as often: the difference is free of what starting and ending takes.
TIMES: Final = 40
# Python makes code faster that has run a few times.
WARM_UP: Final = 20
VALGRIND: Final = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
COUNTED: Final = re.compile(r"==(\d+)== I +refs: +([\d,]+)")


class Transcript(Struct):
    """The part of a recorded run that is needed here; `tests/transcripts/collect.py` tells what the fields mean."""

    app_mode: str
    moderated: bool
    stream: str


class Case(Struct):
    """A recorded run, as so many network reads."""

    name: str
    together: int
    transcript: Transcript
    reads: list[bytes]
    events: int

    def convert(self, times: int) -> None:
        """Convert the whole run so many times."""
        for _ in range(times):
            convert = converter(self.transcript)
            for data in self.reads:
                convert(data)


def converter(transcript: Transcript) -> Callable[[bytes], bytes]:
    """Everything that one answer's bytes go through, put together as the exchange does: the only place to change."""
    decoder, reader = sse.Decoder(), Reader(transcript.app_mode, origin="http://dify", moderated=transcript.moderated)
    links, presenter, listener = Linked(lambda url, _: url), Presenter(Style()), Listener()
    writer = ChatStream("a-model", (), include_usage=True)

    def convert(data: bytes) -> bytes:
        events: list[Event] = []
        for frame in decoder.feed(data):
            events += reader.read(frame)
        shown = presenter.feed(links.feed(events))
        listener.hear(shown)
        writer.ids = reader.ids
        return writer.feed(shown)

    return convert


def cases() -> list[Case]:
    """Every recorded run, with each number of events in a read."""
    found = []
    for name in RECORDED:
        transcript = msgspec.json.decode((TRANSCRIPTS / f"{name}.json").read_bytes(), type=Transcript)
        frames = [frame + b"\n\n" for frame in transcript.stream.encode().split(b"\n\n")[:-1]]
        for together in TOGETHER:
            reads = [b"".join(frames[place : place + together]) for place in range(0, len(frames), together)]
            found.append(Case(name, together, transcript, reads, len(frames)))
    return found


def check(case: Case) -> None:
    """Raise RuntimeError unless the conversion comes to its end."""
    convert = converter(case.transcript)
    if not b"".join([convert(data) for data in case.reads]).endswith(sse.DONE):
        raise RuntimeError(f"the conversion of {case.name} does not end as it should")


# -- the processor's instructions


def in_processes(ready: Sequence[Case]) -> list[tuple[int, int]]:
    """Each case in two processes of its own, the second time twice as often; the numbers of the processes.

    They are copies of this one, so that all begin at the same point. Whoever runs this counts.
    """
    for case in ready:
        check(case)
        case.convert(WARM_UP)
    gc.collect()
    gc.freeze()
    return [(_in_process(case, TIMES), _in_process(case, 2 * TIMES)) for case in ready]


def _in_process(case: Case, times: int) -> int:
    child = os.fork()
    if not child:
        case.convert(times)
        os._exit(0)
    os.waitpid(child, 0)
    return child


def under_valgrind(ready: Sequence[Case]) -> list[float]:
    """The processor's instructions per event, by case."""
    with TemporaryDirectory(prefix="opendify-count-") as directory:
        log = Path(directory) / "log"
        command = [
            "valgrind",
            *VALGRIND,
            f"--log-file={log}",
            sys.executable,
            "-m",
            "benchmarks.count",
            "--in-processes",
        ]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONHASHSEED": "0",
        }
        done = subprocess.run(command, env=environment, cwd=HERE.parent, check=True, capture_output=True)  # noqa: S603 (ours)
        counted = {int(pid): int(number.replace(",", "")) for pid, number in COUNTED.findall(log.read_text())}
    pairs = msgspec.json.decode(done.stdout, type=list[tuple[int, int]])
    return [
        (counted[twice] - counted[once]) / TIMES / case.events for case, (once, twice) in zip(ready, pairs, strict=True)
    ]


# -- Python's instructions


def bytecode(case: Case) -> float:
    """Python's instructions per event."""
    check(case)
    counted = 0

    def each(frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return each

    sys.settrace(each)
    try:
        case.convert(1)
    finally:
        sys.settrace(None)
    return counted / case.events


@click.command()
@click.option("--bytecode", "in_bytecode", is_flag=True, help="Count Python's instructions, as without valgrind.")
@click.option("--in-processes", "child", is_flag=True, hidden=True)
def main(*, in_bytecode: bool, child: bool) -> None:
    """Count the instructions that the conversion of one event takes."""
    ready = cases()
    if child:
        click.echo(msgspec.json.encode(in_processes(ready)))
        return
    in_bytecode = in_bytecode or not shutil.which("valgrind")
    counts = [bytecode(case) for case in ready] if in_bytecode else under_valgrind(ready)
    click.echo(f"{'Python' if in_bytecode else 'processor'} instructions per event, one and ten events in a read\n")
    by_case = {(case.name, case.together): count for case, count in zip(ready, counts, strict=True)}
    for name in RECORDED:
        click.echo(name.ljust(46) + "".join(f"{by_case[name, together]:12,.0f}" for together in TOGETHER))


if __name__ == "__main__":
    main()
