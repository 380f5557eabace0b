"""The OpenAPI document at /schema, and a page for it that loads nothing from elsewhere."""

from html import escape
from typing import Any

import msgspec
from litestar import Request
from litestar.enums import MediaType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from opendify import __version__
from opendify.openai.chat import ChatRequest, Completion

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{background:#8881;padding:.1em .3em;border-radius:4px}summary{cursor:pointer;padding:.4rem 0}"
    "pre{overflow:auto;padding:1rem}"
)


class PlainPage(OpenAPIRenderPlugin):
    """The document as a page without scripts."""

    def __init__(self) -> None:
        super().__init__(path="/", media_type=MediaType.HTML)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """One foldable entry an operation."""
        info = openapi_schema["info"]
        entries = [
            _entry(method, path, operation)
            for path, operations in openapi_schema["paths"].items()
            for method, operation in operations.items()
        ]
        schemas = openapi_schema.get("components", {}).get("schemas", {})
        entries += [_fold(f"Schema {escape(name)}", schema) for name, schema in schemas.items()]
        return (
            f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
            f"<style>{STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
            f"<p>{escape(info['description'])} <a href='/schema/openapi.json'>openapi.json</a></p>{''.join(entries)}"
        ).encode()


def _entry(method: str, path: str, operation: dict[str, Any]) -> str:
    title = f"<code>{method.upper()} {escape(path)}</code> {escape(operation.get('summary') or '')}"
    return _fold(title, operation)


def _fold(title: str, content: Any) -> str:
    text = escape(msgspec.json.format(msgspec.json.encode(content), indent=2).decode())
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"


def openapi_config() -> OpenAPIConfig:
    """The document's frame. Bodies that the routes decode themselves are described here."""
    _, schemas = msgspec.json.schema_components((ChatRequest, Completion), ref_template="#/components/schemas/{name}")
    components = Components(
        schemas=schemas,
        security_schemes={"key": SecurityScheme(type="http", scheme="bearer")},
    )
    return OpenAPIConfig(
        title="OpenDify",
        version=__version__,
        description="Dify apps as OpenAI models.",
        path="/schema",
        render_plugins=[PlainPage(), JsonRenderPlugin(path="/openapi.json")],
        components=components,
        security=[{"key": []}],
    )
