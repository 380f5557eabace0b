"""Run an ASGI application on a real port inside the current event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import uvicorn

ASGIApp: TypeAlias = Callable[..., Awaitable[None]]
"""Any ASGI application, whatever its framework calls the types of its three arguments."""


@contextlib.asynccontextmanager
async def running(app: ASGIApp, *, port: int = 0, host: str = "127.0.0.1", **uvicorn_config: Any) -> AsyncIterator[str]:
    """Serve `app` and yield its base URL; port 0 takes a free one.

    Leaving the block ends every open request at once, then the application's lifespan. Raises RuntimeError if the
    port is taken or the application does not start.
    """
    quiet: dict[str, Any] = {"log_config": None, "log_level": "critical", "access_log": False, "ws": "none"}
    config = uvicorn.Config(app, lifespan="on", **quiet | uvicorn_config)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    with _listening(host, port, config.backlog) as listener:
        await _start(server, listener)
        ticking = asyncio.create_task(server.main_loop())
        try:
            yield f"http://{host}:{listener.getsockname()[1]}"
        finally:
            await _stop(server, ticking)


def _listening(host: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as failure:
        raise RuntimeError(f"cannot listen on {host}:{port}: {failure.strerror}") from failure
    # asyncio does it only for sockets that it makes itself: without it the second write of an answer waits 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def _start(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.startup(sockets=[listener])
    except SystemExit as failure:  # uvicorn's way to say that the lifespan failed
        raise RuntimeError("the application did not start") from failure


async def _stop(server: uvicorn.Server, ticking: asyncio.Task[None]) -> None:
    """Instead of uvicorn's own shutdown, which waits for open streams."""
    for listening in server.servers:
        listening.close()
    ending = [ticking, *server.server_state.tasks]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
    for connection in tuple(server.server_state.connections):
        connection.shutdown()
    await server.lifespan.shutdown()
