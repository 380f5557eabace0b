"""Every failure -> status, type, code, headers and one JSON body."""

import json
from typing import Any

import msgspec
import pytest
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ServiceUnavailableException,
)

from opendify import errors
from opendify.dialogue import Failed
from opendify.error_answers import from_exception, from_validation
from opendify.error_texts import MAX_MESSAGE, clean
from opendify.errors import (
    BrokenUpstream,
    Busy,
    ClientGone,
    InvalidKey,
    InvalidRequest,
    ModelNotFound,
    OpenDifyError,
    Refused,
    RequestTooLarge,
    ShutDown,
    Unreachable,
    UpstreamTimeout,
    from_failed,
)

INVALID = "invalid_request_error"


def told(error: OpenDifyError) -> dict[str, Any]:
    """The error as an OpenAI client reads it."""
    body = json.loads(error.body())
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


# -- Dify's own errors


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (401, "unauthorized", (502, "api_error", "upstream_auth_failed", "false", None)),
        (403, "forbidden", (502, "api_error", "upstream_auth_failed", "false", None)),
        (400, "invalid_param", (400, INVALID, "invalid_param", "false", None)),
        (400, "bad_request", (400, INVALID, "bad_request", "false", None)),
        (400, "app_unavailable", (400, INVALID, "app_unavailable", "false", None)),
        (400, "not_chat_app", (400, INVALID, "not_chat_app", "false", None)),
        (400, "not_workflow_app", (400, INVALID, "not_workflow_app", "false", None)),
        (400, "agent_not_published", (400, INVALID, "agent_not_published", "false", None)),
        (400, "provider_not_initialize", (400, INVALID, "provider_not_initialize", "false", None)),
        (400, "model_currently_not_support", (400, INVALID, "model_currently_not_support", "false", None)),
        (400, "conversation_completed", (400, INVALID, "conversation_completed", "false", None)),
        (400, "something_of_tomorrow", (400, INVALID, "something_of_tomorrow", "false", None)),
        (400, "provider_quota_exceeded", (429, "insufficient_quota", "insufficient_quota", "false", None)),
        (429, "rate_limit_error", (429, "insufficient_quota", "insufficient_quota", "false", None)),
        (429, "too_many_requests", (429, "rate_limit_error", "rate_limit_exceeded", "true", "1")),
        (429, "unknown", (429, INVALID, "unknown", "false", None)),
        (400, "completion_request_error", (502, "api_error", "completion_request_error", "false", None)),
        (404, "not_found", (404, INVALID, "not_found", "false", None)),
        (405, "method_not_allowed", (400, INVALID, "method_not_allowed", "false", None)),
        (413, "file_too_large", (413, INVALID, "file_too_large", "false", None)),
        (415, "unsupported_file_type", (400, INVALID, "unsupported_file_type", "false", None)),
        (412, "human_input_form_expired", (400, INVALID, "human_input_form_expired", "false", None)),
        (500, "internal_server_error", (502, "api_error", "upstream_error", "false", None)),
        (500, "run_failed", (502, "api_error", "run_failed", "false", None)),
        (502, "plugin_runtime_error", (502, "api_error", "upstream_error", "false", None)),
        (503, "unknown", (502, "api_error", "upstream_error", "false", None)),
    ],
)
def test_refusals(status: int, code: str, expected: tuple[object, ...]) -> None:
    error = Refused("The reason.", code=code, status=status)
    body, headers = told(error), dict(error.headers())
    seen = (error.status, body["type"], body["code"], headers.get("x-should-retry"), headers.get("retry-after"))
    assert seen == expected
    assert (error.upstream_code, error.upstream_status) == (code, status)
    assert isinstance(error.status, int)
    if expected[2] != "upstream_auth_failed":
        assert body["message"] == "The reason."


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (429, "too_many_requests", "Too many requests. Please try again later."),
        (400, "invalid_param", ("Too many requests. Please try again later. The current maximum concurrent requests "
                               "allowed for 61d17016-6f70-41d0 is 2.")),
    ],
)  # fmt: skip
def test_both_shapes_of_the_concurrency_limit(status: int, code: str, message: str) -> None:
    error = Refused(message, code=code, status=status)
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert error.headers() == [("x-should-retry", "true"), ("retry-after", "1")]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "invalid_param", "query is required: Too many requests for it"),
        (400, "bad_request", "Too many requests. Please try again later."),
        (404, "invalid_param", "Too many requests. Please try again later."),
    ],
)
def test_what_only_looks_like_the_concurrency_limit(status: int, code: str, message: str) -> None:
    assert Refused(message, code=code, status=status).code == code


