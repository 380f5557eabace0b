"""GET /healthz and /readyz, for whatever restarts this process or sends requests to it."""

import asyncio
from http import HTTPStatus

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from msgspec import Struct

from opendify.dify.catalog import Catalog, Entry
from opendify.exchange import Exchange


class Health(Struct):
    """This process answers."""

    status: str = "ok"


class AppHealth(Struct):
    """One configured app. `problem` is an error code; nothing here is secret."""

    name: str
    mode: str | None
    ready: bool
    problem: str | None = None


class Readiness(Struct):
    """Whether requests can be served: not draining, and at least one app usable."""

    ready: bool
    draining: bool
    apps: list[AppHealth]


class HealthController(Controller):
    """Probes; they need no key."""

    tags = ("Health",)

    @get("/healthz", summary="Alive")
    async def healthz(self) -> Health:
        """Whether this process answers; Dify does not matter."""
        return Health()

    @get("/readyz", summary="Ready: Dify answers, and an app can be used", responses={})
    async def readyz(
        self, catalog: NamedDependency[Catalog], exchange: NamedDependency[Exchange]
    ) -> Response[Readiness]:
        """Whether requests make sense now: 200, else 503."""
        entries = await catalog.entries()
        bases = {entry.access.base for entry in entries}
        answers = await asyncio.gather(*(exchange.gateway.reaches(base) for base in bases))
        reachable = dict(zip(bases, answers, strict=True))
        apps = [_health(entry, reachable=reachable[entry.access.base]) for entry in entries]
        ready = not exchange.draining and any(app.ready for app in apps)
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(Readiness(ready, exchange.draining, apps), status_code=status)


def _health(entry: Entry, *, reachable: bool) -> AppHealth:
    """An app with an old description is ready as long as its Dify can be reached."""
    problem = "upstream_unreachable" if not reachable else entry.problem.code if entry.problem else None
    mode = entry.app.mode if entry.app else None
    return AppHealth(entry.label, mode, reachable and entry.app is not None, problem)
