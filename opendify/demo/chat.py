"""The events of chat and completion apps, and the closing events that agents share with them."""

from collections.abc import Iterable, Iterator

from opendify.demo.media import as_chat_file, cited, made_file, spoken_audio
from opendify.demo.model import Break, Failure, Pause, Step, Text, tagged
from opendify.demo.run import Frame, Run, provider_error
from opendify.demo.wire import Json


def tell(run: Run, steps: Iterable[Step]) -> Iterator[Frame]:
    """A whole run of a chat or completion app."""
    if preset := run.preset():
        yield from preset_answer(run, preset)
        return
    for step in tagged(steps):
        match step:
            case Text(text):
                run.said.append(text)
                yield message(run, text)
            case Failure():
                yield failed(run, step)
                return
            case Pause() | Break():
                yield step
    if ended := list(ended_early(run)):
        yield from ended
        return
    if "TTS" in run.script:
        yield run.event("tts_message", audio=spoken_audio())
    yield message(run, "")
    yield from closing(run, run.text)


def stopped(run: Run) -> Iterator[Frame]:
    """The end of a run that somebody stopped."""
    run.status = "stopped"
    run.save_partial()
    yield message_end(run, run.usage(zero=True))


def ended_early(run: Run) -> Iterator[Frame]:
    """The end of a run that the script stops or lets fail after its text; nothing otherwise."""
    if "STOPPED" in run.script:
        yield from stopped(run)
    elif "FAIL" in run.script:
        yield failed(run, Failure("RUNTIME"))


def preset_answer(run: Run, text: str) -> Iterator[Frame]:
    """An answer without a model comes character by character; only the New Agent sends it whole."""
    for piece in [text] if run.app.mode == "agent" else text:
        run.said.append(piece)
        yield message(run, piece)
    finish(run, text)
    yield message_end(run, run.usage(zero=True))


def closing(run: Run, answer: str) -> Iterator[Frame]:
    """Everything after the last piece of an answer that went well and is stored as `answer`."""
    finish(run, answer)
    if (text := run.replacement()) is not None:
        run.save(text)
        yield run.event("message_replace", answer=text, reason="")
    yield message_end(run, run.usage())
    if "TTS" in run.script:
        yield run.event("tts_message", audio=spoken_audio())
        yield run.event("tts_message_end", audio="")


def finish(run: Run, answer: str) -> None:
    """The run went well: store the answer."""
    run.status = "succeeded"
    run.save(answer)


def failed(run: Run, failure: Failure) -> Json:
    """The `error` event, which alone lacks the task id."""
    code, status, text = provider_error(failure, modern=run.modern)
    run.fail(text)
    run.save()
    return error_event(run, code, status, text)


def error_event(run: Run, code: str, status: int, text: str) -> Json:
    """An `error` event."""
    envelope = {key: value for key, value in run.envelope.items() if key != "task_id"}
    return {"event": "error", **envelope, "code": code, "status": status, "message": text}


def message(run: Run, text: str, selector: list[str] | None = None) -> Json:
    """A piece of the answer; `selector` says which node of a flow it comes from."""
    none: list[str] | None = [] if run.modern else None
    source = none if selector is None else selector
    return run.event("message", id=run.message.id, answer=text, from_variable_selector=source)


def message_end(run: Run, usage: Json) -> Json:
    """The end of the answer."""
    return run.event("message_end", id=run.message.id, metadata=metadata(run, usage), files=_files(run))


def metadata(run: Run, usage: Json) -> Json:
    """The `metadata` of `message_end`; key order and presence differ between generations and app kinds."""
    annotation = run.annotation()
    body: Json = {"retriever_resources": cited(run), "usage": usage}
    if not run.modern or bool(annotation) is not run.app.is_flow:
        body = {"annotation_reply": None if run.app.is_flow else annotation, **body}
    return body | {"reasoning": {}} if run.modern else body


def _files(run: Run) -> list[Json] | None:
    """Newer servers list the client's own files here as well."""
    made = [made_file(run)] if "FILE" in run.script and run.app.mode in {"chat", "completion"} else []
    if run.modern:
        return [as_chat_file(file) for file in run.files] + made
    return made or None
