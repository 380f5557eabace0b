"""The OpenAPI document at /schema, and a page for it that loads nothing from elsewhere."""

from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

import msgspec
from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from opendify import __version__

REF = "#/components/schemas/{name}"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{background:#8881;padding:.1em .3em;border-radius:4px}summary{cursor:pointer;padding:.4rem 0}"
    "pre{overflow:auto;padding:1rem}"
)


Document: TypeAlias = dict[str, Any]


class Page(OpenAPIRenderPlugin):
    """The document as a page without scripts, one foldable entry an operation."""

    def __init__(self, schemas: Document) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)
        self._schemas = schemas

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:  # noqa: ARG002 (Litestar's signature)
        """The page."""
        document = _complete(openapi_schema, self._schemas)
        info = document["info"]
        entries = [
            _entry(method, path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        entries += [
            _fold(f"Schema {escape(name)}", schema) for name, schema in document["components"]["schemas"].items()
        ]
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
            f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
            f"<p>{escape(info['description'])} <a href='/schema/openapi.json'>openapi.json</a></p>{''.join(entries)}"
        ).encode()


class Json(JsonRenderPlugin):
    """The document itself."""

    def __init__(self, schemas: Document) -> None:
        super().__init__(path="/openapi.json")
        self._schemas = schemas

    def render(self, request: Request[Any, Any, Any], openapi_schema: Document) -> bytes:
        """The JSON."""
        return super().render(request, _complete(openapi_schema, self._schemas))


def _complete(document: Document, schemas: Document) -> Document:
    """With the schemas of the bodies that routes decode themselves: Litestar knows only those it decodes."""
    known = document["components"].get("schemas", {})
    return document | {"components": document["components"] | {"schemas": schemas | known}}


def _entry(method: str, path: str, operation: dict[str, Any]) -> str:
    title = f"<code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary') or '')}"
    return _fold(title, operation)


def _fold(title: str, content: Any) -> str:
    text = escape(msgspec.json.format(msgspec.json.encode(content), indent=2).decode())
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"


def operation(body: type, answer: type) -> type[Operation]:
    """The description of a route that decodes its body itself and answers with `answer` or a stream."""

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=_json(body), required=True)
            stream = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
            content = {**_json(answer), "text/event-stream": stream}
            self.responses = {"200": OpenAPIResponse(description="The answer, whole or streamed", content=content)}

    return Described


def _json(type_: type) -> dict[str, OpenAPIMediaType]:
    return {"application/json": OpenAPIMediaType(schema=Reference(ref=REF.format(name=type_.__name__)))}


def openapi_config(*bodies: type) -> OpenAPIConfig:
    """The document's frame, with the schemas of the bodies that routes decode themselves."""
    _, schemas = msgspec.json.schema_components(bodies, ref_template=REF)
    return OpenAPIConfig(
        title="OpenDify",
        version=__version__,
        description="Dify apps as OpenAI models.",
        path="/schema",
        render_plugins=[Page(schemas), Json(schemas)],
        components=Components(security_schemes={"key": SecurityScheme(type="http", scheme="bearer")}),
        security=[{"key": []}],
    )
