"""How a paused run is resumed: subscribe, submit, read; and what is left of it where its stream is lost.

The facts, with the recordings of 1.16.1 they come from (those of workflows have the same names):

1. Subscribe to `/workflow/{id}/events` before the submit. The headers and a ping come at once, then nothing until the
   form is submitted, then all of the rest: nothing is missed (chatflow-human-events-single-plain). A subscription that
   comes after the submit gets what is left: all, if the worker is slow (events-right-after-submit), or only
   `workflow_finished`, without text and without a conversation (events-after-submit).
2. No flags. `include_state_snapshot` replays what the client has already, and right after the submit it replays the
   old pause and ends there (events-right-after-submit-snapshot). With `continue_on_pause` the stream stays open after
   `workflow_finished` (events-single-continue); without it, it ends at the end or at the next pause.
3. The user has to be the run's: another one gets 404, none 400 (events-other-user, events-no-user).
4. A run has one subscriber. When one leaves, even one that has left seconds ago, the others' streams end without a
   terminal event (events-resub-second, events-resub2-second). The run itself goes on.
5. So a stream that ends early says nothing: the run's detail does. It has all of the outputs once the run is over,
   those of a chatflow from before the pause too (chatflow-human-run-detail-finished, -messages-after-resume). A detail
   that says `paused` may be as old as the submit (pause-blocking-2-run-detail-at-once): a snapshot tells which form
   it is. It is read for that alone, since the text of its live part has gaps.
6. A form is taken once. The action goes by its id, every field has to be there, the defaults too: the server fills in
   none (submit-action-title, submit-missing-input); an empty text is fine (submit-extra-key). What was submitted or
   has expired is 412; an unknown token, or one of another app, is 404; a bad value is 400 `invalid_form_data`, and the
   form stays open (submit-again, submit-expired, form-get-other-app-key, submit-bad-select).
7. Released 1.16.1 stops a paused workflow instead of resuming it: `workflow_finished`, "Stopped by user."
   (workflow-human-v1161-events), while its detail says `running` for ever (workflow-human-v1161-run-detail).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

import msgspec
import structlog

from opendify import sse
from opendify.dialogue import Event, Form
from opendify.dify.apps import App
from opendify.dify.events import HumanInputRequired, Malformed, Run, WorkflowFinished, WorkflowPaused, decode
from opendify.dify.gateway import Gateway
from opendify.dify.lines import Reply
from opendify.dify.pauses import Pauses, Resumed, form_of
from opendify.dify.reader import Reader
from opendify.dify.replies import decoded
from opendify.errors import BrokenUpstream, OpenDifyError, Refused, StreamLost, UpstreamError, UpstreamTimeout

# How long a run whose stream was lost is asked for its end, and how often.
RECOVERY_SECONDS: Final = 120.0
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 5.0
SNAPSHOT_SECONDS: Final = 5.0
# Why a form takes no answer (any more).
Why: TypeAlias = Literal["expired", "submitted", "unknown", "unsupported"]
CLOSED: Final[dict[str, Why]] = {
    "human_input_form_expired": "expired",
    "human_input_form_submitted": "submitted",
    "not_found": "unknown",
}

log = structlog.get_logger("opendify.resume")

_decode_form = msgspec.json.Decoder(dict[str, Any]).decode
_decode_run = msgspec.json.Decoder(Run).decode


def events_path(run_id: str, user: str, **flags: str) -> str:
    """Where the events of a run that goes on are told, to the run's own user."""
    return f"/workflow/{quote(run_id, safe='')}/events?{urlencode({'user': user, **flags})}"


def form_path(token: str) -> str:
    """Where a form is, and where it is submitted."""
    return f"/form/human_input/{quote(token, safe='')}"


async def form(gateway: Gateway, app: App, token: str) -> Form:
    """A form that is still open. Raises Refused: `closed` says why it is not."""
    return form_of(decoded(_decode_form, await gateway.call(app.access, "GET", form_path(token))), token)


