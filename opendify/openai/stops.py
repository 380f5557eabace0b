"""Stop sequences: the answer ends before the first of them, wherever the stream was cut."""

from collections.abc import Sequence


class StopScanner:
    """Feed it text in pieces; it holds back no more than the longest sequence less one character."""

    __slots__ = ("_held", "_longest", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=1) - 1
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """The text that can be shown, and whether a sequence was reached."""
        if not self._stops:
            return text, False
        text = self._held + text
        hits = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if hits:
            self._held = ""
            _, start = min(hits)  # the first to be complete, as a model would have stopped there
            return text[:start], True
        keep = self._begun(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        rest, self._held = self._held, ""
        return rest

    def _begun(self, text: str) -> int:
        """The length of the longest end of the text that begins a sequence."""
        for size in range(min(self._longest, len(text)), 0, -1):
            end = text[len(text) - size :]
            if any(stop.startswith(end) for stop in self._stops):
                return size
        return 0
