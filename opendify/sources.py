"""What settings are read from, and the error that tells of settings which cannot work."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from opendify.entries import hint_of

TABLES: Final = frozenset(("keys", "apps"))


class SettingsError(Exception):
    """A configuration that cannot work; the text is one sentence for the person who wrote it."""


class Lines(PydanticBaseSettingsSource):
    """The environment without the names of the file's tables: there they are somebody else's."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """As the source has it."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in self._source().items() if name not in TABLES}


def check_file(name: str, known: Iterable[str]) -> None:
    """Refuse what the file says in vain: a setting of the environment may belong to anyone, one in the file is ours."""
    file = Path(name)
    try:
        given = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    except UnicodeDecodeError:
        raise SettingsError(f"{name} is not UTF-8 text.") from None
    if unknown := given.keys() - known:
        raise SettingsError(
            f"{name} has the unknown setting {min(unknown)!r}: see the shipped file for the known ones."
        )


def refuse_doubles(name: str, keys: Sequence[SecretStr]) -> None:
    """Refuse a list of keys that has one of them twice."""
    secrets = [key.get_secret_value() for key in keys]
    if twice := next((secret for secret in secrets if secrets.count(secret) > 1), None):
        raise SettingsError(f"{name} lists the key {hint_of(twice)!r} twice: each stands there once.")