def test_a_bad_dify_key_is_not_the_callers_business() -> None:
    error = Refused("Access token app-0123456789abcdef is invalid", code="unauthorized", status=401)
    assert "app-" not in error.message
    assert "token" not in error.message


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (Failed(code="completion_request_error", message="no", status=400), (502, "completion_request_error")),
        (Failed(code="run_failed", message="no", status=500), (502, "run_failed")),
        (Failed(code="rate_limit_error", message="no", status=429), (429, "rate_limit_exceeded")),
        (Failed(code="too_many_requests", message="no", status=429), (429, "rate_limit_exceeded")),
        (Failed(code="invalid_param", message="Too many requests.", status=400), (429, "rate_limit_exceeded")),
        (Failed(code="invalid_param", message="topic is required", status=400), (400, "invalid_param")),
        (Failed(code="internal_server_error", message="no", status=500), (502, "upstream_error")),
    ],
)
def test_a_run_that_failed_is_never_sent_again(failed: Failed, expected: tuple[int, str]) -> None:
    error = from_failed(failed)
    assert (error.status, error.code) == expected
    assert (error.type == "rate_limit_error") == (error.code == "rate_limit_exceeded")
    assert error.headers() == [("x-should-retry", "false")]


# -- our own


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest("no", param="n"), (400, INVALID, "invalid_request", "n", [])),
        (InvalidRequest("no", code="other"), (400, INVALID, "other", None, [])),
        (InvalidKey("no"), (401, INVALID, "invalid_api_key", None, [("www-authenticate", "Bearer")])),
        (ModelNotFound("no", param="model"), (404, INVALID, "model_not_found", "model", [])),
        (RequestTooLarge("no"), (413, INVALID, "request_too_large", None, [])),
        (ClientGone("no"), (499, "api_error", "client_gone", None, [])),
        (Busy("no"), (503, "api_error", "overloaded", None, [("x-should-retry", "true"), ("retry-after", "2")])),
        (Unreachable("no"), (503, "api_error", "upstream_unreachable", None, [("x-should-retry", "true")])),
        (UpstreamTimeout("no"), (504, "api_error", "upstream_timeout", None, [("x-should-retry", "false")])),
        (BrokenUpstream("no"), (502, "api_error", "upstream_error", None, [("x-should-retry", "false")])),
        (OpenDifyError("no"), (500, "api_error", "internal_error", None, [])),
    ],
)
def test_our_errors(error: OpenDifyError, expected: tuple[object, ...]) -> None:
    body = told(error)
    assert (error.status, body["type"], body["code"], body["param"], error.headers()) == expected
    assert body["message"] == str(error) == "no"


@pytest.mark.parametrize(("started", "again"), [(True, "false"), (False, "true")])
def test_a_run_that_a_shutdown_ended_is_not_sent_again(started: bool, again: str) -> None:
    error = ShutDown(started=started)
    assert (error.status, error.code, error.headers()) == (503, "shut_down", [("x-should-retry", again)])
    assert "shut down" in error.message


def test_a_broken_upstream_keeps_its_status_for_whoever_repeats() -> None:
    assert BrokenUpstream("no", upstream_status=502).upstream_status == 502
    assert BrokenUpstream("no").upstream_status is None


# -- Dify's messages


