"""HTTP to Dify: describe an app, upload, start a run, stop it. What goes wrong leaves here as an OpenDifyError."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar, get_args
from urllib.parse import quote, urlencode

import httpx
import msgspec
from msgspec import Struct

from opendify.dify import transport
from opendify.dify.apps import MEGABYTE, Access, App, Description, Info, parse_info, parse_parameters
from opendify.dify.downloads import RemoteFile, address_of, remote_file
from opendify.dify.files import Upload
from opendify.dify.modes import infer_mode
from opendify.dify.requests import stop_path
from opendify.dify.transport import Wire
from opendify.entries import Mode
from opendify.errors import (
    BrokenUpstream,
    Busy,
    OpenDifyError,
    Refused,
    StreamLost,
    Unreachable,
    UpstreamError,
    UpstreamTimeout,
)

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
ERROR_BODY_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = 8 * MEGABYTE
PIECE_BYTES: Final = 256 * 1024
RETRIES: Final = 2
BACKOFF_SECONDS: Final = 0.25
STALE_SECONDS: Final = 1.0
REACHED_SECONDS: Final = 5.0
FILE_SECONDS: Final = 600.0
MODES: Final = get_args(Mode)
DOWN: Final = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


T = TypeVar("T")


class ErrorBody(Struct):
    """Dify's error envelope, and the other shape of the 1.9 line's argument errors."""

    code: str | None = None
    message: str | None = None
    errors: dict[str, str] | None = None


class Suggestions(Struct):
    """The answer of `/messages/{id}/suggested`."""

    data: list[str] | None = None


class UploadAnswer(Struct):
    """The part of an upload's answer that a run needs."""

    id: str


