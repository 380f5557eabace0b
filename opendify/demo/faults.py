"""Faults before the answer: what FAULT makes a server, or the proxy in front of it, say instead."""

from collections.abc import Callable

from opendify.demo.apps import SampleApp
from opendify.demo.model import Failure
from opendify.demo.run import provider_text
from opendify.demo.state import State
from opendify.demo.wire import FRONT_END, INTERNAL_ERROR, Refused, invalid, page, refuse
from opendify.demo.words import Script


def too_many(app: SampleApp) -> str:
    """The text of the app's concurrency limit."""
    return (
        "Too many requests. Please try again later. The current maximum concurrent requests allowed for"
        f" {app.id} is {app.max_active or 1}."
    )


def before_answer(state: State, app: SampleApp, script: Script, query: str, conversation_id: str) -> None:
    """Raise the refusal that the script's fault asks for, if it asks for one."""
    kind, _, count = script.fault.partition("-")
    if kind == "gone":
        state.conversations.pop(conversation_id, None)
    elif kind == "flaky":
        _flaky(state, query, int(count) if count.isdigit() else 1)
    elif kind in REFUSALS:
        raise REFUSALS[kind](app)


def _flaky(state: State, query: str, times: int) -> None:
    seen = state.flaky.get(query, 0)
    state.flaky[query] = seen + 1
    if seen < times:
        raise Refused(page(503, "Service Temporarily Unavailable"))


REFUSALS: dict[str, Callable[[SampleApp], Refused]] = {
    "html502": lambda _: Refused(page(502, "Bad Gateway")),
    "html200": lambda _: Refused(FRONT_END),
    "500": lambda _: Refused(INTERNAL_ERROR),
    "503": lambda _: Refused(page(503, "Service Temporarily Unavailable")),
    "429": lambda app: refuse(429, "too_many_requests", too_many(app)),
    "toomany400": lambda app: invalid(too_many(app)),
    "quota": lambda _: refuse(400, "provider_quota_exceeded", provider_text(Failure("QUOTA"))),
}
