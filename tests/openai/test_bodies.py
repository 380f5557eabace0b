"""Request bodies -> Structs, in bounded time."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from opendify.errors import InvalidRequest
from opendify.openai import bodies
from opendify.openai.bodies import decoder, read_body


class Thing(msgspec.Struct):
    name: str
    parts: list[Any] = []


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b'{"name": 5}', "name", "name: Expected `str`, got `int`."),
        (b'{"name": "x", "parts": 5}', "parts", "parts: Expected `array`, got `int`."),
        (b"{}", None, "missing required field `name`"),
        (b"", None, "truncated"),
        (b'{"name": "\xff"}', None, "The request body is not UTF-8."),
        (
            b'{"name": "x", "parts": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
            None,
            "The request body is nested too deeply.",
        ),
    ],
    ids=range(6),
)
def test_what_does_not_decode(body: bytes, param: str | None, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decoder(Thing)(body)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert said in caught.value.message
    assert caught.value.__suppress_context__  # no traceback shows the body


def test_what_decodes() -> None:
    assert decoder(Thing)(b'{"name": "x", "more": 1}') == Thing("x")


def arriving(body: bytes | None) -> Any:
    """A request whose body arrives at once, or never."""

    async def read() -> bytes:
        if body is None:
            await asyncio.Event().wait()
        return body or b""

    return SimpleNamespace(body=read)


async def test_a_body_that_arrives() -> None:
    assert await read_body(arriving(b"{}")) == b"{}"


async def test_a_body_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.01)
    with pytest.raises(InvalidRequest, match="did not arrive in time") as caught:
        await read_body(arriving(None))
    assert (caught.value.status, caught.value.code) == (408, "request_timeout")
