"""Who asks, as Dify knows it."""

import hashlib

from opendify.auth import Caller

USER_CHARS = 255


def end_user(caller: Caller, user: str | None) -> str:
    """Dify's `user`: the same person behind the same key, always; people behind other keys are others.

    Dify keeps conversations, files and stops apart by it. Its column holds 255 characters.
    """
    name = f"{caller.name}:{user}" if user else caller.name
    if len(name) <= USER_CHARS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{name[: USER_CHARS - 65]}:{digest}"
