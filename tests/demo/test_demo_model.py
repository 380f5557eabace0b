"""The words of the scripted model."""

import json

import pytest
from asking import inside, said, sample

from opendify.demo.model import Failure, Pause, Prompt, Step, Text, Thought, steps, tagged
from opendify.demo.words import Script

PROMPT = Prompt([{"role": "user", "content": ["hi"]}], ("current_time",))


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
