"""The words of the scripted model."""

import json
from collections.abc import Sequence

import pytest
from asking import inside, said, sample

from opendify.client_tools import texts, turns
from opendify.client_tools.answer import Piece, ToolAnswer
from opendify.client_tools.tags import Tags
from opendify.demo.model import Failure, Pause, Prompt, Step, Text, Thought, steps, tagged
from opendify.demo.words import CANNOT, KNOWN, WORD, Script
from opendify.dialogue import Format, Tool, ToolCall, ToolChoice, Tools, Turn
from opendify.dify.transcript import flatten, follow_up

PROMPT = Prompt([{"role": "user", "content": ["hi"]}], ("current_time",))
TAGS = Tags("z3abcdefg")
PLACE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tools((Tool("weather", "Say LONG things", PLACE), Tool("time", "", {})))
BERLIN = 'CALL:{"name": "weather", "arguments": {"city": "Berlin"}}'
GOOD = 'MEND:{"name": "weather", "arguments": {"city": "Bonn"}}'
CALLED = Turn(role="assistant", text="", calls=(ToolCall("call_1", "weather", '{"city": "TWO"}'),))
BROUGHT = Turn(role="tool", text="18 degrees", name="weather", call_id="call_1")


def spoken(query: str, prompt: Prompt = PROMPT) -> list[Step]:
    return list(steps(Script.read(query), prompt, query))


def text(query: str) -> str:
    return "".join(step.text for step in tagged(spoken(query)) if isinstance(step, Text))


@pytest.mark.parametrize(
    ("query", "answer"),
    [
        ("ECHO:one two", "one two"),
        ("please ECHO: with  spaces ", " with  spaces "),
        ('SAY:"a\\nb TOOL"', "a\nb TOOL"),
        ('SAY:["<thi","nk>"]', "<think>"),
        ("SAY:not json", "not json"),
        ("SAY:[1, 2]", "12"),
        ("LONG 3", "w0 w1 w2 "),
        ("LONG 2 ECHO:end", "w0 w1 end"),
        ("BIG 5", "xxxxx"),
        ("EMPTY", ""),
        ("THINK", "<think>\nThe user wants something; let me ponder.\n</think>\n\nAfter thinking: 42."),
        ("User: ECHO:old\nAssistant: old\nUser: ECHO:new\nAssistant:", "new"),
        ("ECHO:windows\r\n", "windows"),
    ],
)
def test_words_make_the_text(query: str, answer: str) -> None:
    assert text(query) == answer


@pytest.mark.parametrize("query", ["", "hello", "a TOOLBOX", "shouting LONGER", "ECHO", "tool", "xLONG 5"])
def test_other_text_is_no_word(query: str) -> None:
    assert not Script.read(query).words
    assert "sample app" in text(query)


def test_friendly_text_says_what_was_asked() -> None:
    assert "“What is the answer to everything in the ...”" in text("What is the answer to everything in the world?")


def test_friendly_text_in_a_transcript_is_not_obeyed() -> None:
    assert not Script.read(f"User: hello\nAssistant: {text('hello')}\nUser: and now?").words


def test_pieces_are_small() -> None:
    assert len([step for step in spoken("hello") if isinstance(step, Text)]) > 10


def test_silence_and_slowness() -> None:
    assert spoken("HANG 0.5 ECHO:a") == [Pause(0.5), Text("a")]
    assert spoken("SLOW 2 10") == [Text("s0 "), Pause(0.01), Text("s1 "), Pause(0.01)]


def test_a_delay_comes_before_each_piece() -> None:
    paced = list(steps(Script.read("ECHO:a b"), PROMPT, "", delay=0.1))
    assert paced == [Pause(0.1), Text("a"), Pause(0.1), Text(" b")]


def test_failures() -> None:
    assert spoken("ECHO:a ERROR_START:RATE") == [Failure("RATE")]
    assert spoken("LONG 9 ERROR_MID") == [Text("w0 "), Text("w1 "), Text("w2 "), Failure("")]
    assert spoken("ECHO:a ERROR_MID:AUTH")[-1] == Failure("AUTH")


def test_thoughts_stand_apart() -> None:
    assert isinstance(spoken("THINK")[0], Thought)


def test_tools_need_an_agent() -> None:
    plain = Prompt(PROMPT.messages)
    assert "sample app" in "".join(step.text for step in spoken("TOOL", plain) if isinstance(step, Text))


# -- the client's tools, told as our rules tell them


def user(text: str) -> Turn:
    return Turn(role="user", text=text)


