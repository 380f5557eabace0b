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


def answered(turns: Sequence[Turn]) -> int:
    """Where the new turns begin: after the last answer before the turn to reply to."""
    for place in reversed(range(newest(turns))):
        turn = turns[place]
        if turn.role == "assistant" and (turn.text.strip() or turn.asked):
            return place + 1
    return 0


def continues_reply(turns: Sequence[Turn]) -> bool:
    """Whether the dialogue ends with the beginning of the reply, not with something to reply to."""
    return any(turn.role == "assistant" for turn in turns[newest(turns) :])


def instructions(turns: Sequence[Turn]) -> str:
    """The system text."""
    return "\n\n".join(turn.text for turn in turns if turn.role == "system" and turn.text.strip())


def follow_up(turns: Sequence[Turn]) -> str:
    """What is new, for a conversation that Dify knows: one lone user message as it is, else labelled parts."""
    return _told(turns, opening=False)


def flatten(turns: Sequence[Turn]) -> str:
    """One lone user message as it is; else a labelled transcript with the newest user turn last."""
    return _told(turns, opening=True)


def _told(turns: Sequence[Turn], *, opening: bool) -> str:
    last = newest(turns)
    if len(turns) == 1 and (opening or turns[0].role != "tool"):
        return turns[0].text
    told = [_section(turn, HEADING["system"]) for turn in turns if turn.role == "system"]
    talk = [_section(turn, _heading(turn)) for turn in turns[:last] if turn.role != "system"]
    begun = [_section(turn, UNFINISHED) for turn in turns[last + 1 :] if turn.role != "system"]
    if turns[last].role == "system":  # nothing but instructions: they are the prompt
        return "\n\n".join(turn.text for turn in turns)
    parts = [*told, *talk, *begun, f"## {NEWEST}\n{turns[last].text}"]
    return "\n\n".join([OPENING, *parts] if opening and (talk or begun) else parts)


def _heading(turn: Turn) -> str:
    name = f" of {turn.name}" if turn.role == "tool" and turn.name else ""
    return f"{HEADING[turn.role]}{name}"


def _section(turn: Turn, heading: str) -> str:
    called = [f"[called {call.name} with {call.arguments}]" for call in turn.calls]
    attached = [f"[attached: {item.name or item.media}]" for item in turn.attachments]
    text = [turn.text] if turn.text or not (called or attached) else []
    return "\n".join((f"## {heading}", *text, *called, *attached))
