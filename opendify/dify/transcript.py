"""A dialogue -> the one text that a Dify app takes."""

from collections.abc import Sequence

from opendify.dialogue import Turn

HEADING = {"system": "Instructions", "user": "User", "assistant": "Assistant", "tool": "Tool result"}
OPENING = "This is a conversation so far. Reply to its last message, which stands at the end."
NEWEST = "Last message, reply to this"
UNFINISHED = "Beginning of your reply, continue it"


def newest(turns: Sequence[Turn]) -> int:
    """The place of the turn to reply to: the last one that is neither the assistant's nor an instruction."""
    asking = [place for place, turn in enumerate(turns) if turn.role in {"user", "tool"}]
    return asking[-1] if asking else len(turns) - 1


def flatten(turns: Sequence[Turn]) -> str:
    """One lone user message as it is; else a labelled transcript with the newest user turn last."""
    last = newest(turns)
    if len(turns) == 1:
        return turns[0].text
    instructions = [_section(turn, HEADING["system"]) for turn in turns if turn.role == "system"]
    talk = [_section(turn, _heading(turn)) for turn in turns[:last] if turn.role != "system"]
    begun = [_section(turn, UNFINISHED) for turn in turns[last + 1 :] if turn.role != "system"]
    if turns[last].role == "system":  # nothing but instructions: they are the prompt
        return "\n\n".join(turn.text for turn in turns)
    opening = [OPENING] if talk or begun else []
    return "\n\n".join([*opening, *instructions, *talk, *begun, f"## {NEWEST}\n{turns[last].text}"])


def _heading(turn: Turn) -> str:
    name = f" of {turn.name}" if turn.role == "tool" and turn.name else ""
    return f"{HEADING[turn.role]}{name}"


def _section(turn: Turn, heading: str) -> str:
    attached = "".join(f"\n[attached: {item.name or item.media}]" for item in turn.attachments)
    return f"## {heading}\n{turn.text}{attached}"
