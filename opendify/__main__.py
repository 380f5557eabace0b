"""The `opendify` command: serve, demo, check."""

import asyncio
import gc
import sys
from contextlib import suppress

import click

from opendify import __version__
from opendify.settings import Settings, load
from opendify.sources import SettingsError

GRACE_SECONDS = 10


def _settings() -> Settings:
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"opendify: {error}")


@click.group()
@click.version_option(__version__, prog_name="opendify")
def main() -> None:
    """OpenDify: the OpenAI-compatible front door of Dify."""


@main.command()
@click.option("--host", help="Address to listen on, instead of SERVER_HOST.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on, instead of SERVER_PORT.")
@click.option("--workers", type=click.IntRange(1), help="Processes, instead of WORKERS; several need a Redis.")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the configured Dify apps."""
    gc.disable()  # a start makes no garbage to speak of; it is enabled again by the app that has started

    import structlog
    import uvicorn

    from opendify import logs

    settings = _settings()
    workers = workers or settings.workers
    try:
        settings.check_workers(workers)
    except SettingsError as error:
        sys.exit(f"opendify: {error}")
    logs.configure(settings.log_level, settings.log_format)
    host, port = host or settings.server_host, port or settings.server_port
    address = f"http://{host}:{port}"
    structlog.get_logger("opendify").info("serving", address=address, apps=len(settings.all_apps), workers=workers)
    uvicorn.run(
        "opendify.app:create_app",
        factory=True,
        workers=workers,
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=4096,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on.")
def demo(host: str, port: int) -> None:
    """Serve six sample apps of an embedded stand-in Dify; nothing else is needed."""
    from opendify.demo.show import show

    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(show(host, port))
        except OSError as error:
            sys.exit(f"opendify: cannot listen on {host}:{port}: {error.strerror}.")


@main.command()
def check() -> None:
    """Ask Dify about every configured app and show what it says."""
    from opendify.check import check_apps

    sys.exit(asyncio.run(check_apps(_settings())))


if __name__ == "__main__":
    main()
