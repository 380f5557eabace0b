"""Recorded runs, and what becomes of one: its bytes in, the OpenAI answer out, without a server or a client."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from opendify.dialogue import Event, Failed, Ids, ReasoningDelta, Started, TextDelta
from opendify.dify.reader import Reader
from opendify.errors import OpenDifyError, from_failed
from opendify.openai.chat.fold import ChatFold
from opendify.openai.chat.writer import ChatStream
from opendify.sse import Decoder

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
SERVERS = ("1.16.1", "2.0.0-beta2")
MODEL = "a-model"
# A longer text stands in the golden file as its beginning and its length.
SHOWN_CHARS = 6000


class Case(Struct):
    """A recorded run; `tests/transcripts/collect.py` tells what the fields mean."""

    app_mode: str
    moderated: bool
    ended_by: str
    stream: str
    name: str = ""

    @property
    def data(self) -> bytes:
        return self.stream.encode()


def cases(server: str) -> list[Case]:
    """Every recorded run of a server."""
    decode = msgspec.json.Decoder(Case).decode
    found = []
    for path in sorted((TRANSCRIPTS / server).glob("*.json")):
        if path.name not in {"golden.json", "said.json"}:
            case = decode(path.read_bytes())
            case.name = path.stem
            found.append(case)
    return found


def golden(server: str) -> dict[str, dict[str, Any]]:
    """What is expected of each run of a server."""
    decoded: dict[str, dict[str, Any]] = msgspec.json.decode((TRANSCRIPTS / server / "golden.json").read_bytes())
    return decoded


def golden_said(server: str) -> dict[str, list[str]]:
    """The events that are expected of each run in which more happens than that an app speaks."""
    decoded: dict[str, list[str]] = msgspec.json.decode((TRANSCRIPTS / server / "said.json").read_bytes())
    return decoded


class Told(Struct):
    """What the exchange would tell a client: events by network read, then perhaps a failure."""

    batches: list[Sequence[Event]]
    kinds: list[str]
    ids: Ids
    said: list[Event] = []
    error: OpenDifyError | None = None

    def stream(self, *, include_usage: bool) -> bytes:
        """The whole body of a streamed answer; its id and time are made the same for every answer."""
        writer = ChatStream(MODEL, [], include_usage=include_usage)
        writer.ids = self.ids
        parts = [writer.open(), *map(writer.feed, self.batches)]
        if self.error:
            parts.append(writer.fail(self.error))
        body = b"".join(parts).replace(writer.id.encode(), b"chatcmpl-0")
        return body.replace(b'"created":%d' % writer.created, b'"created":0')

    def fold(self) -> dict[str, Any] | None:
        """The completion, or None where there is only an error."""
        if self.error:
            return None
        writer = ChatFold(MODEL, [])
        writer.ids = self.ids
        for events in self.batches:
            writer.feed(events)
        result: dict[str, Any] = msgspec.json.decode(writer.result())
        return result


def replay(pieces: Iterable[bytes], reader: Reader) -> Told:
    """Read a run as the exchange does: until its answer is over, or else to the end of the stream."""
    decoder, told = Decoder(), Told([], [], Ids())

    def tell(events: Sequence[Event]) -> None:
        told.kinds += [type(event).__name__ for event in events]
        told.said += events
        if events and isinstance(failed := events[-1], Failed):
            told.error = from_failed(failed)
            events = [event for event in events if not isinstance(event, Started | Failed)]
        if events:
            told.batches.append(events)

    for piece in pieces:
        tell([event for frame in decoder.feed(piece) for event in reader.read(frame)])
        if reader.done:
            break
    tell(reader.close())
    told.ids = reader.ids
    return told


def replay_case(case: Case, pieces: Iterable[bytes], *, progress: bool = False) -> Told:
    """The same with the case's own reader."""
    reader = Reader(case.app_mode, origin="http://dify.test", moderated=case.moderated, progress=progress)
    return replay(pieces, reader)


def is_telling(case: Case, told: Told) -> bool:
    """Whether more happens in a run than that an app speaks."""
    return case.app_mode == "agent" or not {"ReasoningDelta", "ToolRun", "Cited"}.isdisjoint(told.kinds)


def in_pieces(data: bytes, size: int) -> Iterable[bytes]:
    """Cut after every `size` bytes."""
    return (data[place : place + size] for place in range(0, len(data), size))


def lines(told: Told) -> list[str]:
    """What the reader said, one line an event; text and thinking in one piece each."""
    said = []
    for kind, run in groupby(told.said, type):
        values: list[Any] = [getattr(event, "text", event) for event in run]
        if kind in {TextDelta, ReasoningDelta}:
            values = ["".join(values)]
        said += [f"{kind.__name__} {cut(msgspec.json.encode(value).decode())}" for value in values]
    return said


def payloads(body: bytes) -> list[bytes]:
    """What a client's decoder makes of a streamed body. Ours are one `data:` line each."""
    frames = body.split(b"\n\n")
    assert frames.pop() == b""
    assert all(frame.startswith(b"data: ") and b"\n" not in frame for frame in frames)
    return [frame[6:] for frame in frames]


def chunks(body: bytes) -> list[dict[str, Any]]:
    """The chunks of a streamed body, without the error or the `[DONE]` at its end."""
    objects = (msgspec.json.decode(data) for data in payloads(body) if data != b"[DONE]")
    return [chunk for chunk in objects if "error" not in chunk]


def streamed_text(body: bytes) -> str:
    """All deltas together."""
    deltas = (choice["delta"] for chunk in chunks(body) for choice in chunk["choices"])
    return "".join(delta.get("content", "") for delta in deltas)


def digest(told: Told) -> dict[str, Any]:
    """The part of an answer that its golden entry holds."""
    body, folded = told.stream(include_usage=True), told.fold()
    streamed = streamed_text(body)
    entry: dict[str, Any] = {"events": in_short(told.kinds), "ids": msgspec.to_builtins(told.ids)}
    if told.error:
        error = told.error
        entry["error"] = {"status": error.status, "code": error.code, "message": error.message}
        entry["text"] = cut(streamed)
    elif folded:
        choice = folded["choices"][0]
        entry["finish_reason"] = choice["finish_reason"]
        entry["usage"] = list(folded["usage"].values())
        entry["text"] = cut(choice["message"]["content"])
        beside = ("reasoning_content", "tool_calls", "annotations")
        entry |= {name: choice["message"][name] for name in beside if name in choice["message"]}
        if streamed != choice["message"]["content"]:
            entry["streamed"] = cut(streamed)
    return entry


def in_short(kinds: Sequence[str]) -> str:
    """`Started, TextDelta x3, Finished`."""
    runs = ((kind, len(list(run))) for kind, run in groupby(kinds))
    return ", ".join(kind if count == 1 else f"{kind} x{count}" for kind, count in runs)


def cut(text: str) -> str:
    """A text as the golden file shows it."""
    return text if len(text) <= SHOWN_CHARS else f"{text[:60]}... ({len(text)} characters)"
