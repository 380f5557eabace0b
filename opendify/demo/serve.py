"""Run an ASGI application on a real port inside the current event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn


@contextlib.asynccontextmanager
async def running(
    app: Any,
    *,
    port: int = 0,
    host: str = "127.0.0.1",
    **uvicorn_config: Any,
) -> AsyncIterator[str]:
    """Serve `app` and yield its base URL; port 0 takes a free one.

    Leaving the block ends every open request at once, then the application's lifespan. Raises RuntimeError if the
    application does not start.
    """
    quiet: dict[str, Any] = {"log_config": None, "log_level": "critical", "access_log": False, "ws": "none"}
    config = uvicorn.Config(app, lifespan="on", **quiet | uvicorn_config)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with socket.create_server((host, port), backlog=config.backlog) as listener:
        await _start(server, listener)
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            ticking.cancel()
            await _stop(server, listener)


async def _start(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.startup(sockets=[listener])
    except SystemExit as failure:  # uvicorn's way to say that the lifespan failed
        raise RuntimeError("the application did not start") from failure


async def _stop(server: uvicorn.Server, listener: socket.socket) -> None:
    """Uvicorn's shutdown waits for open streams, so they are ended first."""
    requests = tuple(server.server_state.tasks)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    server.force_exit = True
    await server.shutdown(sockets=[listener])
    await server.lifespan.shutdown()
