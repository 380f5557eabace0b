"""Schemas of strangers: what is one, what fits, and that none of them costs much or reaches out."""

import select
import socket
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opendify.client_tools.schemas import CACHED_BYTES, MAX_DEPTH, MAX_PROBLEM, NotASchema, Schema, schema_of

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1},
        "days": {"type": "array", "items": {"type": "integer"}},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
TREE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
    "required": ["name"],
}
DEFS = {"$defs": {"a b": {"type": "string"}, "c/d": {"type": "integer"}}}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"

FITS: dict[str, tuple[dict[str, Any], Any]] = {
    "all is well": (WEATHER, {"city": "Oslo", "days": [1, 2], "unit": "C"}),
    "no schema": ({}, {"a": 1}),
    "recursive": (TREE, {"name": "a", "children": [{"name": "b", "children": []}]}),
    "reference": ({**DEFS, "$ref": "#/$defs/a%20b"}, "x"),
    "reference to a list's schema": ({"anyOf": [{"type": "string"}, {"$ref": "#/anyOf/0"}]}, "x"),
    "reference to true": ({"$defs": {"a": True}, "$ref": "#/$defs/a"}, 1),
    "older draft": ({"$schema": DRAFT_7, "items": [{"type": "string"}]}, ["x"]),
    "oldest draft": ({"$schema": DRAFT_4, "minimum": 3, "exclusiveMinimum": True}, 4),
    "unknown draft": ({"$schema": "http://example.com/mine", "type": "string"}, "x"),
    "keywords of later drafts": ({"$schema": DRAFT_4, "if": 5, "propertyNames": 5, "prefixItems": 5}, {"a": [1]}),
    "keywords of later drafts, too": ({"$schema": DRAFT_7, "dependentSchemas": 5, "unevaluatedItems": 5}, {"a": [1]}),
    "names that go nowhere": ({"$id": "http://a/b", "$anchor": "c", "properties": {"$id": {"type": "string"}}}, {}),
    "a property called like a keyword": ({"properties": {"$ref": {"type": "string"}, "enum": {}}}, {"$ref": "x"}),
    "format is not checked": ({"$schema": DRAFT_7, "format": "email"}, "x"),
    "pattern": ({"pattern": r"^\d{4}-\d\d$"}, "2026-11"),
    "pattern with look-ahead is not checked": ({"pattern": "^(?=b)"}, "a"),
    "broken pattern is not checked": ({"pattern": "("}, "a"),
    "nor what such patterns leave over": (
        {"patternProperties": {"(?=a)": {}}, "additionalProperties": False},
        {"a": 1},
    ),
    "too many patterns are not checked": ({"allOf": [{"pattern": "b"}] * 201}, "a"),
    "pattern on much text is not checked": ({"pattern": "b"}, "a" * 30_000),
    "dependencies": ({"$schema": DRAFT_7, "dependencies": {"a": ["b"], "b": {"required": ["a"]}}}, {"a": 1, "b": 2}),
    "the other members": ({"properties": {"a": {}}, "additionalProperties": {"type": "string"}}, {"a": 1, "b": "x"}),
    "names and contents": (
        {"propertyNames": {"maxLength": 2}, "unevaluatedProperties": {"type": "string"}},
        {"a": "x"},
    ),
    "tuples": ({"prefixItems": [{"type": "string"}], "items": False, "contains": {"type": "string"}}, ["x"]),
    "unique": ({"uniqueItems": True}, [1, 2]),
    "big numbers": ({"type": "integer", "minimum": 0}, 10**400),
}

MISFITS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "missing": (WEATHER, {}, '"city" is a required property'),
    "wrong type, deep": (WEATHER, {"city": "a", "days": [1, "x"]}, 'at days[1]: this value is not of type "integer"'),
    "unknown member": (WEATHER, {"city": "a", "x": 1}, "('x' was unexpected)"),
    "none of these": (WEATHER, {"city": "a", "unit": "K"}, 'at unit: this value is not one of "C" or "F"'),
    "reference": ({**DEFS, "$ref": "#/$defs/c~1d"}, "x", '"integer"'),
    "recursive": (TREE, {"name": "a", "children": [{}]}, 'at children[0]: "name" is a required property'),
    "pattern": ({"pattern": "^a$"}, "b", 'does not match "^a$"'),
    "pattern of a name": ({"patternProperties": {"^a": {"type": "string"}}}, {"ab": 1}, "at ab:"),
    "a value that would be long to quote": (WEATHER, {"city": ["x" * 9999]}, "at city: this value is not of type"),
    "not Unicode": ({"type": "string"}, "\ud800", "not Unicode"),
    "many checks": ({"items": {"type": "integer"}}, [*range(20_000), "x"], "does not fit"),
}

