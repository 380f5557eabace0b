"""JSON as models write it -> calls, and back. What is mended is what cannot be meant otherwise."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, NoReturn

# Strings whole, so that nothing inside of them is taken for a comma of the JSON; one that does not end goes to the end.
_COMMAS: Final = re.compile(r'("(?:[^"\\]++|\\.)*+"?)|,(?=\s*+[}\]])', re.DOTALL)
_NAMES: Final = ("name", "tool", "tool_name", "function")
_ARGUMENTS: Final = ("arguments", "parameters", "args", "input")
_WRAPPERS: Final = ("tool_calls", "tool_call", "function_call", "function")
_FENCE: Final = re.compile(r"```[\w-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
TOO_DEEP: Final = "nested too deeply"
MAX_WRAPS: Final = 3
MAX_FENCES: Final = 8
MAX_STARTS: Final = 16


class Asked(NamedTuple):
    """A call as the model asked for it; without arguments where there is a problem with them."""

    name: str
    arguments: dict[str, Any]
    problem: str = ""


def parse(text: str) -> Any:
    """The value of JSON text that may hold raw line ends in strings and commas too many. Raises ValueError."""
    try:
        return _loads(text)
    except ValueError:
        return _loads(_COMMAS.sub(lambda found: found[1] or "", text))


def compact(value: Any) -> str:
    """The shortest JSON of a value. Raises ValueError for what JSON or UTF-8 cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    text.encode()
    return text


def tidy(text: str, value: Any) -> str:
    """JSON text as it is if it is JSON to everybody, else its value written anew. Raises ValueError like `compact`."""
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return compact(value)
    return text


def canonical(arguments: str) -> str:
    """Arguments as JSON that is the same for clients that parse and write them anew; text that is none as it is."""
    try:
        value = json.loads(arguments or "{}", parse_float=_number, parse_constant=_refuse)
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments.strip()


def calls_in(value: Any, wraps: int = MAX_WRAPS) -> Iterator[Asked]:
    """The calls that a value is meant to be: one, several, wrapped as OpenAI's API does or with neighbouring names."""
    if isinstance(value, list):
        for each in value:
            yield from calls_in(each, wraps) if isinstance(each, dict) else (Asked("", {}, "A call is an object."),)
    elif wraps and (inner := _unwrapped(value)):
        yield from calls_in(inner, wraps - 1)
    else:
        yield _asked(value)


def documents_in(text: str) -> Iterator[tuple[str, Any]]:
    """The JSON texts of an answer with their values: the whole, what stands in fences, else from the first bracket."""
    for candidate in (text.strip(), *_fenced(text)):
        try:
            yield candidate, parse(candidate)
        except ValueError:
            continue
    yield from _embedded(text)


def _unwrapped(value: Mapping[str, Any]) -> Any:
    if isinstance(value.get("name"), str):
        return None
    return next((value[key] for key in _WRAPPERS if isinstance(value.get(key), dict | list)), None)


def _asked(value: Mapping[str, Any]) -> Asked:
    name = next((value[key] for key in _NAMES if isinstance(value.get(key), str)), "")
    given = next((value[key] for key in _ARGUMENTS if key in value), None)
    if isinstance(given, str):
        try:
            given = parse(given) if given.strip() else {}
        except ValueError as error:
            return Asked(name, {}, f"Its arguments are no JSON: {error}.")
    if given is None:
        given = {}
    if not isinstance(given, dict):
        return Asked(name, {}, "Its arguments are no JSON object.")
    return Asked(name, given)


def _fenced(text: str) -> Iterator[str]:
    for _, found in zip(range(MAX_FENCES), _FENCE.finditer(text), strict=False):
        yield found[1].strip()


def _embedded(text: str) -> Iterator[tuple[str, Any]]:
    """What begins with a bracket, prose before and after it."""
    place = 0
    for _ in range(MAX_STARTS):
        if not (bracket := _BRACKET.search(text, place)):
            return
        place = bracket.end()
        try:
            value, end = _DECODER.raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            continue
        yield text[bracket.start() : end], value
        place = end


def _refuse(name: str) -> NoReturn:
    message = f"{name} is not JSON"
    raise ValueError(message)


def _number(digits: str) -> float | int:
    """JavaScript knows no difference between 1 and 1.0."""
    number = float(digits)
    return int(number) if number.is_integer() else number


def _loads(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


_BRACKET: Final = re.compile(r"[{\[]")
_DECODER: Final = json.JSONDecoder(strict=False, parse_constant=_refuse)
