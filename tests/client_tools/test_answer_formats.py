"""`response_format`: JSON out of an answer, and one silent repair."""

import json

import pytest

from opendify.client_tools import texts
from opendify.client_tools.formats import MAX_CHECKED, FormatAnswer, fitted
from opendify.dialogue import Format

OBJECT = Format("json_object")
SCHEMA = Format("json_schema", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
LIST = Format("json_schema", {"type": "array"})

FITS = {
    "an object": (OBJECT, '{"b": []}', '{"b": []}'),
    "white space": (OBJECT, '\n {"b": 1}\n', '{"b": 1}'),
    "a fence": (OBJECT, '```json\n{"b": 1}\n```', '{"b": 1}'),
    "words around": (OBJECT, 'Here you are: {"b": 1}. Bye {}', '{"b": 1}'),
    "words and a fence": (SCHEMA, 'First {"b": 1}:\n```\n{"a": 1}\n```\nBye.', '{"a": 1}'),
    "mended": (OBJECT, '{"b": 1,}', '{"b":1}'),
    "mended line end": (OBJECT, '{"b": "x\ny"}', '{"b":"x\\ny"}'),
    "fits": (SCHEMA, '{"a": 1, "b": "é"}', '{"a": 1, "b": "é"}'),
    "the one that fits": (SCHEMA, 'Not {"a": "x"} but {"a": 2}', '{"a": 2}'),
    "a list, where one is wanted": (LIST, "[1]", "[1]"),
}
MISFITS = {
    "words": (OBJECT, "I cannot do that.", "It is not JSON."),
    "nothing": (OBJECT, "", "It is not JSON."),
    "cut off": (OBJECT, '{"a": 1', "It is not JSON."),
    "a list": (OBJECT, "[1]", "It is JSON, but not an object."),
    "a number": (SCHEMA, "5", 'this value is not of type "object"'),
    "missing": (SCHEMA, "{}", '"a" is a required property'),
    "wrong": (SCHEMA, '{"a": "1"}', 'at a: this value is not of type "integer"'),
    "not Unicode": (OBJECT, '{"a": "\\ud800"}', "It is not JSON: "),
    "too deep": (SCHEMA, '{"b":' * 90 + "1" + "}" * 90, "It is nested more than 64 deep."),
}


@pytest.mark.parametrize(("wanted", "said", "text"), FITS.values(), ids=FITS)
def test_what_fits(wanted: Format, said: str, text: str) -> None:
    assert fitted(wanted, said) == (text, "")
    answer = FormatAnswer(wanted)
    answer.take(said)
    assert (answer.text, answer.repair) == (text, None)


@pytest.mark.parametrize(("wanted", "said", "problem"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit(wanted: Format, said: str, problem: str) -> None:
    assert fitted(wanted, said).text == said
    assert problem in fitted(wanted, said).problem


def test_a_repaired_answer() -> None:
    answer = FormatAnswer(SCHEMA)
    answer.take('{"a": "1"}')
    assert answer.repair == (
        'Your reply is not what was asked for: at a: this value is not of type "integer"\n'
        "Write it again as JSON that fits the schema, and nothing else: no words before or after it, no code fence."
    )
    answer.take('```\n{"a": 1}\n```')
    assert answer.text == '{"a": 1}'
    assert not answer.repair


def test_there_is_one_repair() -> None:
    answer = FormatAnswer(OBJECT)
    answer.take("No.")
    assert "Write it again as one JSON object" in (answer.repair or "")
    answer.take("Still no.")
    assert (answer.text, answer.repair) == ("No.", None)


def test_a_long_answer_is_handed_over_as_it_is() -> None:
    assert fitted(OBJECT, "x" * (MAX_CHECKED + 1)) == ("x" * (MAX_CHECKED + 1), "")
    assert fitted(OBJECT, "x" * MAX_CHECKED).problem == "It is not JSON."


@pytest.mark.parametrize("filler", ["{", "[", '"', "```\n", '{"a":', "{}", "[[],"])
def test_much_of_anything_takes_little_time(filler: str) -> None:
    fitted(SCHEMA, filler * (500_000 // len(filler)))


def test_what_the_app_is_told() -> None:
    assert "Reply with one JSON object and nothing else" in texts.format_rules(OBJECT)
    assert json.loads(texts.format_rules(SCHEMA).splitlines()[-1]) == SCHEMA.schema
    assert texts.format_rules(SCHEMA) == texts.format_rules(SCHEMA)
