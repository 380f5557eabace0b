"""Dify's events -> the waist's events. One Reader per answer, for every app mode; no IO, constant-size state."""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urljoin

import msgspec

from opendify.dialogue import (
    Event,
    Failed,
    FileOut,
    Finished,
    FinishReason,
    Ids,
    Started,
    TextDelta,
    TextReplaced,
    Usage,
)
from opendify.dify.events import (
    AgentMessage,
    DifyEvent,
    Error,
    File,
    Message,
    MessageEnd,
    MessageFile,
    MessageReplace,
    Node,
    NodeFinished,
    Run,
    TextChunk,
    WorkflowFinished,
    WorkflowPaused,
    decode,
    envelope,
)
from opendify.dify.outputs import answer_of, files_in, llm_outputs

# The New Agent repeats its last round in a closing message: this much of the stream's end is kept to notice.
TAIL_CHARS = 8192
MAX_FILES = 200
FLOWS = ("advanced-chat", "workflow")
# A link cut in two is found again within this much of the text's end.
LINK_CHARS = 512
_LINK = re.compile(r"/files/[^\s?)>\]]+(?=[?)>\]\s])")


class Reader:
    """Feed it one answer's frames in order; it says what they mean for a client.

    `moderated` apps may withdraw their text. `output` chooses one of a workflow's outputs as the answer. `origin` is
    Dify's address without the API prefix, for relative file links.
    """

    def __init__(self, mode: str, *, origin: str, output: str | None = None, moderated: bool = False) -> None:
        self._mode = mode
        self._origin = origin
        self._output = output
        self.ids = Ids()
        self.done = False
        self.closing: FinishReason | None = None
        self._tail = ""
        self.spoken = 0
        self._fingerprint = hashlib.blake2b() if moderated else None
        self._chunked = False
        self._usage = Usage()
        self._cut_short = False
        self._files: set[str] = set()
        self._window = ""

    def read(self, frame: bytes) -> Sequence[Event]:
        """The events of one frame's data. Raises Malformed."""
        if self.done:
            return ()
        event = decode(frame)
        started = () if self.ids.task_id else self._identify(frame)
        if event is None:
            return started
        return (*started, *self._feed(event))

    def close(self) -> Sequence[Event]:
        """The stream ended, or nothing more is worth waiting for."""
        if self.done:
            return ()
        if self.closing:
            return tuple(self._finish(self.closing))
        return (self._fail("upstream_error", "Dify ended the answer in the middle.", 502),)

    def _identify(self, frame: bytes) -> tuple[Event, ...]:
        self.ids = envelope(frame).ids()
        return (Started(self.ids),) if self.ids.task_id else ()

    def _feed(self, event: DifyEvent) -> Iterable[Event]:
        match event:
            case Message(answer=text) if self._mode != "agent":
                return self._say(text)
            case TextChunk(data=data):
                return self._chunk(data.text)
            case AgentMessage(answer=text):
                return self._say_in_round(text)
            case Message(answer=text):
                return self._say_closing(text)
            case MessageFile(answer=str(text), url=url) if not url:
                return self._say(text)
            case MessageFile():
                return self._tool_file(event)
            case MessageReplace(answer=text):
                return self._replace(text)
            case MessageEnd():
                return self._end(event)
            case NodeFinished(data=node):
                return self._count(node)
            case WorkflowFinished(data=run):
                return self._run_over(run)
            case WorkflowPaused():
                return (self._fail("human_input_required", "The app waits for a person's input in Dify.", 400),)
            case Error(code=code, message=message, status=status):
                number = int(status or 0) if str(status).isdecimal() else 500
                return (self._fail(code or "internal_server_error", message or "", number),)

    # -- text

    def _say(self, text: str | None) -> tuple[Event, ...]:
        if not text:
            return ()
        self.spoken += len(text)
        if self._fingerprint:
            self._fingerprint.update(text.encode("utf-8", "surrogatepass"))
        if self._mode in FLOWS:
            self._note_links(text)
        return (TextDelta(text),)

    def _say_in_round(self, text: str | None) -> tuple[Event, ...]:
        if self._mode == "agent" and text:
            self._tail = (self._tail + text)[-TAIL_CHARS:]
        return self._say(text)

    def _say_closing(self, text: str | None) -> tuple[Event, ...]:
        """The New Agent's closing text is new only where it does not repeat the end of the stream."""
        said = self._tail.rstrip()
        repeated = text and said and said.endswith(text.rstrip()[-TAIL_CHARS:])
        return () if repeated else self._say(text)

    def _chunk(self, text: str | None) -> tuple[Event, ...]:
        if self._output:  # one output was chosen, and chunks do not tell outputs apart
            return ()
        self._chunked = self._chunked or bool(text)
        return self._say(text)

    def _replace(self, text: str | None) -> tuple[Event, ...]:
        """The new text continues what was sent, or withdraws it. An empty one only announces a snapshot."""
        if not text:
            return ()
        if self._continues(text):
            return self._say(text[self.spoken :])
        self.spoken = len(text)
        if self._fingerprint:
            self._fingerprint = hashlib.blake2b(text.encode("utf-8", "surrogatepass"))
        return (TextReplaced(text),)

    def _continues(self, text: str) -> bool:
        if not self.spoken or self._fingerprint is None:
            return not self.spoken
        sent = text[: self.spoken].encode("utf-8", "surrogatepass")
        return hashlib.blake2b(sent).digest() == self._fingerprint.digest()

    # -- files

    def _tool_file(self, event: MessageFile) -> Iterable[Event]:
        if event.belongs_to == "user":
            return ()
        return self._show([File(url=event.url, type=event.type)])

    def _note_links(self, text: str) -> None:
        """A flow's files may stand as links in its text already, perhaps cut in two."""
        seen = self._window + text
        if "/files/" in seen:
            self._files.update(_LINK.findall(seen)[: MAX_FILES - len(self._files)])
        self._window = seen[-LINK_CHARS:]

    def _show(self, files: Iterable[File]) -> Iterator[Event]:
        """Each file once: Dify names most of them twice, with a new signature each time."""
        for file in files:
            link = _absolute(self._origin, file.url or file.remote_url)
            if not link or (known := _identity(link)) in self._files or len(self._files) >= MAX_FILES:
                continue
            self._files.add(known)
            name = file.filename or posixpath.basename(link.partition("?")[0])
            kind = file.type or file.mime_type or ""
            yield FileOut(url=link, name=name, is_image=kind.startswith("image"))

    # -- ends

    def _end(self, event: MessageEnd) -> Iterator[Event]:
        """In chat, agent and completion apps `files` repeats the user's own attachments; the app's are `tool_file`."""
        files = event.files or []
        if self._mode != "advanced-chat":
            files = [file for file in files if file.transfer_method == "tool_file"]
        yield from self._show(files)
        reported = event.metadata.usage.to_usage() if event.metadata and event.metadata.usage else Usage()
        if reported.total_tokens:
            self._usage = reported
        yield from self._finish(self.closing or "stop")

    def _count(self, node: Node) -> tuple[Event, ...]:
        if node.node_type == "llm":
            outputs = llm_outputs(node.outputs)
            if outputs.usage:
                self._usage += outputs.usage.to_usage()
            self._cut_short = outputs.finish_reason in {"length", "max_tokens"}
        return ()

    def _run_over(self, run: Run) -> Iterator[Event]:
        if run.status == "failed":
            yield self._fail("run_failed", run.error or "", 500)
            return
        if not self._usage.total_tokens:
            self._usage = Usage(total_tokens=run.total_tokens or 0)
        # Stopped by someone else, or by Dify's own time limit: the text is incomplete.
        self.closing = "length" if run.status == "stopped" else "stop"
        if self._mode == "workflow":
            yield from self._outputs(run)
            yield from self._finish(self.closing)

    def _outputs(self, run: Run) -> Iterator[Event]:
        outputs = msgspec.json.decode(run.outputs)
        if isinstance(outputs, dict) and not self._chunked:
            yield from self._say(answer_of(outputs, self._output))
        yield from self._show([*(run.files or []), *files_in(outputs)])

    def _finish(self, reason: FinishReason) -> Iterator[Event]:
        self.done = True
        yield Finished("length" if self._cut_short else reason, self._usage, stopped=reason == "length")

    def _fail(self, code: str, message: str, status: int) -> Event:
        self.done = True
        return Failed(code=code, message=message, status=status)


def _absolute(origin: str, link: str | None) -> str | None:
    """The link as anyone can follow it; None where it is no address."""
    try:
        return urljoin(origin, link) if link else None
    except ValueError:
        return None


def _identity(link: str) -> str:
    """What two links to one file share: Dify's own differ in host and signature."""
    place = link.find("/files/")
    return link if place < 0 else link[place:].partition("?")[0]