_parse_error = msgspec.json.Decoder(ErrorBody).decode
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
        http2: bool = True,
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
        limit = self._timeout + len(file.data) / MEGABYTE
        request = self._wires[app.access.base].pooled.build_request(
            "POST",
            "/files/upload",
            headers=_authorization(app.access),
            data={"user": user},
            files={"file": (file.name, file.data, file.mime_type)},
        )
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
        wire = self._wires[access.base]
        try:
            async with asyncio.timeout(FILE_SECONDS):
                async with asyncio.timeout(self._timeout):
                    response = await self._send(wire, wire.pooled.build_request("GET", address_of(access, path)))
                async with aclosing(response), aclosing(_patient(_stream(response), self._timeout)) as body:
                    file = remote_file(response.status_code, response.headers, body)
                    async with aclosing(file.body):
                        yield file
        except TimeoutError:
            raise UpstreamTimeout("Dify did not send the file in time.") from None

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one plain request and return the body of its answer. Raises UpstreamError."""
        request = _request(self._wires[access.base], access, method, path, body)
        return await self._exchange(access, request, self._timeout)

    async def _exchange(self, access: Access, request: httpx.Request, limit: float) -> bytes:
        try:
            async with asyncio.timeout(limit):
                response = await self._send(self._wires[access.base], request)
                async with aclosing(response):
                    await _check(response, JSON)
                    return await _limited(response, ANSWER_BYTES)
        except TimeoutError:
            raise UpstreamTimeout(f"Dify did not answer within {limit:g} seconds.") from None

    @asynccontextmanager
    async def run(
        self, access: Access, path: str, body: bytes | None, *, wanted: Callable[[], bool] = lambda: True
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Start a run and yield the bytes of its event stream as they arrive; its status is already checked.

        Without a body it is the stream of a run that goes on.
        Dify sends the headers of chat runs only with the first event, so entering takes as long as that.
        Repeats the request where no run can have started (no connection, the concurrency limit, a proxy's 502-504)
        and the answer is still `wanted`.
        """
        wire = self._wires[access.base]
        if wire.open_runs >= self._max_connections:
            raise Busy("All connections to Dify are in use; try again in a moment.")
        wire.open_runs += 1
        try:
            response = await self._start(wire, access, path, body, wanted)
            async with aclosing(response):
                yield _stream(response)
        finally:
            wire.open_runs -= 1

    async def _start(
        self, wire: Wire, access: Access, path: str, body: bytes | None, wanted: Callable[[], bool]
    ) -> httpx.Response:
        for attempt in range(1, RETRIES + 2):
            try:
                return await self._try(wire, access, path, body)
            except OpenDifyError as error:
                if attempt > RETRIES or not _is_safe_to_repeat(error):
                    raise
                await asyncio.sleep(BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311 (jitter)
                if not wanted():
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _try(self, wire: Wire, access: Access, path: str, body: bytes | None) -> httpx.Response:
        response = await self._send(wire, _request(wire, access, "GET" if body is None else "POST", path, body))
        try:
            await _check(response, EVENT_STREAM)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _send(self, wire: Wire, request: httpx.Request) -> httpx.Response:
        """One request; once more on a fresh connection if a used one broke before any byte came back.

        Dify's own server closes idle connections after two seconds, so that a pooled one may just have died. That
        shows at once: a connection that breaks later may have started a run.
        """
        transport.forget_reuse()
        sent_at = time.monotonic()
        try:
            return await wire.pooled.send(request, stream=True)
        except transport.FAILURES as error:
            stale = transport.was_reused() and time.monotonic() - sent_at < STALE_SECONDS
            if transport.never_sent(error) or not stale:
                raise _lost(error) from error
        try:
            return await wire.fresh.send(request, stream=True)
        except transport.FAILURES as error:
            raise _lost(error) from error


def _lost(error: Exception) -> UpstreamError:
    if transport.is_untrusted(error):
        return Unreachable("Dify's certificate is not trusted: DIFY_CA_FILE can name the authority that signed it.")
    if transport.never_sent(error):
        return Unreachable("Dify cannot be reached.")
    return BrokenUpstream("Dify closed the connection without an answer.")


def _authorization(access: Access) -> dict[str, str]:
    return {"authorization": f"Bearer {access.key}"}


def _request(wire: Wire, access: Access, method: str, path: str, body: bytes | None) -> httpx.Request:
    headers = _authorization(access)
    if body is None:
        return wire.pooled.build_request(method, path, headers=headers)
    headers |= {"content-type": JSON, "content-length": str(len(body))}
    content = body if len(body) <= PIECE_BYTES else _Pieces(body)
    return wire.pooled.build_request(method, path, headers=headers, content=content)


class _Pieces:
    """A large body in pieces, so that other requests get their turn; it can be sent again."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), PIECE_BYTES):
            yield bytes(self._body[start : start + PIECE_BYTES])


def _known_mode(mode: str | None) -> Mode | None:
    return mode if mode in MODES else None  # type: ignore[return-value]  # MODES holds the literals


def _is_safe_to_repeat(error: OpenDifyError) -> bool:
    """Whether the contract lets a run's request be sent again: connect errors, 429 too_many_requests, 502 to 504."""
    if isinstance(error, BrokenUpstream):
        return error.upstream_status in DOWN
    return isinstance(error, Unreachable) or error.code == "rate_limit_exceeded"


def decoded(parse: Callable[[bytes], T], body: bytes) -> T:
    """The body of an answer as a value. Raises BrokenUpstream where it has another form."""
    try:
        return parse(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, msgspec.DecodeError) else ""  # the others would show the content
        raise BrokenUpstream(f"Dify's answer has another form than expected{reason}.") from None


async def _stream(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """What has arrived, as soon as it arrives: no fixed size, which would hold events back."""
    try:
        async for data in response.aiter_raw():
            yield data
    except transport.FAILURES as error:
        raise StreamLost("The connection to Dify broke in the middle of the answer.") from error


async def _patient(body: AsyncGenerator[bytes, None], seconds: float) -> AsyncGenerator[bytes, None]:
    """What arrives, each piece within so many seconds. Raises TimeoutError."""
    async with aclosing(body):
        while True:
            async with asyncio.timeout(seconds):
                data = await anext(body, None)
            if data is None:
                return
            yield data


async def _check(response: httpx.Response, expected: str) -> None:
    """Raise what an answer says that is not the expected success.

    Dify's own errors are JSON. HTML comes from whatever stands before it, or from its web front end.
    """
    status = response.status_code
    kind = response.headers.get("content-type", "").partition(";")[0]
    if (response.is_success and kind == expected) or (status == HTTPStatus.NO_CONTENT and expected == JSON):
        return
    if response.is_redirect:
        raise BrokenUpstream("Dify's address leads elsewhere: DIFY_API_BASE has to name the final one.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and kind != JSON:  # of a proxy before Dify
        raise Refused("Dify's server does not take a request of this size.", code="file_too_large", status=status)
    if kind != JSON or response.is_success or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"Dify answered with status {status} and {kind or 'no content type'} instead of {expected}."
        raise BrokenUpstream(message, upstream_status=status)
    raise _refusal(status, await _limited(response, ERROR_BODY_BYTES))


def _refusal(status: int, body: bytes) -> Refused:
    """The error of a JSON body; servers leave out any of its fields."""
    told = decoded(_parse_error, body)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in (told.errors or {}).items())
    code = told.code or ("invalid_param" if told.errors else "unknown")
    return Refused(reasons or told.message or "", code=code, status=status)


async def _limited(response: httpx.Response, limit: int) -> bytes:
    parts, size = [], 0
    async for data in _stream(response):
        size += len(data)
        if size > limit:
            raise BrokenUpstream(f"Dify's answer is larger than {limit} bytes.")
        parts.append(data)
    return b"".join(parts)
