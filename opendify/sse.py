"""Server-sent events, bytes to bytes. https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from collections.abc import Iterator

MAX_FRAME_BYTES = 4 * 1024 * 1024

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


class FrameTooLong(Exception):
    """A frame passed the limit before its blank line came."""


class Decoder:
    """Cuts a byte stream, however it was split on the way, into the data of its events.

    Only LF, CRLF and CR end a line: U+2028 and its kin stand raw inside Dify's JSON.
    Holds back at most `max_frame` bytes. An event without data (Dify's `event: ping`) yields nothing.
    """

    __slots__ = ("_ends_in_cr", "_max_frame", "_rest")

    def __init__(self, max_frame: int = MAX_FRAME_BYTES) -> None:
        self._max_frame = max_frame
        self._rest = bytearray()
        self._ends_in_cr = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; yield the data of each event they complete. Raises FrameTooLong at the one that is."""
        if self._ends_in_cr or b"\r" in data:
            data = self._with_line_feeds(data)
        if self._rest:
            unread = max(len(self._rest) - 1, 0)
            self._rest += data
            if self._rest.find(b"\n\n", unread) < 0:
                self._check(len(self._rest))
                return
            data = bytes(self._rest)
            self._rest.clear()
        *frames, rest = data.split(b"\n\n")
        self._rest += rest
        for frame in frames:
            if payload := self._payload(frame):
                yield payload
        self._check(len(rest))

    def _with_line_feeds(self, data: bytes) -> bytes:
        """Every line end as LF. A CR at the end is written at once; the LF of a CRLF cut in two is dropped."""
        if self._ends_in_cr and data.startswith(b"\n"):
            data = data[1:]
        self._ends_in_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _payload(self, frame: bytes) -> bytes:
        self._check(len(frame))
        if frame.startswith(b"data: ") and b"\n" not in frame:
            return frame[6:]
        lines = (line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:"))
        return b"\n".join(lines)

    def _check(self, size: int) -> None:
        if size > self._max_frame:
            raise FrameTooLong(f"an event of more than {self._max_frame} bytes")


def frame(data: bytes) -> bytes:
    """One event that carries `data`, which must not contain line ends (JSON does not)."""
    return b"data: %b\n\n" % data