TRACEBACK = 'Traceback (most recent call last):\n  File "/app/api/core/x.py", line 14, in <module>\n    raise\n'


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("query is required", "query is required"),
        ("  spaces \n", "spaces"),
        ("", "Dify gave no reason."),
        (f"Run failed: {TRACEBACK}ValueError: boom from code node\n", "Run failed: ValueError: boom from code node"),
        (
            f"{TRACEBACK}KeyError: 'a'\n\nDuring handling, another exception occurred:\n\n{TRACEBACK}ValueError: boom",
            "ValueError: boom",
        ),
        (
            (
                "Conversation Not Exists. You have requested this URI [/v1/chat-messages] but did you mean "
                "/v1/chat-messages or /api/chat-messages ?"
            ),
            "Conversation Not Exists.",
        ),
        (
            (
                "1 validation error for ChatRequestPayload\ninputs\n  Field required [type=missing]\n"
                "    For further information visit https://errors.pydantic.dev/2.11/v/missing"
            ),
            "1 validation error for ChatRequestPayload\ninputs\n  Field required [type=missing]",
        ),
        (
            "Reached maximum retries (3) for URL http://10.0.0.5:5001/files/a.png?sign=secret",
            "Reached maximum retries (3) for URL (address)",
        ),
        ("see 'https://internal.example.com/x', then go on", "see '(address)', then go on"),
        (
            "Failed to request plugin daemon, url: plugin/5f9ca8c9-1952-40d3-be90/management/models",
            "Failed to request plugin daemon, url: (address)",
        ),
        ("req_id: 0a1b2c PluginInvokeError: no credit", "PluginInvokeError: no credit"),
        (
            "Client error '400' for url 'x'\nFor more information check: https://httpstatuses.com/400",
            "Client error '400' for url 'x'",
        ),
        ("The run failed (agent_run_id=5f9c-12)", "The run failed"),
        ("key app-Abc_123-xyz of sk-proj-0123456789 and dataset-0123456789", "key (key) of (key) and (key)"),
        ("the app-name is short, sk-12 too", "the app-name is short, sk-12 too"),
        ("x" * MAX_MESSAGE, "x" * MAX_MESSAGE),
        ("x" * (MAX_MESSAGE + 1), "x" * MAX_MESSAGE + "..."),
        ("汉字 stay", "汉字 stay"),
    ],
)
def test_clean(message: str, expected: str) -> None:
    assert clean(message) == expected
    if expected != "Dify gave no reason.":
        assert Refused(message, code="invalid_param", status=400).message == expected


@pytest.mark.parametrize("message", [f"Run failed: {TRACEBACK}", TRACEBACK.rstrip()])
def test_a_traceback_that_is_cut_off_is_taken_out_too(message: str) -> None:
    assert "/app/api" not in clean(message)


def test_of_a_cut_traceback_nothing_is_left() -> None:
    cut = 'Run failed: Traceback (most recent call last):\n  File "/app/x.py", line 3\n    raise Boom(secret)\n'
    assert clean(cut) == "Run failed:"


def test_words_that_only_look_like_keys_stay() -> None:
    text = "The app-specific setting of sk-learn is missing."
    assert clean(text) == text


def test_no_secret_gets_out_in_a_body() -> None:
    error = Refused("bad key sk-verysecret123 at http://me:pw@internal", code="completion_request_error", status=400)
    assert b"verysecret" not in error.body()
    assert b"internal" not in error.body()


# -- other people's exceptions


class Thing(msgspec.Struct):
    name: str
    parts: list[int] = []


@pytest.mark.parametrize(
    ("data", "param", "said"),
    [
        (b'{"name": 5}', "name", "name: Expected `str`, got `int`."),
        (b'{"name": "x", "parts": [1, "2"]}', "parts[1]", "parts[1]: Expected `int`, got `str`."),
        (b"{}", None, "missing required field `name`"),
        (b"[]", None, "Expected `object`, got `array`"),
        (b"", None, "truncated"),
        (b"not json", None, "malformed"),
    ],
)
def test_a_body_that_does_not_decode(data: bytes, param: str | None, said: str) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        msgspec.json.decode(data, type=Thing)
    error = from_validation(caught.value)
    assert (error.status, error.type, error.code, error.param) == (400, INVALID, "invalid_request", param)
    assert said in error.message
    assert "$" not in error.message
    if param is None:
        assert error.message.startswith("The request body is not what this endpoint takes: ")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundException(), (404, INVALID, "not_found", "There is no such path here.")),
        (MethodNotAllowedException(), (405, INVALID, "method_not_allowed", "This path does not take this method.")),
        (HTTPException(status_code=413, detail="big"), (413, INVALID, "request_too_large", None)),
        (HTTPException(status_code=400, detail="Odd header."), (400, INVALID, "invalid_request", "Odd header.")),
        (ServiceUnavailableException(detail="in /srv/x.py"), (503, "api_error", "internal_error", None)),
        (ValueError("secret text"), (500, "api_error", "internal_error", None)),
    ],
)
def test_what_litestar_and_our_own_faults_become(error: Exception, expected: tuple[object, ...]) -> None:
    result = from_exception(error)
    assert (result.status, result.type, result.code) == expected[:3]
    assert expected[3] in {None, result.message}
    assert "secret" not in result.message
    assert "/srv" not in result.message
    assert result.message.endswith(".")


def test_our_own_errors_stay_what_they_are() -> None:
    error = Busy("later")
    assert from_exception(error) is error


def test_the_tree_at_the_top_of_the_file_is_whole() -> None:
    drawn = errors.__doc__ or ""
    for kind in (*OpenDifyError.__subclasses__(), *errors.UpstreamError.__subclasses__()):
        assert kind.__name__ in drawn