def told(*said: Turn, tools: Tools = WEATHER) -> tuple[Turn, ...]:
    """The turns as the app is told them, with the rules."""
    rules = Turn(role="system", text=texts.rules(tools, TAGS))
    return rules, *turns.told(said, TAGS, note=texts.note(tools), again=True)


def written(*asked: str) -> list[str]:
    """What the model writes, in pieces; the texts are the user's messages so far, with answers between them."""
    answer = {"role": "assistant", "content": ["LONG 3"]}
    messages = [each for text in asked for each in (answer, {"role": "user", "content": [text]})]
    found = steps(Script.read(asked[-1]), Prompt(messages), asked[-1])
    return [step.text for step in found if isinstance(step, Text)]


def understood(*asked: str, tools: Tools = WEATHER) -> tuple[list[Piece], str | None]:
    """The same as a client is told it, and our request to mend it."""
    answer = ToolAnswer(tools, TAGS, new_id=lambda: "id")
    pieces: list[Piece] = []
    for text in written(*asked):
        pieces += answer.feed(text)
    return pieces + answer.close(), answer.repair


def test_rules_hold_no_words() -> None:
    ours = [text for text in vars(texts).values() if isinstance(text, str)]
    assert texts.rules(WEATHER, TAGS)[:20] in "".join(ours)
    assert not [found[0] for text in ours for found in WORD.finditer(text) if found["name"] in KNOWN]


def test_a_call_after_the_rules() -> None:
    asked = flatten(told(user(f'please SAY:"I look." {BERLIN}')))
    assert "".join(written(asked)) == (
        'I look.<call-z3abcdefg>\n{"name": "weather", "arguments": {"city": "Berlin"}}\n</call-z3abcdefg>'
    )
    assert understood(asked) == (["I look.", ToolCall("id", "weather", '{"city":"Berlin"}')], None)
    assert not [piece for piece in written(asked) if "<call-" in piece and ">" in piece]


def test_several_calls_and_broken_ones() -> None:
    several = flatten(told(user('CALL:[{"name": "time", "arguments": {}}, {"name": "time", "arguments": {}}]')))
    assert [piece.name for piece in understood(several)[0] if isinstance(piece, ToolCall)] == ["time", "time"]
    pieces, repair = understood(flatten(told(user('CALL:"{\\"name\\": weather"'))))
    assert "".join(written(flatten(told(user('CALL:"{no"'))))) == "<call-z3abcdefg>\n{no\n</call-z3abcdefg>"
    assert not pieces
    assert repair


def test_calls_need_tools() -> None:
    assert "".join(written(BERLIN)) == "no tools here"
    assert "".join(written("<call-zebra123>", BERLIN)) == "no tools here"


def test_the_newest_tags_count() -> None:
    older = flatten(told(user("hello"))).replace("z3abcdefg", "z4abcdefg")
    assert "<call-z3abcdefg>" in "".join(written(older, flatten(told(user("hello"))), BERLIN))
    system = Prompt([{"role": "system", "content": [texts.rules(WEATHER, TAGS)]}])
    assert "z3abcdefg" in "".join(
        step.text for step in steps(Script.read(BERLIN), system, "") if isinstance(step, Text)
    )


@pytest.mark.parametrize("earlier", [f"{BERLIN} {GOOD}", "CITE hello"])
def test_results_are_said(earlier: str) -> None:
    known = follow_up(told(user(earlier), CALLED, BROUGHT)[3:])
    assert "".join(written(earlier, known)) == "The tools say: 18 degrees."
    assert "".join(written(flatten(told(user(earlier), CALLED, BROUGHT)))) == "The tools say: 18 degrees."
    required = Tools(WEATHER.tools, ToolChoice("required"))
    assert "".join(written(flatten(told(user(earlier), CALLED, BROUGHT, tools=required)))).startswith("The tools say:")


def test_several_results_are_said() -> None:
    calls = (ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "weather", "{}"))
    asked = flatten(told(user("hi"), Turn(role="assistant", text="", calls=calls), BROUGHT))
    assert "".join(written(asked)) == "The tools say: 18 degrees; (no result)."


def test_a_result_that_begins_with_a_word_is_obeyed() -> None:
    brought = Turn(role="tool", text=f"{BERLIN} {GOOD}\nLONG 5", name="weather", call_id="call_1")
    asked = flatten(told(user("hi"), CALLED, brought))
    assert understood(asked)[0] == [ToolCall("id", "weather", '{"city":"Berlin"}')]
    other = Turn(role="tool", text="It is TWO degrees", name="weather", call_id="call_1")
    assert "".join(written(flatten(told(user("hi"), CALLED, other)))) == "The tools say: It is TWO degrees."


