"""Dify's error texts without what is nobody's business."""

import re

READ_CHARS = 8000
MAX_MESSAGE = 600
# All but the last line, which names the error; where even that was cut off, all of it.
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):(?:.*\n(?=\S)|.*)", re.DOTALL)
_NOISE = re.compile(
    r" ?You have requested this URI \[.*"  # Flask's guesses at a route
    r"|For further information visit \S+"  # pydantic's link
    r"|For more information check: \S+"  # httpx's link
    r"|\breq_id: \w+ "
    r"| ?\(agent_run_id=[\w-]+\)",
    re.DOTALL,
)
_KEY = re.compile(r"\b(?:app|dataset|sk|gsk|pk)[-_](?=[\w-]*\d)[\w-]{6,}|\bBearer \S+")
_ADDRESS = re.compile(
    r"\bhttps?://[^\s'\"<>]+|\bplugin/[\w/-]+|\bhost='[^']*'|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\bFile \"[^\"]*\""
)


def clean(message: str) -> str:
    """Dify's error text without tracebacks, internal addresses and keys, cut to a readable length."""
    text = _TRACEBACK.sub("", message[:READ_CHARS])
    text = _NOISE.sub("", text)
    text = _ADDRESS.sub("(address)", text)
    text = _KEY.sub("(key)", text).strip()
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
    return text or "Dify gave no reason."
