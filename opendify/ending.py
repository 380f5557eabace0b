"""How an answer ends: told, left, or out of time; and what becomes of its run then."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import structlog

from opendify.dialogue import FinishReason, Ids
from opendify.dify.apps import App
from opendify.dify.gateway import Gateway
from opendify.errors import ClientGone, OpenDifyError, UpstreamTimeout
from opendify.limits import Limits
from opendify.run import LEAVE_SECONDS, Run, resolve

Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

log = structlog.get_logger("opendify.ending")


class Ending:
    """The ends of one answer. Everything that is public here may be called from any task.

    `sent` is resolved when a run is sent to Dify. `outcome` is resolved once nothing more is to be told: with None
    after the last event, else with the failure. `spawn` runs something that may outlive the request.
    """

    def __init__(self, gateway: Gateway, spawn: Spawn, limits: Limits) -> None:
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self.spawn = spawn
        self.limits = limits
        self.user = ""
        self.app: App | None = None
        self.cut: FinishReason | None = None
        self.sent: asyncio.Future[None] = self._loop.create_future()
        self.outcome: asyncio.Future[OpenDifyError | None] = self._loop.create_future()
        self._run: Run | None = None
        self._ids_before: Ids | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.Timeout | None = None  # with a run that the answer can do without
        self._left = False

    @property
    def ids(self) -> Ids:
        """Dify's names for this answer, as far as they are known."""
        if self._run is None:
            return self._ids_before or Ids()
        return self._run.ids.after(self._ids_before) if self._ids_before else self._run.ids

    def complete(self) -> None:
        """The client has everything."""
        resolve(self.outcome, None)

    def enough(self, reason: FinishReason) -> None:
        """The client has all the text it gets: what becomes of the run is no failure of the answer any more."""
        self.cut = reason
        self._stop()

    def leave(self, error: OpenDifyError) -> None:
        """Nobody waits for the rest, because of `error`: end the answer with it, and the run at Dify."""
        if not (self.outcome.done() and self.outcome.result() is None):  # which is an answer that was told
            self._fail(error)
            self._stop()

    def _fail(self, error: OpenDifyError) -> None:
        if self.cut is None or isinstance(error, ClientGone):
            resolve(self.outcome, error)

    def _stop(self) -> None:
        """Stop the run at Dify, once, and read on for a moment. Before it was sent, just do not send it."""
        if self._left or (self._run and self._run.reader.done):
            return
        self._left = True
        if self._run:
            self.spawn(self._depart(self._run))
        elif self._reading:
            self._reading.cancel()

    async def _depart(self, run: Run) -> None:
        """Call Dify's stop as soon as the run can be named, then give the stream time to end by itself.

        What a client that is still there is being sent goes on, however slowly it reads.
        """
        until = self._loop.time() + LEAVE_SECONDS
        try:
            await asyncio.wait((run.identified,), timeout=LEAVE_SECONDS)
            await self._stop_at_dify(run, until)
        finally:
            if reading := self._reading:
                await asyncio.wait((reading,), timeout=max(until - self._loop.time(), 0))
                if self.outcome.done() or run.waiting_since is not None:
                    reading.cancel()

    async def _stop_at_dify(self, run: Run, until: float) -> None:
        if not (self.app and run.ids.task_id):
            return
        try:
            async with asyncio.timeout_at(until):
                await self._gateway.stop(self.app, run.ids.task_id, self.user)
        except (OpenDifyError, TimeoutError) as error:
            log.warning("stop_failed", app=self.app.name, problem=repr(error))

    # -- the clock: one timer per answer, set anew when it fires and not when something is read

    def _mind_the_time(self, run: Run) -> None:
        """End the answer if a time limit has passed, else look again when the next one can."""
        limits, now = self.limits, self._loop.time()
        due = [(run.sent_at + limits.run, f"The run took longer than {limits.run:g} seconds.")]
        if not run.identified.done():
            message = f"The run did not begin within {limits.first_event:g} seconds."
            due.append((run.sent_at + limits.first_event, message))
        silent_since = now if run.waiting_since is None else run.waiting_since
        due.append((silent_since + limits.silence, f"Dify was silent for {limits.silence:g} seconds."))
        moment, message = min(due)
        if moment <= now and self._patience:
            with suppress(RuntimeError):  # its time is up anyway
                self._patience.reschedule(now)
        elif moment <= now:
            self.leave(UpstreamTimeout(message))
        else:
            self._timer = self._loop.call_at(moment, self._mind_the_time, run)
