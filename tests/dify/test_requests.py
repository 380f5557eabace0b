"""Prompt + App -> uploads, path and body."""

import json
from typing import Any

import pytest
from app_samples import file_input, link, make_app, takes, text

from opendify.dialogue import Attachment, Prompt, Turn
from opendify.dify.apps import App, Input
from opendify.dify.requests import RunPlan, build, stop_path
from opendify.errors import InvalidRequest, RequestTooLarge

PICTURE = link("https://h/a.png")
UPLOAD = Attachment(media="file", param="messages[0].content[1]", base64="aGVsbG8=", name="a.txt")
PIC = file_input("pic", takes("image", count=1))
PICS = file_input("pics", takes("image", count=3), control="file-list")


def user(content: str, *attachments: Attachment) -> Turn:
    return Turn(role="user", text=content, attachments=attachments)


def prompt(*turns: Turn, **more: Any) -> Prompt:
    return Prompt(model="Helper", turns=turns or (user("hello"),), **more)


def made(app: App, asked: Prompt, *, most: int = 20) -> RunPlan:
    return build(asked, app, most)


def body(plan: RunPlan, *upload_ids: str | None, conversation: str | None = None) -> dict[str, Any]:
    ids = upload_ids or [None] * len(plan.files)
    return dict(json.loads(plan.body("ann", ids, conversation)))


# -- paths and bodies


@pytest.mark.parametrize(
    ("mode", "path", "stop"),
    [
        ("chat", "/chat-messages", "/chat-messages/t1/stop"),
        ("agent-chat", "/chat-messages", "/chat-messages/t1/stop"),
        ("advanced-chat", "/chat-messages", "/chat-messages/t1/stop"),
        ("agent", "/chat-messages", "/chat-messages/t1/stop"),
        ("completion", "/completion-messages", "/completion-messages/t1/stop"),
        ("workflow", "/workflows/run", "/workflows/tasks/t1/stop"),
    ],
)
def test_paths(mode: Any, path: str, stop: str) -> None:
    assert made(make_app(mode, text("query")), prompt()).path == path
    assert stop_path(mode, "t1") == stop


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat", "agent"])
def test_the_body_of_a_chat(mode: Any) -> None:
    plan = made(make_app(mode, text("topic")), prompt(variables={"topic": "x"}))
    assert body(plan) == {
        "query": "hello",
        "inputs": {"topic": "x"},
        "response_mode": "streaming",
        "user": "ann",
        "auto_generate_name": False,
    }


@pytest.mark.parametrize("mode", ["completion", "workflow"])
def test_the_body_of_an_app_without_conversations(mode: Any) -> None:
    plan = made(make_app(mode, text("topic", required=True), text("tone")), prompt())
    expected = {"inputs": {"topic": "hello", "tone": ""}, "response_mode": "streaming", "user": "ann"}
    assert body(plan) == expected
    assert body(plan, conversation="c1") == expected


def test_a_conversation_that_goes_on() -> None:
    plan = made(make_app(), prompt())
    assert body(plan, conversation="c1")["conversation_id"] == "c1"
    assert "conversation_id" not in body(plan)
    assert "files" not in body(plan)


def test_inputs_are_always_an_object() -> None:
    assert body(made(make_app(), prompt()))["inputs"] == {}


def test_several_turns_become_one_query() -> None:
    turns = (user("One?"), Turn(role="assistant", text="1"), user("Two?"))
    assert body(made(make_app(), prompt(*turns)))["query"].endswith("## Last message, reply to this\nTwo?")


# -- inputs


@pytest.mark.parametrize("mode", ["chat", "workflow"])
def test_variables_from_all_their_sources(mode: Any) -> None:
    app = make_app(
        mode, text("query"), text("a"), text("b"), text("c"), Input("n", "number", required=True),
        inputs={"a": "config", "b": "config", "c": "config"},
    )  # fmt: skip
    asked = prompt(metadata={"b": "meta", "c": "meta", "n": "7", "session": "x"}, variables={"c": "body"})
    inputs = body(made(app, asked))["inputs"]
    assert inputs == {"query": inputs["query"], "a": "config", "b": "meta", "c": "body", "n": 7}


