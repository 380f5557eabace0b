"""`opendify check`: what Dify says of every configured app, as a table."""

from cashews import Cache
from rich.console import Console
from rich.table import Table

from opendify import logs
from opendify.app import gateway_of
from opendify.dify.apps import MEGABYTE, App, FileRule, Input
from opendify.dify.catalog import Catalog, Entry
from opendify.settings import Settings


async def check_apps(settings: Settings, console: Console | None = None) -> int:
    """Print a row an app; the exit status: 0 where all can be used, else 1."""
    logs.configure("error", settings.log_format)
    cache = Cache()
    cache.setup("mem://")
    gateway = gateway_of(settings)
    catalog = Catalog(settings.all_apps, gateway, cache, ttl=settings.model_cache_seconds)
    try:
        entries = await catalog.entries(patience=settings.timeout)
    finally:
        await catalog.close()
        await gateway.close()
        await cache.close()
    (console or Console()).print(table(entries))
    return 0 if all(entry.app and not entry.problem for entry in entries) else 1


def table(entries: list[Entry]) -> Table:
    """Name, mode, inputs, files and problems of each app."""
    grid = Table("model", "mode", "inputs", "files", "problem", title="Configured Dify apps")
    for entry in entries:
        app = entry.app
        problem = f"{entry.problem.code}: {entry.problem.message}" if entry.problem else ""
        grid.add_row(
            entry.label, app.mode if app else "", _inputs(app), _files(app), problem or ("" if app else "no answer")
        )
    return grid


def _inputs(app: App | None) -> str:
    return "\n".join(map(_input, app.inputs)) if app else ""


def _input(declared: Input) -> str:
    rule = f", {_rule(declared.files)}" if declared.files else ""
    return f"{declared.name}: {declared.control}{rule}{' (required)' if declared.required else ''}"


def _files(app: App | None) -> str:
    if app is None or app.files is None:
        return ""
    sizes = ", ".join(f"{kind} {size // MEGABYTE} MB" for kind, size in app.size_limits.items())
    return f"{_rule(app.files)}\n{sizes}"


def _rule(rule: FileRule) -> str:
    count = "any number" if rule.count is None else f"up to {rule.count}"
    return f"{count} of {', '.join(sorted(rule.types | rule.extensions)) or 'nothing'}"