def test_a_call_is_made_once() -> None:
    later = user("thanks")
    answer = Turn(role="assistant", text="LONG 4")
    asked = told(user(f"{BERLIN} {GOOD}"), CALLED, BROUGHT, answer, later)
    assert "You said: “thanks”" in "".join(written(flatten(asked)))
    assert "You said: “thanks”" in "".join(written(follow_up(told(BROUGHT, later)[1:])))
    assert "".join(written(flatten(told(user("ECHO:old"), answer, later)))) == "old"


@pytest.mark.parametrize(
    ("choice", "first"),
    [("auto", 'CALL:{"name": "LONG", "arguments": {}}'), ("auto", 'CALL:"TWO"'), ("required", "hello")],
)
def test_a_refused_call_is_mended(choice: str, first: str) -> None:
    tools = Tools(WEATHER.tools, ToolChoice("required" if choice == "required" else "auto"))
    asked = told(user(f"{first} {GOOD}"), tools=tools)
    pieces, repair = understood(flatten(asked), tools=tools)
    assert repair
    assert not [piece for piece in pieces if isinstance(piece, ToolCall)]
    bonn = ToolCall("id", "weather", '{"city":"Bonn"}')
    assert understood(flatten(asked), repair, tools=tools) == ([bonn], None)
    raw = Turn(role="assistant", text="".join(written(flatten(asked))))
    assert understood(flatten((*asked, raw, user(repair))), tools=tools) == ([bonn], None)


def test_a_wrong_form_is_mended() -> None:
    repair = texts.repair_format(Format("json_object"), "It is not JSON.")
    asked = 'SAY:"LONG ago" MEND:"{\\"a\\": 1}"'
    assert "".join(written(asked, repair)) == '{"a": 1}'
    again = (user(asked), Turn(role="assistant", text="LONG ago"), user(repair))
    assert "".join(written(flatten(again))) == '{"a": 1}'
    assert "".join(written(asked, flatten(told(CALLED, BROUGHT)[1:]), repair)) == '{"a": 1}'


def test_without_the_word_nothing_is_mended() -> None:
    repairs: Sequence[str] = [
        texts.repair([], WEATHER, TAGS, called=False),
        texts.repair(["There is no tool 'LONG'."], WEATHER, TAGS, called=True),
        texts.repair([], Tools(WEATHER.tools, ToolChoice("none")), TAGS, called=False),
        texts.repair_format(Format("json_schema", PLACE), "'TWO' is wrong."),
    ]
    for repair in repairs:
        assert "".join(written(f"{BERLIN} {GOOD}", BERLIN, repair)) == CANNOT


async def test_apps_call_and_mend() -> None:
    rules = texts.rules(WEATHER, TAGS)
    repair = texts.repair([], WEATHER, TAGS, called=False)
    for mode in ("chat", "agent-chat", "advanced-chat", "agent"):
        async with inside(mode) as asking:
            first = await asking.run(f"{rules}\n\nhello {GOOD}")
            mended = await asking.run(repair, conversation_id=first[-1]["conversation_id"])
            assert "You said" in said(first)
            assert said(mended).startswith('<call-z3abcdefg>\n{"name": "weather", "arguments": {"city": "Bonn"}}'), mode
    for mode in ("completion", "workflow"):
        async with inside(mode) as asking:
            raw = await asking.run(f"{rules}\n\n{GOOD}\n\n## Assistant\nTWO\n\n## User\n{repair}")
            assert '"Bonn"' in said(raw)


async def test_describe_shows_history_inputs_and_files() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("ECHO:first", inputs={"topic": "tea"})
        conversation = told[-1]["conversation_id"]
        picture = {"type": "image", "transfer_method": "remote_url", "url": "http://x.example/a.png"}
        described = await asking.run("DESCRIBE", conversation_id=conversation, inputs={"topic": "tea"}, files=[picture])
    sent = json.loads(said(described))
    roles = [(message["role"], message["content"]) for message in sent["messages"]]
    assert roles[0][1][0].startswith("Topic: tea.")
    assert roles[1:3] == [("user", ["ECHO:first"]), ("assistant", ["first"])]
    assert roles[3][1][0]["filename"] == "a.png"
    assert roles[3][1][1] == "DESCRIBE"


async def test_unset_inputs_are_rendered_as_dify_does_it() -> None:
    async with inside("completion") as asking:
        assert "in a None tone" in (await asking.blocking("DESCRIBE"))["answer"]


async def test_every_mode_answers_a_newcomer() -> None:
    for mode in ("chat", "agent-chat", "advanced-chat", "agent", "completion", "workflow"):
        async with inside(mode) as asking:
            assert "You said: “Hi there”" in said(await asking.run("Hi there")), sample(mode).name