@pytest.mark.parametrize(
    ("variables", "metadata", "configured", "expected"),
    [
        ({}, {}, {}, "hello"),
        ({"query": "set on purpose"}, {}, {}, "set on purpose"),
        ({}, {"query": "by the way"}, {}, "hello"),
        ({}, {}, {"query": "by default"}, "hello"),
    ],
)
def test_the_prompt_goes_in_unless_the_client_sets_its_variable(
    variables: dict[str, Any], metadata: dict[str, Any], configured: dict[str, Any], expected: str
) -> None:
    app = make_app("completion", text("query", required=True), inputs=configured)
    assert body(made(app, prompt(variables=variables, metadata=metadata)))["inputs"] == {"query": expected}


def test_an_app_that_takes_no_text() -> None:
    app = make_app("workflow", Input("n", "number", required=True))
    assert body(made(app, prompt(variables={"n": 3})))["inputs"] == {"n": 3}


def test_a_completion_without_a_text_input_gets_the_older_query() -> None:
    number = Input("n", "number", required=False)
    assert body(made(make_app("completion", number), prompt()))["query"] == "hello"
    assert "query" not in body(made(make_app("completion", number, text("topic")), prompt()))
    assert "query" not in body(made(make_app("workflow", number), prompt()))


def test_a_missing_input() -> None:
    with pytest.raises(InvalidRequest) as caught:
        made(make_app("chat", Input("n", "number", required=True)), prompt())
    assert caught.value.param == "inputs.n"


def test_a_text_that_is_too_long_for_its_variable() -> None:
    app = make_app("workflow", text("topic", required=True, max_length=5))
    assert body(made(app, prompt(user("12345"))))["inputs"] == {"topic": "12345"}
    with pytest.raises(InvalidRequest, match="6 characters; this app's 'topic' takes at most 5") as caught:
        made(app, prompt(user("123456")))
    assert caught.value.param == "messages"


# -- files


def test_files_beside_the_prompt() -> None:
    plan = made(make_app(files=takes("image", "document")), prompt(user("see", PICTURE, UPLOAD)))
    assert body(plan, None, "up-1")["files"] == [
        {"type": "image", "transfer_method": "remote_url", "url": "https://h/a.png"},
        {"type": "document", "transfer_method": "local_file", "upload_file_id": "up-1"},
    ]
    assert [file.upload is not None for file in plan.files] == [False, True]


@pytest.mark.parametrize("required", [True, False])
def test_files_of_a_workflow_are_inputs(required: bool) -> None:
    app = make_app(
        "workflow",
        text("query"),
        file_input("doc", takes("document", count=1), required=required),
        file_input("pics", takes("image", count=3), required=required, control="file-list"),
    )
    plan = made(app, prompt(user("see", PICTURE, UPLOAD, PICTURE)))
    sent = body(plan, None, "up-1", None)
    linked = {"type": "image", "transfer_method": "remote_url", "url": "https://h/a.png"}
    assert sent["inputs"] == {
        "query": "see",
        "doc": {"type": "document", "transfer_method": "local_file", "upload_file_id": "up-1"},
        "pics": [linked, linked],
    }
    assert "files" not in sent


def test_a_required_file_that_is_missing() -> None:
    app = make_app("workflow", text("query"), file_input("pic", takes("image", count=1), required=True))
    with pytest.raises(InvalidRequest, match="needs the input 'pic'") as caught:
        made(app, prompt())
    assert caught.value.param == "inputs.pic"


def test_a_file_that_the_client_set_itself() -> None:
    given = {"type": "image", "transfer_method": "local_file", "upload_file_id": "own"}
    plan = made(make_app("workflow", text("query"), PIC), prompt(variables={"pic": given}))
    assert body(plan)["inputs"] == {"query": "hello", "pic": given}


def test_ids_have_to_match_the_files() -> None:
    plan = made(make_app(files=takes("image")), prompt(user("see", PICTURE)))
    with pytest.raises(ValueError, match="zip"):
        plan.body("ann", [], None)


