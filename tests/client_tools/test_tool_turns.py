"""What the app is told: rules, notes, earlier calls, results."""

import json

import pytest

from opendify.client_tools import texts, turns
from opendify.client_tools.tags import Tags
from opendify.dialogue import RUN_ID, Attachment, Tool, ToolCall, ToolChoice, Tools, Turn
from opendify.dify.transcript import answered, follow_up

TAGS = Tags("z2aaaaaaa")
TOOL = Tool("f", "Does it", {"type": "object", "properties": {"b": {"type": "string"}, "a": {}}})
TOOLS = Tools((TOOL, Tool("g")))
SYSTEM = Turn(role="system", text="Be brief.")
ASK = Turn(role="user", text="Weather?")
CALLS = (ToolCall("i1", "f", '{"b": "x"}'), ToolCall("i2", "g", ""))
CALLED = Turn(role="assistant", text="I look.", calls=CALLS)


def result(text: str, call_id: str | None = None, name: str | None = None) -> Turn:
    return Turn(role="tool", text=text, name=name, call_id=call_id)


def blocks(*results: tuple[str | None, str | None, str], calls: tuple[ToolCall, ...] = CALLS) -> list[str]:
    found = [result(text, call_id, name) for call_id, name, text in results]
    return [block.replace(TAGS.nonce, "N") for block in turns.results(calls, found, TAGS)]


# -- rules and notes


def test_the_rules_say_it_all() -> None:
    rules = texts.rules(TOOLS, TAGS)
    assert TAGS.call('{"name": "NAME_OF_THE_TOOL", "arguments": {"NAME_OF_A_PARAMETER": "its value"}}') in rules
    *_, first, second = rules.splitlines()
    assert first == (
        '{"name":"f","description":"Does it","parameters":'
        '{"type":"object","properties":{"b":{"type":"string"},"a":{}}}}'
    )
    assert second == '{"name":"g","parameters":{"type":"object","properties":{}}}'
    assert "directly one after another" in rules
    assert len(rules) - len(first) - len(second) < 1600


def test_the_rules_change_with_the_tools_only() -> None:
    assert texts.rules(Tools(TOOLS.tools, ToolChoice("required")), TAGS) == texts.rules(TOOLS, TAGS)
    single = texts.rules(Tools(TOOLS.tools, parallel=False), TAGS)
    assert "one call at most" in single
    assert single != texts.rules(TOOLS, TAGS) != texts.rules(Tools((TOOL,)), TAGS)


def test_nothing_that_dify_changes() -> None:
    """Its prompt templates drop `<|...|>` and read `{{name}}`; its ReAct agents run JSON with an `input` in it."""
    told = texts.rules(TOOLS, TAGS) + texts.results(["x"], TAGS, again=True)
    assert "<|" not in told
    assert "{{" not in told.replace('{{"', "")
    assert '"input' not in told


@pytest.mark.parametrize(
    ("choice", "note"),
    [
        (ToolChoice(), ""),
        (ToolChoice("none"), "(In this reply, do not call tools: answer in words.)"),
        (ToolChoice("required"), "(In this reply, you have to call a tool.)"),
        (ToolChoice("required", ("f",)), "(In this reply, you have to call the tool f.)"),
        (ToolChoice("required", ("f", "g")), "(In this reply, you have to call one of the tools f, g.)"),
        (ToolChoice("auto", ("f",)), "(In this reply, call no other tools than f.)"),
    ],
)
def test_notes(choice: ToolChoice, note: str) -> None:
    assert texts.note(Tools(TOOLS.tools, choice)) == note


def test_many_names_are_cut() -> None:
    names = [f"n{number}" for number in range(100)]
    assert texts.unknown("x", names).endswith(", n31, and 68 more.")


def test_a_large_schema_is_not_repeated() -> None:
    large = Tool("f", "", {"description": "x" * texts.MAX_TOLD})
    assert texts.misfit(large, "it is wrong.") == "The arguments of f do not fit: it is wrong."


# -- results


def test_results_in_any_order() -> None:
    expected = ['<result-N call="1" tool="f">\none\n</result-N>', '<result-N call="2" tool="g">\ntwo\n</result-N>']
    assert blocks(("i1", "f", "one"), ("i2", "g", "two")) == expected
    assert blocks(("i2", None, "two"), ("i1", "other", "one")) == expected


def test_of_two_results_the_last_counts() -> None:
    assert blocks(("i1", "f", "old"), ("i1", "f", "new"), calls=CALLS[:1]) == [
        '<result-N call="1" tool="f">\nnew\n</result-N>'
    ]


