"""Model name -> App: what Dify says of every configured key, cached with a TTL."""

import asyncio
import difflib
import time
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Protocol

import structlog
from cashews import Cache
from msgspec import Struct

from opendify.dify.apps import Access, App, Description, access_of, app_of
from opendify.entries import AppConfig, hint_of
from opendify.errors import BrokenUpstream, Busy, ModelNotFound, OpenDifyError, Unreachable, UpstreamTimeout

STALE_SECONDS = 7 * 24 * 3600
RETRY_SECONDS = 10.0
PATIENCE_SECONDS = 5.0
OUTAGES = (Unreachable, UpstreamTimeout, BrokenUpstream, Busy)

log = structlog.get_logger("opendify.catalog")


class Describer(Protocol):
    """The gateway's part of the catalogue."""

    async def describe(self, access: Access) -> Description:
        """What Dify says of the app. Raises UpstreamError."""
        ...


class Entry(Struct):
    """One configured key: its app, once Dify has described it, and what last went wrong.

    `known_as` outlives the app: while Dify refuses a key, no other app may be taken for its own.
    """

    config: AppConfig
    access: Access
    description: Description | None = None
    app: App | None = None
    known_as: str | None = None
    problem: OpenDifyError | None = None
    asked_at: float = 0.0

    @property
    def label(self) -> str:
        """How logs and /readyz name it, without giving the key away."""
        return self.app.name if self.app else self.config.name or hint_of(self.access.key)