def test_too_many_files() -> None:
    with pytest.raises(RequestTooLarge):
        made(make_app(files=takes("image")), prompt(user("see", PICTURE, PICTURE)), most=1)


def test_an_app_that_takes_no_files() -> None:
    with pytest.raises(InvalidRequest, match="takes no files"):
        made(make_app(), prompt(user("see", PICTURE)))


# -- a message without words


@pytest.mark.parametrize(
    ("attachments", "query"),
    [
        ([PICTURE], "[image]"),
        ([UPLOAD], "[a.txt]"),
        ([PICTURE, UPLOAD], "[image]\n[a.txt]"),
    ],
)
def test_a_picture_may_come_without_a_word(attachments: list[Attachment], query: str) -> None:
    plan = made(make_app(files=takes("image", "document")), prompt(user("", *attachments)))
    assert body(plan)["query"] == query


def test_neither_words_nor_files() -> None:
    with pytest.raises(InvalidRequest, match="neither text nor files") as caught:
        made(make_app(), prompt(user("")))
    assert caught.value.param == "messages"


def test_neither_words_nor_files_after_other_turns() -> None:
    with pytest.raises(InvalidRequest, match="neither text nor files"):
        made(make_app(), prompt(user("One?"), Turn(role="assistant", text="1"), user("")))


# -- files of earlier turns


def pictures(*numbers: int) -> list[Attachment]:
    return [link(f"https://h/{number}.png") for number in numbers]


def urls(app: App, *turns: Turn, most: int = 20) -> list[str | None]:
    return [file.url and file.url.removeprefix("https://h/") for file in made(app, prompt(*turns), most=most).files]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["5.png"]),
        (2, ["4.png", "5.png"]),
        (3, ["3.png", "4.png", "5.png"]),
        (9, ["1.png", "2.png", "3.png", "4.png", "5.png"]),
    ],
)
def test_earlier_files_as_far_as_there_is_room_newest_first(count: int, expected: list[str]) -> None:
    first, second, third = user("a", *pictures(1, 2)), user("b", *pictures(3, 4)), user("c", *pictures(5))
    turns = (first, Turn(role="assistant", text="x"), second, third)
    assert urls(make_app(files=takes("image", count=count)), *turns) == expected


def test_earlier_files_fill_a_workflows_inputs() -> None:
    turns = (user("a", *pictures(1, 2)), user("b", *pictures(3)))
    assert urls(make_app("workflow", text("query"), PICS), *turns) == ["1.png", "2.png", "3.png"]


def test_earlier_files_alone() -> None:
    turns = (user("a", *pictures(1)), Turn(role="assistant", text="x"), user("b"))
    assert urls(make_app(files=takes("image")), *turns) == ["1.png"]
    assert urls(make_app(), *turns) == []


@pytest.mark.parametrize(
    "app",
    [
        pytest.param(make_app("chat", text("topic"), PIC, files=takes("document", count=3)), id="other kinds"),
        pytest.param(
            make_app("chat", file_input("doc", takes("document")), files=takes("image", count=1)), id="places"
        ),
        pytest.param(make_app(files=takes("image", count=50)), id="over MAX_FILES"),
    ],
)
def test_earlier_files_never_make_a_request_fail(app: App) -> None:
    turns = (user("a", *pictures(*range(1, 21))), user("b", *pictures(21)))
    assert urls(app, *turns)[-1] == "21.png"


def test_earlier_files_where_any_number_is_taken() -> None:
    turns = (user("a", *pictures(1)), user("b", *pictures(2)))
    assert urls(make_app(files=takes("image", count=None)), *turns) == ["1.png", "2.png"]


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_picture_without_a_word(blank: str) -> None:
    turn = user(blank, *pictures(1))
    assert made(make_app(files=takes("image")), prompt(turn)).query == "[image]"


def test_a_tool_that_returned_nothing() -> None:
    assert made(make_app(), prompt(Turn(role="tool", text=""))).query == "(empty)"
