"""The mode of an app whose server does not tell it (`/info` has no `mode` before 1.4.0).

The probes have no side effects and spend no tokens. Each probe user becomes a row in Dify's database: there is one.
"""

from http import HTTPStatus
from typing import Protocol

import msgspec

from opendify.dify.apps import Access
from opendify.entries import Mode
from opendify.errors import BrokenUpstream, Refused

USER = "opendify-probe"
NO_RUN = "00000000-0000-4000-8000-000000000000"


class Asker(Protocol):
    """The gateway's plain call."""

    async def call(self, access: Access, method: str, path: str, body: bytes | None = None) -> bytes:
        """Send one request and return the answer's body. Raises UpstreamError."""
        ...


async def infer_mode(gateway: Asker, access: Access) -> Mode:
    """Ask the routes which of them serve this key. Raises UpstreamError where none answers plainly."""
    if await _serves(gateway, access, "GET", f"/conversations?user={USER}&limit=1", refusal="not_chat_app"):
        return await _chat_mode(gateway, access)
    stop = msgspec.json.encode({"user": USER})
    if await _serves(gateway, access, "POST", "/workflows/tasks/none/stop", stop, refusal="not_workflow_app"):
        return "workflow"
    return "completion"


async def _chat_mode(gateway: Asker, access: Access) -> Mode:
    """Only a chatflow has workflow runs; an agent shows its tools' icons."""
    if await _serves(gateway, access, "GET", f"/workflows/run/{NO_RUN}", refusal="not_workflow_app"):
        return "advanced-chat"
    try:
        meta = msgspec.json.decode(await gateway.call(access, "GET", "/meta"), type=dict[str, object])
    except msgspec.DecodeError:
        raise BrokenUpstream("Dify's /meta is not what it should be.") from None
    return "agent-chat" if meta.get("tool_icons") else "chat"


async def _serves(
    gateway: Asker, access: Access, method: str, path: str, body: bytes | None = None, *, refusal: str
) -> bool:
    """Whether the route serves this app: any answer but the one refusal, "not found" of its object included."""
    try:
        await gateway.call(access, method, path, body)
    except Refused as error:
        if error.upstream_code == refusal:
            return False
        if error.upstream_status != HTTPStatus.NOT_FOUND:
            raise
    return True
