"""The stand-in refuses what real servers refused, with the same status, headers and body."""

import json
from dataclasses import replace
from typing import Any, Literal, cast

import httpx
import pytest
from asking import RECORDED, sample

from opendify.demo import Control, SampleApp, StandIn

REFUSALS: list[dict[str, Any]] = json.loads((RECORDED / "refusals.json").read_text())
TOPIC = Control("text-input", "topic", required=True)
TONE = Control("select", "tone", options=("formal", "casual"))
PLAIN: dict[str, Any] = {"upload_types": (), "voice": False, "suggests": False, "form": ()}

APPS: dict[str, SampleApp] = {
    "agent": sample("agent-chat"),
    "chat": replace(
        sample("chat"),
        form=(Control("text-input", "persona", max_length=48), Control("select", "lang", options=("en", "fr"))),
    ),
    "chat-limited": replace(sample("chat"), enabled=False),
    "chat-plain": replace(sample("chat"), **PLAIN),
    "chat-required": replace(sample("chat"), form=(TOPIC,)),
    "chatflow": sample("advanced-chat"),
    "chatflow-required": replace(
        sample("advanced-chat"),
        form=(
            replace(TOPIC, max_length=10),
            TONE,
            Control("checkbox", "flag"),
            Control("file", "att", types=("document", "image")),
        ),
    ),
    "completion": sample("completion"),
    "newagent": sample("agent"),
    "newagent-required": replace(sample("agent"), form=(TOPIC,)),
    "tmp-advanced-chat": replace(sample("advanced-chat"), published=False),
    "tmp-workflow": replace(sample("workflow"), published=False),
    "workflow": replace(
        sample("workflow"),
        form=(
            Control("paragraph", "text", required=True),
            Control("file", "pic", types=("image",)),
            Control("file-list", "docs", max_length=3, types=("document",)),
        ),
    ),
    "workflow-nollm": replace(sample("workflow"), form=(Control("text-input", "name", max_length=48),)),
}


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: f"{case['generation']}-{case['case']}")
async def test_refusals_are_like_recorded_ones(case: dict[str, Any]) -> None:
    generation = cast("Literal['1.16', '1.9']", case["generation"])
    key = "app-unused" if "-auth-" in case["case"] else case["headers"].get("authorization", " ").split(" ")[1]
    app = replace(APPS[case["app"]], key=key)
    dify = StandIn([app], generation=generation)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(dify), base_url="http://dify.test") as http:
        answer = await http.request(
            case["method"], case["path"], content=case["body"].encode(), headers=case["headers"]
        )
    assert (answer.status_code, answer.text) == (case["status"], case["text"])
    headers = {name: answer.headers.get(name) for name in case["answered"]}
    assert headers == case["answered"] | ({"x-version": dify.version} if "x-version" in case["answered"] else {})
