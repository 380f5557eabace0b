"""The stand-in's streams have the order, the keys and the key order of streams recorded from real servers."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from asking import RECORDED, inside, on_port, sample, stopped_after

from opendify.demo import Control, SampleApp

FREE = {"inputs", "outputs", "process_data", "tool_labels"}
"""Keys whose values differ from app to app."""

CHAT = replace(sample("chat"), upload_types=())
AGENT = sample("agent-chat")
CHATFLOW = sample("advanced-chat")
SHORT = replace(CHATFLOW, steps=("llm", "answer"), form=())
COMPLETION = sample("completion")
WORKFLOW = sample("workflow")
NEW_AGENT = sample("agent")
TEMPLATE = replace(WORKFLOW, steps=("template", "end"))
THINKER = replace(SHORT, separated_reasoning=True)
REQUIRED = replace(SHORT, form=(Control("text-input", "topic", required=True),))
ANNOTATED: dict[str, Any] = {"annotations": {"q": "The answer."}}
NO_INPUT: dict[str, Any] = {"blocked_input": ("forbidden",)}
NO_OUTPUT: dict[str, Any] = {"blocked_output": ("forbidden",)}
PICTURE = {"files": [{"type": "image", "transfer_method": "remote_url", "url": "http://x.example/a.png"}]}

Case = tuple[str, SampleApp, str]

BOTH: list[Case] = [
    ("chat-plain-stream-echo", CHAT, "ECHO:one two three"),
    ("chat-plain-stream-empty", CHAT, "EMPTY"),
    ("chat-plain-stream-error-mid", CHAT, "LONG 10 ERROR_MID"),
    ("chat-plain-stream-error-start-rate", CHAT, "ERROR_START:RATE"),
    ("chat-moderated-stream-blocked", replace(CHAT, **NO_OUTPUT), "ECHO:this is forbidden"),
    ("chat-modin-stream-input-blocked", replace(CHAT, **NO_INPUT), "ECHO:this is forbidden"),
    ("agent-stream-echo", AGENT, "ECHO:a b c"),
    ("agent-stream-empty", AGENT, "EMPTY"),
    ("agent-stream-tool", AGENT, "TOOL"),
    ("agent-stream-tool2", AGENT, "TOOL2"),
    ("agent-stream-tool-badtool", AGENT, "TOOL BADTOOL"),
    ("agent-stream-tool-think", AGENT, "TOOL THINK"),
    ("agent-stream-error_start", AGENT, "ERROR_START"),
    ("agent-stream-tool-error_mid-long-10", AGENT, "TOOL ERROR_MID LONG 10"),
    ("chatflow-stream-echo", CHATFLOW, "ECHO:one two three"),
    ("chatflow-stream-empty", CHATFLOW, "EMPTY"),
    ("chatflow-stream-error_start", CHATFLOW, "ERROR_START"),
    ("chatflow-stream-long-10-error_mid", CHATFLOW, "LONG 10 ERROR_MID"),
    ("chatflow-moderated-stream-echo-some-text-and-t", replace(SHORT, **NO_OUTPUT), "ECHO:this is forbidden"),
    ("completion-stream-echo", COMPLETION, "ECHO:one two three"),
    ("completion-stream-error-mid", COMPLETION, "LONG 10 ERROR_MID"),
    ("workflow-stream-echo", WORKFLOW, "TWO ECHO:one two three"),
    ("workflow-stream-empty", WORKFLOW, "TWO EMPTY"),
    ("workflow-nollm-stream", TEMPLATE, "Bob"),
]
NEWEST: list[Case] = [
    ("completion-stream-think", COMPLETION, "THINK"),
    ("workflow-stream-error_start", WORKFLOW, "ERROR_START"),
    ("chatflow-sep-only-stream-think", THINKER, "THINK"),
    ("chatflow-sep-only-stream-error-mid", THINKER, "THINK LONG 10 ERROR_MID"),
    ("workflow-sep-stream-think", replace(WORKFLOW, separated_reasoning=True), "THINK TWO"),
    ("chatflow-human-pause", SHORT, "PAUSE ECHO:my draft"),
    ("workflow-human-pause", WORKFLOW, "PAUSE ECHO:my draft"),
    ("chatflow-kb-stream", SHORT, "CITE ECHO:a b"),
    ("chatflow-retry-stream-retry", SHORT, "RETRY ERROR_START"),
    ("chatflow-default-stream", SHORT, "PARTIAL ECHO:x"),
    ("chatflow-required-missing-streaming", REQUIRED, "ECHO:x"),
    ("workflow-missing-text-stream", WORKFLOW, ""),
    ("chatflow-modin-stream-blocked", replace(SHORT, **NO_INPUT), "ECHO:this is forbidden"),
    ("chatflow-annot-annotation-hit-streaming", replace(SHORT, **ANNOTATED), "q"),
    ("agent-annotation-hit-streaming", replace(AGENT, **ANNOTATED), "q"),
    ("newagent-plain-annotation-hit-streaming", replace(NEW_AGENT, **ANNOTATED), "q"),
    ("newagent-moderated-mod-in", replace(NEW_AGENT, **NO_INPUT), "ECHO:forbidden"),
    ("newagent-stream-echo", NEW_AGENT, "ECHO:hello there agent"),
    ("newagent-stream-tool", NEW_AGENT, "TOOL"),
    ("newagent-stream-tool2", NEW_AGENT, "TOOL2"),
    ("newagent-stream-tool-badtool", NEW_AGENT, "TOOL BADTOOL"),
    ("newagent-stream-think", NEW_AGENT, "THINK"),
    ("newagent-ask-1", NEW_AGENT, "ASKHUMAN"),
    ("newagent-stream-error_start", NEW_AGENT, "ERROR_START"),
    ("newagent-stream-long-10-error_mid", NEW_AGENT, "LONG 10 ERROR_MID"),
    ("chat-tts-auto-stream", CHAT, "TTS ECHO:a b"),
    ("chatflow-tts-auto-stream", SHORT, "TTS ECHO:a b"),
    ("chat-files-stream-image", sample("chat"), "ECHO:a"),
]
OLDER: list[Case] = [
    ("chat-plain-stream-think", CHAT, "THINK"),
    ("workflow-daemon-down-streaming", WORKFLOW, "ERROR_START"),
]
STOPPED: list[Case] = [
    ("chat-plain-stop-during-slow", CHAT, "SLOW 30"),
    ("agent-stop-during-slow", AGENT, "SLOW 30"),
    ("chatflow-stop-during-slow", CHATFLOW, "SLOW 30"),
    ("completion-stop-during-slow", COMPLETION, "SLOW 30"),
    ("workflow-stop-during-slow", WORKFLOW, "SLOW 30"),
]

WHOLE = [("1.16", *case) for case in BOTH + NEWEST] + [("1.9", *case) for case in BOTH + OLDER]
ENDED = [(generation, *case) for generation in ("1.16", "1.9") for case in STOPPED]


RECORDED_CASES: dict[str, dict[str, dict[str, Any]]] = {
    generation: json.loads((RECORDED / f"events-{generation}.json").read_text()) for generation in ("1.16", "1.9")
}
"""By generation and case: the order of a recorded stream, and one event of each shape."""


def order(told: list[dict[str, Any]]) -> list[str]:
    """The names of events, each once where it repeats."""
    return [name for name, _ in itertools.groupby(event["event"] for event in told)]


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """The paths of all keys, in their order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield prefix + key
            if key not in FREE:
                yield from paths(inner, f"{prefix}{key}.")
    elif isinstance(value, list):
        for inner in value[:1]:
            yield from paths(inner, f"{prefix}[].")


