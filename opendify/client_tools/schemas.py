"""JSON schemas of strangers: are they any, and does a value fit. Bounded, and nothing is ever fetched.

jsonschema-rs does the work; what it does not bound is bounded here. References lead into the schema itself or nowhere.
Before a value is checked, its checks are counted: an upper bound that knows no short cuts. A pattern counts by the
length of its text, as its engine's time is linear; patterns that this engine does not take (look-around, references,
too large) are not checked, and neither is `format`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs
import msgspec

# About a tenth of a second, for schemas that are made to be slow: a call of a tool takes some 20 checks.
MAX_CHECKS: Final = 100_000
MAX_EXPLAINED: Final = 20_000_000  # checks times bytes: each failed check copies its value, which costs some anyway
COPY_BYTES: Final = 2000
MAX_DEPTH: Final = 64
MAX_PATTERNS: Final = 200
MAX_PROBLEM: Final = 300
CACHED_BYTES: Final = 8192

_PATTERNS: Final = jsonschema_rs.RegexOptions(size_limit=1 << 16)
_PATTERN_COST: Final = 4  # checks a character, measured with patterns of that size
_DRAFT: Final = re.compile(r"https?://json-schema\.org/draft[-/](?:04|06|07|2019-09|2020-12)/schema#?")
# What gives a schema another name than its place. References by such names are refused, and then they do nothing.
_NAMES: Final = {"$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor", "$vocabulary", "$schema"}
_REFERENCES: Final = {"$ref", "$dynamicRef", "$recursiveRef"}
_ONE: Final = {
    *("not", "if", "then", "else", "propertyNames", "contains", "items", "additionalItems"),
    *("additionalProperties", "unevaluatedItems", "unevaluatedProperties"),
}
_MANY: Final = {"allOf", "anyOf", "oneOf", "prefixItems", "items"}
_NAMED: Final = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
_OF_ARRAYS: Final = {"items", "prefixItems", "additionalItems", "unevaluatedItems", "contains"}
_OF_MEMBERS: Final = {"additionalProperties", "unevaluatedProperties"}
_OF_DEPENDENTS: Final = {"dependentSchemas", "dependencies"}
_SAME_VALUE: Final = {"allOf", "anyOf", "oneOf", "not", "if", "then", "else"}


class NotASchema(ValueError):
    """What is wrong with a schema, as the end of a sentence about it."""


class Schema:
    """A schema that was checked. Raises NotASchema for what is none, or not one of ours to follow."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._root = _plain(source, 0)
        draft = source.get("$schema")
        if isinstance(draft, str) and _DRAFT.fullmatch(draft):
            self._root["$schema"] = draft
        self._targets: dict[str, Any] = {}
        schemas = list(_all(self._root))
        self._follow(schemas)
        if sum(_patterns_of(schema) for schema in schemas) > MAX_PATTERNS:
            _drop_patterns(schemas)
        self._validator = self._compile(schemas)

    def problem(self, value: Any) -> str | None:
        """Why a value does not fit, in a sentence; None if it does, or if finding out takes too long."""
        if _is_too_deep(value):
            return f"It is nested more than {MAX_DEPTH} deep."
        checks = self._checks(value)
        try:
            if checks > MAX_CHECKS or self._validator.is_valid(value):
                return None
            if checks * (len(msgspec.json.encode(value)) + COPY_BYTES) > MAX_EXPLAINED:
                return "It does not fit the schema."
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return _sentence(error)
        except ValueError:
            return "It is not Unicode."
        return None

    def _compile(self, schemas: list[dict[str, Any]]) -> jsonschema_rs.Validator:
        try:
            return _validator(self._root)
        except NotASchema:
            if not any(_patterns_of(schema) for schema in schemas):
                raise
            _drop_patterns(schemas)
            return _validator(self._root)

    def _follow(self, schemas: list[dict[str, Any]]) -> None:
        """Where the references lead: to one of the schemas, or nowhere."""
        places = {id(schema) for schema in schemas}
        for schema in schemas:
            for keyword in _REFERENCES & schema.keys():
                target = schema[keyword]
                found = _at(self._root, target) if isinstance(target, str) else None
                if not (isinstance(found, bool) or id(found) in places):
                    message = f"its {keyword} {str(target)[:100]!r} does not lead to a schema inside of it"
                    raise NotASchema(message)
                self._targets[target] = found

    def _checks(self, value: Any) -> int:
        """How many checks there are for a value, at most; no more are counted than count."""
        spent, waiting = 0, [(self._root, value)]
        while waiting and spent <= MAX_CHECKS:
            schema, inner = waiting.pop()
            spent += 1
            for keyword, rule in schema.items() if isinstance(schema, dict) else ():
                spent += _weight(keyword, rule, inner)
                if spent > MAX_CHECKS:
                    break
                if keyword in _REFERENCES:
                    waiting.append((self._targets[rule], inner))
                else:
                    waiting += _next(keyword, rule, schema, inner)
        return spent


def schema_of(source: Mapping[str, Any]) -> Schema:
    """The schema, from memory if it is one of the last. Raises NotASchema."""
    try:
        encoded = msgspec.json.encode(source)
    except (ValueError, RecursionError):
        message = "it is not JSON"
        raise NotASchema(message) from None
    return _remembered(encoded) if len(encoded) <= CACHED_BYTES else Schema(source)


