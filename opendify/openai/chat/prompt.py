"""A chat request -> the Prompt: the same question without OpenAI's vocabulary."""

from collections.abc import Iterator
from typing import Any, Final

from opendify.dialogue import Attachment, Media, Prompt, Role, ToolCall, Tools, Turn
from opendify.errors import InvalidRequest
from opendify.openai.chat.schema import (
    AudioPart,
    ChatRequest,
    FileData,
    FilePart,
    ImagePart,
    Message,
    RefusalPart,
    TextPart,
)
from opendify.openai.chat.tools import format_of, tools_of

ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def prompt_of(request: ChatRequest) -> Prompt:
    """What is asked. Raises InvalidRequest naming the part that does not fit."""
    names = {call.id: call.name for message in request.messages for call in _calls(message) if call.id}
    return Prompt(
        model=request.model,
        turns=tuple(_turn(message, f"messages[{place}]", names) for place, message in enumerate(request.messages)),
        user=_user(request.user),
        conversation_id=request.conversation_id or None,
        tools=_tools(request),
        format=format_of(request.response_format, checked=not request.stream),
        variables=request.inputs or {},
        metadata=request.metadata or {},
    )


def _user(user: str | dict[str, Any] | int | None) -> str | None:
    """Open WebUI's pipelines send an object."""
    if isinstance(user, dict):
        names = (user.get(key) for key in ("id", "email", "name"))
        user = next((name for name in names if name and isinstance(name, str | int) and name is not True), None)
    return None if user is None or user == "" else str(user)


def _turn(message: Message, param: str, names: dict[str, str]) -> Turn:
    texts: list[str] = []
    attachments: list[Attachment] = []
    parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content or []
    for place, part in enumerate(parts):
        match part:
            case TextPart(text=text) | RefusalPart(refusal=text):
                texts.append(text)
            case _:
                attachments.append(_attachment(part, f"{param}.content[{place}]"))
    return Turn(
        role=ROLES[message.role],
        text="\n".join(texts),
        attachments=tuple(attachments),
        calls=tuple(_calls(message)),
        name=message.name or names.get(message.tool_call_id or ""),
        call_id=message.tool_call_id or None,
    )


def _calls(message: Message) -> Iterator[ToolCall]:
    for call in message.tool_calls or ():
        if call.function:
            yield ToolCall(call.id, call.function.name, call.function.arguments)
    if message.function_call:
        yield ToolCall("", message.function_call.name, message.function_call.arguments)


def _tools(request: ChatRequest) -> Tools | None:
    return tools_of(
        request.tools, request.tool_choice, request.parallel_tool_calls, request.functions, request.function_call
    )


def _attachment(part: ImagePart | AudioPart | FilePart, param: str) -> Attachment:
    match part:
        case ImagePart(image_url=image):
            url = image if isinstance(image, str) else image.url
            return _from_url(url, "image", f"{param}.image_url")
        case AudioPart(input_audio=audio):
            name = f"audio.{audio.format}"
            return Attachment(media="audio", param=f"{param}.input_audio", base64=audio.data, name=name)
        case FilePart(file=file):
            return _from_file(file, f"{param}.file")


def _from_file(file: FileData, param: str) -> Attachment:
    if file.file_id:
        return Attachment(media="file", param=f"{param}.file_id", file_id=file.file_id)
    if file.file_data is None:
        raise InvalidRequest("A file needs file_data or file_id.", param=param)
    if file.file_data.startswith(("data:", "http://", "https://")):
        return _from_url(file.file_data, "file", f"{param}.file_data", file.filename)
    return Attachment(media="file", param=f"{param}.file_data", base64=file.file_data, name=file.filename)


def _from_url(url: str, media: Media, param: str, name: str | None = None) -> Attachment:
    """A link goes to Dify as it is, we never fetch it; the data of a data: URL is uploaded."""
    if url.startswith(("http://", "https://")):
        return Attachment(media=media, param=param, url=url, name=name)
    head, comma, data = url.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        raise InvalidRequest("Expected an http(s) address or a base64 data: URL.", param=param)
    mime_type = head[len("data:") : -len(";base64")]
    return Attachment(media=media, param=param, base64=data, name=name, mime_type=mime_type)
