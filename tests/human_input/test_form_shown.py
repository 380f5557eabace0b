"""A form as a person reads it, and as a program does."""

import json

import pytest

from opendify.dialogue import Form, FormAction, FormField
from opendify.human_input import open_form
from opendify.human_input.shown import (
    LONG_DEFAULT,
    WAITING,
    call_arguments,
    code,
    how_to_answer,
    markdown,
    readable,
    told_back,
)

NOTE = FormField(name="note", default="preset note")
TONE = FormField(name="tone", kind="select", options=("formal", "casual"))
DOC = FormField(name="doc", kind="file", types=("document", "image"))
DOCS = FormField(name="docs", kind="file-list", types=("document",), limit=2)
APPROVE, REJECT = FormAction("approve", "Approve"), FormAction("reject", "Reject it")
REVIEW = Form(
    token="t1",
    title="Ask human",
    content="Please review: my draft\n\nNote: {{#$output.note#}}\nTone: {{#$output.tone#}}",
    fields=(NOTE, TONE),
    actions=(APPROVE, REJECT),
    expires=1795443593.0,
    channels=("console",),
)
SHOWN = """**Ask human**

Please review: my draft

Note: [note]
Tone: [tone]

Fields:
- `note`: text (default: preset note)
- `tone`: one of `formal` or `casual`

Actions:
- `approve`: Approve
- `reject`: Reject it

Expires: 2026-11-23 14:19 UTC

Reply with `approve` or `reject`. Fields stand on lines of their own, like `note: ...`."""


def test_a_form() -> None:
    assert markdown((REVIEW,)) == SHOWN


def test_a_form_of_files() -> None:
    form = Form(token="t", content="Give [it]", fields=(DOC, DOCS), actions=(APPROVE,))
    assert markdown((form,)) == (
        "Give [it]\n\nFields:\n- `doc`: a file (document, image)\n- `docs`: files (document), at most 2\n\n"
        "Actions:\n- `approve`: Approve\n\nReply with `approve`. Files are attached to the reply."
    )


def test_a_single_paragraph_takes_all_of_a_reply() -> None:
    form = Form(token="t", fields=(FormField(name="why"),), actions=(FormAction("ok", "OK"),))
    assert how_to_answer(form) == (
        "Reply with the text for `why`, or with `ok` alone. Fields stand on lines of their own, like `why: ...`."
    )


def test_a_choice_without_known_options() -> None:
    form = Form(token="t", fields=(FormField(name="tone", kind="select"),), actions=(APPROVE,))
    assert "- `tone`: a choice\n" in markdown((form,))


def test_a_form_without_anything() -> None:
    assert markdown((Form(token="t"),)) == ""
    assert markdown(()) == WAITING


@pytest.mark.parametrize(
    ("channels", "where"),
    [
        (("console", "email"), "where it was sent to (in Dify or by email), and"),
        (("fax",), "where it was sent to (fax), and"),
        ((), "where it was sent to, and"),
    ],
)
def test_a_form_that_is_answered_elsewhere(channels: tuple[str, ...], where: str) -> None:
    shown = markdown((Form(content="Look.", actions=(APPROVE,), channels=channels),))
    assert shown.endswith(f"This form cannot be answered here: it is answered {where} the app goes on then.")
    assert "Reply with" not in shown


def test_several_forms_are_answered_one_after_the_other() -> None:
    forms = (Form(content="By mail.", channels=("email",)), REVIEW, Form(token="t2", content="Last."))
    first, second, third = markdown(forms).split("\n\n---\n\n")
    assert first.startswith("**Form 1 of 3**\n\nBy mail.\n\nThis form cannot be answered here")
    assert second == f"**Form 2 of 3**\n\n{SHOWN}"
    assert third == "**Form 3 of 3**\n\nLast.\n\nIt can be answered after the one above."
    assert open_form(forms) is REVIEW
    assert open_form(forms[:1]) is None


def test_a_bad_answer_is_told_back_with_the_way_to_answer() -> None:
    assert told_back("What?", REVIEW) == f"What?\n\n{how_to_answer(REVIEW)}"


def test_what_stands_in_a_form_keeps_to_its_line() -> None:
    odd = FormField(name="a`b\nc", default="x" * (LONG_DEFAULT + 1))
    form = Form(token="t", title="One\ntwo", fields=(odd,), actions=(FormAction("go`", "Go\n# now"),))
    shown = markdown((form,))
    assert shown.startswith("**One two**\n\nFields:\n- `a'b c`: text (default: xxx")
    assert "xxx...)\n\nActions:\n- `go'`: Go # now\n" in shown


def test_placeholders() -> None:
    assert readable("{{#$output.a b#}} {{#sys.query#}} {{#$output.#}}") == "[a b] {{#sys.query#}} {{#$output.#}}"
    assert code("") == "``"


def test_the_arguments_of_a_call() -> None:
    assert json.loads(call_arguments((Form(content="By mail."), REVIEW))) == {
        "title": "Ask human",
        "content": "Please review: my draft\n\nNote: [note]\nTone: [tone]",
        "fields": [
            {"name": "note", "type": "paragraph", "default": "preset note"},
            {"name": "tone", "type": "select", "options": ["formal", "casual"]},
        ],
        "actions": [{"id": "approve", "title": "Approve"}, {"id": "reject", "title": "Reject it"}],
        "expires_at": "2026-11-23T14:19:53Z",
    }
    told = json.loads(call_arguments((Form(token="t", fields=(DOCS,)),)))
    assert told["fields"] == [{"name": "docs", "type": "file-list", "file_types": ["document"], "max_files": 2}]
    assert told["expires_at"] is None
    assert json.loads(call_arguments(()))["actions"] == []
