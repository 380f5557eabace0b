"""create_app(): routes, auth, errors, lifespan. The table of contents of OpenDify; wiring only."""

import gc
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog
from cashews import Cache
from litestar import Litestar, Request, Response, Router
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide

from opendify import logs
from opendify.access import Access, loggable
from opendify.auth import Authentication, KeyRing
from opendify.dify.apps import MEGABYTE, access_of
from opendify.dify.catalog import Catalog
from opendify.dify.gateway import Gateway
from opendify.error_answers import from_exception
from opendify.errors import OpenDifyError
from opendify.exchange import Exchange
from opendify.file_links import FileLinks
from opendify.file_proxy import FileProxy
from opendify.headers import HeaderNames, Introduction
from opendify.health import HealthController
from opendify.kept_files import KeptFiles
from opendify.limits import Limits
from opendify.memory import Memory
from opendify.openai.chat.controller import ChatController
from opendify.openai.chat.schema import ChatRequest, Completion
from opendify.openai.dify_files import dify_file
from opendify.openai.files import FilesController
from opendify.openai.models import ModelsController
from opendify.openapi import openapi_config
from opendify.settings import Settings, load
from opendify.shutdown import draining_on_signals
from opendify.sources import SettingsError
from opendify.store import Store
from opendify.uploads import Uploads
from opendify.users import Users

log = structlog.get_logger("opendify")


class OpenDify(Litestar):
    """The application; every HTTP request, whether a route takes it or not, gets its id and its line in the log."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._access = Access()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] == "http":
            await self._access.observe(super().__call__, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None) -> OpenDify:
    """The application for these settings, else for those of the working directory.

    A configuration that cannot work ends the process with one sentence.
    """
    settings = settings or _load_or_exit()
    logs.configure(settings.log_level, settings.log_format)
    keys = KeyRing(settings.client_keys if settings.auth == "on" else ())
    api = Router(
        "/",
        route_handlers=[ChatController, ModelsController, FilesController],
        middleware=[Authentication(keys, introduction_of(settings).of).around],
    )
    made = State(dict.fromkeys(("exchange", "catalog", "proxy")))
    return OpenDify(
        route_handlers=[api, HealthController, dify_file],
        lifespan=[_lifespan(settings)],
        state=made,
        dependencies={name: _provided(made, name) for name in made},
        exception_handlers={Exception: tell},
        cors_config=_cors(settings),
        openapi_config=openapi_config(ChatRequest, Completion),
        request_max_body_size=settings.max_body_mb * MEGABYTE,
        logging_config=None,
    )


def _load_or_exit() -> Settings:
    try:
        return load()
    except SettingsError as error:
        sys.exit(f"opendify: {error}")


def _lifespan(settings: Settings) -> Any:
    """What lives as long as the server, made once and handed on."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        cache = Cache()
        cache.setup("mem://")
        gateway = gateway_of(settings)
        catalog = Catalog(
            settings.all_apps,
            gateway,
            cache,
            ttl=settings.model_cache_seconds,
            default=settings.default_model,
        )
        # Two of them: so many files as may be sent do not push conversations out of a memory that is bounded.
        conversations, files = (Store(settings.cache_url.get_secret_value()) for _ in range(2))
        proxy = files_of(settings, gateway)
        exchange = exchange_of(settings, gateway, catalog, conversations, files, proxy)
        app.state.update({"catalog": catalog, "exchange": exchange, "proxy": proxy})
        try:
            catalog.start()
            with draining_on_signals(exchange.drain, settings.drain_seconds), _settled():
                yield
        finally:
            await exchange.drain(0)
            await proxy.close()
            await catalog.close()
            await gateway.close()
            await conversations.close()
            await files.close()
            await cache.close()

    return lifespan


@contextmanager
def _settled() -> Iterator[None]:
    """What the start has made stays: the garbage collector looks at it no more, which stops the world for 60 ms."""
    gc.freeze()
    gc.enable()
    try:
        yield
    finally:
        gc.unfreeze()


def gateway_of(settings: Settings) -> Gateway:
    """The way to every Dify of the configuration."""
    return Gateway(
        (config.base for config in settings.all_apps),
        timeout=settings.timeout,
        connect_timeout=settings.connect_timeout,
        max_connections=settings.max_connections,
        http2=settings.http2,
        ca_file=settings.dify_ca_file,
    )


def exchange_of(
    settings: Settings, gateway: Gateway, catalog: Catalog, conversations: Store, files: Store, proxy: FileProxy
) -> Exchange:
    """What makes the answers."""
    secret, limits = settings.hash_secret.get_secret_value(), limits_of(settings)
    memory = Memory(conversations, gateway, secret=secret, days=settings.conversation_ttl_days)
    kept = KeptFiles(
        files,
        secret=secret,
        days=settings.conversation_ttl_days,
        minutes=settings.files_kept_minutes,
        megabytes=settings.files_kept_mb,
    )
    uploads = Uploads(gateway, files, secret=secret, hours=settings.upload_cache_hours, kept=kept)
    users = Users(hashed=settings.hash_users, secret=secret)
    return Exchange(gateway, catalog, memory, uploads, users, limits, proxy)


def files_of(settings: Settings, gateway: Gateway) -> FileProxy:
    """The way to files that apps made."""
    links = FileLinks(
        map(access_of, settings.all_apps),
        secret=settings.hash_secret.get_secret_value(),
        public_base=settings.public_url,
        hours=settings.file_link_hours,
    )
    return FileProxy(gateway, links, megabytes=settings.file_links_mb)


def introduction_of(settings: Settings) -> Introduction:
    """What is read of the headers beside the key."""
    names = HeaderNames.of(settings.chat_id_headers, settings.user_headers, settings.task_headers)
    return Introduction(names, settings.openwebui_jwt_secret.get_secret_value())


def limits_of(settings: Settings) -> Limits:
    """The limits of one answer."""
    return Limits(
        silence=settings.timeout,
        first_event=settings.first_event_seconds,
        run=settings.max_run_seconds,
        files=settings.max_files,
        answer_chars=settings.max_answer_mb * MEGABYTE,
        first_packet=settings.first_packet_seconds,
        keep_alive=settings.keep_alive_seconds,
    )


def _provided(made: State, name: str) -> Provide:
    """What the lifespan made, to inject. A provider that asks for nothing costs a request no validation."""

    def provide() -> Any:
        return made[name]

    return Provide(provide, sync_to_thread=False)


def _cors(settings: Settings) -> CORSConfig | None:
    """Off unless origins are set; never with credentials, which a bearer key does not need."""
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_credentials=False,
        expose_headers=["x-request-id", "x-dify-conversation-id", "x-dify-message-id"],
    )


def tell(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any failure in OpenAI's shape; the unexpected ones go to the log with their traceback."""
    told = from_exception(error)
    if type(told) is OpenDifyError:
        log.error("unexpected", path=loggable(request.url.path), exc_info=error)
    return Response(told.body(), status_code=told.status, media_type="application/json", headers=dict(told.headers()))
