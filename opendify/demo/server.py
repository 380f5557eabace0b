"""The stand-in as an ASGI application: reads requests, finds the route, sends answers."""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from opendify.demo import api, links
from opendify.demo.api import Api
from opendify.demo.apps import SAMPLE_APPS, SampleApp
from opendify.demo.call import AppCall, Call, ClientLeft, read
from opendify.demo.run import Generation
from opendify.demo.runs import Runs, Telling
from opendify.demo.state import Recorded, State
from opendify.demo.stream import Receive, Scope, Send, Stream
from opendify.demo.wire import UNKNOWN_ROUTE, Refused, Reply, refuse

Handled = Reply | Telling
Handler = Callable[..., Handled | Awaitable[Handled]]

VERSIONS: dict[Generation, str] = {"1.16": "1.16.1", "1.9": "1.9.0"}
METHOD_NOT_ALLOWED = "The method is not allowed for the requested URL."
PIECE_BYTES = 64 * 1024
EXPOSED = b"X-Env, X-Trace-Id, X-Version"


class Route(NamedTuple):
    """A route; the groups of its pattern are arguments of its handler."""

    method: str
    pattern: re.Pattern[str]
    handler: Handler


class StandIn:
    """A stand-in Dify server that needs nothing else.

    `generation` chooses whose habits it has: "1.16" (the newest) or "1.9"; `state.forgiving` adds one of 1.15.
    `ping_seconds` of silence make a stream ping; `token_delay` seconds pass before each piece of an answer.
    """

    def __init__(
        self,
        apps: Sequence[SampleApp] = SAMPLE_APPS,
        *,
        generation: Generation = "1.16",
        ping_seconds: float = 10.0,
        token_delay: float = 0.0,
    ) -> None:
        self.apps = {app.key: app for app in apps}
        self.modern = generation == "1.16"
        self.version = VERSIONS[generation]
        self.ping_seconds = ping_seconds
        self.state = State()
        self.requests = self.state.requests
        self.stops = self.state.stops
        self.uploads = self.state.uploads
        self.conversations = self.state.conversations
        self.open_streams = 0
        self.disconnects = 0
        self.open_downloads = 0
        self.cut_downloads = 0
        self._routes = _routes(Api(self.state, self.modern), Runs(self.state, self.modern, token_delay))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            with contextlib.suppress(ClientLeft):
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            call = await read(scope, receive)
            self._record(call)
            handled = await self._handle(call)
        except Refused as refused:
            handled = refused.reply
        if isinstance(handled, Reply):
            await self._send(handled, receive, send)
        else:
            await self._stream(handled, receive, send)

    def _record(self, call: Call) -> None:
        body = call.recorded_body()
        self.requests.append(Recorded(call.method, call.path, call.key, call.headers, body, time.monotonic()))

    async def _handle(self, call: Call) -> Handled:
        if call.path == "/health":
            return api.health(self.version)
        if call.method == "GET" and (file := links.fetched(self.state, call.path, call.params)):
            return file
        found = [(route, match) for route in self._routes if (match := route.pattern.fullmatch(call.path))]
        for route, match in found:
            if route.method == call.method:
                handled = route.handler(AppCall(call, self._app(call), self.modern), *match.groups())
                return handled if isinstance(handled, Reply | Telling) else await handled
        if found:
            raise refuse(405, "method_not_allowed", METHOD_NOT_ALLOWED)
        return UNKNOWN_ROUTE

    def _app(self, call: Call) -> SampleApp:
        scheme, space, _ = call.headers.get("authorization", "").partition(" ")
        if not space or scheme.lower() != "bearer":
            text = "Authorization header must be provided and start with 'Bearer'"
            raise _unauthorized(text)
        app = self.apps.get(call.key)
        if app is None:
            raise _unauthorized("Access token is invalid")
        if not app.enabled:
            raise refuse(403, "forbidden", "The app's API service has been disabled.")
        return app

    def _headers(self, reply: Reply) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", reply.type.encode())]
        if not reply.bare:
            headers += self._dify_headers(cross_origin=reply is not UNKNOWN_ROUTE)
        return [*headers, *reply.headers]

    def _dify_headers(self, *, cross_origin: bool) -> list[tuple[bytes, bytes]]:
        headers = [(b"access-control-allow-origin", b"*")] if cross_origin else []
        if self.modern and cross_origin:
            headers.append((b"access-control-expose-headers", EXPOSED))
        headers += [(b"x-version", self.version.encode()), (b"x-env", b"PRODUCTION")]
        return [*headers, (b"vary", b"Cookie")] if self.modern else headers

    async def _send(self, reply: Reply, receive: Receive, send: Send) -> None:
        headers = self._headers(reply)
        if reply.body:
            headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if len(reply.body) <= PIECE_BYTES:
            await send({"type": "http.response.body", "body": reply.body})
        else:
            await self._send_pieces(reply.body, receive, send)

    async def _send_pieces(self, body: bytes, receive: Receive, send: Send) -> None:
        """A large body, for as long as the client is there."""
        leaving = asyncio.create_task(_message(receive))
        self.open_downloads += 1
        try:
            for end in range(PIECE_BYTES, len(body) + PIECE_BYTES, PIECE_BYTES):
                if leaving.done():
                    self.cut_downloads += 1
                    return
                piece, more = body[end - PIECE_BYTES : end], end < len(body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self.open_downloads -= 1
            leaving.cancel()

    async def _stream(self, telling: Telling, receive: Receive, send: Send) -> None:
        run = telling.run
        headers = self._headers(Reply(type="text/event-stream; charset=utf-8"))
        stream = Stream(run, send, headers, self.ping_seconds)
        watching = asyncio.create_task(stream.watch(receive))
        self.open_streams += 1
        try:
            with self.state.slot(run.app.key):
                await stream.tell(telling.frames, telling.stopped)
        finally:
            self.open_streams -= 1
            self.disconnects += stream.gone.is_set()
            watching.cancel()
            await asyncio.wait([watching])


async def _message(receive: Receive) -> None:
    """After the body of a request, the next message is that its client left."""
    await receive()


def _unauthorized(text: str) -> Refused:
    reply = refuse(401, "unauthorized", text).reply
    return Refused(Reply(reply.body, 401, headers=((b"www-authenticate", b'Bearer realm="api"'),)), text)


def _routes(small: Api, runs: Runs) -> list[Route]:
    """Every route below /v1."""
    one = r"([^/]+)"
    table: list[tuple[str, str, Handler]] = [
        ("POST", "chat-messages", runs.chat),
        ("POST", "completion-messages", runs.completion),
        ("POST", "workflows/run", runs.workflow),
        ("POST", f"workflows/{one}/run", runs.workflow),
        ("POST", f"chat-messages/{one}/stop", lambda call, task: runs.stop(call, "chat", task)),
        ("POST", f"completion-messages/{one}/stop", lambda call, task: runs.stop(call, "completion", task)),
        ("POST", f"workflows/tasks/{one}/stop", lambda call, task: runs.stop(call, "workflow", task)),
        ("GET", "info", small.info),
        ("GET", "parameters", small.parameters),
        ("GET", "meta", small.meta),
        ("GET", "site", small.site),
        ("GET", "conversations", small.conversations),
        ("DELETE", f"conversations/{one}", small.delete_conversation),
        ("GET", "messages", small.messages),
        ("GET", f"messages/{one}/suggested", small.suggested),
        ("POST", "files/upload", small.upload),
        ("GET", f"files/{one}/preview", small.no_preview),
        ("POST", "audio-to-text", small.speech_to_text),
        ("POST", "text-to-audio", small.text_to_speech),
        ("GET", f"workflows/run/{one}", small.run_detail),
        ("GET", f"workflow/{one}/events", small.events),
        ("GET", f"form/human_input/{one}", small.form),
        ("POST", f"form/human_input/{one}", small.submit),
    ]
    return [Route(method, re.compile(f"/v1/{path}"), handler) for method, path, handler in table]


async def _live(receive: Receive, send: Send) -> None:
    """The server's start and end need nothing from us."""
    message: Any = {}
    while message.get("type") != "lifespan.shutdown":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
