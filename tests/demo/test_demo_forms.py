"""Human input: a paused run, its form, and what comes after it."""

from typing import Any

import pytest
from asking import Asking, events, inside, on_port, said

FILLED = {"inputs": {"note": "fine", "tone": "formal"}, "action": "approve", "user": "u1"}


async def paused(asking: Asking) -> tuple[str, str]:
    """The form's token and the run's id."""
    told = await asking.run("PAUSE ECHO:my draft")
    assert [event["event"] for event in told][-2:] == ["human_input_required", "workflow_paused"]
    return told[-2]["data"]["form_token"], told[-1]["data"]["workflow_run_id"]


async def subscribed(asking: Asking, run_id: str, **params: str) -> list[dict[str, Any]]:
    """The events of a subscription."""
    answer = await asking.http.get(f"/v1/workflow/{run_id}/events", params={"user": "u1"} | params)
    return events(answer.text)


@pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])
@pytest.mark.parametrize(("action", "text"), [("approve", "Approved: fine"), ("reject", "Rejected: fine")])
async def test_the_run_goes_on(mode: str, action: str, text: str) -> None:
    async with inside(mode) as asking:
        token, run_id = await paused(asking)
        form = (await asking.http.get(f"/v1/form/human_input/{token}")).json()
        assert form["form_content"].startswith("Please review: my draft")
        assert [action["id"] for action in form["user_actions"]] == ["approve", "reject"]
        submitted = await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED | {"action": action})
        assert submitted.json() == {}
        told = await subscribed(asking, run_id)
        assert told[1]["data"]["reason"] == "resumption"
        assert said(told) == text
        assert told[-1]["data"]["status"] == "succeeded"
        [finished] = await subscribed(asking, run_id)
        assert (finished["event"], finished["task_id"]) == ("workflow_finished", run_id)


async def test_a_subscriber_waits_for_the_form() -> None:
    async with on_port("advanced-chat", ping_seconds=0.02) as asking:
        token, run_id = await paused(asking)
        text = ""
        async with asking.http.stream("GET", f"/v1/workflow/{run_id}/events", params={"user": "u1"}) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if text.count("event: ping") == 3:
                    await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED)
    assert said(events(text)) == "Approved: fine"


async def test_a_subscriber_may_leave() -> None:
    async with on_port("advanced-chat", ping_seconds=0.02) as asking:
        token, run_id = await paused(asking)
        async with asking.http.stream("GET", f"/v1/workflow/{run_id}/events", params={"user": "u1"}) as answer:
            await anext(answer.aiter_text())
        await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED)
        detail = (await asking.http.get(f"/v1/workflows/run/{run_id}")).json()
        assert (detail["status"], detail["outputs"]["answer"]) == ("succeeded", "Draft: my draft\nApproved: fine")


@pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])
async def test_a_snapshot_tells_what_was_before(mode: str) -> None:
    async with on_port(mode) as asking:
        _, run_id = await paused(asking)
        path, params = f"/v1/workflow/{run_id}/events", {"user": "u1", "include_state_snapshot": "true"}
        text = ""
        async with asking.http.stream("GET", path, params=params) as answer:
            async for piece in answer.aiter_text():
                text += piece
                if "workflow_paused" in text:
                    break
    told = events(text)
    assert [event["event"] for event in told][-2:] == ["human_input_required", "workflow_paused"]
    replaced = [event["answer"] for event in told if event["event"] == "message_replace"]
    assert replaced == (["Draft: my draft\n"] if mode == "advanced-chat" else [])
    assert list(told[1])[:4] == ["event", "task_id", "workflow_run_id", "data"]


async def test_run_details() -> None:
    async with inside("workflow") as asking:
        token, run_id = await paused(asking)
        path = f"/v1/workflows/run/{run_id}"
        assert (await asking.http.get(path)).json()["status"] == "paused"
        await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED)
        assert (await asking.http.get(path)).json()["outputs"] == {"answer": "Approved: fine"}
        assert (await asking.http.get("/v1/workflows/run/unknown")).status_code == 404
    async with inside("chat") as asking:
        assert (await asking.http.get(path)).json()["code"] == "not_workflow_app"


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"action": "Approve"}, 400, "Invalid action: Approve"),
        ({"inputs": {"note": "x"}}, 400, "Missing required inputs: tone"),
        ({"inputs": {"note": "x", "tone": "zzz"}}, 400, "Invalid value for select input 'tone': zzz"),
        ({"inputs": None}, 400, "1 validation error for HumanInputFormSubmitPayload"),
        ({"user": ""}, 400, "Arg user must be provided."),
    ],
)
async def test_refused_answers(change: dict[str, Any], status: int, message: str) -> None:
    async with inside("workflow") as asking:
        token, _ = await paused(asking)
        answer = await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED | change)
        assert answer.status_code == status
        assert answer.json()["message"].startswith(message)


async def test_an_answer_needs_an_action() -> None:
    async with inside("workflow") as asking:
        token, _ = await paused(asking)
        body = {key: value for key, value in FILLED.items() if key != "action"}
        answer = await asking.http.post(f"/v1/form/human_input/{token}", json=body)
        assert "action\n  Field required" in answer.json()["message"]


async def test_a_form_is_answered_once_and_in_time() -> None:
    async with inside("workflow") as asking:
        token, _ = await paused(asking)
        path = f"/v1/form/human_input/{token}"
        await asking.http.post(path, json=FILLED)
        assert (await asking.http.post(path, json=FILLED)).json()["code"] == "human_input_form_submitted"
        token, _ = await paused(asking)
        asking.dify.state.forms[token].expires = 0
        answer = await asking.http.get(f"/v1/form/human_input/{token}")
        assert (answer.status_code, answer.json()["code"]) == (412, "human_input_form_expired")
        assert (await asking.http.get("/v1/form/human_input/unknown")).status_code == 404


async def test_stopping_a_paused_run_changes_nothing() -> None:
    async with inside("workflow") as asking:
        _, run_id = await paused(asking)
        task_id = asking.dify.state.runs[run_id].task_id
        await asking.http.post(asking.stop_path.format(task_id), json={"user": "u1"})
        assert asking.dify.state.runs[run_id].status == "paused"


async def test_only_the_runs_user_may_listen() -> None:
    async with inside("workflow") as asking:
        _, run_id = await paused(asking)
        refused = await asking.http.get(f"/v1/workflow/{run_id}/events", params={"user": "other"})
        assert refused.json()["message"] == "Workflow run not found"


async def test_older_servers_do_not_pause() -> None:
    async with inside("workflow", generation="1.9") as asking:
        assert (await asking.run("PAUSE ECHO:a"))[-1]["data"]["status"] == "succeeded"


async def test_a_running_run_only_pings() -> None:
    async with inside("workflow") as asking:
        await asking.run("ECHO:a")
        [run] = asking.dify.state.runs.values()
        run.finished = None
        assert await subscribed(asking, run.run_id) == [{"event": "ping"}]
