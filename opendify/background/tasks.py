"""The tasks that programs have of their own."""

from enum import StrEnum
from typing import Final

from msgspec import Struct


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


# A person waits for these, or they have no harmless answer: they are worth a run wherever they can get one.
WORTH_A_RUN: Final = frozenset((Task.MERGE, Task.TOOLS, Task.OTHER))


class Errand(Struct, frozen=True):
    """A request of a program: its task, what the chat's user said first and last, what could be replied as it is."""

    task: Task
    first: str = ""
    last: str = ""
    reply: str = ""
    in_json: bool = True
