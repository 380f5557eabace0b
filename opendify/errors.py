"""Every failure, and the one way it is told to clients.

OpenDifyError
 |- InvalidRequest        400  the request does not fit; `param` names the field
 |- InvalidKey            401  no client key, or an unknown one
 |   `- InvalidUserToken      Open WebUI's token of its user does not verify
 |- ModelNotFound         404
 |- ConversationNotFound  404  no such Dify conversation, or somebody else's
 |- FileNotFound          404  no such file sent ahead, or somebody else's
 |- NoSuchLink            404  a link to a file that is none of ours, or whose file Dify has no more
 |- LinkExpired           410  its time is over, or Dify's own and Dify does not sign it anew
 |- ConversationBusy      409  another turn of it is under way
 |- RequestTooLarge       413
 |- ClientGone            499  nobody is there to be told
 |- Busy                  503  we drain, or every connection to this Dify is in use
 |- ShutDown              503  the server ended in the middle of the answer
 `- UpstreamError              Dify, or the way to it
     |- Unreachable       503  no connection, so no run can have started
     |- UpstreamTimeout   504  silent for too long
     |- BrokenUpstream    502  an answer that is not Dify's, or that ends early
     `- Refused                Dify's own error; its code decides the status

Bodies have OpenAI's shape. openai-python obeys `x-should-retry` before anything else: a run costs money and may
have side effects, so once one may have started the client is told not to send it again.
"""

from http import HTTPStatus

import msgspec

from opendify.dialogue import Failed
from opendify.error_texts import clean


class OpenDifyError(Exception):
    """A failure as a client sees it; `retry_after` in seconds."""

    status: int = 500
    type: str = "api_error"
    code: str = "internal_error"
    should_retry: bool | None = None
    retry_after: int | None = None

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code

    def headers(self) -> list[tuple[str, str]]:
        """What tells a client whether to try again, and when."""
        headers = []
        if self.should_retry is not None:
            headers.append(("x-should-retry", "true" if self.should_retry else "false"))
        if self.retry_after is not None:
            headers.append(("retry-after", str(self.retry_after)))
        return headers

    def body(self) -> bytes:
        """The JSON object every OpenAI client expects, as an answer of its own or as a frame of a stream."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class InvalidRequest(OpenDifyError):
    """The request does not fit; `param` names the field."""

    status: int = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    code = "invalid_request"


class InvalidKey(OpenDifyError):
    """No client key, or one that we do not know."""

    status: int = HTTPStatus.UNAUTHORIZED
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> list[tuple[str, str]]:
        """How to authenticate, which HTTP asks for with a 401."""
        return [*super().headers(), ("www-authenticate", "Bearer")]


class InvalidUserToken(InvalidKey):
    """A token that says who the end user is, and does not verify."""

    code = "invalid_user_token"

    def __init__(self) -> None:
        super().__init__("The token in X-OpenWebUI-User-Jwt is expired or not signed with this server's secret.")


class ConversationNotFound(OpenDifyError):
    """No such conversation at Dify, or none of this key's and user's."""

    status: int = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    code = "conversation_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such conversation of this user with this model.", param="conversation_id")


class FileNotFound(OpenDifyError):
    """No such file sent ahead, or none of this key's and user's."""

    status: int = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    code = "file_not_found"

    def __init__(self, param: str = "id") -> None:
        super().__init__("There is no such file of this key and user.", param=param)


class NoSuchLink(OpenDifyError):
    """A link to a file that we did not make, or not for an app that is served; or Dify does not have the file."""

    status: int = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    code = "file_not_found"

    def __init__(self, message: str = "This link to a file is not complete, or not one of this server.") -> None:
        super().__init__(message)


class LinkExpired(OpenDifyError):
    """A link to a file whose time is over."""

    status: int = HTTPStatus.GONE
    type = "invalid_request_error"
    code = "file_expired"

    def __init__(self, message: str = "The time of this link to a file is over.") -> None:
        super().__init__(message)


class ConversationBusy(OpenDifyError):
    """Another turn of the conversation is under way, and there is no history to begin another one with."""

    status: int = HTTPStatus.CONFLICT
    type = "invalid_request_error"
    code = "conversation_busy"
    should_retry = True
    retry_after = 1

    def __init__(self) -> None:
        super().__init__("Another turn of this conversation is still under way.", param="conversation_id")


class ModelNotFound(OpenDifyError):
    """No app answers to this name, or not for this caller."""

    status: int = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    code = "model_not_found"


class RequestTooLarge(OpenDifyError):
    """A body or a file over its limit."""

    status: int = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    type = "invalid_request_error"
    code = "request_too_large"


class ClientGone(OpenDifyError):
    """The client closed the connection; for the log only. 499 is nginx's number for it."""

    status = 499
    code = "client_gone"


