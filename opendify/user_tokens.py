"""The token in which Open WebUI says who its user is. Read only where its secret is set: the library is not small."""

from typing import Final

import jwt
import structlog

from opendify.errors import InvalidUserToken

TOKEN_CHARS: Final = 8192
ISSUER: Final = "open-webui"
# The clocks of two machines differ; Open WebUI's tokens are good for 300 seconds.
LEEWAY_SECONDS: Final = 30

log = structlog.get_logger("opendify.user_tokens")


def verified_user(token: str, secret: str) -> str:
    """The user id of Open WebUI's `X-OpenWebUI-User-Jwt`: HS256, issued by it, not expired. Raises InvalidUserToken."""
    try:
        user = _subject(token, secret)
    except (jwt.PyJWTError, ValueError) as error:
        log.info("user_token_refused", problem=type(error).__name__)
        raise InvalidUserToken from None
    return user


def _subject(token: str, secret: str) -> str:
    if len(token) > TOKEN_CHARS:
        raise jwt.DecodeError
    claims = jwt.decode(
        token,
        secret.encode().ljust(32, b"\0"),  # what HMAC does with a short one, without the library's warning each time
        algorithms=["HS256"],
        issuer=ISSUER,
        leeway=LEEWAY_SECONDS,
        options={"require": ["exp", "iss", "sub"]},
    )
    user: str = claims["sub"]
    if not user.strip():
        raise jwt.MissingRequiredClaimError("sub")
    return user
