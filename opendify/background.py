"""What chat programs ask for themselves (titles, tags, follow-ups ...): how to tell, and what to say without a model.

Such requests come under the id of the user's chat, or with its history, and must not enter its conversation. Only
Open WebUI can name them in a header; else they are told by the fixed words of their prompts, and by nothing less.
tests/background/README.md says where the prompts come from.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct

from opendify.dialogue import Turn


class Task(StrEnum):
    """What is asked for, by the names that Open WebUI gives it in its header; OTHER is one that is not known here."""

    TITLE = "title_generation"
    TAGS = "tags_generation"
    FOLLOW_UPS = "follow_up_generation"
    QUERIES = "query_generation"
    AUTOCOMPLETE = "autocomplete_generation"
    EMOJI = "emoji_generation"
    IMAGE_PROMPT = "image_prompt_generation"
    TOOLS = "function_calling"
    MERGE = "moa_response_generation"
    MEMORY = "memory_review"
    SUMMARY = "context_compaction"
    OTHER = "other"


_NAMED: Final = {task.value: task for task in Task}

NEW_CHAT: Final = "New Chat"
NOT_ANSWERED: Final = "Background tasks of this kind are not answered here."
TITLE_WORDS: Final = 6
TITLE_COLUMNS: Final = 60  # a Chinese character takes two
QUERY_CHARS: Final = 400  # what search engines take
MAX_CHARS: Final = 4000

# Open WebUI: the key of the JSON that a template asks for tells its task, whatever else an admin makes of it.
_TASK: Final = "### Task:\n"
_CHAT: Final = ("<chat_history>", "</chat_history>")
_KEYS: Final = {
    '"title"': Task.TITLE,
    '"tags"': Task.TAGS,
    '"follow_ups"': Task.FOLLOW_UPS,
    '"queries"': Task.QUERIES,
    '"prompt"': Task.IMAGE_PROMPT,
    '"text"': Task.AUTOCOMPLETE,
}
_SPEAKERS: Final = ("USER: ", "ASSISTANT: ")
_ROLES: Final = (*_SPEAKERS, "SYSTEM: ", "TOOL: ")
_COMPACTION: Final = (
    f"{_TASK}Summarize the conversation history that will be compacted out of the active chat context.",
    "\n### Messages Being Compacted:\n",
    "\n### Recent Messages Kept In Context:\n",
)
_EMOJI: Final = (
    "Your task is to reflect the speaker's likely facial expression through a fitting emoji.",
    "\nMessage: ```",
)
_MERGE: Final = "You have been provided with a set of responses from various models to the latest user query:"
_RESPONSES: Final = '\n\nResponses from models: """'
_TOOLS: Final = ("Available Tools: ", "choose and return the correct tool(s) from the list of available tools")
_MEMORY: Final = ("private memory reviewer", "Review the completed conversation turn and decide whether")

_LIBRECHAT: Final = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
    "Only return the title itself.\n"
)
_LIBRECHAT_STRUCTURED: Final = (
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise title in "
)
_LOBECHAT: Final = "You are a professional conversation summarizer. Generate a concise title "
_CHATBOX: Final = ("Based on the chat history, give this conversation a name.", "\nThe name is:")
# NextChat alone adds its request to the chat's own messages, in the language of its user: these are the common ones.
_NEXTCHAT_TITLE: Final = (
    "Please generate a four to five word title summarizing our conversation without any lead-in",
    "使用四到五个字直接返回这句话的简要主题",
)
_NEXTCHAT_SUMMARY: Final = (
    "Summarize the discussion briefly in 200 words or less to use as a prompt for future context",
    "简要总结一下对话内容，用作后续的上下文提示",  # noqa: RUF001
)

# The same for every chat.
_ALWAYS: Final = {
    Task.TAGS: '{"tags": []}',
    Task.AUTOCOMPLETE: '{"text": ""}',
    Task.EMOJI: "💬",  # one for any mood
    Task.TOOLS: '{"tool_calls": []}',
    Task.MEMORY: '{"operations": []}',
    Task.SUMMARY: "",  # Open WebUI then makes one itself, of the beginning of each message
}


# A person waits for these, or they have no harmless answer: they are worth a run wherever they can get one.
WORTH_A_RUN: Final = frozenset((Task.MERGE, Task.TOOLS, Task.OTHER))


class _Errand(Struct, frozen=True):
    """A request of a program: its task, what the chat's user said first and last, what could be replied as it is."""

    task: Task
    first: str = ""
    last: str = ""
    reply: str = ""
    in_json: bool = True


def recognise(header: str | None, turns: Sequence[Turn]) -> Task | None:
    """The task of a request that a program makes for itself; None where a person asks.

    `header` is the value of the task header. An empty one is Open WebUI's word that a person asks; without one, or with
    a placeholder that nobody filled in, the prompt tells.
    """
    if header is None or "{{" in header:
        errand = _errand(turns)
        return errand.task if errand else None
    name = header.strip().lower()
    return _NAMED.get(name, Task.OTHER) if name else None


def answer(task: Task, turns: Sequence[Turn], suggestions: Sequence[str] = ()) -> str:
    """What to say without asking any model, in the shape that the client expects.

    It is empty only for a SUMMARY of Open WebUI. A MERGE gets one of the answers that it would have merged.
    """
    errand = _errand(turns) or _unknown(task, turns)
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


