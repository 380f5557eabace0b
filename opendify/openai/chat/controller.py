"""POST /v1/chat/completions."""

from typing import Any

from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from opendify.exchange import Exchange
from opendify.file_links import request_base
from opendify.openai.bodies import read_body
from opendify.openai.chat.fold import ChatFold
from opendify.openai.chat.prompt import prompt_of
from opendify.openai.chat.schema import ChatRequest, Completion, decode_request
from opendify.openai.chat.writer import ChatStream
from opendify.openai.delivery import Folding, Streaming
from opendify.openapi import operation


class ChatController(Controller):
    """Chat completions over every kind of Dify app."""

    path = "/v1/chat/completions"
    tags = ("Chat",)

    @post(
        summary="Create a chat completion, streamed or whole",
        status_code=200,
        operation_class=operation(ChatRequest, Completion),
    )
    async def create(self, request: Request[Any, Any, Any], exchange: NamedDependency[Exchange]) -> ASGIApp:
        """Answer with chunks (`stream: true`) or with one completion."""
        body = decode_request(await read_body(request))
        body.check()
        base = request_base(request.scope["scheme"], request.headers.get("host", ""))
        prompt = prompt_of(body)
        state = request.scope["state"]
        answer = state["answer"] = exchange.answer(prompt, state["caller"], base)
        legacy = bool(prompt.tools and prompt.tools.legacy)
        if not body.stream:
            return await Folding(answer, ChatFold(body.model, body.stops(), legacy=legacy), request.receive).response()
        usage = bool(body.stream_options and body.stream_options.include_usage)
        writer = ChatStream(body.model, body.stops(), include_usage=usage, legacy=legacy)
        return await Streaming(answer, writer, request.receive).response()
