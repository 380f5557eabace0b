"""What a user might ask next, as Dify suggests it. None are no failure."""

import asyncio
from typing import Final

import structlog

from opendify.dify.apps import App
from opendify.dify.gateway import Gateway
from opendify.errors import OpenDifyError

# With an answer they are worth no longer wait.
SUGGESTION_SECONDS: Final = 1.0

log = structlog.get_logger("opendify.suggestions")


async def suggestions(
    gateway: Gateway, app: App, user: str, message_id: str | None, seconds: float | None = None
) -> tuple[str, ...]:
    """Those for a message of an app that suggests any; within so many seconds, if that matters."""
    if not (app.suggests and message_id):
        return ()
    try:
        async with asyncio.timeout(seconds):
            return tuple(await gateway.suggestions(app, user, message_id))
    except (OpenDifyError, TimeoutError) as error:
        log.info("no_suggestions", app=app.name, problem=type(error).__name__)
        return ()
