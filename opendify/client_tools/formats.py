"""`response_format`: what the app said -> the JSON that was asked for, or what is wrong with it."""

from typing import Any, Final, NamedTuple

from opendify.client_tools import texts
from opendify.client_tools.reading import compact, documents_in, tidy
from opendify.client_tools.schemas import schema_of
from opendify.dialogue import Format

# Longer answers are handed over as they are: to look into them takes too long.
MAX_CHECKED: Final = 1024 * 1024


class Fitted(NamedTuple):
    """What to hand over, and what is wrong with it, if anything is."""

    text: str
    problem: str = ""


class FormatAnswer:
    """A whole answer that is to have a form: `take` what the app said, ask `repair` once if there is one, take again.

    `text` is what to hand over in the end: JSON that fits, else what the app said first.
    """

    def __init__(self, wanted: Format) -> None:
        self._wanted = wanted
        self._first: Fitted | None = None
        self.text = ""
        self.repair: str | None = None

    def take(self, said: str) -> None:
        """The text of a run."""
        found = fitted(self._wanted, said)
        self.text = self._first.text if self._first and found.problem else found.text
        asks = found.problem and self._first is None
        self.repair = texts.repair_format(self._wanted, found.problem) if asks else None
        self._first = self._first or found


def fitted(wanted: Format, said: str) -> Fitted:
    """The JSON in an answer that has the form, without the fence or the words around it; else all of it."""
    if len(said) > MAX_CHECKED:
        return Fitted(said)
    problems = []
    for text, value in documents_in(said):
        problem = _problem(wanted, value)
        if not problem:
            return Fitted(tidy(text, value))
        problems.append(problem)
    return Fitted(said, problems[0] if problems else "It is not JSON.")


def _problem(wanted: Format, value: Any) -> str | None:
    if wanted.kind == "json_object" and not isinstance(value, dict):
        return "It is JSON, but not an object."
    try:
        compact(value)
    except ValueError as error:
        return f"It is not JSON: {error}."
    return schema_of(wanted.schema).problem(value) if wanted.schema is not None else None
