"""Apps to test with, made without a Dify."""

from typing import Any

from pydantic import SecretStr

from opendify.dialogue import Attachment
from opendify.dify.apps import Access, App, FileRule, Input
from opendify.entries import AppConfig, Mode

BASE = "http://dify.test/v1"
KEY = "app-0123456789abcdefSECRET"


def config_of(key: str = KEY, **values: Any) -> AppConfig:
    """One configured app."""
    return AppConfig(key=SecretStr(key), **({"base": BASE} | values))


def make_app(
    mode: Mode = "chat",
    *inputs: Input,
    files: FileRule | None = None,
    size_limits: dict[str, int] | None = None,
    **config: Any,
) -> App:
    """An app named Helper with these inputs."""
    return App(
        access=Access(BASE, KEY),
        name="Helper",
        mode=mode,
        inputs=inputs,
        files=files,
        size_limits=size_limits or {},
        moderated=False,
        config=config_of(**config),
    )


def text(name: str, *, required: bool = False, control: str = "text-input", **more: Any) -> Input:
    """A text variable."""
    return Input(name, control, required, **more)


def takes(
    *types: str, count: int | None = 3, methods: tuple[str, ...] = (), extensions: tuple[str, ...] = ()
) -> FileRule:
    """A rule for files."""
    return FileRule(count, frozenset(types), frozenset(extensions), frozenset(methods))


def file_input(name: str, rule: FileRule, *, required: bool = False, control: str = "file") -> Input:
    """A file variable."""
    return Input(name, control, required, files=rule)


def link(url: str, media: Any = "image", **more: Any) -> Attachment:
    """A file that Dify fetches itself."""
    return Attachment(media=media, param="messages[0].content[1]", url=url, **more)