@lru_cache(maxsize=256)
def _remembered(encoded: bytes) -> Schema:
    return Schema(msgspec.json.decode(encoded))


def _validator(root: Mapping[str, Any]) -> jsonschema_rs.Validator:
    """Offline: unlike `jsonschema_rs.meta`, which fetches an unknown `$schema`."""
    try:
        return jsonschema_rs.validator_for(
            dict(root), offline=True, pattern_options=_PATTERNS, validate_formats=False, mask="this value"
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        raise NotASchema(_sentence(error)) from None
    except (ValueError, RecursionError):
        message = "it is nested too deeply, or not Unicode"
        raise NotASchema(message) from None


def _sentence(error: Any) -> str:
    """What is wrong and where, cut to a readable length."""
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in getattr(error, "instance_path", ()))
    text = f"at {path.removeprefix('.')}: {error.message}" if path else str(error.message)
    return text if len(text) <= MAX_PROBLEM else f"{text[:MAX_PROBLEM]}..."


# -- the schemas inside of a schema


def _plain(schema: Any, depth: int) -> Any:
    """A copy without names for its parts."""
    if not isinstance(schema, dict):
        return schema
    if depth > MAX_DEPTH:
        message = "it is nested too deeply"
        raise NotASchema(message)
    return {
        keyword: _plain_rule(keyword, rule, depth + 1)
        for keyword, rule in schema.items()
        if not (keyword in _NAMES and isinstance(rule, str | bool | dict))
    }


def _plain_rule(keyword: str, rule: Any, depth: int) -> Any:
    if keyword in _NAMED and isinstance(rule, dict):
        return {name: _plain(each, depth) for name, each in rule.items()}
    if keyword in _MANY and isinstance(rule, list):
        return [_plain(each, depth) for each in rule]
    return _plain(rule, depth) if keyword in _ONE else rule


def _all(root: Any) -> Iterator[dict[str, Any]]:
    """The schema and all inside of it that are more than true or false."""
    waiting = [root]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, dict):
            continue
        yield schema
        for keyword, rule in schema.items():
            if keyword in _NAMED and isinstance(rule, dict):
                waiting += rule.values()
            elif keyword in _MANY and isinstance(rule, list):
                waiting += rule
            elif keyword in _ONE:
                waiting.append(rule)


def _at(root: Any, pointer: str) -> Any:
    """What a reference leads to, None for nothing."""
    if not pointer.startswith("#"):
        return None if pointer else root
    place, found = unquote(pointer[1:]), root
    if place and not place.startswith("/"):
        return None
    for step in place.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(key)
        elif isinstance(found, list) and key.isdecimal() and len(key) < 6 and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


def _patterns_of(schema: Mapping[str, Any]) -> int:
    named = schema.get("patternProperties")
    return isinstance(schema.get("pattern"), str) + (len(named) if isinstance(named, dict) else 0)


def _drop_patterns(schemas: list[dict[str, Any]]) -> None:
    for schema in schemas:
        schema.pop("pattern", None)
        if schema.pop("patternProperties", None):  # which members are additional ones, only the patterns knew
            schema.pop("additionalProperties", None)
            schema.pop("unevaluatedProperties", None)


# -- the checks of a value


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for each in level for inner in _members(each)]
        if not level:
            return False
    return True


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _weight(keyword: str, rule: Any, value: Any) -> int:
    """Checks inside of one keyword."""
    if keyword == "pattern":
        return _PATTERN_COST * len(value) if isinstance(value, str) else 0
    if keyword == "patternProperties" and isinstance(value, dict):
        return len(rule) * sum(_PATTERN_COST * len(name) + 1 for name in value)
    if keyword == "uniqueItems":
        return 2 * len(value) if isinstance(value, list) else 0
    return len(rule) if isinstance(rule, list | dict) else 0


def _next(keyword: str, rule: Any, schema: Mapping[str, Any], value: Any) -> list[tuple[Any, Any]]:
    """What one keyword applies to what. Short cuts are not thought of."""
    if keyword in _SAME_VALUE:
        return [(each, value) for each in (rule if isinstance(rule, list) else (rule,))]
    if isinstance(value, dict):
        return _next_in_object(keyword, rule, schema, value)
    if not isinstance(value, list) or keyword not in _OF_ARRAYS:
        return []
    return list(zip(rule, value, strict=False)) if isinstance(rule, list) else [(rule, item) for item in value]


def _next_in_object(
    keyword: str, rule: Any, schema: Mapping[str, Any], value: Mapping[str, Any]
) -> list[tuple[Any, Any]]:
    if keyword in _OF_MEMBERS:
        named = schema.get("properties", {}) if keyword == "additionalProperties" else ()
        return [(rule, member) for name, member in value.items() if name not in named]
    if keyword == "propertyNames":
        return [(rule, name) for name in value]
    if not isinstance(rule, dict):
        return []
    if keyword == "properties":
        return [(each, value[name]) for name, each in rule.items() if name in value]
    if keyword == "patternProperties":
        return [(each, member) for each in rule.values() for member in value.values()]
    return [(each, value) for each in rule.values()] if keyword in _OF_DEPENDENTS else []
