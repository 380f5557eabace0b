"""The floor: what the same parts cost without OpenDify.

A bare ASGI app on uvicorn, an aiohttp client and the smallest conversion that a client would not notice: no keys, no
routes, no validation, no errors. What OpenDify takes beyond it is OpenDify's own.
"""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import aiohttp
import msgspec
import uvicorn
from msgspec import Struct

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream; charset=utf-8"


class Message(Struct):
    """What a client says."""

    content: str


class ChatRequest(Struct):
    """What a client asks."""

    messages: list[Message]
    stream: bool = False


class Usage(Struct):
    """The tokens of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Metadata(Struct):
    """What Dify says about an answer."""

    usage: Usage | None = None


class Event(Struct):
    """A piece of Dify's stream, or its whole answer."""

    event: str
    answer: str = ""
    message_id: str = ""
    metadata: Metadata | None = None


encode = msgspec.json.encode
decode_request = msgspec.json.Decoder(ChatRequest).decode
decode_event = msgspec.json.Decoder(Event).decode


class Floor:
    """The ASGI app."""

    def __init__(self, base: str, key: str) -> None:
        self._url = f"{base}/chat-messages"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["path"] == "/v1/chat/completions" and self._session:
            await self._answer(self._session, receive, send)
        else:
            await _reply(send, 404, b"{}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=120),
        ) as self._session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, session: aiohttp.ClientSession, receive: Receive, send: Send) -> None:
        asked = decode_request(await _body(receive))
        run = {
            "inputs": {},
            "query": asked.messages[-1].content,
            "response_mode": "streaming" if asked.stream else "blocking",
            "user": "bench",
        }
        async with session.post(self._url, data=encode(run)) as response:
            if response.status != 200:
                await _reply(send, response.status, await response.read())
            elif asked.stream:
                await _stream(send, response.content)
            else:
                await _reply(send, 200, _completion(decode_event(await response.read())))


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def _reply(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _completion(answer: Event) -> bytes:
    message = {"role": "assistant", "content": answer.answer}
    return encode(
        {
            "id": f"chatcmpl-{answer.message_id}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "bench",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": answer.metadata.usage if answer.metadata else None,
        }
    )


async def _stream(send: Send, content: aiohttp.StreamReader) -> None:
    head = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": int(time.time()), "model": "bench"}
    before = b'data: %b,"choices":[{"index":0,"delta":' % encode(head)[:-1]
    headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    rest = b""
    async for data in content.iter_any():
        *frames, rest = (rest + data).split(b"\n\n")
        if chunks := b"".join(_chunk(decode_event(frame[6:]), before) for frame in frames):
            await send({"type": "http.response.body", "body": chunks, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _chunk(event: Event, before: bytes) -> bytes:
    if event.event == "message" and event.answer:
        return b'%b{"content":%b},"finish_reason":null}]}\n\n' % (before, encode(event.answer))
    if event.event == "message_end":
        return before + b'{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    return b""


if __name__ == "__main__":
    uvicorn.run(
        Floor(os.environ["DIFY_API_BASE"], os.environ["DIFY_API_KEYS"]),
        port=int(os.environ["SERVER_PORT"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