def shapes(told: list[dict[str, Any]]) -> set[tuple[str, tuple[str, ...]]]:
    """Every event name with the key paths it comes with."""
    return {(event["event"], tuple(paths(event))) for event in told if event["event"] != "ping"}


def check(generation: str, name: str, told: list[dict[str, Any]]) -> None:
    """Compare a stream with the recorded one."""
    known = RECORDED_CASES[generation][name]
    assert order(told) == known["order"]
    assert shapes(told) <= shapes(known["events"])


@pytest.mark.parametrize(("generation", "name", "app", "query"), WHOLE, ids=lambda value: str(value)[:60])
async def test_streams_are_like_recorded_ones(generation: str, name: str, app: SampleApp, query: str) -> None:
    body: dict[str, Any] = PICTURE if "image" in name else {} if query else {"inputs": {}}
    async with inside(app, generation=generation) as asking:
        check(generation, name, await asking.run(query, **body))


@pytest.mark.parametrize(("generation", "name", "app", "query"), ENDED, ids=lambda value: str(value)[:60])
async def test_stopped_streams_are_like_recorded_ones(generation: str, name: str, app: SampleApp, query: str) -> None:
    async with on_port(app, generation=generation) as asking:
        check(generation, name, await stopped_after(asking, "s0", query))
