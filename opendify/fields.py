"""The types of settings: which values they take, and what is said of one that they do not."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from opendify import presentation

# What a header's name must not be: its value would become a user's or a chat's name.
HOLDS_A_KEY: Final = {"authorization", "proxy-authorization", "cookie"}


def in_lower_case(value: object) -> object:
    """Words are taken in any case."""
    return value.lower() if isinstance(value, str) else value


def words(value: object) -> object:
    """A comma-separated line as the list it stands for."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def stripped(value: object) -> object:
    """A secret without the white space around it, which Open WebUI leaves out as well."""
    return value.strip() if isinstance(value, str) else value


def background_tasks(value: str) -> str:
    """What becomes of background tasks. Raises ValueError."""
    way, colon, model = value.partition(":")
    way, model = way.strip().lower(), model.strip()
    if way in {"isolated", "local", "pass"} and not colon:
        return way
    if way == "route" and model:
        return f"route:{model}"
    raise ValueError(f"holds {value!r}: it must be isolated, local, pass or route:MODEL")


def citation_url(template: str) -> str:
    """An address with places for the fields of a citation. Raises ValueError."""
    known = ", ".join(f"{{{name}}}" for name in presentation.PLACES)
    unknown = set(re.findall(r"\{(.*?)\}", template)) - set(presentation.PLACES)
    if unknown or (template and not re.match(r"https?://\S+$", template)):
        raise ValueError(f"must be an address such as https://dify.example.com/{{document_id}}, with places of {known}")
    return template


def header(name: str) -> str:
    """A header's name. Raises ValueError."""
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError(f"holds {name!r}: a header's name looks like X-Chat-Id")
    if name.lower() in HOLDS_A_KEY:
        raise ValueError(f"holds {name!r}, whose value is a key and no name")
    return name


def origin(value: str) -> str:
    """A web origin, or `*`. Raises ValueError."""
    if value != "*" and not re.fullmatch(r"https?://[^/\s]+", value):
        raise ValueError(f"holds {value!r}: an origin looks like https://chat.example.com")
    return value


def file(path: Path) -> Path:
    """A file that is there. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"names {path}, which is not a file")
    return path


def _address(url: str) -> SplitResult | None:
    """The parts of an address that names a host; the reasons against others would quote what may be a password."""
    try:
        parts = urlsplit(url)
        is_one = parts.hostname and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        return None
    return parts if is_one else None


def base_url(value: str) -> str:
    """Dify's address, ending in its API prefix. One that ends in `#` is used as it is, without the mark."""
    if value.endswith("#"):
        url = value[:-1].rstrip("/")
    else:
        url = value.rstrip("/")
        url = url if url.endswith("/v1") else f"{url}/v1"
    parts = _address(url)
    if not parts or parts.scheme not in {"http", "https"}:
        raise ValueError("must be an address such as https://dify.example.com/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must be a plain address, without user name, query or fragment")
    return parts.scheme + url[len(parts.scheme) :]  # urlsplit's is in lower case


def cache_url(url: SecretStr) -> SecretStr:
    """`mem://`, or a Redis. Raises ValueError, without the address: it may hold a password."""
    value = url.get_secret_value()
    parts = _address(value)
    is_redis = parts and parts.scheme in {"redis", "rediss"} and re.fullmatch(r"/?\d*", parts.path)
    if value != "mem://" and (not parts or not is_redis or parts.query or parts.fragment):
        raise ValueError("must be mem:// or a plain address such as redis://localhost:6379/0")
    return url


LOWER: Final = BeforeValidator(in_lower_case)
LIST: Final = BeforeValidator(words)

Words = Annotated[tuple[str, ...], NoDecode, LIST]
Headers = Annotated[tuple[Annotated[str, AfterValidator(header)], ...], NoDecode, LIST]
Origins = Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], NoDecode, LIST]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Minutes = Annotated[float, Field(gt=0, le=24 * 60, allow_inf_nan=False)]
Hours = Annotated[float, Field(gt=0, le=24 * 365, allow_inf_nan=False)]
Days = Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Address = Annotated[str, AfterValidator(lambda value: base_url(value) if value else value)]
File = Annotated[Path, AfterValidator(file)]
Secret = Annotated[SecretStr, BeforeValidator(stripped)]
CacheUrl = Annotated[SecretStr, AfterValidator(cache_url)]
Switch = Annotated[Literal["on", "off"], LOWER]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], LOWER]
LogFormat = Annotated[Literal["console", "json"], LOWER]
Conversations = Annotated[Literal["auto", "explicit", "off"], LOWER]
BackgroundTasks = Annotated[str, AfterValidator(background_tasks)]
Reasoning = Annotated[presentation.Reasoning, LOWER]
AgentTools = Annotated[presentation.AgentTools, LOWER]
ClientTools = Annotated[Literal["emulate", "ignore", "reject"], LOWER]
Citations = Annotated[presentation.Citations, LOWER]
Progress = Annotated[presentation.ProgressShown, LOWER]
Files = Annotated[Literal["proxy", "link"], LOWER]
CitationUrl = Annotated[str, AfterValidator(citation_url)]
