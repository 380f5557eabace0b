"""Human input: a paused run, its form, and what comes after it."""

import json
from typing import Any

import pytest
from asking import RECORDED, Asking, events, inside, on_port, said

FILLED = {"inputs": {"note": "fine", "tone": "formal"}, "action": "approve", "user": "u1"}


async def paused(asking: Asking) -> tuple[str, str]:
    """The form's token and the run's id."""
    told = await asking.run("PAUSE ECHO:my draft")
    assert [event["event"] for event in told][-2:] == ["human_input_required", "workflow_paused"]
    return told[-2]["data"]["form_token"], told[-1]["data"]["workflow_run_id"]


def recorded_form(name: str) -> dict[str, Any]:
    """The form of a recorded pause."""
    stream = json.loads((RECORDED.parents[1] / "transcripts" / "1.16.1" / f"{name}.json").read_text())["stream"]
    form: dict[str, Any] = next(event for event in events(stream) if event["event"] == "human_input_required")["data"]
    return form


def reference(upload_id: str) -> dict[str, str]:
    """Dify's file object."""
    return {"type": "document", "transfer_method": "local_file", "upload_file_id": upload_id}


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


@pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])
async def test_two_forms_one_after_the_other(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("PAUSE:twice ECHO:my draft")
        run_id = told[-1]["data"]["workflow_run_id"]
        await asking.http.post(f"/v1/form/human_input/{told[-2]['data']['form_token']}", json=FILLED)
        told = await subscribed(asking, run_id)
        assert said(told) == "Approved: fine\n"
        assert [event["event"] for event in told][-2:] == ["human_input_required", "workflow_paused"]
        assert (await asking.http.get(f"/v1/workflows/run/{run_id}")).json()["status"] == "paused"
        snapshot = await subscribed(asking, run_id, include_state_snapshot="true")
        assert snapshot[-2]["data"] == told[-2]["data"]
        await asking.http.post(f"/v1/form/human_input/{told[-2]['data']['form_token']}", json=FILLED)
        told = await subscribed(asking, run_id)
        assert (said(told), told[-1]["data"]["status"]) == ("Approved: fine", "succeeded")


async def test_a_form_without_a_token() -> None:
    async with inside("workflow") as asking:
        form = (await asking.run("PAUSE:email ECHO:a"))[-2]["data"]
        assert (form["form_token"], form["approval_channels"], form["display_in_ui"]) == (
            None,
            ["console", "email"],
            False,
        )
        assert list(form) == list(recorded_form("workflow-human-email-pause"))


async def test_a_form_that_has_expired() -> None:
    async with inside("workflow") as asking:
        token = (await asking.run("PAUSE:expired ECHO:a"))[-2]["data"]["form_token"]
        answer = await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED)
        assert (answer.status_code, answer.json()["code"]) == (412, "human_input_form_expired")


@pytest.mark.parametrize("mode", ["advanced-chat", "workflow"])
async def test_a_stream_that_is_lost(mode: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("PAUSE:lost ECHO:my draft")
        run_id = told[-1]["data"]["workflow_run_id"]
        await asking.http.post(f"/v1/form/human_input/{told[-2]['data']['form_token']}", json=FILLED)
        lost = await subscribed(asking, run_id)
        assert (said(lost), lost[-1]["event"]) == ("Approved: ", "message" if mode != "workflow" else "text_chunk")
        details = [(await asking.http.get(f"/v1/workflows/run/{run_id}")).json() for _ in range(2)]
        assert [detail["status"] for detail in details] == ["running", "succeeded"]
        assert details[1]["outputs"]["answer"].endswith("Approved: fine")


async def test_a_server_that_is_behind() -> None:
    async with inside("advanced-chat") as asking:
        told = await asking.run("PAUSE:stale ECHO:my draft")
        run_id, token = told[-1]["data"]["workflow_run_id"], told[-2]["data"]["form_token"]
        await asking.http.post(f"/v1/form/human_input/{token}", json=FILLED)
        stale = await subscribed(asking, run_id, include_state_snapshot="true")
        assert (stale[-1]["event"], stale[-2]["data"]["form_token"]) == ("workflow_paused", token)
        assert said(await subscribed(asking, run_id, include_state_snapshot="true")) == "Approved: fine"
        told = await asking.run("PAUSE:stale ECHO:my draft")
        await asking.http.post(f"/v1/form/human_input/{told[-2]['data']['form_token']}", json=FILLED)
        path = f"/v1/workflows/run/{told[-1]['data']['workflow_run_id']}"
        assert [(await asking.http.get(path)).json()["status"] for _ in range(2)] == ["paused", "succeeded"]


@pytest.mark.parametrize(("mode", "status"), [("advanced-chat", "succeeded"), ("workflow", "running")])
async def test_the_release_that_cannot_resume_workflows(mode: str, status: str) -> None:
    async with inside(mode) as asking:
        told = await asking.run("PAUSE:unresumable ECHO:my draft")
        run_id = told[-1]["data"]["workflow_run_id"]
        await asking.http.post(f"/v1/form/human_input/{told[-2]['data']['form_token']}", json=FILLED)
        finished = (await subscribed(asking, run_id))[-1]["data"]
        assert (finished["status"], finished["error"]) == (
            ("stopped", "Stopped by user.") if mode == "workflow" else ("succeeded", None)
        )
        assert (await asking.http.get(f"/v1/workflows/run/{run_id}")).json()["status"] == status


async def test_a_form_of_files() -> None:
    async with inside("workflow") as asking:
        form = (await asking.run("PAUSE:files ECHO:my draft"))[-2]["data"]
        known = recorded_form("workflow-human-file-pause")
        assert {name: form[name] for name in ("inputs", "actions", "resolved_default_values")} == {
            name: known[name] for name in ("inputs", "actions", "resolved_default_values")
        }
        path = f"/v1/form/human_input/{form['form_token']}"
        assert (await asking.http.get(path)).json()["resolved_default_values"] == {"note": "my draft"}
        part = {"file": ("a.txt", b"hello", "text/plain")}
        upload = (await asking.http.post("/v1/files/upload", data={"user": "u1"}, files=part)).json()["id"]
        file, unknown = reference(upload), reference("11111111-2222-4333-8444-555555555555")
        for doc, docs, problem in (
            (unknown, [], "file input 'doc': Invalid upload file"),
            (file, [unknown], "file list input 'docs': Invalid upload file"),
            (file, [file] * 3, "file list input 'docs': Number of files exceeds the maximum limit 2"),
        ):
            inputs = {"note": "n", "tone": "formal", "doc": doc, "docs": docs}
            answer = await asking.http.post(path, json=FILLED | {"inputs": inputs})
            assert answer.json()["message"] == f"Invalid value for {problem}"
        inputs = {"note": "n", "tone": "formal", "doc": file, "docs": [file]}
        assert (await asking.http.post(path, json=FILLED | {"inputs": inputs})).json() == {}


async def test_older_servers_do_not_pause() -> None:
    async with inside("workflow", generation="1.9") as asking:
        assert (await asking.run("PAUSE ECHO:a"))[-1]["data"]["status"] == "succeeded"


async def test_a_running_run_only_pings() -> None:
    async with inside("workflow") as asking:
        await asking.run("ECHO:a")
        [run] = asking.dify.state.runs.values()
        run.finished = None
        assert await subscribed(asking, run.run_id) == [{"event": "ping"}]
