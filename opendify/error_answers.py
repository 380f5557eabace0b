"""Other people's exceptions as errors that clients are told: msgspec's, Litestar's, and the unexpected."""

import re
from http import HTTPStatus

import msgspec
from litestar.exceptions import HTTPException

from opendify.errors import InvalidRequest, OpenDifyError

_AT = re.compile(r" - at `(?:\$\.?)?(?P<param>[^`]*)`$")
_LITESTAR = {
    HTTPStatus.NOT_FOUND: ("not_found", "There is no such path here."),
    HTTPStatus.METHOD_NOT_ALLOWED: ("method_not_allowed", "This path does not take this method."),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        "request_too_large",
        "The request body is larger than this server takes.",
    ),
}


def from_validation(error: msgspec.DecodeError) -> InvalidRequest:
    """A body that does not decode: msgspec says where, as in "Expected `str`, got `int` - at `$.model`"."""
    text = str(error)
    place = _AT.search(text)
    param = place["param"] if place else None
    message = text[: place.start()] if place else text
    if param:
        return InvalidRequest(f"{param}: {message}.", param=param)
    return InvalidRequest(f"The request body is not what this endpoint takes: {message}.")


def from_http(error: HTTPException) -> OpenDifyError:
    """What Litestar itself refused: an unknown path, a wrong method, a body over the limit."""
    known = _LITESTAR.get(HTTPStatus(error.status_code))
    told = InvalidRequest if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else OpenDifyError
    code, message = known or (None, error.detail if told is InvalidRequest else "Something went wrong here.")
    result = told(message, code=code)
    result.status = error.status_code
    return result


def from_exception(error: Exception) -> OpenDifyError:
    """Any exception as the error that the client is told; the unexpected ones without their text."""
    match error:
        case OpenDifyError():
            return error
        case HTTPException():
            return from_http(error)
        case _:
            return OpenDifyError("Something went wrong here; the server's log has the details.")