NONE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type": ({"type": "None"}, "at type:"),
    "unknown type inside": ({"properties": {"a": {"type": "any"}}}, "at properties.a.type:"),
    "required of draft 3": ({"properties": {"a": {"required": True}}}, "at properties.a.required:"),
    "no schema among the properties": ({"properties": {"a": "string"}}, "at properties.a:"),
    "list of schemas that is none": ({"anyOf": {}}, "at anyOf:"),
    "reference to the web": ({"$ref": "http://127.0.0.1/x"}, "$ref 'http://127.0.0.1/x' does not lead"),
    "reference to a file": ({"items": {"$ref": "file:///etc/passwd"}}, "does not lead"),
    "reference to the metaschema": ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, "does not lead"),
    "reference to nothing": ({"$ref": "#/$defs/a"}, "does not lead"),
    "reference to an anchor": ({"$anchor": "a", "items": {"$ref": "#a"}}, "does not lead"),
    "dynamic reference": ({"$dynamicAnchor": "a", "items": {"$dynamicRef": "#a"}}, "$dynamicRef '#a' does not lead"),
    "reference to no schema": ({"x": {"y": 1}, "$ref": "#/x"}, "does not lead"),
    "reference past the end": ({"anyOf": [{}], "$ref": "#/anyOf/1"}, "does not lead"),
    "reference through a number": ({"minimum": 1, "$ref": "#/minimum/x"}, "does not lead"),
    "reference that is none": ({"$ref": 5}, "$ref '5' does not lead"),
    "not Unicode": ({"const": "\ud800"}, "not JSON"),
}


@pytest.mark.parametrize(("schema", "value"), FITS.values(), ids=FITS)
def test_what_fits(schema: dict[str, Any], value: Any) -> None:
    assert schema_of(schema).problem(value) is None


@pytest.mark.parametrize(("schema", "value", "said"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit(schema: dict[str, Any], value: Any, said: str) -> None:
    problem = schema_of(schema).problem(value)
    assert problem
    assert said in problem
    assert len(problem) <= MAX_PROBLEM + 3


@pytest.mark.parametrize(("schema", "said"), NONE.values(), ids=NONE)
def test_what_is_no_schema(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(NotASchema) as raised:
        schema_of(schema)
    assert said in str(raised.value)
    assert len(str(raised.value)) <= MAX_PROBLEM + 3


def test_the_last_ones_are_remembered_and_nothing_is_changed() -> None:
    schema = {"$id": "http://a/b", **WEATHER}
    assert schema_of(schema) is schema_of(dict(schema))
    assert schema["$id"]
    large = {"description": "x" * CACHED_BYTES, "pattern": "("}
    assert schema_of(large) is not schema_of(large)
    assert large["pattern"] == "("


def test_nothing_is_ever_fetched() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/schema"
        for schema in (
            *({"$schema": url}, {"$id": url, "properties": {"a": {"$ref": "b"}}}, {"$ref": url}, {"$dynamicRef": url}),
            *({"$schema": DRAFT_7, "$ref": url}, {"properties": {"a": {"$id": url, "$schema": url, "$ref": "#"}}}),
            *({"$recursiveRef": url}, {"$vocabulary": {url: True}}, {"x": {"$ref": url}, "$ref": "#/x"}),
        ):
            try:
                schema_of(schema).problem({"a": 1})
            except NotASchema:
                continue
        assert not select.select([server], [], [], 0.05)[0]


# -- schemas that are made to be slow


def nested(depth: int, keyword: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {keyword: {"a": schema}} if keyword == "properties" else {keyword: schema}
    return schema


def doubling(size: int) -> dict[str, Any]:
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, size)}
    return {"$defs": {"d0": {"type": "string"}, **twice}, "$ref": f"#/$defs/d{size - 1}"}


def branching(keyword: str) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}}
    return {"$defs": {"n": {keyword: [inner, inner]}}, "$ref": "#/$defs/n"}