async def submit(gateway: Gateway, app: App, user: str, token: str, action: str, values: Mapping[str, object]) -> None:
    """Submit a form, by an action's id and with a value for every field. Raises Refused and other UpstreamErrors.

    Where the answer to it is lost, the form tells whether it was taken.
    """
    body = msgspec.json.encode({"inputs": values, "action": action, "user": user})
    try:
        await gateway.call(app.access, "POST", form_path(token), body)
    except (BrokenUpstream, UpstreamTimeout):
        if not await _was_taken(gateway, app, token):
            raise


async def _was_taken(gateway: Gateway, app: App, token: str) -> bool:
    try:
        await form(gateway, app, token)
    except Refused as error:
        return closed(error) == "submitted"
    return False


def closed(error: OpenDifyError) -> Why | None:
    """Why a form takes no answer (any more); None for other troubles. Servers before 1.14 do not have the routes."""
    if isinstance(error, BrokenUpstream) and error.upstream_status == HTTPStatus.NOT_FOUND:
        return "unsupported"
    return CLOSED.get(error.upstream_code) if isinstance(error, Refused) else None


def is_bad_answer(error: OpenDifyError) -> bool:
    """Whether Dify does not take these values: the form stays open, and the message says what is wrong."""
    return isinstance(error, Refused) and error.upstream_code == "invalid_form_data"


@asynccontextmanager
async def resumed(
    gateway: Gateway,
    app: App,
    user: str,
    run_id: str,
    token: str,
    action: str,
    values: Mapping[str, object],
    *,
    wanted: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Reply]:
    """Submit a form, if the answer is still `wanted`, and yield the bytes of the rest of its run: all of it.

    Raises what `Gateway.run` raises, then nothing was submitted, and what `submit` raises.
    """
    async with gateway.run(app.access, events_path(run_id, user), None) as stream:
        if not wanted():
            raise StreamLost("Nobody waits for the rest of the run any more.")
        await submit(gateway, app, user, token, action, values)
        yield stream


async def run_detail(gateway: Gateway, app: App, run_id: str) -> Run:
    """What Dify knows of a run. Its files stand in the outputs."""
    return decoded(_decode_run, await gateway.call(app.access, "GET", f"/workflows/run/{quote(run_id, safe='')}"))


async def recovered(
    gateway: Gateway,
    app: App,
    user: str,
    run_id: str,
    reader: Reader,
    known: Resumed,
    *,
    seconds: float = RECOVERY_SECONDS,
) -> Sequence[Event]:
    """The rest of a run whose stream ended early, with its end, to be told after what its `reader` has told.

    Asks for it until the run is over or has paused anew. Raises UpstreamTimeout where it is not within so many
    seconds, and Refused where Dify does not have the run.
    """
    until, pause = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
    while True:
        if events := await _asked(gateway, app, user, run_id, reader, known):
            return events
        if time.monotonic() + pause > until:
            raise UpstreamTimeout("Dify lost the stream of the run, and the run is not over yet.")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def _asked(gateway: Gateway, app: App, user: str, run_id: str, reader: Reader, known: Resumed) -> Sequence[Event]:
    """What there is to tell of it now. A server that comes back is worth another question."""
    try:
        run = await run_detail(gateway, app, run_id)
        forms = await waiting(gateway, app, user, run_id, known) if run.status == "paused" else None
    except Refused:
        raise
    except UpstreamError as error:
        log.warning("run_detail_failed", app=app.name, problem=error.code)
        return ()
    return reader.recover(run, forms)


async def waiting(gateway: Gateway, app: App, user: str, run_id: str, known: Resumed) -> tuple[Form, ...] | None:
    """The forms that a run waits for; None where it waits for none, or only for what was submitted."""
    path = events_path(run_id, user, include_state_snapshot="true")
    pauses, decoder = Pauses(known), sse.Decoder()
    try:
        async with (
            asyncio.timeout(SNAPSHOT_SECONDS),
            gateway.run(app.access, path, None) as stream,
        ):
            async for data in stream:
                for frame in decoder.feed(data):
                    match decode(frame):
                        case HumanInputRequired(data=told):
                            pauses.required(told)
                        case WorkflowPaused(data=told):
                            return pauses.paused(told)
                        case WorkflowFinished():
                            return None
    except TimeoutError:
        return None
    except (Malformed, sse.FrameTooLong):
        raise BrokenUpstream("Dify sent something that is not its protocol.") from None
    return None
