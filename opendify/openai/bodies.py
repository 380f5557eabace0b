"""Request bodies -> their Structs, and what is wrong with those that are none."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from opendify.error_answers import from_validation
from opendify.errors import ClientGone, InvalidRequest

T = TypeVar("T")
BODY_SECONDS = 120.0


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body, in bounded time. Raises InvalidRequest (408) for a client that sends too slowly, or ClientGone."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.body()
    except InternalServerException:  # Litestar's word for a client that leaves in the middle of its request
        raise ClientGone("The client closed the connection before its request was complete.") from None
    except TimeoutError:
        error = InvalidRequest("The request body did not arrive in time.", code="request_timeout")
        error.status = HTTPStatus.REQUEST_TIMEOUT
        raise error from None


def decoder(schema: type[T]) -> Callable[[bytes], T]:
    """What decodes a body of this schema, made once. It raises InvalidRequest naming the field that does not fit."""
    decode = msgspec.json.Decoder(schema).decode

    def read(body: bytes) -> T:
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise from_validation(error) from None
        except UnicodeDecodeError:
            raise InvalidRequest("The request body is not UTF-8.") from None
        except RecursionError:
            raise InvalidRequest("The request body is nested too deeply.") from None

    return read