def test_results_that_are_missing_or_unknown() -> None:
    assert blocks(("i9", "h", "nine"), (None, None, "ten"), ("i8", "h\n>", "eight")) == [
        '<result-N call="1" tool="f">\n(no result)\n</result-N>',
        '<result-N call="2" tool="g">\n(no result)\n</result-N>',
        '<result-N call="3" tool="h">\nnine\n</result-N>',
        '<result-N call="4" tool="unknown">\nten\n</result-N>',
        '<result-N call="5" tool="unknown">\neight\n</result-N>',
    ]


def test_results_of_functions_go_by_their_name() -> None:
    assert blocks((None, "g", "two"), ("", "f", "one")) == blocks(("i1", "f", "one"), ("i2", "g", "two"))


# -- dialogues


def test_a_dialogue() -> None:
    told = turns.told(
        (SYSTEM, ASK, CALLED, result("two", "i2", "g"), result("one", "i1", "f")), TAGS, note="NOTE", again=True
    )
    assert [turn.role for turn in told] == ["system", "user", "assistant", "tool"]
    assert [turn.text for turn in told[:2]] == ["Be brief.", "Weather?"]
    assert told[2].text == "\n".join(
        ("I look.\n", TAGS.call('{"name":"f","arguments":{"b":"x"}}'), TAGS.call('{"name":"g","arguments":{}}'))
    )
    assert not told[2].calls
    assert told[3].text.startswith(
        "Results of the calls in the reply before; what is not listed here was not run.\n\n<"
    )
    assert told[3].text.endswith(f"in the same form:\n{TAGS.call('{...}').replace('{...}', texts._SHORT)}\n\nNOTE")
    assert answered(told) == 3
    assert follow_up(told[3:]).startswith("## Last message, reply to this\nResults of")


def test_only_the_newest_results_ask_to_go_on() -> None:
    dialogue = (ASK, CALLED, result("one", "i1"), CALLED, result("two", "i1"), result("three", "i2"))
    told = turns.told(dialogue, TAGS, again=True)
    assert [texts._AGAIN in turn.text for turn in told] == [False, False, False, False, True]
    assert not any(texts._AGAIN in turn.text for turn in turns.told(dialogue, TAGS, again=False))


def test_results_before_another_question() -> None:
    told = turns.told((ASK, CALLED, result("one", "i1"), ASK), TAGS, note="NOTE", again=True)
    assert [turn.text.endswith("NOTE") for turn in told] == [False, False, False, True]
    assert told[-1].text == "Weather?\n\nNOTE"


def test_calls_of_one_answer_do_not_meet_results_of_another() -> None:
    dialogue = (CALLED, result("one", "i1"), Turn(role="assistant", text="Hm."), result("late", "i1"))
    told = turns.told(dialogue, TAGS, again=False)
    assert 'tool="f">\none' in told[1].text
    assert 'call="1" tool="unknown">\nlate' in told[3].text


def test_a_note_without_a_question() -> None:
    assert turns.told((SYSTEM,), TAGS, note="NOTE", again=False)[0].text == "Be brief.\n\nNOTE"
    assert turns.told((Turn(role="user", text=" "),), TAGS, note="NOTE", again=False)[0].text == "NOTE"


def test_attachments_stay() -> None:
    file = Attachment(media="image", param="messages[1]", url="https://a/b.png")
    picture = Turn(role="tool", text="one", attachments=(file,), call_id="i1")
    told = turns.told((ASK, CALLED, result("x", "i2"), picture), TAGS, again=False)
    assert told[-1].attachments == (file,)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", {}),
        ('{"a": 1,}', {"a": 1}),
        ("no JSON", "no JSON"),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
        ('{"a": 1e999}', '{"a": 1e999}'),
    ],
)
def test_arguments_of_earlier_calls(arguments: str, told: object) -> None:
    text = turns.calls((ToolCall("i", "f", arguments),), TAGS)
    assert json.loads(text.splitlines()[1]) == {"name": "f", "arguments": told}


def test_what_the_app_has_run_stays_as_it_is() -> None:
    ran = ToolCall(f"{RUN_ID}1", "clock", "{}")
    both = Turn(role="assistant", text="", calls=(ran, *CALLS[:1]))
    dialogue = (ASK, both, result("noon", ran.id), result("one", "i1"))
    told = turns.told(dialogue, TAGS, again=False)
    assert told[1].calls == (ran,)
    assert '"f"' in told[1].text
    assert told[2] == dialogue[2]
    assert "noon" not in told[3].text
