"""A dialogue -> the one text that a Dify app takes."""

import pytest

from opendify.dialogue import Attachment, Role, Turn
from opendify.dify.transcript import flatten, newest

OPENING = "This is a conversation so far. Reply to its last message, which stands at the end."


def turn(role: Role, text: str, *files: str, name: str | None = None) -> Turn:
    attachments = tuple(Attachment(media="image", param="p", url="https://x/y", name=file or None) for file in files)
    return Turn(role=role, text=text, attachments=attachments, name=name)


@pytest.mark.parametrize("text", ["hello", "  kept as it is \n", "## Last message\nmine", "", "汉字"])
@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_a_lone_message_is_sent_as_it_is(role: Role, text: str) -> None:
    assert flatten([turn(role, text)]) == text


@pytest.mark.parametrize(
    ("turns", "sections"),
    [
        (
            [turn("system", "Be brief."), turn("user", "Hi")],
            ["## Instructions\nBe brief.", "## Last message, reply to this\nHi"],
        ),
        (
            [turn("user", "One?"), turn("assistant", "1"), turn("user", "Two?")],
            [OPENING, "## User\nOne?", "## Assistant\n1", "## Last message, reply to this\nTwo?"],
        ),
        (
            [turn("user", "One?"), turn("assistant", "1"), turn("system", "Now rhyme."), turn("user", "Two?")],
            [
                OPENING,
                "## Instructions\nNow rhyme.",
                "## User\nOne?",
                "## Assistant\n1",
                "## Last message, reply to this\nTwo?",
            ],
        ),
        (
            [turn("user", "Weather?"), turn("assistant", "[called w with {}]"), turn("tool", "22", name="w")],
            [
                OPENING,
                "## User\nWeather?",
                "## Assistant\n[called w with {}]",
                "## Last message, reply to this\n22",
            ],
        ),
        (
            [turn("user", "a"), turn("tool", "22", name="w"), turn("tool", "23"), turn("user", "b")],
            [
                OPENING,
                "## User\na",
                "## Tool result of w\n22",
                "## Tool result\n23",
                "## Last message, reply to this\nb",
            ],
        ),
        (
            [turn("user", "Count."), turn("assistant", "1, 2,")],
            [
                OPENING,
                "## Beginning of your reply, continue it\n1, 2,",
                "## Last message, reply to this\nCount.",
            ],
        ),
        (
            [turn("user", "Hi"), turn("system", "Be brief.")],
            ["## Instructions\nBe brief.", "## Last message, reply to this\nHi"],
        ),
        ([turn("system", "One."), turn("system", "Two.")], ["One.", "Two."]),
        (
            [turn("user", "See", "a.png", ""), turn("assistant", "Nice"), turn("user", "And?", "b.png")],
            [
                OPENING,
                "## User\nSee\n[attached: a.png]\n[attached: image]",
                "## Assistant\nNice",
                "## Last message, reply to this\nAnd?",
            ],
        ),
    ],
)
def test_a_labelled_transcript_with_the_newest_message_last(turns: list[Turn], sections: list[str]) -> None:
    assert flatten(turns) == "\n\n".join(sections)


def test_only_the_assistant_has_spoken() -> None:
    text = flatten([turn("assistant", "Hello."), turn("assistant", "Anyone?")])
    assert text.endswith("## Last message, reply to this\nAnyone?")
    assert "## Assistant\nHello." in text


@pytest.mark.parametrize(
    ("roles", "place"),
    [
        (["user"], 0),
        (["system", "user"], 1),
        (["user", "assistant", "user"], 2),
        (["user", "assistant", "user", "assistant"], 2),
        (["user", "assistant", "tool"], 2),
        (["user", "system"], 0),
        (["system"], 0),
        (["system", "assistant"], 1),
    ],
)
def test_the_turn_to_reply_to(roles: list[Role], place: int) -> None:
    assert newest([turn(role, "x") for role in roles]) == place
