"""GET /v1/models and /v1/models/{id}."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from litestar import Litestar, Request
from litestar.di import Provide

from opendify.app import tell
from opendify.auth import ANYONE, Caller
from opendify.errors import ModelNotFound
from opendify.openai.models import CREATED, ModelsController

NAMES = ["Helper", "客服 助手", "team/helper:v1", "100% sure?"]


class Shelf:
    """A catalogue of names; `gpt-4o` is an alias."""

    async def apps(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in NAMES]

    async def named(self, model: str, allowed: Callable[[str], bool], /) -> SimpleNamespace:
        name = "Helper" if model == "gpt-4o" else model
        if name in NAMES and allowed(name):
            return SimpleNamespace(name=name)
        raise ModelNotFound(f"No {model}.", param="model")


async def get(path: str, caller: Caller = ANYONE) -> httpx.Response:
    def named(request: Request[Any, Any, Any]) -> None:
        request.state.caller = caller

    app: Any = Litestar(
        [ModelsController],
        dependencies={"catalog": Provide(Shelf, sync_to_thread=False)},
        before_request=named,
        exception_handlers={Exception: tell},
        openapi_config=None,
        logging_config=None,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://opendify") as client:
        return await client.get(path)


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "dify"}


async def test_all_models_in_configured_order() -> None:
    response = await get("/v1/models")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"object": "list", "data": [model(name) for name in NAMES]}


@pytest.mark.parametrize(
    ("models", "listed"),
    [(["Helper", "team/helper:v1"], ["Helper", "team/helper:v1"]), (["nope"], []), ([], []), (None, NAMES)],
)
async def test_only_what_the_caller_may_use(models: list[str] | None, listed: list[str]) -> None:
    caller = Caller("team", None if models is None else frozenset(models))
    assert [entry["id"] for entry in (await get("/v1/models", caller)).json()["data"]] == listed


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Helper", "Helper"),
        ("gpt-4o", "Helper"),
        ("%E5%AE%A2%E6%9C%8D%20%E5%8A%A9%E6%89%8B", "客服 助手"),
        ("team/helper:v1", "team/helper:v1"),
        ("team%2Fhelper%3Av1", "team/helper:v1"),
        ("100%25%20sure%3F", "100% sure?"),
    ],
)
async def test_one_model(path: str, name: str) -> None:
    response = await get(f"/v1/models/{path}")
    assert (response.status_code, response.json()) == (200, model(name))


async def test_a_model_that_does_not_exist() -> None:
    response = await get("/v1/models/nope/at/all")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "No nope/at/all.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_a_model_of_others() -> None:
    response = await get("/v1/models/Helper", Caller("team", frozenset({"other"})))
    assert response.status_code == 404


async def test_the_time_is_a_number_that_stays() -> None:
    first, second = (await get("/v1/models")).json(), (await get("/v1/models")).json()
    assert first == second
    assert isinstance(first["data"][0]["created"], int)
