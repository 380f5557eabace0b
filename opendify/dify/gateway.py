"""HTTP to Dify: describe an app, upload, start a run, stop it. What goes wrong leaves here as an OpenDifyError."""

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, get_args
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from opendify.dify import transport
from opendify.dify.apps import MEGABYTE, Access, App, Description, Info, parse_info, parse_parameters
from opendify.dify.downloads import RemoteFile, address_of, patient, remote_file
from opendify.dify.files import Upload
from opendify.dify.lines import Reply, Request
from opendify.dify.modes import infer_mode
from opendify.dify.over_httpx import multipart
from opendify.dify.replies import ANSWER_BYTES, EVENT_STREAM, JSON, decoded, is_expected, limited, trouble
from opendify.dify.requests import stop_path
from opendify.dify.transport import Wire
from opendify.entries import Mode
from opendify.errors import (
    BrokenUpstream,
    Busy,
    OpenDifyError,
    Refused,
    Unreachable,
    UpstreamTimeout,
)

PIECE_BYTES: Final = 256 * 1024
RETRIES: Final = 2
BACKOFF_SECONDS: Final = 0.25
REACHED_SECONDS: Final = 5.0
FILE_SECONDS: Final = 600.0
MODES: Final = get_args(Mode)
DOWN: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
ALWAYS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "opendify"}


class Suggestions(Struct):
    """The answer of `/messages/{id}/suggested`."""

    data: list[str] | None = None


class UploadAnswer(Struct):
    """The part of an upload's answer that a run needs."""

    id: str


_parse_suggestions = msgspec.json.Decoder(Suggestions).decode
_parse_upload = msgspec.json.Decoder(UploadAnswer).decode


