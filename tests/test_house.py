"""Who may know whom: the rules that keep the two protocols apart, read from the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import opendify

HOUSE = Path(opendify.__file__).parent
ROOMS = {str(path.relative_to(HOUSE)): path for path in HOUSE.rglob("*.py") if "demo" not in path.parts}


def imports(room: str) -> Iterator[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(ROOMS[room].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{room}: a relative import hides who is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers_of(*names: str) -> set[str]:
    """The files that import one of these packages, or something inside."""
    prefixes = tuple(f"{name}." for name in names)
    return {room for room in ROOMS if any(f"{module}.".startswith(prefixes) for module in imports(room))}


def test_the_rooms_are_all_here() -> None:
    assert {
        "dialogue.py",
        "sse.py",
        "app.py",
        "openai/chat/__init__.py",
        "dify/gateway.py",
        "settings.py",
    } <= ROOMS.keys()


@pytest.mark.parametrize("room", ["dialogue.py", "sse.py"])
def test_the_waist_knows_nobody(room: str) -> None:
    assert not [name for name in imports(room) if name.startswith("opendify")]


def test_the_two_protocols_do_not_know_each_other() -> None:
    openai = {room for room in ROOMS if room.startswith("openai/")}
    dify = {room for room in ROOMS if room.startswith("dify/")}
    assert openai
    assert dify
    assert not importers_of("opendify.dify") & openai
    assert not importers_of("opendify.openai") & dify


def test_only_the_edge_knows_litestar() -> None:
    edge = {"app.py", "auth.py", "error_answers.py", "access.py", "health.py", "openapi.py"}
    assert {room for room in importers_of("litestar") if not room.startswith("openai/")} <= edge


def test_only_the_gateway_speaks_http() -> None:
    clients = ("httpx", "aiohttp", "httpcore", "requests", "urllib.request", "http.client")
    assert importers_of(*clients) <= {"dify/transport.py", "dify/over_aiohttp.py", "dify/over_httpx.py"}


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        room
        for room, path in ROOMS.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"})
        or (isinstance(node, ast.ImportFrom) and node.module == "os")
    }
    assert readers <= {"settings.py"}


def test_the_story_makes_none_of_its_parts() -> None:
    made = {
        node.func.id
        for node in ast.walk(ast.parse(ROOMS["exchange.py"].read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not made & {"Gateway", "Catalog", "Cache", "NoMemory"}