def _errand(turns: Sequence[Turn]) -> _Errand | None:
    """What a program asks, by the words of its prompt; None for what a person may have written."""
    said = [turn for turn in turns if turn.role != "system"]
    if len(said) != 1 or turns[-1].role != "user" or said[0].attachments:
        return _nextchat(turns) if said else None
    system = "\n".join(turn.text for turn in turns if turn.role == "system")
    text = said[0].text
    return _open_webui(text) or _instructed(system, text) or _librechat(text) or _chatbox(text)


def _unknown(task: Task, turns: Sequence[Turn]) -> _Errand:
    """A task that only the header names: its prompt may still quote the chat as Open WebUI does."""
    text = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
    return _of_open_webui(task, text)


def _open_webui(text: str) -> _Errand | None:
    """The prompts of Open WebUI that are a user message alone; a workspace model's system prompt may go before."""
    if text.startswith(_TASK):
        return _templated(text)
    if text.startswith(_EMOJI[0]) and _EMOJI[1] in text and text.endswith("```"):
        return _Errand(Task.EMOJI)
    if text.startswith(_MERGE) and _RESPONSES in text:
        return _Errand(Task.MERGE, reply=_after(text, _RESPONSES, '"""'))
    return None


def _templated(text: str) -> _Errand | None:
    if text.startswith(_COMPACTION[0]) and _COMPACTION[2] in text.partition(_COMPACTION[1])[2]:
        return _Errand(Task.SUMMARY)
    head, _, rest = text.partition(f"\n{_CHAT[0]}\n")
    chat, ended, tail = rest.rpartition(f"\n{_CHAT[1]}")
    task = next((task for key, task in _KEYS.items() if key in head), None)
    if task is None or not ended or not _is_transcript(chat):
        return None
    return _of_open_webui(task, text) if _is_over(task, tail) else None


def _is_over(task: Task, tail: str) -> bool:
    """Whether nothing follows that a person may have added, such as a question about a prompt they paste."""
    if task is Task.AUTOCOMPLETE:
        return tail.rstrip().endswith(("</text>", "#### Output:"))
    return not tail.strip()


def _is_transcript(chat: str) -> bool:
    """Not the template itself, with a placeholder: a chat, or none yet."""
    return chat.startswith(_ROLES) or not chat.strip()


def _of_open_webui(task: Task, text: str) -> _Errand:
    user, assistant = _SPEAKERS
    chat = text.partition(_CHAT[0])[2].rpartition(_CHAT[1])[0]
    return _Errand(task, _after(chat, f"\n{user}", f"\n{assistant}"), _after_last(chat, f"\n{user}", f"\n{assistant}"))


def _instructed(system: str, text: str) -> _Errand | None:
    """What is asked by an instruction and a user message under it."""
    if all(part in system for part in _TOOLS) and text.startswith(("Query: ", "History:\n")):
        return _Errand(Task.TOOLS)
    if _MEMORY[0] in system and text.startswith(_MEMORY[1]):
        return _Errand(Task.MEMORY)
    if system.startswith(_LOBECHAT) and text.startswith(("user: ", "assistant: ")):
        return _Errand(Task.TITLE, _after(f"\n{text}", "\nuser: ", "\nassistant: "), in_json=False)
    if system.startswith(_LOBECHAT) and text.startswith("<task>\n"):  # LobeHub 2
        return _Errand(Task.TITLE, _after(text, "\n<user>\n", "\n</user>"))
    return None


def _librechat(text: str) -> _Errand | None:
    """Its titleMethod `completion` takes plain text; `structured` takes JSON, or a tool call, which we cannot make."""
    if text.startswith((_LIBRECHAT, _LIBRECHAT_STRUCTURED)):
        first = _after(text, "\nUser: ", "\nAI: ")
        return _Errand(Task.TITLE, first, in_json=text.startswith(_LIBRECHAT_STRUCTURED))
    return None


def _chatbox(text: str) -> _Errand | None:
    if text.startswith(_CHATBOX[0]) and text.rstrip().endswith(_CHATBOX[1]):
        return _Errand(Task.TITLE, _after(text, "\n```\n", "\n---------\n"), in_json=False)
    return None


def _nextchat(turns: Sequence[Turn]) -> _Errand | None:
    """The chat itself, and below it the request: a user message for a title, an instruction for a summary."""
    *chat, request = turns
    said = [turn for turn in chat if turn.role != "system"]
    if not said:
        return None
    if request.role == "user" and request.text.startswith(_NEXTCHAT_TITLE):
        first = next((turn.text for turn in said if turn.role == "user"), "")
        return _Errand(Task.TITLE, first[:MAX_CHARS], in_json=False)
    if request.role == "system" and request.text.startswith(_NEXTCHAT_SUMMARY):
        lines = (f"- {turn.role}: {turn.text[:500]}" for turn in said)
        return _Errand(Task.SUMMARY, reply="\n".join(lines)[:MAX_CHARS])
    return None


def _after(text: str, begin: str, end: str) -> str:
    """What stands between the first `begin` and the next `end`, if that comes; nothing without a `begin`."""
    return text.partition(begin)[2].partition(end)[0][:MAX_CHARS]


def _after_last(text: str, begin: str, end: str) -> str:
    _, found, rest = text.rpartition(begin)
    return rest.partition(end)[0][:MAX_CHARS] if found else ""


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

_BREAKS: Final = " ，。！？；：、"  # noqa: RUF001
_ENDS: Final = " ,.;:-–—…，。；：、"  # noqa: RUF001
_JOINER: Final = "\u200d"
_SKIN_TONES: Final = "🏻🏼🏽🏾🏿"


def _titled(errand: _Errand) -> str:
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
