"""What programs are told without a model: titles, tags and their like, in the shape that each expects."""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from opendify.background.prompts import errand_of, unknown
from opendify.background.tasks import Errand, Task
from opendify.dialogue import Turn

NEW_CHAT: Final = "New Chat"
NOT_ANSWERED: Final = "Background tasks of this kind are not answered here."
TITLE_WORDS: Final = 6
TITLE_COLUMNS: Final = 60  # a Chinese character takes two
QUERY_CHARS: Final = 400  # what search engines take

# The same for every chat.
_ALWAYS: Final = {
    Task.TAGS: '{"tags": []}',
    Task.AUTOCOMPLETE: '{"text": ""}',
    Task.EMOJI: "💬",  # one for any mood
    Task.TOOLS: '{"tool_calls": []}',
    Task.MEMORY: '{"operations": []}',
    Task.SUMMARY: "",  # Open WebUI then makes one itself, of the beginning of each message
}


def answer(task: Task, turns: Sequence[Turn], suggestions: Sequence[str] = ()) -> str:
    """What to say without asking any model, in the shape that the client expects.

    It is empty only for a SUMMARY of Open WebUI. A MERGE gets one of the answers that it would have merged.
    """
    errand = errand_of(turns) or unknown(task, turns)
    match task:
        case Task.TITLE:
            return _titled(errand)
        case Task.FOLLOW_UPS:
            return _object("follow_ups", _list(suggestions))
        case Task.QUERIES:  # none at all would call off the search that the user asked for
            return _object("queries", _list([_cut(" ".join(errand.last.split()), QUERY_CHARS)]))
        case Task.IMAGE_PROMPT if errand.last.strip():  # else: what is no JSON makes the client take the message
            return _object("prompt", _quoted(errand.last.strip()))
        case _:
            return errand.reply or _ALWAYS.get(task, NOT_ANSWERED)


# Markdown, which a title would show as it is.
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)\w*[ \t]*$", re.MULTILINE)
_LINK = re.compile(r"!?\[([^\[\]\n]*)\]\([^()\n]*\)")
_LINE = re.compile(r"^[ \t]*(?:(?:#{1,6}|[-*+>]|\d{1,3}[.)])[ \t]+)+", re.MULTILINE)
# Not within a word: 2**3**4 and snake_case_name are what they are. Chinese has no spaces around its marks.
_EMPHASIS = re.compile(r"(?<![0-9A-Za-z*_~`])(\*{1,3}|_{1,3}|~~|`{1,3})(?=\S)([^\n]*?\S)\1(?![0-9A-Za-z*_~`])")
# Titles go without quotation marks, and a control character or a turn of direction would reach beyond them.
_QUOTES = re.compile('["“”„«»「」『』]')
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_REWRITTEN: Final = (
    (_FENCE, ""),
    (_LINK, r"\1"),
    (_LINE, ""),
    (_EMPHASIS, r"\2"),
    (_EMPHASIS, r"\2"),  # one within the other
    (_QUOTES, ""),
    (_UNSEEN, " "),
)
_SCANNED: Final = 500

_BREAKS: Final = " ，。！？；：、"  # noqa: RUF001  Chinese punctuation is meant
_ENDS: Final = " ,.;:-–—…，。；：、"  # noqa: RUF001  and so it is here, beside ours
_JOINER: Final = "\u200d"
_SKIN_TONES: Final = "🏻🏼🏽🏾🏿"


def _titled(errand: Errand) -> str:
    title = _title(errand.first)
    return _object("title", _quoted(title)) if errand.in_json else title


def _title(said: str) -> str:
    """A message's first words on one line, without Markdown; where no spaces part words, its first characters."""
    text = said[:_SCANNED]
    for mark, kept in _REWRITTEN:
        text = mark.sub(kept, text)
    words = " ".join(text.split()[:TITLE_WORDS])
    return _cut(words, _columns_fit(words)).rstrip(_ENDS) or NEW_CHAT


def _columns_fit(text: str) -> int:
    """How many characters fit into a title's columns."""
    columns = 0
    for place, char in enumerate(text):
        columns += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if columns > TITLE_COLUMNS:
            return place
    return len(text)


def _cut(text: str, chars: int) -> str:
    """At most so many characters, up to the end of a word or clause if one is near, never within a character."""
    if len(text) <= chars:
        return text
    place = max(text.rfind(mark, chars // 2, chars + 1) for mark in _BREAKS)
    if place > 0:
        return text[:place]
    place = chars
    while place > 1 and (_is_joined(text[place]) or text[place - 1] == _JOINER):
        place -= 1
    return text[:place]


def _is_joined(char: str) -> bool:
    """Whether it belongs to the character before it: an accent, a vowel sign, a part of an emoji."""
    return char == _JOINER or char in _SKIN_TONES or unicodedata.category(char).startswith("M")


# Clients cut the JSON out by its braces, some by the last opening one, and one turns quotes of any kind into double
# ones: in a string they go by their numbers. So does all that is not ASCII.
_HIDDEN: Final = str.maketrans({char: f"\\u{ord(char):04x}" for char in "{}'`"})


def _quoted(text: str) -> str:
    return json.dumps(text).translate(_HIDDEN)


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(_quoted(text) for text in texts if text.strip())}]"


def _object(key: str, value: str) -> str:
    return f'{{"{key}": {value}}}'