class Catalog:
    """The usable apps under their model names.

    An app is described again after `ttl` seconds, in the background: no request waits for that but the very first.
    While Dify is down the last description is served; a key that Dify refuses is left out.
    """

    def __init__(
        self, configs: Iterable[AppConfig], gateway: Describer, cache: Cache, *, ttl: float, default: str = ""
    ) -> None:
        self._entries = {(access := access_of(config)).id: Entry(config, access) for config in configs}
        self._gateway = gateway
        self._cache = cache
        self._ttl = ttl
        self._default = default
        self._fresh_until = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        # `soft` asks anew after the TTL and answers with the old value while asking fails. Cancelling one of the
        # callers that share a call would cancel it for all: only the refresh task ever calls it.
        self._description = cache.soft(
            ttl=STALE_SECONDS, soft_ttl=ttl, key="app:{app_id}", prefix="", exceptions=OUTAGES
        )(self._describe)

    def start(self) -> None:
        """Begin to ask, without making anyone wait for it."""
        self._refresh()

    async def entries(self, patience: float = PATIENCE_SECONDS) -> list[Entry]:
        """Every configured key, in configured order, once each has been asked or `patience` (seconds) ends."""
        if time.monotonic() >= self._fresh_until:
            task = self._refresh()
            if not self._fresh_until:
                await asyncio.wait((task,), timeout=patience)
        return list(self._entries.values())

    async def apps(self) -> list[App]:
        """The usable apps, in configured order."""
        return [entry.app for entry in await self.entries() if entry.app]

    async def find(self, model: str, allowed: "Allowed") -> App:
        """The app for a request: the named one, else the default. Raises as `named` does.

        The default stands in for names that nobody has, never for an app that is in trouble.
        """
        try:
            return await self.named(model, allowed)
        except ModelNotFound:
            default = _match([app for app in await self.apps() if allowed(app.name)], self._default)
            if default is None or self._is_away(model):
                raise
            return default

    async def named(self, model: str, allowed: "Allowed") -> App:
        """The app of a model name: exact, in another case, an alias. Raises ModelNotFound.

        Where the name is not known and Dify cannot be asked, raises what kept us from asking.
        """
        apps = [app for app in await self.apps() if allowed(app.name)]
        if app := _match(apps, model):
            return app
        raise self._unknown(model, apps, allowed)

    async def changed(self, app: App) -> None:
        """Dify's answer says that the app is not what we think: describe it again, but not all the time."""
        entry = self._entries[app.access.id]
        if time.monotonic() - entry.asked_at > RETRY_SECONDS:
            entry.asked_at = time.monotonic()
            await self._cache.delete(f"app:{app.access.id}")  # the entry keeps the description until there is a new one
            self._refresh()

    async def close(self) -> None:
        """Stop asking."""
        if self._refreshing:
            self._refreshing.cancel()
            await asyncio.wait((self._refreshing,))

    def _refresh(self) -> asyncio.Task[None]:
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh_all())
        return self._refreshing

    async def _refresh_all(self) -> None:
        await asyncio.gather(*(self._refresh_one(entry) for entry in self._entries.values()))
        troubled = any(entry.problem for entry in self._entries.values())
        self._fresh_until = time.monotonic() + (min(RETRY_SECONDS, self._ttl) if troubled else self._ttl)

    async def _refresh_one(self, entry: Entry) -> None:
        try:
            entry.description = await self._description(app_id=entry.access.id)
        except OpenDifyError as error:
            if not isinstance(error, OUTAGES):
                entry.description = None
        self._name_apps()

    async def _describe(self, app_id: str) -> Description:
        """Ask Dify, and note on the entry how that went."""
        entry = self._entries[app_id]
        entry.asked_at = time.monotonic()
        try:
            description = await self._gateway.describe(entry.access)
        except Exception as failure:  # noqa: BLE001 (one odd app must not hide the others)
            error = _told(failure)
            if entry.problem is None or entry.problem.code != error.code:
                log.warning("app_unusable", app=entry.label, code=error.code, reason=error.message)
            entry.problem = error
            raise error from None
        entry.problem = None
        return description

    def _name_apps(self) -> None:
        """Unique names: those fixed by the configuration first, then Dify's own, `-2` and so on where they clash."""
        taken = {entry.known_as for entry in self._entries.values() if entry.description is None and entry.known_as}
        described = [(entry, entry.description) for entry in self._entries.values()]
        for entry, description in sorted(described, key=lambda pair: pair[0].config.name is None):
            if description is None:
                entry.app = None
                continue
            name = _unique(entry.config.name or description.name or "dify-app", taken)
            taken.add(name)
            entry.known_as = name
            entry.app = app_of(entry.config, name, description)

    def _is_away(self, model: str) -> bool:
        return any(entry.app is None and entry.known_as == model for entry in self._entries.values())

    def _unknown(self, model: str, apps: Sequence[App], allowed: "Allowed") -> OpenDifyError:
        """Not found, unless an app that could not be asked is the one that is meant, or none could be asked."""
        for entry in self._entries.values():
            named = _is_called(entry.config, model) and allowed(entry.config.name or model)
            if entry.app is None and (named or not any(other.app for other in self._entries.values())):
                problem = entry.problem or UpstreamTimeout("Dify has not described its apps yet.")
                if named or isinstance(problem, OUTAGES):
                    return problem
        close = difflib.get_close_matches(model, [app.name for app in apps], n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(map(repr, close))}?" if close else " GET /v1/models lists them."
        return ModelNotFound(f"The model '{model}' does not exist or is not for your key.{hint}", param="model")


class Allowed(Protocol):
    """Whether the caller may use the model of this name."""

    def __call__(self, model: str, /) -> bool: ...


def _match(apps: Sequence[App], model: str) -> App | None:
    folded = model.casefold()
    for fits in (
        lambda app: app.name == model,
        lambda app: app.name.casefold() == folded,
        lambda app: model in app.config.aliases,
    ):
        if app := next(filter(fits, apps), None):
            return app
    return None


def _is_called(config: AppConfig, model: str) -> bool:
    """Whether the configuration itself gives an app this name."""
    return (config.name or "").casefold() == model.casefold() or model in config.aliases


def _told(failure: Exception) -> OpenDifyError:
    """Why an app cannot be described. A full house is an outage; what nobody expected is told by its kind alone."""
    if isinstance(failure, OpenDifyError):
        return Busy(failure.message) if failure.status == HTTPStatus.TOO_MANY_REQUESTS else failure
    return BrokenUpstream(f"The app's description cannot be read ({type(failure).__name__}).")


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique
