"""Requests of programs, told by their header or by the fixed words of their prompts."""

from collections.abc import Sequence
from typing import Final

from opendify.background.tasks import Errand, Task
from opendify.dialogue import Turn

MAX_CHARS: Final = 4000

_NAMED: Final = {task.value: task for task in Task}

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
    "简要总结一下对话内容，用作后续的上下文提示",  # noqa: RUF001  the client's own Chinese comma
)


def recognise(header: str | None, turns: Sequence[Turn]) -> Task | None:
    """The task of a request that a program makes for itself; None where a person asks.

    `header` is the value of the task header. An empty one is Open WebUI's word that a person asks; without one, or with
    a placeholder that nobody filled in, the prompt tells.
    """
    if header is None or "{{" in header:
        errand = errand_of(turns)
        return errand.task if errand else None
    name = header.strip().lower()
    return _NAMED.get(name, Task.OTHER) if name else None


def errand_of(turns: Sequence[Turn]) -> Errand | None:
    """What a program asks, by the words of its prompt; None for what a person may have written."""
    said = [turn for turn in turns if turn.role != "system"]
    if len(said) != 1 or turns[-1].role != "user" or said[0].attachments:
        return _nextchat(turns) if said else None
    system = "\n".join(turn.text for turn in turns if turn.role == "system")
    text = said[0].text
    return _open_webui(text) or _instructed(system, text) or _librechat(text) or _chatbox(text)


def unknown(task: Task, turns: Sequence[Turn]) -> Errand:
    """A task that only the header names: its prompt may still quote the chat as Open WebUI does."""
    text = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
    return _of_open_webui(task, text)


def _open_webui(text: str) -> Errand | None:
    """The prompts of Open WebUI that are a user message alone; a workspace model's system prompt may go before."""
    if text.startswith(_TASK):
        return _templated(text)
    if text.startswith(_EMOJI[0]) and _EMOJI[1] in text and text.endswith("```"):
        return Errand(Task.EMOJI)
    if text.startswith(_MERGE) and _RESPONSES in text:
        return Errand(Task.MERGE, reply=_after(text, _RESPONSES, '"""'))
    return None


def _templated(text: str) -> Errand | None:
    if text.startswith(_COMPACTION[0]) and _COMPACTION[2] in text.partition(_COMPACTION[1])[2]:
        return Errand(Task.SUMMARY)
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


def _of_open_webui(task: Task, text: str) -> Errand:
    user, assistant = _SPEAKERS
    chat = text.partition(_CHAT[0])[2].rpartition(_CHAT[1])[0]
    return Errand(task, _after(chat, f"\n{user}", f"\n{assistant}"), _after_last(chat, f"\n{user}", f"\n{assistant}"))


def _instructed(system: str, text: str) -> Errand | None:
    """What is asked by an instruction and a user message under it."""
    if all(part in system for part in _TOOLS) and text.startswith(("Query: ", "History:\n")):
        return Errand(Task.TOOLS)
    if _MEMORY[0] in system and text.startswith(_MEMORY[1]):
        return Errand(Task.MEMORY)
    if system.startswith(_LOBECHAT) and text.startswith(("user: ", "assistant: ")):
        return Errand(Task.TITLE, _after(f"\n{text}", "\nuser: ", "\nassistant: "), in_json=False)
    if system.startswith(_LOBECHAT) and text.startswith("<task>\n"):  # LobeHub 2
        return Errand(Task.TITLE, _after(text, "\n<user>\n", "\n</user>"))
    return None


def _librechat(text: str) -> Errand | None:
    """Its titleMethod `completion` takes plain text; `structured` takes JSON, or a tool call, which we cannot make."""
    if text.startswith((_LIBRECHAT, _LIBRECHAT_STRUCTURED)):
        first = _after(text, "\nUser: ", "\nAI: ")
        return Errand(Task.TITLE, first, in_json=text.startswith(_LIBRECHAT_STRUCTURED))
    return None


def _chatbox(text: str) -> Errand | None:
    if text.startswith(_CHATBOX[0]) and text.rstrip().endswith(_CHATBOX[1]):
        return Errand(Task.TITLE, _after(text, "\n```\n", "\n---------\n"), in_json=False)
    return None


def _nextchat(turns: Sequence[Turn]) -> Errand | None:
    """The chat itself, and below it the request: a user message for a title, an instruction for a summary."""
    *chat, request = turns
    said = [turn for turn in chat if turn.role != "system"]
    if not said:
        return None
    if request.role == "user" and request.text.startswith(_NEXTCHAT_TITLE):
        first = next((turn.text for turn in said if turn.role == "user"), "")
        return Errand(Task.TITLE, first[:MAX_CHARS], in_json=False)
    if request.role == "system" and request.text.startswith(_NEXTCHAT_SUMMARY):
        lines = (f"- {turn.role}: {turn.text[:500]}" for turn in said)
        return Errand(Task.SUMMARY, reply="\n".join(lines)[:MAX_CHARS])
    return None


def _after(text: str, begin: str, end: str) -> str:
    """What stands between the first `begin` and the next `end`, if that comes; nothing without a `begin`."""
    return text.partition(begin)[2].partition(end)[0][:MAX_CHARS]


def _after_last(text: str, begin: str, end: str) -> str:
    _, found, rest = text.rpartition(begin)
    return rest.partition(end)[0][:MAX_CHARS] if found else ""
