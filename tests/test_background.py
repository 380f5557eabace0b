"""What programs ask for themselves: recognised by header or prompt, and answered without a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opendify.background import Task, answer, recognise
from opendify.background.replies import NOT_ANSWERED, QUERY_CHARS, TITLE_COLUMNS
from opendify.dialogue import Attachment, Role, Turn

FIXTURES = sorted((Path(__file__).parent / "background").glob("*.json"))
PERSON = "How do I keep **basil** alive indoors?\n\nMine wilts after a week."


def turn(role: Role, text: str) -> Turn:
    return Turn(role=role, text=text)


def user(text: str) -> list[Turn]:
    return [turn("user", text)]


def read(name: str) -> list[Turn]:
    messages = json.loads((Path(__file__).parent / "background" / f"{name}.json").read_text("utf-8"))["messages"]
    return [turn(message["role"], message["content"]) for message in messages]


def template(name: str) -> str:
    """The text of a prompt whose chat is replaced by `CHAT`."""
    text = read(name)[-1].text
    begin, end = text.index("<chat_history>\n") + len("<chat_history>\n"), text.rindex("\n</chat_history>")
    return f"{text[:begin]}CHAT{text[end:]}"


def title_prompt(*messages: str) -> list[Turn]:
    return user(template("open-webui-title").replace("CHAT", "\n".join(messages)))


LOBECHAT = "You are a professional conversation summarizer. Generate a concise title that fits.\n\nRules:\n- Be brief"
CHATBOX = (
    "Based on the chat history, give this conversation a name.\nKeep it short.\n\n"
    f"```\n{PERSON}\n\n---------\n\nLight and water.\n```\n\nOnly give the name.\n\nThe name is:"
)
NEXTCHAT = "Please generate a four to five word title summarizing our conversation without any lead-in, or symbols."
NEXTCHAT_SUMMARY = "Summarize the discussion briefly in 200 words or less to use as a prompt for future context."
CHAT = [turn("user", PERSON), turn("assistant", "Light and water.")]

IMITATED = [
    (Task.TITLE, [turn("system", LOBECHAT), turn("user", f"user: {PERSON}\nassistant: Light.")]),
    (
        Task.TITLE,
        [
            turn("system", f'{LOBECHAT}\n- Return one JSON object with a single "title"'),
            turn("user", f"<task>\nGenerate.\n</task>\n\n<conversation>\n<user>\n{PERSON}\n</user>\n</conversation>"),
        ],
    ),
    (Task.TITLE, user(CHATBOX)),
    (Task.TITLE, [*CHAT, turn("user", NEXTCHAT)]),
    (Task.TITLE, [turn("system", "Be brief."), *CHAT, turn("user", "使用四到五个字直接返回这句话的简要主题")]),
    (Task.SUMMARY, [*CHAT, turn("system", NEXTCHAT_SUMMARY)]),
    (Task.SUMMARY, [turn("user", PERSON), turn("system", NEXTCHAT_SUMMARY)]),
]


def test_the_fixtures_are_here() -> None:
    tasks = {json.loads(path.read_text("utf-8"))["task"] for path in FIXTURES}
    assert tasks == set(Task) - {Task.OTHER}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("header", [None, "{{TASK}}"])
def test_a_prompt_tells_its_task(path: Path, header: str | None) -> None:
    assert recognise(header, read(path.stem)) == json.loads(path.read_text("utf-8"))["task"]


@pytest.mark.parametrize(("task", "turns"), IMITATED)
def test_other_clients_are_told_by_the_shape_of_their_requests(task: Task, turns: list[Turn]) -> None:
    assert recognise(None, turns) is task


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.OTHER])
def test_the_header_tells_the_task_whatever_is_asked(task: Task) -> None:
    assert recognise(f" {task.value.upper()} ", [*CHAT, turn("user", "Which soil?")]) is task


@pytest.mark.parametrize("value", ["spell_checking", "generation", "title", "other"])
def test_the_header_may_tell_an_unknown_task(value: str) -> None:
    assert recognise(value, user("Hello")) is Task.OTHER


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("header", ["", "  "])
def test_an_empty_header_says_that_a_person_asks(path: Path, header: str) -> None:
    assert recognise(header, read(path.stem)) is None


def look_alikes() -> Iterator[tuple[str, list[Turn]]]:
    """What people write, or programs for them, that must reach their conversation."""
    title = template("open-webui-title")
    filled = read("open-webui-title")[0].text
    yield "nothing", []
    yield "an empty message", user("")
    yield "hello", user("Hello")
    yield "instructions alone", [turn("system", filled)]
    yield "an answer alone", [turn("assistant", filled)]
    yield "a tool result alone", [turn("tool", filled)]
    yield "a task of one's own", user("### Task:\nWrite a title for my essay on basil.")
    yield "a task with a chat of one's own", user("### Task:\nSum up.\n<chat_history>\nUSER: Hi\n</chat_history>")
    yield "about the tag", user('### Task:\nWhat does <chat_history> mean in { "title": "x" }, and </chat_history>')
    yield "JSON wanted", user('### Task:\nGive me { "title": "..." } for a book on basil.')
    yield "the template itself", user(title.replace("CHAT", "{{MESSAGES:END:2}}"))
    yield "the template with a comment", user(title.replace("CHAT", "put the chat here"))
    yield "the prompt, then a question", user(f"{filled}\n\nWhy does Open WebUI send this?")
    yield "a question, then the prompt", user(f"Why does Open WebUI send this?\n\n{filled}")
    yield "the prompt in a code block", user(f"```\n{filled}\n```")
    yield "the prompt, cut off", user(filled.removesuffix("</chat_history>"))
    yield "the prompt after other turns", [*CHAT, turn("user", filled)]
    yield "the prompt before other turns", [turn("user", filled), turn("assistant", "{}"), turn("user", "Thanks")]
    yield "the prompt, then an answer begun", [turn("user", filled), turn("assistant", "{")]
    file = Attachment(media="file", param="p", url="https://x/y")
    yield "the prompt with a file", [Turn(role="user", text=filled, attachments=(file,))]
    yield "a prompt for completion, then a question", user(f"{read('open-webui-autocomplete')[0].text}\nWhy this?")
    yield (
        "Open WebUI's question over documents",
        user(
            "### Task:\nRespond to the user query using the provided context.\n\n### Output:\nA clear response.\n\n"
            '<context>\n<source id="1">{ "title": "Basil" }</source>\n</context>\n\nWhich soil?'
        ),
    )
    yield "half a summary", user(read("open-webui-compaction")[0].text.partition("### Recent Messages")[0])
    yield "a title for an essay", user("Generate a title for my essay")
    yield "a title, politely", user("Provide a concise, 5-word-or-less title for the conversation I paste below.")
    yield "NextChat's words alone", user(NEXTCHAT)
    yield "NextChat's words with a file", [Turn(role="user", text=NEXTCHAT, attachments=(file,))]
    yield "NextChat's words as an answer", [*CHAT, turn("user", "Go on"), turn("assistant", NEXTCHAT)]
    yield "NextChat's instruction as a question", [*CHAT, turn("user", NEXTCHAT_SUMMARY)]
    yield "a title after other turns", [*CHAT, turn("user", "Please generate a title summarizing our conversation")]
    yield "NextChat's instruction alone", [turn("system", NEXTCHAT_SUMMARY)]
    yield "NextChat's words as an instruction", [turn("system", NEXTCHAT_SUMMARY), *CHAT, turn("user", "And?")]
    yield "NextChat's words earlier on", [*CHAT, turn("user", NEXTCHAT), turn("assistant", "Basil"), turn("user", "Ok")]
    yield "Chatbox' prompt, then a question", user(f"{CHATBOX} Basil. Is it a good prompt?")
    yield "a summarizer of one's own", [turn("system", LOBECHAT), turn("user", "Sum up the news")]
    yield "tools of one's own", [turn("system", "Available Tools: hammer"), turn("user", "Query: nails")]
    yield "a task under tools", [turn("system", read("open-webui-tools")[0].text), turn("user", "Is it sunny?")]
    yield "a review without its reviewer", user(read("open-webui-memory")[1].text)
    yield "a reviewer without its review", [turn("system", read("open-webui-memory")[0].text), turn("user", "Hi")]
    yield "about emoji", user("Your task is to reflect the speaker's likely facial expression through a fitting emoji.")
    yield "an emoji, then a question", user(f"{read('open-webui-emoji')[0].text}\nWhy this?")
    yield "an emoji for code", user(f"{read('open-webui-emoji')[0].text.partition('Message')[0]}```\nx = 1\n```")
    yield "about responses", user(read("open-webui-merge")[0].text.partition("\n\nResponses")[0])


@pytest.mark.parametrize("turns", [pytest.param(turns, id=name) for name, turns in look_alikes()])
def test_what_people_ask_is_no_task(turns: list[Turn]) -> None:
    assert recognise(None, turns) is None


def back_end_reads(text: str) -> Any:
    """Open WebUI 0.12.4, utils/middleware.py and utils/task.py: title, tags, follow-ups, tools, memories."""
    return json.loads(text[text.find("{") : text.rfind("}") + 1])


def back_end_reads_the_last_object(text: str) -> Any:
    """The same: queries and image prompts."""
    return json.loads(text[text.rfind("{") : text.rfind("}") + 1])


def front_end_reads(text: str) -> Any:
    """Open WebUI 0.12.4, src/lib/apis/index.ts: titles and tags asked for by hand."""
    return back_end_reads(text.translate({ord(quote): '"' for quote in "'‘’`"}))  # noqa: RUF001  what Open WebUI replaces


READERS = [back_end_reads, back_end_reads_the_last_object, front_end_reads]
SUGGESTIONS = ["Isn't it {odd}?", "", 'Say "hi"', " \n", "它喜欢哪种土？"]  # noqa: RUF001  a question in Chinese


@pytest.mark.parametrize("read_answer", READERS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("open-webui-title", {"title": "How do I keep basil alive"}),
        ("open-webui-title-before-the-answer", {"title": "How do I keep basil alive"}),
        ("open-webui-title-of-model-with-system-prompt", {"title": "How do I keep basil alive"}),
        ("open-webui-0.10-title", {"title": "How do I keep basil alive"}),
        ("librechat-title-structured", {"title": "How do I keep basil alive"}),
        ("open-webui-tags", {"tags": []}),
        ("open-webui-follow-ups", {"follow_ups": [SUGGESTIONS[0], SUGGESTIONS[2], SUGGESTIONS[4]]}),
        ("open-webui-queries", {"queries": ["And which soil does it like?"]}),
        ("open-webui-image-prompt", {"prompt": "And which soil does it like?"}),
        ("open-webui-autocomplete", {"text": ""}),
        ("open-webui-autocomplete-of-new-chat", {"text": ""}),
        ("open-webui-tools", {"tool_calls": []}),
        ("open-webui-memory", {"operations": []}),
    ],
)
def test_an_answer_is_what_the_client_reads(name: str, expected: object, read_answer: Any) -> None:
    turns = read(name)
    assert read_answer(answer(recognise(None, turns) or Task.OTHER, turns, SUGGESTIONS)) == expected


@pytest.mark.parametrize(
    ("task", "turns", "expected"),
    [
        (Task.TITLE, read("librechat-title"), "How do I keep basil alive"),
        (Task.TITLE, read("librechat-title-before-the-answer"), "How do I keep basil alive"),
        (Task.EMOJI, read("open-webui-emoji"), "💬"),
        (Task.MERGE, read("open-webui-merge"), "Basil, it is easy."),
        (Task.SUMMARY, read("open-webui-compaction"), ""),
        (Task.SUMMARY, [*CHAT, turn("system", NEXTCHAT_SUMMARY)], f"- user: {PERSON}\n- assistant: Light and water."),
        (Task.OTHER, user("Hello"), NOT_ANSWERED),
    ],
)
def test_some_clients_take_the_text_as_it_is(task: Task, turns: list[Turn], expected: str) -> None:
    assert answer(task, turns) == expected


@pytest.mark.parametrize(("turns"), [turns for task, turns in IMITATED if task is Task.TITLE])
def test_other_clients_get_their_titles(turns: list[Turn]) -> None:
    said = answer(Task.TITLE, turns)
    title = json.loads(said)["title"] if said.startswith("{") else said
    assert title == "How do I keep basil alive"
    assert said.startswith("{") == ("JSON" in turns[0].text)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("turns", [[], user(""), user("A template of our own"), [turn("assistant", "x")]])
def test_a_prompt_that_only_the_header_tells_is_answered_too(task: Task, turns: list[Turn]) -> None:
    said = answer(task, turns)
    expected = {
        Task.TITLE: {"title": "New Chat"},
        Task.TAGS: {"tags": []},
        Task.FOLLOW_UPS: {"follow_ups": []},
        Task.QUERIES: {"queries": []},
        Task.AUTOCOMPLETE: {"text": ""},
        Task.TOOLS: {"tool_calls": []},
        Task.MEMORY: {"operations": []},
    }
    if task in expected:
        assert json.loads(said) == expected[task]
    else:  # an image prompt that is no JSON makes the client take the user's message
        texts: dict[Task, str] = {Task.EMOJI: "💬", Task.SUMMARY: ""}
        assert said == texts.get(task, NOT_ANSWERED)


def test_a_template_of_ones_own_may_still_quote_the_chat() -> None:
    turns = user("Titel bitte. <chat_history>\nUSER: Wie giesse ich?\nASSISTANT: Von unten.\n</chat_history> Danke.")
    assert recognise(None, turns) is None
    assert json.loads(answer(Task.TITLE, turns)) == {"title": "Wie giesse ich?"}


@pytest.mark.parametrize(
    ("said", "title"),
    [
        ("Hi", "Hi"),
        ("  spaced \t out \r\n over lines ", "spaced out over lines"),
        ("one two three four five six seven", "one two three four five six"),
        ("Which is it, and why, then, after all?", "Which is it, and why, then"),
        ("Is it so? Really!", "Is it so? Really!"),
        (
            "Donaudampfschifffahrtsgesellschaft Rechtsschutzversicherungsbedingungen",
            "Donaudampfschifffahrtsgesellschaft",
        ),
        ("https://example.com/" + "a" * 100, "https://example.com/" + "a" * 40),
        ("# Heading\n\n- **bold** and _slanted_", "Heading bold and slanted"),
        ("> 1. quoted, *numbered*", "quoted, numbered"),
        ("```python\nprint(snake_case_name)\n```", "print(snake_case_name)"),
        ("```\n```", "New Chat"),
        ("Use `pip` or **`uv`** or ~~conda~~?", "Use pip or uv or conda?"),
        ("See [the docs](https://x/y) and ![a cat](https://x/z.png)", "See the docs and a cat"),
        ("2 * 3 * 4 and 5_000 C# **open", "2 * 3 * 4 and"),
        ("What is 2**3**4 of snake_case_name?", "What is 2**3**4 of snake_case_name?"),
        ("这是**重点**内容", "这是重点内容"),
        ('Say "hello" to “me”', "Say hello to me"),
        ("Don't panic", "Don't panic"),
        ("What is {this}?", "What is {this}?"),
        ("left\u202eright\x00 \x1b[0m\ufeffend", "left right [0m end"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("如何在室内养活罗勒？", "如何在室内养活罗勒？"),  # noqa: RUF001
        ("请帮我写一首关于春天的诗", "请帮我写一首关于春天的诗"),
        (
            "我的罗勒在室内养了一个星期就枯萎了，请问应该怎么浇水，又应该放在哪里晒太阳才好呢",  # noqa: RUF001
            "我的罗勒在室内养了一个星期就枯萎了，请问应该怎么浇水",  # noqa: RUF001
        ),
        ("汉" * 50, "汉" * 30),
        (
            "室内でバジルを枯らさずに育てるにはどうすればいいですか教えてください",
            "室内でバジルを枯らさずに育てるにはどうすればいいですか教えて",
        ),
        ("ฉันจะดูแลโหระพาในบ้านได้อย่างไร", "ฉันจะดูแลโหระพาในบ้านได้อย่างไร"),
        ("집에서 바질을 어떻게 키우나요", "집에서 바질을 어떻게 키우나요"),
        ("كيف أعتني بالريحان في المنزل", "كيف أعتني بالريحان في المنزل"),
        ("👩‍👩‍👧 family", "👩‍👩‍👧 family"),
        ("", "New Chat"),
        (" \n ", "New Chat"),
        ("...", "New Chat"),
    ],
)
def test_a_title_is_the_beginning_of_what_the_user_said_first(said: str, title: str) -> None:
    turns = title_prompt(f"USER: {said}", "ASSISTANT: Well.", "USER: Not this", "ASSISTANT: Well.")
    assert recognise(None, turns) is Task.TITLE
    assert json.loads(answer(Task.TITLE, turns)) == {"title": title}


@pytest.mark.parametrize(
    "text",
    [
        "กี้" * 100,  # a consonant with a vowel and a tone mark
        "e\u0301" * 100,
        "👩‍👩‍👧" * 30,
        "a" + "👍🏽" * 60,
        "❤️" * 60,
        "นี่คือข้อความ" * 20,
    ],
)
def test_a_title_ends_with_a_whole_character(text: str) -> None:
    title = json.loads(answer(Task.TITLE, title_prompt(f"USER: {text}")))["title"]
    assert text.startswith(title)
    assert 0 < len(title) <= TITLE_COLUMNS
    rest = text[len(title) :]
    assert rest[0] not in "\u0301\u200d\ufe0f🏽ี้"
    assert not title.endswith("\u200d")


def test_a_chat_without_the_user_s_words_has_a_title_too() -> None:
    for chat in ["ASSISTANT: Hello, how can I help?", "USER: ", ""]:
        assert json.loads(answer(Task.TITLE, title_prompt(chat))) == {"title": "New Chat"}


def test_the_last_message_is_what_is_searched_for() -> None:
    chat = "USER: First\nASSISTANT: Yes\nUSER: Tell me\n\nabout \t soil"
    turns = user(template("open-webui-queries").replace("CHAT", chat))
    assert json.loads(answer(Task.QUERIES, turns)) == {"queries": ["Tell me about soil"]}


def test_a_long_message_is_searched_for_by_its_beginning() -> None:
    turns = user(template("open-webui-queries").replace("CHAT", f"USER: {'word ' * 1000}"))
    (query,) = json.loads(answer(Task.QUERIES, turns))["queries"]
    assert len(query) <= QUERY_CHARS
    assert query.split() == ["word"] * 80


def test_a_long_image_prompt_is_cut() -> None:
    turns = user(template("open-webui-image-prompt").replace("CHAT", f"USER: {'x' * 10_000}"))
    assert json.loads(answer(Task.IMAGE_PROMPT, turns)) == {"prompt": "x" * 4000}


def test_an_image_prompt_keeps_its_lines_and_braces() -> None:
    turns = user(template("open-webui-image-prompt").replace("CHAT", "USER: Draw {a}\n`cat`'s"))
    for read_answer in READERS:
        assert read_answer(answer(Task.IMAGE_PROMPT, turns)) == {"prompt": "Draw {a}\n`cat`'s"}


MANY = 10_000_000


@pytest.mark.parametrize(
    "piece",
    ["word ", "`", "[", "*a", "_a", "- ", "1. ", " ", "\nUSER: x", "\n<chat_history>", "\n</chat_history>", "\n```\n"],
)
def test_a_huge_chat_is_no_trouble(piece: str) -> None:
    chat = f"USER: {piece * (MANY // len(piece))}"
    assert recognise(None, title_prompt(chat)) is Task.TITLE
    for turns in [title_prompt(chat), user(f"### Task:\n{chat}"), user(chat), [*CHAT, turn("user", chat)]]:
        recognise(None, turns)
        assert len(answer(Task.TITLE, turns)) < 1000
        assert len(answer(Task.QUERIES, turns)) < 10_000
