"""What the stand-in remembers: requests, uploads, conversations, runs. All of it is bounded."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from opendify.demo.links import Content, Signer
from opendify.demo.wire import Json, new_id

if TYPE_CHECKING:
    from opendify.demo.forms import Form
    from opendify.demo.run import Run

V = TypeVar("V")

MAX_MESSAGES = 200


class Shelf(dict[str, V]):
    """A dict that drops its oldest entry when it grows past `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: str, value: V) -> None:
        super().__setitem__(key, value)
        while len(self) > self.limit:
            del self[next(iter(self))]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it arrived; `at` is monotonic seconds, `headers` have lower-case names."""

    method: str
    path: str
    key: str
    headers: dict[str, str]
    body: Any
    at: float


@dataclass(frozen=True, slots=True)
class Stop:
    """A call of a stop route; `at` is monotonic seconds."""

    path: str
    task_id: str
    user: str
    at: float


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file: everything but its content. `size` counts bytes, `sha256` is hexadecimal."""

    name: str
    mime_type: str
    size: int
    user: str
    sha256: str


@dataclass(slots=True)
class Message:
    """One turn of a conversation; the row exists before its answer does. `made` are ids of the answer's files."""

    query: str
    inputs: Json = field(default_factory=dict)
    id: str = field(default_factory=new_id)
    answer: str = ""
    status: str = "normal"
    error: str | None = None
    files: list[Json] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    created_at: int = field(default_factory=lambda: int(time.time()))


@dataclass(slots=True)
class Conversation:
    """A conversation of one user with one app. `asking`: the New Agent waits for a human's answer."""

    app: str
    user: str
    id: str = field(default_factory=new_id)
    messages: deque[Message] = field(default_factory=lambda: deque(maxlen=MAX_MESSAGES))
    asking: bool = False
    created_at: int = field(default_factory=lambda: int(time.time()))

    @property
    def turns(self) -> list[tuple[str, str, str]]:
        """(query, answer, status) of each turn, oldest first. Status is normal, error or paused."""
        return [(message.query, message.answer, message.status) for message in self.messages]


@dataclass(slots=True)
class State:
    """Everything one stand-in knows. `forgiving` chatflows begin a new conversation for an unknown one, as in 1.15.

    `files_url` is what links to files start with; without one, those of flows start with the server's own address.
    """

    forgiving: bool = False
    files_url: str | None = None
    signer: Signer = field(default_factory=Signer)

    requests: deque[Recorded] = field(default_factory=lambda: deque(maxlen=500))
    stops: deque[Stop] = field(default_factory=lambda: deque(maxlen=500))
    uploads: Shelf[Upload] = field(default_factory=lambda: Shelf(1000))
    contents: Shelf[Content] = field(default_factory=lambda: Shelf(50))
    conversations: Shelf[Conversation] = field(default_factory=lambda: Shelf(1000))
    runs: Shelf["Run"] = field(default_factory=lambda: Shelf(200))
    tasks: Shelf["Run"] = field(default_factory=lambda: Shelf(200))
    forms: Shelf["Form"] = field(default_factory=lambda: Shelf(200))
    flaky: Shelf[int] = field(default_factory=lambda: Shelf(1000))
    active: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def slot(self, app: str) -> Iterator[None]:
        """Count a run of `app` while it is active."""
        self.active[app] += 1
        try:
            yield
        finally:
            self.active[app] -= 1

    def of_user(self, app: str, user: str) -> Iterator[Conversation]:
        """The conversations of `user` with `app`, newest first."""
        mine = (c for c in reversed(self.conversations.values()) if (c.app, c.user) == (app, user))
        yield from mine
