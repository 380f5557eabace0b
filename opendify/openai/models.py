"""GET /v1/models and /v1/models/{id}."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, Protocol, runtime_checkable

from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

# Dify does not say when an app was made; clients only want a number that stays the same.
CREATED: Final = 1_767_225_600


class Model(Struct):
    """One Dify app as a model."""

    id: str
    created: int = CREATED
    object: Literal["model"] = "model"
    owned_by: Literal["dify"] = "dify"


class ModelList(Struct):
    """The models that the caller may use."""

    data: list[Model]
    object: Literal["list"] = "list"


class Named(Protocol):
    """What a model is made of."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class Catalog(Protocol):
    """The catalogue, as far as this surface sees it."""

    async def apps(self) -> Sequence[Named]: ...
    async def named(self, model: str, allowed: Callable[[str], bool], /) -> Named: ...


class ModelsController(Controller):
    """The configured Dify apps as OpenAI models."""

    path = "/v1/models"
    tags = ("Models",)

    @get(summary="List the models this key may use")
    async def list_models(self, request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]) -> ModelList:
        """Every usable app, in configured order."""
        caller = request.state.caller
        return ModelList([Model(app.name) for app in await catalog.apps() if caller.may_use(app.name)])

    @get("/{model:path}", summary="Retrieve a model")
    async def retrieve_model(
        self, model: FromPath[str], request: Request[Any, Any, Any], catalog: NamedDependency[Catalog]
    ) -> Model:
        """One app, by its name or an alias; names may hold slashes."""
        app = await catalog.named(model.removeprefix("/"), request.state.caller.may_use)
        return Model(app.name)
