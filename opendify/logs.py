"""One structured line per event, for people (console) or machines (json)."""

import json
import logging
import re
import sys
from typing import Any, Final

import msgspec
import structlog
from structlog.typing import EventDict, Processor

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
COLORS: Final = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
PLAIN: Final = "\x1b[0m"
_WORD: Final = re.compile(r"[\w.,:;/+@?&#%*()\[\]-]+")

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(level: str, form: str) -> None:
    """Set up logging for the process. Tracebacks show code, never the values of variables."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            for_machines if form == "json" else for_people(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=StandardError,
        cache_logger_on_first_use=False,
    )
    # The libraries' own loggers: httpx would print every URL, asyncio every slow callback.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")


class StandardError:
    """Writes lines to what is the standard error at that moment."""

    def __init__(self, *_: object) -> None:
        """Structlog names the logger here, which no line shows."""

    def msg(self, line: str) -> None:
        """Write one line, whatever its level."""
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = msg


def for_machines(_logger: object, _method: str, line: EventDict) -> str:
    """A JSON object. What terminals and viewers take for more than text is escaped."""
    try:
        text = _encode(line).decode()
    except (ValueError, OverflowError):  # half a character, or a number of more than 64 bits
        text = ""
    return text if text.isprintable() and text else json.dumps(line, default=repr)


def for_people(*, colors: bool) -> Processor:
    """`2026-01-31T12:00:00Z [info] event name=value ...`, and the traceback below it."""

    def render(_logger: object, _method: str, line: EventDict) -> str:
        level, trace = line.pop("level"), line.pop("exception", None)
        color, plain = (COLORS[level], PLAIN) if colors else ("", "")
        event = f"{line.pop('timestamp')} {color}[{level}]{plain} {_shown(line.pop('event'))}"
        text = " ".join([event, *[f"{name}={_shown(value)}" for name, value in line.items()]])
        return f"{text}\n{trace}" if trace else text

    return render


def _shown(value: Any) -> str:
    """A value as it is, or quoted where it could be taken for more than one, or for a line of its own."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else repr(value)
    text = repr(value)
    return text if text.isprintable() else repr(text)