class Gateway:
    """The way to every configured Dify: one set of connections per base address, for the life of the server.

    `timeout` is the longest wait for an answer other than a run's stream, in seconds; over `max_connections`
    simultaneous runs per base a new one is refused, not queued.
    """

    def __init__(
        self,
        bases: Iterable[str],
        *,
        timeout: float,
        connect_timeout: float = 5.0,
        max_connections: int = 1000,
        http2: bool = False,
        ca_file: Path | None = None,
    ) -> None:
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._reached: dict[str, tuple[float, bool]] = {}
        self._max_connections = max_connections
        self._wires = {
            base: transport.connect(base, http2=http2, connect_timeout=connect_timeout, ca_file=ca_file)
            for base in dict.fromkeys(bases)
        }

    async def close(self) -> None:
        """Close every connection."""
        async with AsyncExitStack() as stack:
            for wire in self._wires.values():
                stack.push_async_callback(wire.close)

    async def reaches(self, base: str) -> bool:
        """Whether something listens at Dify's address, as known for a few seconds.

        No request is made for it: with Dify's ten connections in use it would wait for a run to end.
        """
        until, reached = self._reached.get(base, (0.0, False))
        if time.monotonic() > until:
            reached = await transport.listens(base, self._connect_timeout)
            self._reached[base] = (time.monotonic() + REACHED_SECONDS, reached)
        return reached

    async def describe(self, access: Access) -> Description:
        """What `/info` and `/parameters` say; the mode is inferred where a server does not tell it."""
        info, parameters = await asyncio.gather(self._info(access), self.call(access, "GET", "/parameters"))
        mode = _known_mode(info.mode) or await infer_mode(self, access)
        return Description(info.name, mode, decoded(parse_parameters, parameters))

    async def _info(self, access: Access) -> Info:
        """The name and mode; servers before 0.6.2 do not have the route."""
        try:
            return decoded(parse_info, await self.call(access, "GET", "/info"))
        except BrokenUpstream as error:
            if error.upstream_status == HTTPStatus.NOT_FOUND:
                return Info()
            raise

    async def upload(self, app: App, user: str, file: Upload) -> str:
        """Send a file to Dify; its id is good for runs of this app by the same user."""
        headers, parts = multipart({"user": user}, (file.name, file.data, file.mime_type))
        request = _request(app.access, "POST", "/files/upload", _Pieces(*parts), headers)
        limit = self._timeout + len(file.data) / MEGABYTE
        return decoded(_parse_upload, await self._exchange(app.access, request, limit)).id

    async def stop(self, app: App, task_id: str, user: str) -> None:
        """Stop a run; Dify says success whether or not it knows it."""
        path = stop_path(app.mode, quote(task_id, safe=""))
        await self.call(app.access, "POST", path, msgspec.json.encode({"user": user}))

    async def owns(self, app: App, user: str, conversation_id: str) -> bool:
        """Whether the conversation is this user's with this app."""
        query = urlencode({"conversation_id": conversation_id, "user": user, "limit": 1})
        try:
            await self.call(app.access, "GET", f"/messages?{query}")
        except Refused as error:
            if error.upstream_status in {HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST}:
                return False
            raise
        return True

    async def forget(self, app: App, user: str, conversation_id: str) -> None:
        """Delete a conversation; servers before 1.3.1 answer 200, newer ones 204."""
        body = msgspec.json.encode({"user": user})
        await self.call(app.access, "DELETE", f"/conversations/{quote(conversation_id, safe='')}", body)

    async def suggestions(self, app: App, user: str, message_id: str) -> list[str]:
        """What a user might ask next, as Dify's own model suggests; that costs a call of it."""
        query = urlencode({"user": user})
        body = await self.call(app.access, "GET", f"/messages/{quote(message_id, safe='')}/suggested?{query}")
        return decoded(_parse_suggestions, body).data or []

    @asynccontextmanager
    async def fetch(self, access: Access, path: str) -> AsyncIterator[RemoteFile]:
        """A file by its signed path, from where the app's API is; the app's key does not go with the request.

        At most FILE_BYTES, within FILE_SECONDS. Raises Refused where the signature does not open a file, UpstreamError.
        """
        request = Request("GET", address_of(access, path), ALWAYS)
        try:
            async with asyncio.timeout(FILE_SECONDS):
                async with asyncio.timeout(self._timeout):
                    reply = await self._wires[access.base].send(request)
                async with aclosing(reply), aclosing(patient(reply, self._timeout)) as body:
                    file = remote_file(reply.status, reply.header, body)
                    async with aclosing(file.body):
                        yield file
        except TimeoutError:
            raise UpstreamTimeout("Dify did not send the file in time.") from None

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one plain request and return the body of its answer. Raises UpstreamError."""
        return await self._exchange(access, _json_request(access, method, path, body), self._timeout)

    async def _exchange(self, access: Access, request: Request, limit: float) -> bytes:
        try:
            async with asyncio.timeout(limit), aclosing(await self._wires[access.base].send(request)) as reply:
                if is_expected(reply, JSON):
                    return await limited(reply, ANSWER_BYTES)
                raise await trouble(reply, JSON)
        except TimeoutError:
            raise UpstreamTimeout(f"Dify did not answer within {limit:g} seconds.") from None

    def run(
        self, access: Access, path: str, body: bytes | None, *, wanted: Callable[[], bool] = lambda: True
    ) -> AbstractAsyncContextManager[Reply]:
        """Start a run and yield the bytes of its event stream as they arrive; its status is already checked.

        Without a body it is the stream of a run that goes on.
        Dify sends the headers of chat runs only with the first event, so entering takes as long as that.
        Repeats the request where no run can have started (no connection, the concurrency limit, a proxy's 502-504)
        and the answer is still `wanted`.
        """
        request = _json_request(access, "GET" if body is None else "POST", path, body)
        return _Run(self._wires[access.base], self._max_connections, request, wanted)


class _Run(AbstractAsyncContextManager[Reply]):
    """A run's stream, for as long as the block lasts."""

    def __init__(self, wire: Wire, ceiling: int, request: Request, wanted: Callable[[], bool]) -> None:
        self._wire = wire
        self._ceiling = ceiling
        self._request = request
        self._wanted = wanted
        self._reply: Reply

    async def __aenter__(self) -> Reply:
        if self._wire.open_runs >= self._ceiling:
            raise Busy("All connections to Dify are in use; try again in a moment.")
        self._wire.open_runs += 1
        try:
            self._reply = await self._started()
        except BaseException:
            self._wire.open_runs -= 1
            raise
        return self._reply

    async def __aexit__(self, *failure: object) -> None:
        self._wire.open_runs -= 1
        await self._reply.aclose()

    async def _started(self) -> Reply:
        attempt = 1
        while True:
            try:
                reply = await self._wire.send(self._request)
                if is_expected(reply, EVENT_STREAM):
                    return reply
                async with aclosing(reply):
                    raise await trouble(reply, EVENT_STREAM)
            except OpenDifyError as error:
                if attempt > RETRIES or not _is_safe_to_repeat(error):
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
                if not self._wanted():
                    raise
                attempt += 1


def _json_request(access: Access, method: str, path: str, body: bytes | None) -> Request:
    if body is None:
        return _request(access, method, path, None, {})
    pieces = body if len(body) <= PIECE_BYTES else _Pieces(body)
    return _request(access, method, path, pieces, {"content-type": JSON, "content-length": str(len(body))})


def _request(
    access: Access, method: str, path: str, body: bytes | AsyncIterable[bytes] | None, headers: dict[str, str]
) -> Request:
    headers = {"authorization": f"Bearer {access.key}", **ALWAYS, **headers}
    return Request(method, access.base + path, headers, body)


class _Pieces:
    """A large body in pieces, so that other requests get their turn; it can be sent again."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            for start in range(0, len(part), PIECE_BYTES):
                yield part[start : start + PIECE_BYTES]


def _known_mode(mode: str | None) -> Mode | None:
    return mode if mode in MODES else None  # type: ignore[return-value]  # MODES holds the literals


def _is_safe_to_repeat(error: OpenDifyError) -> bool:
    """Whether the contract lets a run's request be sent again: connect errors, 429 too_many_requests, 502 to 504."""
    if isinstance(error, BrokenUpstream):
        return error.upstream_status in DOWN
    return isinstance(error, Unreachable) or error.code == "rate_limit_exceeded"