def deep(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {"a": leaf}
    return leaf


HOSTILE: dict[str, tuple[dict[str, Any], Any]] = {
    "refers to itself": ({"$ref": "#"}, {}),
    "refers to itself, empty": ({"$ref": ""}, {}),
    "refers to each other": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        1,
    ),
    "all of itself": ({"allOf": [{"$ref": "#"}]}, 1),
    "doubles": (doubling(40), "x"),
    "doubles, misfit": (doubling(15), 1),
    "branches, any": (branching("anyOf"), deep(50, 1)),
    "branches, all": (branching("allOf"), deep(50, 1)),
    "branches, one": (branching("oneOf"), deep(12, 1)),
    "backtracks": ({"pattern": "^(a+)+$"}, "a" * 20_000 + "!"),
    "large automaton": ({"pattern": "[ab]*a[ab]{400}c"}, "ab" * 12_000),
    "large pattern": ({"pattern": "^(?:a{1000}){1000}$"}, "a"),
    "large enum": ({"items": {"enum": [{"x": n} for n in range(20_000)]}}, [{"x": 19_999}] * 20_000),
    "unique things": ({"uniqueItems": True}, [{"a": n} if n % 2 else n for n in range(40_000)]),
    "failing branches": ({"anyOf": [{"required": [f"k{n}"]} for n in range(1000)]}, {"x": ["y" * 100] * 2500}),
    "patterns of names": (
        {"patternProperties": {f"^{n}": {} for n in range(190)}},
        dict.fromkeys(map(str, range(50_000))),
    ),
    "many branches": ({"anyOf": [{} for _ in range(20_000)]}, {}),
    "many references": ({"allOf": [{"$ref": "#/allOf/0"}, *({"$ref": f"#/allOf/{n}"} for n in range(2000))]}, {}),
    "a chain": (
        {"$defs": {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(3000)} | {"a3000": {}}, "$ref": "#/$defs/a0"},
        1,
    ),
    "much": ({"items": {"type": "integer"}}, list(range(120_000))),
}


@pytest.mark.parametrize(("schema", "value"), HOSTILE.values(), ids=HOSTILE)
def test_no_schema_takes_long(schema: dict[str, Any], value: Any) -> None:
    started = time.process_time()
    Schema(schema).problem(value)
    assert time.process_time() - started < 2  # a tenth of it, on a machine that has nothing else to do


@pytest.mark.parametrize("keyword", ["not", "items", "properties"])
def test_nesting_is_bounded(keyword: str) -> None:
    Schema(nested(MAX_DEPTH - 1, keyword)).problem(deep(MAX_DEPTH, 1))
    with pytest.raises(NotASchema, match="nested too deeply"):
        Schema(nested(MAX_DEPTH + 1, keyword))


def test_nesting_of_values_is_bounded() -> None:
    with pytest.raises(NotASchema, match="nested too deeply"):
        Schema({"const": deep(500, 1)})
    assert Schema({"type": "object"}).problem(deep(500, 1)) == f"It is nested more than {MAX_DEPTH} deep."
    assert Schema({"type": "object"}).problem(deep(MAX_DEPTH, [])) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYWORDS = st.sampled_from(
    [
        *("type", "properties", "items", "required", "enum", "const", "anyOf", "allOf", "oneOf", "not", "if"),
        *("then", "else", "$ref", "$defs", "$id", "$schema", "pattern", "patternProperties", "additionalProperties"),
        *("uniqueItems", "minimum", "multipleOf", "prefixItems", "contains", "dependentSchemas"),
        *("dependencies", "$dynamicRef", "$recursiveRef", "unevaluatedProperties", "propertyNames", "a"),
    ]
)
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([{}, True, {"type": "string"}, {"$ref": "#"}, {"$ref": "#/properties/a"}, 5, "#", [], None]),
    lambda inner: st.dictionaries(KEYWORDS, inner | st.lists(inner, max_size=2) | st.dictionaries(KEYWORDS, inner)),
    max_leaves=12,
).filter(lambda schema: isinstance(schema, dict))


@settings(deadline=None, max_examples=300)
@given(SCHEMAS, JSON)
def test_anything_is_a_schema_or_not(schema: dict[str, Any], value: Any) -> None:
    try:
        problem = schema_of(schema).problem(value)
    except NotASchema:
        return
    assert problem is None or problem
