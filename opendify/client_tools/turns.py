"""Earlier calls and results of a dialogue -> text for the app."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from opendify.client_tools import texts
from opendify.client_tools.reading import compact, parse
from opendify.client_tools.tags import Tags
from opendify.dialogue import ToolCall, Turn

NO_RESULT: Final = "(no result)"
_UNNAMED: Final = "unknown"
_NAME: Final = re.compile(r"[\w.:/-]{1,64}", re.ASCII)


def told(turns: Sequence[Turn], tags: Tags, *, note: str = "", again: bool) -> tuple[Turn, ...]:
    """The dialogue without calls of the client: they and their results are text, everybody's text is neutralised.

    A `note` stands at the end of what is asked. `again`: whether further calls may follow the newest results.
    """
    turns = tuple(_merged(turns, tags, again=again))
    return noted(turns, note) if note else turns


def noted(turns: Sequence[Turn], note: str) -> tuple[Turn, ...]:
    """The dialogue with a note at the end of what is asked."""
    place = _asking(turns)
    return (*turns[:place], replace(turns[place], text=_with(turns[place].text, note)), *turns[place + 1 :])


def calls(said: Sequence[ToolCall], tags: Tags) -> str:
    """Calls of an earlier answer, as the model is to write them."""
    return "\n".join(tags.call(tags.neutralise(_as_asked(call))) for call in said)


def results(said: Sequence[ToolCall], found: Sequence[Turn], tags: Tags) -> list[str]:
    """The results of the calls of one answer, in their order, then those of unknown calls.

    What was `found` may stand in any order; of several results of one call the last counts. One without an id
    (`functions` had none) belongs to the call of its name.
    """
    answers: dict[int, str] = {}
    others: list[tuple[str | None, str]] = []
    for turn in found:
        place = _place(said, turn.call_id, turn.name)
        if place is None:
            others.append((turn.name, turn.text))
        else:
            answers[place] = turn.text
    known = [(call.name, answers.get(place, NO_RESULT)) for place, call in enumerate(said)]
    return [tags.result(text, number, _name(name)) for number, (name, text) in enumerate([*known, *others], start=1)]


def _place(said: Sequence[ToolCall], call_id: str | None, name: str | None) -> int | None:
    fits = (place for place, call in enumerate(said) if (call.id == call_id if call_id else call.name == name))
    return next(fits, None)


def _merged(turns: Sequence[Turn], tags: Tags, *, again: bool) -> Iterator[Turn]:
    """The turns, those of tools that follow one another as one. What the app has run itself stays as it is."""
    asked: Sequence[ToolCall] = ()
    run: list[Turn] = []
    for turn in turns:
        if turn.role == "tool" and not turn.is_spent:
            run.append(turn)
            continue
        if run:
            yield _answered(asked, run, tags, again=False)
            asked, run = (), []
        text = tags.neutralise(turn.text)
        if turn.role == "assistant" and turn.asked:
            asked = turn.asked
            ran = tuple(call for call in turn.calls if call.has_run)
            yield replace(turn, text=_with(text, calls(asked, tags)), calls=ran)
        else:
            yield replace(turn, text=text)
    if run:
        yield _answered(asked, run, tags, again=again)


def _answered(asked: Sequence[ToolCall], run: Sequence[Turn], tags: Tags, *, again: bool) -> Turn:
    attached = tuple(item for turn in run for item in turn.attachments)
    return Turn(role="tool", text=texts.results(results(asked, run, tags), tags, again=again), attachments=attached)


def _asking(turns: Sequence[Turn]) -> int:
    """The last turn that is neither the assistant's nor an instruction, else the last of all."""
    asking = [place for place, turn in enumerate(turns) if turn.role in {"user", "tool"}]
    return asking[-1] if asking else len(turns) - 1


def _as_asked(call: ToolCall) -> str:
    try:
        return compact({"name": call.name, "arguments": parse(call.arguments or "{}")})
    except ValueError:  # what the client sent is no JSON
        return compact({"name": call.name, "arguments": call.arguments})


def _name(name: str | None) -> str:
    return name if name and _NAME.fullmatch(name) else _UNNAMED


def _with(text: str, more: str) -> str:
    return f"{text}\n\n{more}" if text.strip() else more
