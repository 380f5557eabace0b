"""What a conversation is to the answer that goes on with it, and what is remembered of it: ids and digests."""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from opendify.dialogue import Event, Ids

# Dify orders turns by whole seconds: one that follows within its predecessor's second may come before it.
TURN_SECONDS: Final = 1.0
Topic: TypeAlias = Literal["tools", "format"]


class Waits(Struct, frozen=True):
    """A paused run: the token of the form to be answered, None where that happens elsewhere, and of those before it.

    `spoken`: characters of its text so far. `bad`: how many replies did not fit the form.
    """

    run_id: str
    token: str | None = None
    submitted: tuple[str, ...] = ()
    spoken: int = 0
    bad: int = 0


class Record(Struct, frozen=True, omit_defaults=True):
    """What is kept of a conversation. `next_at`: when its next turn may start, epoch seconds.

    `system`, `tools` and `format` are digests of what its history has been told: instructions, the client's tools, the
    form of answers. `salt` makes the tags around calls.
    """

    state: str | None = None
    system: str | None = None
    message_id: str | None = None
    next_at: float = 0.0
    salt: str | None = None
    tools: str | None = None
    format: str | None = None
    waits: Waits | None = None


class Pointer(Struct, frozen=True):
    """From a chat's id or a state to the conversation that has it."""

    conversation_id: str


class Conversation:
    """The conversation of one answer: none that is kept, a new one, or a known one.

    `id` is Dify's, None for a new one. `instructions`: whether the system text goes with this turn.
    `next_at`: this turn may not start before, epoch seconds. `salt` makes the tags around its calls.
    `waits`: its run is paused, and still is after this turn if that does not say otherwise; `submitted` are the tokens
    of the forms that it has been answered with. `settled`: there is nothing to release.
    `returns`: whether a later turn can find it.
    """

    id: str | None = None
    instructions = True
    next_at = 0.0
    salt: str | None = None
    waits: Waits | None = None
    submitted: tuple[str, ...] = ()
    settled = True
    returns = False

    async def find(self) -> None:
        """Look for it, and take it for this turn."""

    def lacks(self, kind: Topic, text: str) -> bool:  # noqa: ARG002 (for those that are kept)
        """Whether its history has been told something else than this of the kind, or nothing."""
        return bool(text)

    def tell(self, kind: Topic, text: str) -> None:
        """This turn tells it."""

    async def begun(self, ids: Ids) -> None:
        """The run has its ids: nobody else goes on with what it has begun."""
        self.id = ids.conversation_id

    def follow(self, started: float) -> None:
        """Another run of this turn follows one that started then, epoch seconds."""
        self.next_at = after(started)

    def hear(self, events: Iterable[Event]) -> None:
        """Take in what the answer says."""

    def doubt(self) -> None:
        """What Dify's history holds of this turn may not be what the client was told."""

    async def renew(self) -> None:
        """Dify does not know it any more: begin a new one."""
        self.id = None

    async def knows(self, conversation_id: str) -> bool:  # noqa: ARG002 (for those that are kept)
        """Whether it is one that we remember."""
        return False

    async def keep(self, ids: Ids, started: float) -> None:
        """The answer is complete, and Dify's history holds it. `started` is epoch seconds."""

    async def release(self, ids: Ids, *, ran: bool) -> None:
        """The answer did not end well: nothing continues its conversation. One that never ran changed nothing."""


def after(started: float) -> float:
    """When the turn after one that started then may start; both are epoch seconds."""
    return started + TURN_SECONDS