class Busy(OpenDifyError):
    """We refuse now, and would not a little later."""

    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    code = "overloaded"
    should_retry = True
    retry_after: int | None = 2


class ShutDown(OpenDifyError):
    """The server ended before the answer did. One that had started is not to be sent again."""

    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    code = "shut_down"

    def __init__(self, *, started: bool) -> None:
        super().__init__("The server was shut down before the answer was complete.")
        self.should_retry = not started


class UpstreamError(OpenDifyError):
    """Dify failed, or the way to it."""

    status: int = HTTPStatus.BAD_GATEWAY
    code = "upstream_error"
    should_retry = False


class Unreachable(UpstreamError):
    """No connection to Dify: no run can have started."""

    status: int = HTTPStatus.SERVICE_UNAVAILABLE
    code = "upstream_unreachable"
    should_retry = True


class UpstreamTimeout(UpstreamError):
    """Dify was silent for too long, or the run took too long."""

    status: int = HTTPStatus.GATEWAY_TIMEOUT
    code = "upstream_timeout"


class BrokenUpstream(UpstreamError):
    """What came is not Dify's protocol, or ended before its end."""

    def __init__(self, message: str, *, upstream_status: int | None = None) -> None:
        super().__init__(message)
        self.upstream_status = upstream_status


class StreamLost(BrokenUpstream):
    """The stream of a run that was under way ended before its end."""


class Refused(UpstreamError):
    """Dify's own error. Status, type and code follow from Dify's code and status.

    `in_stream`: it was told by a run that had begun.
    """

    in_stream = False

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(clean(message), code=code)
        self.upstream_code = code
        self.upstream_status = status
        if _is_concurrency_limit(code, status, message):
            self._become(HTTPStatus.TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded")
            self.should_retry, self.retry_after = True, 1
        elif status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            self._become(HTTPStatus.BAD_GATEWAY, "api_error", "upstream_auth_failed")
            self.message = "Dify refused the key of this app; whoever runs this gateway can mend that."
        elif code in {"provider_quota_exceeded", "rate_limit_error"}:
            self._become(HTTPStatus.TOO_MANY_REQUESTS, "insufficient_quota", "insufficient_quota")
        elif code == "completion_request_error" or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._become(HTTPStatus.BAD_GATEWAY, "api_error", _code_of_failure(code))
        elif status in {
            HTTPStatus.NOT_FOUND,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.TOO_MANY_REQUESTS,
        }:
            self._become(status, "invalid_request_error", code)
        else:
            self._become(HTTPStatus.BAD_REQUEST, "invalid_request_error", code)

    def _become(self, status: int, kind: str, code: str) -> None:
        self.status, self.type, self.code = int(status), kind, code


def _is_concurrency_limit(code: str, status: int, message: str) -> bool:
    """The app's limit of simultaneous requests: documented as 429, recorded as 400 `invalid_param`."""
    return code == "too_many_requests" or (
        status == HTTPStatus.BAD_REQUEST and code == "invalid_param" and message.startswith("Too many requests")
    )


def _code_of_failure(code: str) -> str:
    return code if code in {"completion_request_error", "run_failed"} else UpstreamError.code


def from_failed(failed: Failed) -> Refused:
    """The error of a run that failed inside its stream: it has started, so it is never repeated."""
    error = Refused(failed.message, code=failed.code, status=failed.status)
    if failed.code == "rate_limit_error":  # inside a stream this is the model provider's limit, not Dify's quota
        error.type, error.code = "rate_limit_error", "rate_limit_exceeded"
    error.should_retry, error.retry_after = False, None
    error.in_stream = True
    return error
