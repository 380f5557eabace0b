"""What Dify's replies become: the bodies and values that were expected, or an UpstreamError."""

from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from opendify.dify.apps import MEGABYTE
from opendify.dify.lines import Reply
from opendify.errors import BrokenUpstream, Refused, UpstreamError

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"
ERROR_BODY_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = 8 * MEGABYTE

T = TypeVar("T")


class ErrorBody(Struct):
    """Dify's error envelope, and the other shape of the 1.9 line's argument errors."""

    code: str | None = None
    message: str | None = None
    errors: dict[str, str] | None = None


_parse_error = msgspec.json.Decoder(ErrorBody).decode


def is_expected(reply: Reply, expected: str) -> bool:
    """Whether it is a success with a body of this type; one without a body is as good as JSON."""
    status = reply.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES and _type(reply) == expected:
        return True
    return status == HTTPStatus.NO_CONTENT and expected == JSON


async def trouble(reply: Reply, expected: str) -> UpstreamError:
    """What a reply says that is not the expected success. Raises UpstreamError where it says nothing.

    Dify's own errors are JSON. HTML comes from whatever stands before it, or from its web front end.
    """
    status, kind = reply.status, _type(reply)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return BrokenUpstream("Dify's address leads elsewhere: DIFY_API_BASE has to name the final one.")
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and kind != JSON:  # of a proxy before Dify
        return Refused("Dify's server does not take a request of this size.", code="file_too_large", status=status)
    if kind != JSON or not HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"Dify answered with status {status} and {kind or 'no content type'} instead of {expected}."
        return BrokenUpstream(message, upstream_status=status)
    return _refusal(status, await limited(reply, ERROR_BODY_BYTES))


def decoded(parse: Callable[[bytes], T], body: bytes) -> T:
    """The body of an answer as a value. Raises BrokenUpstream where it has another form."""
    try:
        return parse(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f": {error}" if isinstance(error, msgspec.DecodeError) else ""  # the others would show the content
        raise BrokenUpstream(f"Dify's answer has another form than expected{reason}.") from None


async def limited(body: AsyncIterator[bytes], limit: int) -> bytes:
    """The whole of a body. Raises BrokenUpstream where it has more bytes than that."""
    parts, size = [], 0
    async for data in body:
        size += len(data)
        if size > limit:
            raise BrokenUpstream(f"Dify's answer is larger than {limit} bytes.")
        parts.append(data)
    return b"".join(parts)


def _type(reply: Reply) -> str:
    return reply.header("content-type").partition(";")[0].strip().lower()


def _refusal(status: int, body: bytes) -> Refused:
    """The error of a JSON body; servers leave out any of its fields."""
    told = decoded(_parse_error, body)
    reasons = "; ".join(f"{name}: {reason}" for name, reason in (told.errors or {}).items())
    code = told.code or ("invalid_param" if told.errors else "unknown")
    return Refused(reasons or told.message or "", code=code, status=status)
