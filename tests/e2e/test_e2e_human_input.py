"""Forms that a run waits for: shown as text or as a call, answered by the next turn, and the rest of the run."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from conftest import MODELS, Serve, Served, data_url, eventually, finish_of, frames, png, text_of

from opendify.dify.events import Run
from opendify.errors import Unreachable

FLOWS = ("advanced-chat", "workflow")
TOOL = {"type": "function", "function": {"name": "dify_human_input"}}
GOOD = "note: fine by me\ntone: casual\napprove"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.conversation.TURN_SECONDS", 0.0)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


class Chat:
    """A client that keeps its history, plainly or by streams."""

    def __init__(self, served: Served, mode: str, *, stream: bool = False, **more: Any) -> None:
        self.served = served
        self.model = MODELS[mode]
        self.messages: list[dict[str, Any]] = []
        self.finish = ""
        self._stream = stream
        self._more = more

    async def post(self, content: Any) -> httpx.Response:
        messages = [*self.messages, user(content)]
        body = {"model": self.model, "messages": messages, "stream": self._stream, **self._more}
        response = await self.served.http.post("/v1/chat/completions", json=body)
        if response.status_code == 200:
            self.messages = messages
        return response

    async def say(self, content: Any) -> str:
        """Ask; the answer's text, which goes into the history."""
        response = await self.post(content)
        assert response.status_code == 200, response.text
        if self._stream:
            chunks = frames(response.text)
            assert "error" not in response.text, response.text
            (self.finish,) = finish_of(chunks)
            message: dict[str, Any] = {"role": "assistant", "content": text_of(chunks)}
        else:
            choice = response.json()["choices"][0]
            self.finish, message = choice["finish_reason"], choice["message"]
        self.messages.append(message)
        return message["content"] or ""

    def submitted(self) -> list[dict[str, Any]]:
        """What was submitted to Dify."""
        posts = [request for request in self.served.dify.requests if "/form/human_input/" in request.path]
        return [request.body for request in posts if request.method == "POST"]


# -- asked and answered


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("mode", FLOWS)
async def test_a_form_its_answer_and_the_rest_of_the_run(served: Served, mode: str, stream: bool) -> None:
    chat = Chat(served, mode, stream=stream)
    form = await chat.say("PAUSE ECHO:draft")
    assert chat.finish == "stop"
    fields = ("`note`: text (default: preset note)", "`tone`: one of `formal` or `casual`")
    for told in ("Please review", *fields, "`approve`: Approve", "Expires: 20"):
        assert told in form
    runs = len(served.runs())
    rest = await chat.say(GOOD)
    assert chat.finish == "stop"
    assert "fine by me" in rest
    assert "draft" not in rest or mode == "workflow"
    assert len(served.runs()) == runs
    assert [body["inputs"] | {"action": body["action"]} for body in chat.submitted()] == [
        {"note": "fine by me", "tone": "casual", "action": "approve"}
    ]
    assert await chat.say("ECHO:and on") == "and on"
    assert len(served.runs()) == runs + 1
    assert (served.last_run.get("conversation_id") in served.dify.conversations) is (mode == "advanced-chat")


@pytest.mark.parametrize("mode", FLOWS)
async def test_a_bad_reply_is_told_back_and_the_form_stays(served: Served, mode: str) -> None:
    chat = Chat(served, mode)
    await chat.say("PAUSE ECHO:draft")
    assert "Its options are" in await chat.say("tone: angry\napprove")
    assert "approve" in await chat.say("note: from the second reply\ntone: formal")
    assert not chat.submitted()
    assert "from the second reply" in await chat.say("Approve!")
    (submitted,) = chat.submitted()
    assert submitted["inputs"] == {"note": "from the second reply", "tone": "formal"}
    assert len(served.runs()) == 1


