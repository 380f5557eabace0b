"""The mode of an app whose server does not tell it."""

import pytest
from app_samples import BASE, KEY

from opendify.dify.apps import Access
from opendify.dify.modes import infer_mode
from opendify.errors import BrokenUpstream, OpenDifyError, Refused, Unreachable

NOT_CHAT = Refused("Please check if your app mode matches the right API route.", code="not_chat_app", status=400)
NOT_WORKFLOW = Refused("Please check your app mode.", code="not_workflow_app", status=400)
NOT_FOUND = Refused("Workflow run not found", code="not_found", status=404)
LIST = b'{"limit":1,"has_more":false,"data":[]}'
STOPPED = b'{"result":"success"}'
CONVERSATIONS, STOP, RUN, META = "/conversations", "/workflows/tasks/none/stop", "/workflows/run/", "/meta"


class OldServer:
    """A server whose answers are given by path."""

    def __init__(self, answers: dict[str, bytes | OpenDifyError]) -> None:
        self.answers = answers
        self.calls: list[tuple[str, str, bytes | None]] = []

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        assert access.key == KEY
        self.calls.append((method, path, body))
        answer = next(answer for start, answer in self.answers.items() if path.startswith(start))
        if isinstance(answer, OpenDifyError):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "mode"),
    [
        ({CONVERSATIONS: NOT_CHAT, STOP: STOPPED}, "workflow"),
        ({CONVERSATIONS: NOT_CHAT, STOP: NOT_WORKFLOW}, "completion"),
        ({CONVERSATIONS: LIST, RUN: NOT_FOUND}, "advanced-chat"),
        ({CONVERSATIONS: LIST, RUN: b"{}"}, "advanced-chat"),
        ({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: b'{"tool_icons":{}}'}, "chat"),
        ({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: b"{}"}, "chat"),
        ({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: b'{"tool_icons":{"search":"https://x"}}'}, "agent-chat"),
        ({CONVERSATIONS: NOT_FOUND, RUN: NOT_FOUND}, "advanced-chat"),
    ],
)
async def test_the_mode_by_the_routes_that_serve_it(answers: dict[str, bytes | OpenDifyError], mode: str) -> None:
    assert await infer_mode(OldServer(answers), Access(BASE, KEY)) == mode


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({CONVERSATIONS: Unreachable("no")}, Unreachable),
        ({CONVERSATIONS: Refused("no", code="unauthorized", status=401)}, Refused),
        ({CONVERSATIONS: NOT_CHAT, STOP: Refused("no", code="forbidden", status=403)}, Refused),
        ({CONVERSATIONS: LIST, RUN: Refused("no", code="internal_server_error", status=500)}, Refused),
        ({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: BrokenUpstream("html")}, BrokenUpstream),
    ],
)
async def test_other_answers_tell_nothing(
    answers: dict[str, bytes | OpenDifyError], error: type[OpenDifyError]
) -> None:
    with pytest.raises(error):
        await infer_mode(OldServer(answers), Access(BASE, KEY))


async def test_an_odd_meta_is_a_broken_upstream() -> None:
    server = OldServer({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: b"[]"})
    with pytest.raises(BrokenUpstream):
        await infer_mode(server, Access(BASE, KEY))


LISTED = ("GET", "/conversations?user=opendify-probe&limit=1", None)
LOOKED_FOR = ("GET", "/workflows/run/00000000-0000-4000-8000-000000000000", None)


@pytest.mark.parametrize(
    ("answers", "calls"),
    [
        (
            {CONVERSATIONS: NOT_CHAT, STOP: STOPPED},
            [LISTED, ("POST", "/workflows/tasks/none/stop", b'{"user":"opendify-probe"}')],
        ),
        ({CONVERSATIONS: LIST, RUN: NOT_FOUND}, [LISTED, LOOKED_FOR]),
        ({CONVERSATIONS: LIST, RUN: NOT_WORKFLOW, META: b"{}"}, [LISTED, LOOKED_FOR, ("GET", "/meta", None)]),
    ],
)
async def test_the_probes_start_nothing_and_have_one_user(
    answers: dict[str, bytes | OpenDifyError], calls: list[tuple[str, str, bytes | None]]
) -> None:
    server = OldServer(answers)
    await infer_mode(server, Access(BASE, KEY))
    assert server.calls == calls
