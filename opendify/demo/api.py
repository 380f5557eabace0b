"""The small routes: what apps say about themselves, conversations, files, audio, human input."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from opendify.demo import apps, checks, uploads
from opendify.demo.apps import CHAT_MODES, SampleApp
from opendify.demo.call import AppCall, required_user
from opendify.demo.forms import Form
from opendify.demo.links import Content, listed
from opendify.demo.media import SPEECH
from opendify.demo.run import Frame, Run
from opendify.demo.runs import Telling
from opendify.demo.state import Conversation, Message, State
from opendify.demo.wire import (
    PING,
    SERVER_CRASH,
    UNKNOWN_ROUTE,
    Json,
    Refused,
    Reply,
    answer,
    invalid,
    new_id,
    not_found,
    refuse,
    spaced,
)

PAGE = 20
KEPT_BYTES = 1024 * 1024
NO_PARENT = "00000000-0000-0000-0000-000000000000"
MESSAGES_LIKE = ("/v1/messages", "/v1/chat-messages", "/api/messages")
FORM_ROUTE = "/v1/form/human_input/<string:form_token>"
RUN_KEYS = (
    "id", "workflow_id", "status", "outputs", "error", "total_steps", "total_tokens", "created_at", "finished_at",
    "elapsed_time",
)  # fmt: skip


@dataclass(slots=True)
class Api:
    """The routes that run no app."""

    state: State
    modern: bool

    # -- about the app ----------------------------------------------------

    def info(self, call: AppCall) -> Reply:
        """`GET /info`."""
        if call.app.info == "absent":
            raise Refused(UNKNOWN_ROUTE)
        return answer(apps.info(call.app))

    def parameters(self, call: AppCall) -> Reply:
        """`GET /parameters`."""
        if not call.app.published and call.app.mode != "agent":
            raise checks.UNAVAILABLE
        return answer(apps.parameters(call.app))

    def meta(self, call: AppCall) -> Reply:
        """`GET /meta`."""
        return answer(apps.meta(call.app, call.call.origin))

    def site(self, call: AppCall) -> Reply:
        """`GET /site`."""
        return answer(apps.site(call.app))

    # -- conversations ----------------------------------------------------

    def conversations(self, call: AppCall) -> Reply:
        """`GET /conversations`: newest first."""
        checks.right_mode(call.app, "chat")
        limit = _limit(call)
        mine = list(self.state.of_user(call.app.key, call.call.params.get("user", "")))
        return answer({"limit": limit, "has_more": len(mine) > limit, "data": [_listed(c) for c in mine[:limit]]})

    def messages(self, call: AppCall) -> Reply:
        """`GET /messages`: the newest page, or the one before `first_id`; in it the oldest message comes first."""
        checks.right_mode(call.app, "chat")
        conversation = self.mine(call.app, call.call.params, call.call.params.get("conversation_id", ""))
        limit = _limit(call)
        before = list(conversation.messages)
        if first_id := call.call.params.get("first_id"):
            place = next((place for place, message in enumerate(before) if message.id == first_id), None)
            if place is None:
                raise not_found("First Message Not Exists.", MESSAGES_LIKE[0], *MESSAGES_LIKE)
            before = before[:place]
        rows = [self.row(conversation, message) for message in before[-limit:]]
        return answer({"limit": limit, "has_more": len(before) > limit, "data": rows})

    def row(self, conversation: Conversation, message: Message) -> Json:
        """A message of the list; links to files are signed anew whenever it is read."""
        files = [(str(file["related_id"]), "user") for file in message.files] + [
            (file_id, "assistant") for file_id in message.made
        ]
        shown = [file for file_id, owner in files if (file := listed(self.state, file_id, owner))]
        return {
            "id": message.id, "conversation_id": conversation.id, "parent_message_id": NO_PARENT,
            "inputs": message.inputs, "query": message.query, "answer": self.state.signer.anew(message.answer),
            "feedback": None, "retriever_resources": [], "created_at": message.created_at, "agent_thoughts": [],
            "message_files": shown, "status": message.status, "error": message.error, "extra_contents": [],
        }  # fmt: skip

    def delete_conversation(self, call: AppCall, conversation_id: str) -> Reply:
        """`DELETE /conversations/{id}`."""
        checks.right_mode(call.app, "chat")
        self.mine(call.app, call.call.json(), conversation_id)
        del self.state.conversations[conversation_id]
        return Reply(status=204)

    def mine(self, app: SampleApp, named: Json, conversation_id: str) -> Conversation:
        """The conversation, if it belongs to the app and to the user named."""
        conversation = self.state.conversations.get(conversation_id)
        if conversation is None or (conversation.app, conversation.user) != (
            app.key,
            str(named.get("user", "")),
        ):
            raise not_found("Conversation Not Exists.", MESSAGES_LIKE[0], *MESSAGES_LIKE)
        return conversation

    def suggested(self, call: AppCall, message_id: str) -> Reply:
        """`GET /messages/{id}/suggested`."""
        user = required_user(call.call.params.get("user"))
        if not call.app.suggests or call.app.mode not in CHAT_MODES:
            raise refuse(400, "bad_request", "Suggested Questions Is Disabled.")
        mine = self.state.of_user(call.app.key, user)
        if not any(message.id == message_id for conversation in mine for message in conversation.messages):
            raise refuse(404, "not_found", "Message Not Exists.")
        return answer({"result": "success", "data": ["What is next?", "为什么?", "How so?"]})

    # -- files and audio --------------------------------------------------

    def upload(self, call: AppCall) -> Reply:
        """`POST /files/upload`."""
        form = call.call.parts()
        user = next((part.data.decode("utf-8", "replace") for part in form if part.name == "user"), "DEFAULT-USER")
        part = uploads.only_file(form)
        upload = uploads.taken(part, user, modern=self.modern)
        upload_id = new_id()
        self.state.uploads[upload_id] = upload
        if upload.size <= KEPT_BYTES:
            kind = uploads.bucket(upload.name)
            self.state.contents[upload_id] = Content(upload.name, upload.mime_type, kind, part.data)
        link = call.call.origin + self.state.signer.link(f"/files/{upload_id}/file-preview")
        return answer(uploads.described(upload_id, upload, link, int(time.time()), modern=self.modern), 201)

    def no_preview(self, _: AppCall, __: str) -> Reply:
        """`GET /files/{id}/preview`: the stand-in has none."""
        raise refuse(404, "file_not_found", "File not found in message context")

    def speech_to_text(self, call: AppCall) -> Reply:
        """`POST /audio-to-text`."""
        if not call.app.voice:
            if self.modern:
                raise refuse(400, "speech_to_text_disabled", "Speech to text is disabled.")
            raise invalid("Speech to text is not enabled")
        audio = uploads.speech(call.call.parts(), modern=self.modern)
        return answer({"text": f"A demo transcript of {len(audio)} bytes."})

    def text_to_speech(self, call: AppCall) -> Reply:
        """`POST /text-to-audio`."""
        body = call.call.json()
        if not call.app.voice:
            raise invalid("TTS is not enabled")
        if not (body.get("text") or body.get("message_id")):
            raise invalid("Text is required")
        return SERVER_CRASH if body.get("text") == "TTSFAIL" else Reply(SPEECH, type="audio/mpeg")

    # -- runs of flows ----------------------------------------------------

    def run_detail(self, call: AppCall, run_id: str) -> Reply:
        """`GET /workflows/run/{id}`."""
        if not call.app.is_flow:
            raise refuse(400, "not_workflow_app", checks.WRONG_MODE)
        run = self.known_run(call, run_id)
        form = self.form_of(run)
        is_old = bool(form and form.tells_old())
        if form and form.answer and not is_old:
            for _ in form.rest:
                pass  # nobody subscribed: the worker went on alone
        status = "paused" if form and form.kind == "stale" and is_old else run.status
        told: Json = run.finished or {"status": status, "outputs": {}, "created_at": run.message.created_at}
        known: Json = {"id": run.run_id, "workflow_id": run.app.workflow_id, **dict.fromkeys(("error", "finished_at"))}
        known |= {"total_steps": 0, "total_tokens": 0, "elapsed_time": 0.0, **told}
        return answer({key: known[key] for key in RUN_KEYS} | {"inputs": json.dumps(run.inputs)})

    def known_run(self, call: AppCall, run_id: str) -> Run:
        """The run, if it is one of the app's."""
        run = self.state.runs.get(run_id)
        if run is None or run.app.key != call.app.key:
            raise refuse(404, "not_found", "Workflow run not found")
        return run

    def form_of(self, run: Run) -> Form | None:
        """The form a run waits for, or waited for last."""
        return next((form for form in reversed(self.state.forms.values()) if form.flow.run is run), None)

    def events(self, call: AppCall, run_id: str) -> Telling:
        """`GET /workflow/{id}/events`: the end of a finished run, or what a paused one does next."""
        if not self.modern:
            raise Refused(UNKNOWN_ROUTE)
        user = required_user(call.call.params.get("user"))
        run = self.known_run(call, run_id)
        if run.user != user:
            raise refuse(404, "not_found", "Workflow run not found")
        form = self.form_of(run)
        frames = self.subscription(run, form, call.call.params)
        return Telling(run, frames, form.flow.stopped if form else lambda: iter(()))

    @staticmethod
    def subscription(run: Run, form: Form | None, params: dict[str, str]) -> Iterator[Frame]:
        """The frames of a subscriber."""
        if run.finished is not None:
            keys = {"event": "workflow_finished", "task_id": run.run_id, "workflow_run_id": run.run_id}
            return iter([b"data: " + spaced(keys | {"data": run.finished}, end="\n\n")])
        if form is None:
            return iter([PING])
        if params.get("include_state_snapshot") != "true":
            return chain((PING,), form.rest)
        is_paused = form.answer is None
        if not is_paused and not form.tells_old():
            return chain((PING,), form.rest)
        snapshot = form.flow.snapshot(form)  # which ends with the pause, unless it is to stay open
        return chain((PING,), snapshot, form.rest if params.get("continue_on_pause") == "true" else ())

    # -- human input ------------------------------------------------------

    def form(self, call: AppCall, token: str) -> Reply:
        """`GET /form/human_input/{token}`."""
        form = self.open_form(call, token)
        return answer(form.described(), end="")

    def submit(self, call: AppCall, token: str) -> Reply:
        """`POST /form/human_input/{token}`."""
        body, _ = call.body_and_user()
        checks.form_payload(body)
        self.open_form(call, token).submit(body["inputs"], str(body["action"]))
        return answer({})

    def open_form(self, call: AppCall, token: str) -> Form:
        """The form, if it is one of the app's and still open."""
        form = self.state.forms.get(token)
        if form is None or form.flow.run.app.key != call.app.key:
            raise not_found("Form not found.", call.call.path, FORM_ROUTE)
        form.check_open()
        return form


def health(version: str) -> Reply:
    """`GET /health`."""
    return answer({"pid": 1, "status": "ok", "version": version})


def _limit(call: AppCall) -> int:
    asked = call.call.params.get("limit", "")
    return min(max(int(asked), 1), 100) if asked.isdigit() else PAGE


def _listed(conversation: Conversation) -> Json:
    first = conversation.messages[0]
    updated = conversation.messages[-1].created_at
    return {
        "id": conversation.id, "name": first.query[:40], "inputs": first.inputs, "status": "normal",
        "introduction": "", "created_at": conversation.created_at, "updated_at": updated,
    }  # fmt: skip
