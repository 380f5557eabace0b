"""A setting that does not fit -> one sentence for the person who wrote it. No value is quoted but by its own check."""

from collections.abc import Mapping

from pydantic import ValidationError
from pydantic.fields import FieldInfo


def sentence(error: ValidationError, fields: Mapping[str, FieldInfo], file: str) -> str:
    """The first problem: which variable, what is wrong, what it should look like."""
    problem = error.errors(include_url=False, include_input=False, include_context=True)[0]
    where, *inside = problem["loc"]
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    field = fields.get(str(where))
    meaning = f" ({field.description})" if field and field.description else ""
    return f"{_variable(str(where), inside, file)} is wrong: {message}{meaning}."


def _variable(field: str, inside: list[int | str], file: str) -> str:
    """The setting's name as its author wrote it: a variable of the environment, or an entry of the file."""
    if field not in {"apps", "keys"}:
        return field.upper()
    return f"{file} [[{field}]]" + "".join(
        f" number {part + 1}" if isinstance(part, int) else f" {part}" for part in inside
    )
