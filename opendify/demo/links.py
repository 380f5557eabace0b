"""Files that apps made and clients sent, and the signed links that lead to them for a while."""

import base64
import hashlib
import hmac
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from opendify.demo.wire import Json, Refused, Reply, invalid, refuse

if TYPE_CHECKING:
    from opendify.demo.state import State

SECRET = b"demo"
ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
TOOL_FILE = re.compile(rf"/files/tools/({ID})\.\w+")
UPLOADED = re.compile(rf"/files/({ID})/file-preview")
SIGNED = re.compile(rf"(/files/(?:tools/{ID}\.\w+|{ID}/file-preview))\?timestamp=\d+&nonce=\w+&sign=[\w%=-]+")
NEEDED = ("timestamp", "nonce", "sign")


@dataclass(frozen=True, slots=True)
class Content:
    """A file with its bytes; `kind` is image, document, audio or video."""

    name: str
    mime_type: str
    kind: str
    data: bytes


@dataclass(slots=True)
class Signer:
    """Signs links that hold for `seconds`. `ahead` seconds of the server's clock let tests pass the time."""

    seconds: float = 300.0
    ahead: float = 0.0

    def link(self, path: str) -> str:
        """A path with the query string of Dify's signed links; those of uploads are quoted."""
        timestamp, nonce = str(int(self._now())), os.urandom(16).hex()
        sign = _sign(path, timestamp, nonce)
        sign = sign if path.startswith("/files/tools/") else quote(sign, safe="")
        return f"{path}?timestamp={timestamp}&nonce={nonce}&sign={sign}"

    def anew(self, text: str) -> str:
        """A text with a new signature for each link in it."""
        return SIGNED.sub(lambda found: self.link(found[1]), text)

    def admits(self, path: str, query: dict[str, str]) -> bool:
        """Whether the signature is ours and its time is not over."""
        if query["sign"] != _sign(path, query["timestamp"], query["nonce"]):
            return False
        return int(self._now()) - int(query["timestamp"]) <= self.seconds

    def _now(self) -> float:
        return time.time() + self.ahead


def _sign(path: str, timestamp: str, nonce: str) -> str:
    """The signature covers the file's id: neither its extension nor the host."""
    found = re.search(ID, path)
    text = f"file-preview|{found[0] if found else ''}|{timestamp}|{nonce}"
    return base64.urlsafe_b64encode(hmac.digest(SECRET, text.encode(), hashlib.sha256)).decode()


def fetched(state: "State", path: str, query: dict[str, str]) -> Reply | None:
    """`GET /files/...`: the file, or a refusal; None for a path that no file has. No key is asked for."""
    tool, upload = TOOL_FILE.fullmatch(path), UPLOADED.fullmatch(path)
    found = tool or upload
    if not found:
        return None
    if missing := next((name for name in NEEDED if name not in query), None):
        raise invalid(f"Missing required parameter in the query string: {missing}")
    content = state.contents.get(found[1])
    if not state.signer.admits(path, query):
        raise _forbidden() if tool else _unknown()
    if content is None:
        raise refuse(415, "unsupported_file_type", "File type not allowed.") if tool else _unknown()
    charset = "; charset=utf-8" if content.mime_type.startswith("text/") else ""
    return Reply(content.data, type=content.mime_type + charset)


def _forbidden() -> Refused:
    return refuse(403, "forbidden", "Invalid request.")


def _unknown() -> Refused:
    return refuse(404, "not_found", "File not found or signature is invalid")


def listed(state: "State", file_id: str, belongs_to: str) -> Json | None:
    """A file as `message_files` of the messages' list shows it, freshly signed."""
    content = state.contents.get(file_id)
    if content is None:
        return None
    is_made = belongs_to == "assistant"
    path = f"/files/tools/{file_id}.{content.name.rpartition('.')[2]}" if is_made else f"/files/{file_id}/file-preview"
    return {
        "id": file_id, "filename": content.name, "type": content.kind,
        "url": (state.files_url or "") + state.signer.link(path), "mime_type": content.mime_type,
        "size": len(content.data), "transfer_method": "tool_file" if is_made else "local_file",
        "belongs_to": belongs_to, "upload_file_id": file_id,
    }  # fmt: skip
