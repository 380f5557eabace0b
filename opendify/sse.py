"""Server-sent events, bytes to bytes. https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from collections.abc import Iterable, Iterator

MAX_FRAME_BYTES = 4 * 1024 * 1024
LF, CR = b"\n\r"
BOM = b"\xef\xbb\xbf"

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class FrameTooLong(Exception):
    """A frame passed the limit before its blank line came."""


class Decoder:
    """Cuts a byte stream, however it was split on the way, into the data of its events.

    Only LF, CRLF and CR end a line: U+2028 and its kin stand raw inside Dify's JSON.
    Holds back at most `max_frame` bytes and one read. An event without data (Dify's `event: ping`) yields nothing.
    """

    __slots__ = ("_ends_in_cr", "_max_frame", "_rest")

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self._max_frame = max_frame
        self._rest = bytearray()
        self._ends_in_cr = False

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Take the next bytes; the data of each event they complete. Raises FrameTooLong at the one that is."""
        if self._rest or self._ends_in_cr or CR in data or data[-2:] != b"\n\n":
            data = self._complete(data)
        if data[:6] == b"data: " and len(data) <= self._max_frame:  # as nearly all of Dify's
            payload = data[6:-2]
            if payload and LF not in payload:
                return (payload,)
            payloads = payload.split(b"\n\ndata: ")
            if payload.count(b"\n") == 2 * (len(payloads) - 1) and b"" not in payloads:
                return payloads
        return self._payloads(data)

    def _complete(self, data: bytes) -> bytes:
        """The frames that these bytes complete. What follows is held back."""
        if self._ends_in_cr or CR in data:
            data = self._with_line_feeds(data)
        unread = max(len(self._rest) - 1, 0)
        self._rest += data
        end = self._rest.rfind(b"\n\n", unread) + 2
        frames = bytes(self._rest[:end]) if end > 1 else b""
        del self._rest[: len(frames)]
        if not frames:  # else they are told first
            self._check(len(self._rest))
        return frames

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Every line end as LF. A CR at the end is written at once; the LF of a CRLF cut in two is dropped."""
        if self._ends_in_cr and data.startswith(b"\n"):
            data = data[1:]
        self._ends_in_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _payloads(self, frames: bytes) -> Iterator[bytes]:
        """What stands in frames of any kind."""
        for frame in frames.removeprefix(BOM).split(b"\n\n"):
            self._check(len(frame))
            lines = (line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:"))
            if payload := b"\n".join(lines):
                yield payload

    def _check(self, size: int) -> None:
        if size > self._max_frame:
            raise FrameTooLong(f"an event of more than {self._max_frame} bytes")


def frame(data: bytes) -> bytes:
    """One event that carries `data`, which must not contain line ends (JSON does not)."""
    return b"data: %b\n\n" % data
