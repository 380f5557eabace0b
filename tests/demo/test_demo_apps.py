"""What apps say about themselves, and the sample apps."""

from dataclasses import replace

import pytest
from asking import inside, sample

from opendify.demo import CODE_WORD, SAMPLE_APPS, Control, SampleApp

PARAMETERS = [
    "opening_statement", "suggested_questions", "suggested_questions_after_answer", "speech_to_text",
    "text_to_speech", "retriever_resource", "annotation_reply", "more_like_this", "user_input_form",
    "sensitive_word_avoidance", "file_upload", "system_parameters",
]  # fmt: skip


def test_there_is_an_app_of_every_mode() -> None:
    modes = [app.mode for app in SAMPLE_APPS]
    assert modes == ["chat", "agent-chat", "advanced-chat", "completion", "workflow", "agent"]
    assert len({app.id for app in SAMPLE_APPS}) == 6
    assert all(CODE_WORD in app.prompt for app in SAMPLE_APPS)


@pytest.mark.parametrize("app", SAMPLE_APPS, ids=lambda app: app.mode)
async def test_descriptions(app: SampleApp) -> None:
    async with inside(app) as asking:
        info = (await asking.http.get("/v1/info")).json()
        assert (info["name"], info["mode"]) == (app.name, app.mode)
        assert list((await asking.http.get("/v1/parameters")).json()) == PARAMETERS
        assert (await asking.http.get("/v1/site")).json()["title"] == app.name
        icons = (await asking.http.get("/v1/meta")).json()["tool_icons"]
        assert list(icons) == (["current_time", "make_picture"] if app.mode == "agent-chat" else [])


async def test_forms() -> None:
    async with inside("workflow") as asking:
        form = (await asking.http.get("/v1/parameters")).json()["user_input_form"]
    assert [next(iter(control)) for control in form] == ["paragraph", "file", "file-list"]
    assert form[2]["file-list"]["allowed_file_upload_methods"] == ["local_file", "remote_url"]
    async with inside("completion") as asking:
        form = (await asking.http.get("/v1/parameters")).json()["user_input_form"]
    assert form[1] == {
        "select": {
            "variable": "tone",
            "label": "Tone",
            "required": False,
            "default": "",
            "options": ["formal", "casual"],
        }
    }
    assert "max_length" not in Control("paragraph", "a").described(in_flow=True)["paragraph"]
    assert Control("text-input", "a", max_length=5).described(in_flow=False)["text-input"]["max_length"] == 5


async def test_features_show_in_the_parameters() -> None:
    app = replace(sample("chat"), blocked_output=("x",), annotations={"q": "a"}, parameters={"more": 1})
    async with inside(app) as asking:
        body = (await asking.http.get("/v1/parameters")).json()
    assert body["sensitive_word_avoidance"]["enabled"]
    assert body["annotation_reply"]["enabled"]
    assert body["more"] == 1


async def test_older_servers_tell_less() -> None:
    async with inside(replace(sample("chat"), info="no-mode")) as asking:
        assert "mode" not in (await asking.http.get("/v1/info")).json()
    async with inside(replace(sample("chat"), info="absent")) as asking:
        answer = await asking.http.get("/v1/info")
        assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_health_needs_no_key() -> None:
    async with inside("chat") as asking:
        answer = await asking.http.get("/health", headers={"authorization": ""})
        assert answer.json() == {"pid": 1, "status": "ok", "version": "1.16.1"}


async def test_an_unpublished_agent_has_parameters() -> None:
    async with inside(replace(sample("agent"), published=False)) as asking:
        assert (await asking.http.get("/v1/parameters")).status_code == 200
        assert (await asking.post("ECHO:a")).json()["message"] == "model is required"


async def test_versions_of_a_workflow() -> None:
    async with inside("workflow") as asking:
        path, body = asking.request("ECHO:a")
        answer = await asking.http.post(f"/v1/workflows/{asking.app.workflow_id}/run", json=body)
        assert answer.status_code == 200
        assert (await asking.http.post("/v1/workflows/abc/run", json=body)).json()["code"] == "bad_request"
        assert path == "/v1/workflows/run"
