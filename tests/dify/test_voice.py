"""Text and thinking: Dify's events in, the waist's events out. Neighbours of one kind are merged."""

import pytest
from frames import DONE, chunk, delta, end, event, log, merged, message, node, read, reason, replace, row, run
from hypothesis import given, settings
from hypothesis import strategies as st

from opendify.dialogue import Event, Failed, Finished, ReasoningDelta, TextDelta, TextReplaced, ToolRun, Usage
from opendify.dify.reader import Reader
from opendify.dify.voice import MAX_EDGE, Voice

Row = tuple[str, list[bytes], list[Event]]

text, thinking = TextDelta, ReasoningDelta
DETAILS = '<details style="color:gray" open> <summary> Thinking... </summary>'
CUT_OFF = Failed(code="upstream_error", message="Dify ended the answer in the middle.", status=502)

IN_THE_TEXT: dict[str, Row] = {
    "chat": (
        "chat",
        [message("<think>"), message("\nhm\n"), message("</think>"), message("\n\n"), message("Hi"), end()],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "a tag in pieces": (
        "completion",
        [message("<thi"), message("nk>h"), message("m</th"), message("ink>Hi"), end()],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "Dify 0.15": (
        "chat",
        [message(DETAILS), message("\nhm"), message("</details>\n\n"), message("Hi"), end()],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "chatflow, and its nodes repeat it": (
        "advanced-chat",
        [
            message("<think>hm</think>Hi"),
            node("llm", outputs={"text": "<think>hm</think>Hi", "reasoning_content": "hm"}),
            end(reasoning={"llm": "hm"}),
            run(outputs={"answer": "<think>hm</think>Hi"}),
        ],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "workflow, in pieces": (
        "workflow",
        [chunk("<think>hm</think>"), chunk("Hi"), run()],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "workflow, in its outputs alone": (
        "workflow",
        [run(outputs={"text": "<think>\nhm\n</think>\n\nHi"})],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "text that is called a file": (
        "chat",
        [event("message_file", id="m", answer="<think>hm</think>Hi"), end()],
        [thinking("hm"), text("Hi"), DONE],
    ),
    "no thinking": ("chat", [message("1 <"), message(" 2 `<think>` "), end()], [text("1 < 2 `<think>` "), DONE]),
    "held back at the end": ("chat", [message("Hi <thi"), end()], [text("Hi <thi"), DONE]),
    "held back at the end of a workflow": ("workflow", [chunk("Hi <thi"), run()], [text("Hi <thi"), DONE]),
    "held back at a chatflow's end": ("advanced-chat", [message("Hi <"), run()], [text("Hi <"), DONE]),
    "held back before an error": (
        "chat",
        [message("Hi <thi"), event("error", code="x", message="y", status=400)],
        [text("Hi <thi"), Failed(code="x", message="y", status=400)],
    ),
    "held back before a failed run": (
        "workflow",
        [chunk("Hi <thi"), run(status="failed", error="y")],
        [text("Hi <thi"), Failed(code="run_failed", message="y", status=500)],
    ),
    "held back where the stream is cut": ("chat", [message("Hi <thi")], [text("Hi <thi"), CUT_OFF]),
    "never closed": ("chat", [message("<think>hm </th"), end()], [thinking("hm </th"), DONE]),
    "stopped while it thinks": (
        "workflow",
        [chunk("<think>hm"), run(status="stopped")],
        [thinking("hm"), Finished("length", Usage(), stopped=True)],
    ),
    "two blocks with nothing between": (
        "chat",
        [message("<think>a</think>\n"), message("\n<think>b</think>Hi"), end()],
        [thinking("a\n\nb"), text("Hi"), DONE],
    ),
    "two blocks at once": (
        "chat",
        [message("<think>a</think><think></think><think>b"), message("c</think>Hi"), end()],
        [thinking("a\n\nbc"), text("Hi"), DONE],
    ),
    "two blocks with text between": (
        "chat",
        [message("<think>a</think>\nx<think>b</think>Hi"), end()],
        [thinking("a"), text("x"), thinking("\n\nb"), text("\n\nHi"), DONE],
    ),
    "a second block that ends before it says anything": (
        "chat",
        [message("<think>a</think><think></thi"), end()],
        [thinking("a\n\n</thi"), DONE],
    ),
}

ROUNDS: dict[str, Row] = {
    "each round of the classic agent has its own block": (
        "agent-chat",
        [
            row("1"),
            delta("<think>a</think>Look."),
            row("1", thought="<think>a</think>Look."),
            row("2"),
            delta("<think>b</think>Noon."),
            row("2", thought="<think>b</think>Noon."),
            end(),
        ],
        [thinking("a"), text("Look."), thinking("\n\nb"), text("\n\nNoon."), DONE],
    ),
    "with nothing between": (
        "agent-chat",
        [row("1"), delta("<think>a</think>\n"), row("2"), delta("<think>b</think>\n\nNoon."), end()],
        [thinking("a\n\nb"), text("Noon."), DONE],
    ),
    "a round that never closed its block": (
        "agent-chat",
        [row("1"), delta("<think>a "), row("1", thought="<think>a"), row("2"), delta("\nNoon."), end()],
        [thinking("a"), text("Noon."), DONE],
    ),
    "a round that never closed its code": (
        "agent-chat",
        [row("1"), delta("```\nx"), row("2"), delta("<think>b</think>y"), end()],
        [text("```\nx"), thinking("b"), text("\n\ny"), DONE],
    ),
    "what a round held back": (
        "agent-chat",
        [row("1"), delta("a <thi"), row("2"), delta("nk>b"), end()],
        [text("a <think>b"), DONE],
    ),
    "the same round goes on": (
        "agent-chat",
        [row("1"), delta("<thi"), row("1", thought="<thi"), delta("nk>b</think>c"), end()],
        [thinking("b"), text("c"), DONE],
    ),
    "an annotation comes letter by letter": (
        "agent-chat",
        [message("<"), message("b"), message(">"), end()],
        [text("<b>"), DONE],
    ),
}

BESIDE: dict[str, Row] = {
    "reasoning_chunk": (
        "advanced-chat",
        [
            *(reason("\n"), reason("The "), reason("user."), reason("\n"), message("\n\nHi"), reason("", final=True)),
            *(message(""), end(reasoning={"llm": "The user."}), run()),
        ],
        [thinking("The user."), text("Hi"), DONE],
    ),
    "reasoning_chunk, odd ones": (
        "workflow",
        [
            *(
                reason(" \n "),
                reason(" a"),
                reason(" "),
                reason(" b"),
                event("reasoning_chunk", data={"reasoning": None}),
            ),
            *(
                event("reasoning_chunk", data=None),
                event("reasoning_chunk"),
                reason("", final=True),
                chunk("Hi"),
                run(),
            ),
        ],
        [thinking("a  b"), text("Hi"), DONE],
    ),
    "two nodes think, one after the other": (
        "workflow",
        [reason("a"), reason("", final=True), reason("\nb ", "llm2"), reason("c", "llm2"), chunk("Hi"), run()],
        [thinking("a\n\nb c"), text("Hi"), DONE],
    ),
    "one node thinks twice": (
        "workflow",
        [reason("a"), reason("", final=True), reason("b"), reason("", final=True), run()],
        [thinking("a\n\nb"), DONE],
    ),
    "two nodes think at once": (
        "workflow",
        [reason("a"), reason("b", "llm2"), reason("c"), run()],
        [thinking("a\n\nb\n\nc"), DONE],
    ),
    "a node thinks while another speaks": (
        "workflow",
        [reason("a"), chunk("Hi"), reason("b"), chunk(" you"), run()],
        [thinking("a"), text("Hi"), thinking("b"), text(" you"), DONE],
    ),
    "in the text, and beside it": (
        "workflow",
        [chunk("<think>a</think>"), reason("b"), chunk("<think>c</think>"), chunk("\n"), chunk("Hi"), run()],
        [thinking("a\n\nb\n\nc"), text("Hi"), DONE],
    ),
    "beside a block that is open": (
        "workflow",
        [chunk("<think>a"), reason("b"), chunk(" c</think>"), chunk("Hi"), run()],
        [thinking("a\n\nb\n\n c"), text("Hi"), DONE],
    ),
    "more white space than is kept": (
        "workflow",
        [reason("a"), reason(" " * (MAX_EDGE + 2)), chunk("Hi"), run()],
        [thinking("a  "), text("Hi"), DONE],
    ),
    "New Agent: rows grow": (
        "agent",
        [
            *(
                row("1", thought="\n"),
                row("1", thought="\nThe "),
                row("1", thought="\nThe user."),
                row("1", thought="\nThe user.\n"),
            ),
            *(row("2"), delta("\n"), row("2"), delta("\nHi"), message("\n\nHi"), end()),
        ],
        [thinking("The user."), text("Hi"), DONE],
    ),
    "New Agent: the same again, and shorter": (
        "agent",
        [
            row("1", thought="abc"),
            row("1", thought="abc"),
            row("1", thought="ab"),
            row("1", thought="abcd"),
            delta("Hi"),
            end(),
        ],
        [thinking("abcd"), text("Hi"), DONE],
    ),
    "New Agent: two thoughts, and a row between": (
        "agent",
        [row("1", thought="a"), row("2"), row("3", thought="b"), row("1", thought="a"), delta("\nHi"), end()],
        [thinking("a\n\nb"), text("Hi"), DONE],
    ),
    "New Agent: a thought, a tool, a thought": (
        "agent",
        [row("1", thought="a"), row("2", tool="now", tool_input="{}"), row("3", thought="b"), delta("Hi"), end()],
        [thinking("a"), ToolRun(id="call_dify_2", name="now", arguments="{}"), thinking("\n\nb"), text("Hi"), DONE],
    ),
    "New Agent: tags in its text too": (
        "agent",
        [row("1", thought="a"), row("2"), delta("<think>b</think>\nHi"), message("<think>b</think>\nHi"), end()],
        [thinking("a\n\nb"), text("Hi"), DONE],
    ),
    "New Agent: rows without thought": (
        "agent",
        [row("1", thought=None), event("agent_thought", id="1"), delta("Hi"), end()],
        [text("Hi"), DONE],
    ),
    "agent-chat: a thought is the text again": (
        "agent-chat",
        [row("1"), delta("Hi"), row("1", thought="Hi"), end()],
        [text("Hi"), DONE],
    ),
    "an Agent node logs its thoughts, and says them": (
        "advanced-chat",
        [log("1", "gpt Thought", "success", data={"thought": "hm", "output": "Hi"}), message("Hi"), end()],
        [text("Hi"), DONE],
    ),
}


EVERYWHERE = IN_THE_TEXT | ROUNDS | BESIDE


@pytest.mark.parametrize(("mode", "frames", "events"), EVERYWHERE.values(), ids=EVERYWHERE)
def test_thinking(mode: str, frames: list[bytes], events: list[Event]) -> None:
    assert len(EVERYWHERE) == len(IN_THE_TEXT) + len(ROUNDS) + len(BESIDE)
    assert merged(read(mode, frames)) == events


# -- moderation: what was sent is compared as the model wrote it

REPLACED: dict[str, tuple[list[bytes], list[Event]]] = {
    "the new text goes on": (
        [message("<think>a</think>\n\nIt is "), replace("<think>a</think>\n\nIt is fine."), end()],
        [thinking("a"), text("It is fine."), DONE],
    ),
    "the new text goes on in the middle of a tag": (
        [message("<thi"), replace("<think>a</think>b"), end()],
        [thinking("a"), text("b"), DONE],
    ),
    "it is withdrawn": (
        [message("<think>a</think>Bad"), replace("<think>a</think>\nBlocked."), end()],
        [thinking("a"), text("Bad"), TextReplaced("Blocked."), DONE],
    ),
    "it is withdrawn in favour of thinking": (
        [message("Bad"), replace("<think>a"), message("</think>"), message("\nb"), end()],
        [text("Bad"), TextReplaced(""), text("b"), DONE],
    ),
    "a block that was open is none any more": (
        [message("x<think>a"), replace("Blocked"), message(" b</think>"), end()],
        [text("x"), thinking("a"), TextReplaced("Blocked"), text(" b</think>"), DONE],
    ),
    "what was held back goes too": (
        [message("x <thi"), replace("y <th"), message("ink>b</think>z"), end()],
        [text("x "), TextReplaced("y "), thinking("b"), text("z"), DONE],
    ),
    "a thought before it": (
        [message("x"), replace("<think>a</think>"), message("\n<think>b</think>c"), end()],
        [text("x"), TextReplaced(""), thinking("\n\nb"), text("c"), DONE],
    ),
}


@pytest.mark.parametrize(("frames", "events"), REPLACED.values(), ids=REPLACED)
def test_replaced_text(frames: list[bytes], events: list[Event]) -> None:
    assert merged(read("chat", frames, moderated=True)) == events


# -- however it is cut

PARTS = ["<think>", "</think>", "\n", " ", "a", "b c", "<", "`", "```\n", "</th", "汉"]


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), max_size=12), st.data())
def test_any_pieces_say_the_same(parts: list[str], data: st.DataObject) -> None:
    whole = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    once, cut = Voice(), Voice()
    assert merged([*once.say(whole), *once.close()]) == merged(
        [event for piece in pieces for event in cut.say(piece)] + list(cut.close())
    )


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "text"]), st.sampled_from(["\n", " ", "x", "y z", "\n\nw"]))))
def test_no_event_is_empty_and_nothing_but_white_space_is_lost(said: list[tuple[str, str]]) -> None:
    voice = Voice()
    events = [event for who, what in said for event in (voice.say(what) if who == "text" else voice.think(who, what))]
    for kind in (TextDelta, ReasoningDelta):
        told = [event.text for event in events if isinstance(event, kind)]
        assert all(told)
        meant = [what for who, what in said if (who == "text") is (kind is TextDelta)]
        assert "".join("".join(told).split()) == "".join("".join(meant).split())


def test_both_count() -> None:
    reader = Reader("agent", origin="http://dify.test")
    for frame in (row("1", thought="abc"), row("1", thought="abcde"), delta("<think>x</think>Hi")):
        reader.read(frame)
    assert (reader.spoken, reader.told) == (18, 23)