@pytest.mark.parametrize("reply", ['{"action": "reject", "inputs": {"tone": "formal"}}', "Reject it\ntone: formal"])
async def test_other_ways_to_answer(served: Served, reply: str) -> None:
    chat = Chat(served, "advanced-chat")
    await chat.say("PAUSE ECHO:draft")
    await chat.say(reply)
    (submitted,) = chat.submitted()
    assert submitted["action"] == "reject"
    assert submitted["inputs"] == {"note": "preset note", "tone": "formal"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("mode", FLOWS)
async def test_a_form_as_a_call(served: Served, mode: str, stream: bool) -> None:
    body = {"model": MODELS[mode], "messages": [user("PAUSE ECHO:draft")], "tools": [TOOL], "stream": stream}
    response = await served.http.post("/v1/chat/completions", json=body)
    if stream:
        chunks = frames(response.text)
        assert finish_of(chunks) == ["tool_calls"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", ())]
        pieces = [call for delta in deltas for call in delta.get("tool_calls", ())]
        call = pieces[0] | {"function": {**pieces[0]["function"], "arguments": pieces[1]["function"]["arguments"]}}
        message: dict[str, Any] = {"role": "assistant", "content": text_of(chunks), "tool_calls": [call]}
    else:
        choice = response.json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        message = choice["message"]
        (call,) = message["tool_calls"]
    assert call["function"]["name"] == "dify_human_input"
    told = json.loads(call["function"]["arguments"])
    assert [field["name"] for field in told["fields"]] == ["note", "tone"]
    assert "# Tools" not in json.dumps(served.last_run)
    result = {"action": "approve", "note": "by a program", "tone": "formal"}
    returned = {"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)}
    body["messages"] = [user("PAUSE ECHO:draft"), message, returned]
    response = await served.http.post("/v1/chat/completions", json=body | {"stream": False})
    assert "by a program" in response.json()["choices"][0]["message"]["content"]
    assert len(served.runs()) == 1


async def call_of(served: Served, content: str, tools: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """The history after an answer that calls."""
    body = {"model": MODELS["advanced-chat"], "messages": [user(content)], "tools": tools, **more}
    response = await served.http.post("/v1/chat/completions", json=body)
    return [user(content), response.json()["choices"][0]["message"]]


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL_WEATHER = 'CALL:{"name": "weather", "arguments": {}}'


async def test_the_result_of_another_tool_is_no_reply(served: Served) -> None:
    messages = await call_of(served, f"PAUSE {CALL_WEATHER}", [TOOL, WEATHER])
    calls = {call["function"]["name"]: call["id"] for call in messages[1]["tool_calls"]}
    assert set(calls) == {"weather", "dify_human_input"}
    weather = {"role": "tool", "tool_call_id": calls["weather"], "content": "18 degrees"}
    reply = {"role": "tool", "tool_call_id": calls["dify_human_input"], "content": GOOD}
    body = {"model": MODELS["advanced-chat"], "tools": [TOOL, WEATHER], "messages": [*messages, weather]}
    response = await served.http.post("/v1/chat/completions", json=body)
    told = response.json()["choices"][0]["message"]
    assert "still waits" in told["content"]
    body["messages"] = [*messages, weather, told, user("approve\ntone: formal")]
    response = await served.http.post("/v1/chat/completions", json=body)
    forms = [request.body for request in served.dify.requests if request.method == "POST" and "/form/" in request.path]
    assert [form["inputs"]["note"] for form in forms] == ["preset note"]
    for order in ([weather, reply], [reply, weather]):
        messages = await call_of(served, f"PAUSE {CALL_WEATHER}", [TOOL, WEATHER])
        calls = {call["function"]["name"]: call["id"] for call in messages[1]["tool_calls"]}
        weather["tool_call_id"], reply["tool_call_id"] = calls["weather"], calls["dify_human_input"]
        response = await served.http.post("/v1/chat/completions", json=body | {"messages": [*messages, *order]})
        assert "fine by me" in response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("choice", ["none", {"type": "function", "function": {"name": "weather"}}])
async def test_a_form_is_text_where_it_may_not_be_a_call(served: Served, choice: Any) -> None:
    messages = await call_of(served, "PAUSE ECHO:draft", [TOOL, WEATHER], tool_choice=choice)
    assert "tool_calls" not in messages[1]
    assert "`approve`" in messages[1]["content"]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [WEATHER], "tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"tools": [WEATHER], "response_format": {"type": "json_object"}},
    ],
)
@pytest.mark.parametrize("mode", FLOWS)
async def test_a_paused_run_is_asked_nothing_else(served: Served, mode: str, more: dict[str, Any]) -> None:
    chat = Chat(served, mode, **more)
    form = await chat.say("PAUSE ECHO:draft")
    assert "`approve`" in form
    assert len(served.runs()) == 1
    chat._more = {}
    assert "fine by me" in await chat.say(GOOD)
    assert len(served.runs()) == 1


async def test_an_earlier_reply_that_nobody_remembers(served: Served) -> None:
    body = {"model": MODELS["advanced-chat"], "messages": [user("PAUSE ECHO:draft")]}
    response = await served.http.post("/v1/chat/completions", json=body)
    named = body | {"conversation_id": response.json()["dify"]["conversation_id"]}
    bad = named | {"messages": [user("note: mine\ntone: angry\napprove")]}
    response = await served.http.post("/v1/chat/completions", json=bad)
    assert "write all of the answer again" in response.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("mode", FLOWS)
async def test_one_form_after_the_other(served: Served, mode: str) -> None:
    chat = Chat(served, mode)
    await chat.say("PAUSE:twice ECHO:draft")
    assert "`approve`" in await chat.say(GOOD)
    rest = await chat.say("note: second\ntone: formal\napprove")
    assert "second" in rest
    assert len(chat.submitted()) == 2
    assert len(served.runs()) == 1
    assert await chat.say("ECHO:on") == "on"


@pytest.mark.parametrize("mode", FLOWS)
async def test_files_of_a_form(served: Served, mode: str) -> None:
    chat = Chat(served, mode)
    await chat.say("PAUSE:files ECHO:draft")
    picture = {"type": "image_url", "image_url": {"url": data_url(png())}}
    assert "no option" not in await chat.say([{"type": "text", "text": GOOD}, picture])
    submitted = chat.submitted()
    assert submitted, chat.messages[-1]
    assert "upload_file_id" in json.dumps(submitted[0]["inputs"])


async def test_a_form_in_a_named_conversation(served: Served) -> None:
    body = {"model": MODELS["advanced-chat"], "messages": [user("PAUSE ECHO:draft")]}
    response = await served.http.post("/v1/chat/completions", json=body)
    headers = {"x-dify-conversation-id": response.json()["dify"]["conversation_id"]}
    response = await served.http.post("/v1/chat/completions", json=body | {"messages": [user(GOOD)]}, headers=headers)
    assert "fine by me" in response.json()["choices"][0]["message"]["content"]
    assert response.json()["dify"]["conversation_id"] == headers["x-dify-conversation-id"]
    assert len(served.runs()) == 1


async def test_an_edited_question_is_no_answer(served: Served) -> None:
    """Another history has not seen the form: it begins anew and leaves the form alone."""
    chat = Chat(served, "advanced-chat")
    await chat.say("PAUSE ECHO:draft")
    chat.messages = []
    assert await chat.say("ECHO:something else") == "something else"
    assert not chat.submitted()


async def test_somebody_else_cannot_answer(served: Served) -> None:
    one, two = Chat(served, "advanced-chat", user="one"), Chat(served, "advanced-chat", user="two")
    await one.say("PAUSE ECHO:draft")
    two.messages = list(one.messages)
    await two.say(f"{GOOD} ECHO:x")
    assert not one.submitted()
    assert "fine by me" in await one.say(GOOD)


# -- what cannot be answered


@pytest.mark.parametrize("mode", FLOWS)
async def test_a_form_that_is_answered_elsewhere(served: Served, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.resumes.LOOK_SECONDS", 0.1)
    chat = Chat(served, mode)
    assert "cannot be answered here" in await chat.say("PAUSE:email ECHO:draft")
    assert "cannot be answered here" in await chat.say(GOOD)
    assert not chat.submitted()
    assert len(served.runs()) == 1


@pytest.mark.parametrize("mode", FLOWS)
async def test_a_form_that_has_expired(served: Served, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said once; what comes then goes on without it."""
    monkeypatch.setattr("opendify.resumes.LOOK_SECONDS", 0.1)
    chat = Chat(served, mode)
    await chat.say("PAUSE:expired ECHO:draft")
    assert "This form has expired" in await chat.say(GOOD)
    assert not chat.submitted()
    assert await chat.say("ECHO:and on") == "and on"


@pytest.mark.parametrize("mode", FLOWS)
async def test_a_run_that_failed_meanwhile(served: Served, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed(*_: object) -> Run:
        return Run(status="failed", error="a step broke")

    chat = Chat(served, mode)
    await chat.say("PAUSE:expired ECHO:draft")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr("opendify.dify.resume.run_detail", failed)
        response = await chat.post(GOOD)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "run_failed")
    assert await chat.say("ECHO:and on") == "and on"


@pytest.mark.parametrize("mode", FLOWS)
async def test_a_form_that_somebody_answered_in_dify(served: Served, mode: str) -> None:
    """The run went on without us: the rest of it is told."""
    chat = Chat(served, mode)
    await chat.say("PAUSE ECHO:draft")
    (form,) = served.dify.state.forms.values()
    form.submit({"note": "from the console", "tone": "formal"}, "approve")
    told = await chat.say(GOOD)
    assert "answered already" in told
    assert "from the console" in told
    assert await chat.say("ECHO:on") == "on"


async def test_a_release_that_cannot_resume_a_workflow(served: Served) -> None:
    chat = Chat(served, "workflow")
    await chat.say("PAUSE:unresumable ECHO:draft")
    response = await chat.post(GOOD)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "human_input_not_resumable"
    assert await chat.say("ECHO:anew") == "anew"


# -- a stream that is lost


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("kind", ["lost", "stale"])
@pytest.mark.parametrize("mode", FLOWS)
async def test_a_stream_that_is_lost_is_made_up_for(served: Served, mode: str, kind: str, stream: bool) -> None:
    chat = Chat(served, mode, stream=stream)
    await chat.say(f"PAUSE:{kind} ECHO:draft")
    rest = await chat.say(GOOD)
    assert rest.count("fine by me") == 1
    assert chat.finish == "stop"
    assert len(chat.submitted()) == 1
    assert await chat.say("ECHO:on") == "on"


async def test_a_dify_that_is_away_loses_no_form(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise Unreachable("Dify cannot be reached.")

    chat = Chat(served, "advanced-chat")
    await chat.say("PAUSE ECHO:draft")
    with monkeypatch.context() as gone:
        gone.setattr("opendify.dify.resume.form", away)
        assert (await chat.post(GOOD)).status_code == 503
    assert "fine by me" in await chat.say(GOOD)


async def test_a_release_without_the_routes_of_forms(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opendify.resumes.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("opendify.dify.resume.form_path", lambda _: "/nowhere")
    chat = Chat(served, "advanced-chat")
    await chat.say("PAUSE ECHO:draft")
    assert "This release of Dify" in await chat.say(GOOD)


async def test_a_client_that_leaves_too_early(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was submitted, and the form is still there for the next attempt."""
    chat = Chat(served, "advanced-chat")
    await chat.say("PAUSE ECHO:draft")
    with monkeypatch.context() as slow:
        slow.setattr("opendify.dify.resume.form", lambda *_: asyncio.sleep(9))
        body = {"model": chat.model, "messages": [*chat.messages, user(GOOD)]}
        with pytest.raises(httpx.ReadTimeout):
            await served.http.post("/v1/chat/completions", json=body, timeout=0.2)
        await eventually(lambda: [line["status"] for line in served.told.lines("request")][-1:] == [499])
    assert not chat.submitted()
    assert "fine by me" in await chat.say(GOOD)


# -- a New Agent's question


async def test_the_question_of_a_new_agent(served: Served) -> None:
    chat = Chat(served, "agent")
    assert "Which colour?" in await chat.say("ASKHUMAN")
    assert await chat.say("ECHO:blue") == "blue"
    assert "conversation_id" not in served.last_run
    assert "Which colour?" in served.last_run["query"]


async def test_the_answer_of_a_program_to_a_question(served: Served) -> None:
    """The call is known, but not finished: the answer is a turn."""
    body = {"model": MODELS["agent"], "messages": [user("ASKHUMAN")]}
    message = (await served.http.post("/v1/chat/completions", json=body)).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    answer = {"role": "tool", "tool_call_id": call["id"], "content": "ECHO:blue"}
    body["messages"] = [user("ASKHUMAN"), message, answer]
    response = await served.http.post("/v1/chat/completions", json=body)
    assert response.json()["choices"][0]["message"]["content"] == "blue"


async def test_a_named_conversation_with_an_open_question(served: Served) -> None:
    """Dify refuses the turn; with its history it goes on elsewhere."""
    chat = Chat(served, "agent")
    await chat.say("ASKHUMAN")
    (conversation,) = served.dify.conversations
    chat._more = {"conversation_id": conversation}
    assert await chat.say("ECHO:blue") == "blue"
    assert "conversation_id" not in served.last_run


@pytest.mark.parametrize("generation", ["1.9"])
async def test_no_forms_before_they_were_there(serve: Serve, generation: str) -> None:
    served = await serve(dify={"generation": generation})
    assert await Chat(served, "advanced-chat").say("PAUSE ECHO:plain") == "plain"


@pytest.mark.parametrize(("mode", "way"), [("advanced-chat", "off"), ("workflow", "off"), ("workflow", "explicit")])
async def test_a_form_that_no_later_turn_can_find(serve: Serve, mode: str, way: str) -> None:
    served = await serve(conversations=way)
    form = await Chat(served, mode, tools=[TOOL]).say("PAUSE ECHO:draft")
    assert "cannot be answered here" in form
    assert "Reply with" not in form


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_no_stop_sequence_cuts_a_form(served: Served, stream: bool) -> None:
    chat = Chat(served, "advanced-chat", stream=stream, stop=["Expires", "Fields"])
    form = await chat.say("PAUSE ECHO:draft")
    assert "Fields:" in form
    assert "Expires:" in form
    assert "fine by me" in await chat.say(GOOD)
    assert len(served.runs()) == 1
