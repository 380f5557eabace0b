"""Model name -> App, and how Dify is asked about them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest
from app_samples import BASE
from cashews import Cache
from structlog.testing import capture_logs

from opendify.dify import catalog as module
from opendify.dify.apps import Access, App, Description, parse_parameters
from opendify.dify.catalog import Catalog
from opendify.entries import AppConfig, Mode
from opendify.errors import (
    BrokenUpstream,
    Busy,
    ModelNotFound,
    OpenDifyError,
    Refused,
    Unreachable,
    UpstreamTimeout,
)

SHORT = 0.05
DOWN = Unreachable("Dify cannot be reached.")
LIMITED = Refused("Too many requests.", code="too_many_requests", status=429)
BAD_KEY = Refused("Access token is invalid", code="unauthorized", status=401)


def described(name: str, mode: Mode = "chat", parameters: bytes = b"{}") -> Description:
    return Description(name, mode, parse_parameters(parameters))


def key_of(place: int) -> str:
    return f"app-{place:02}-0123456789-SECRET"


class Dify:
    """As much of the gateway as the catalogue needs: each key's answer, and who was asked about."""

    def __init__(self, *answers: str | Description | OpenDifyError) -> None:
        self.answers: dict[str, Any] = {key_of(place): answer for place, answer in enumerate(answers)}
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()

    async def describe(self, access: Access) -> Description:
        self.asked.append(access.key)
        await self.open.wait()
        await asyncio.sleep(0)
        answer = self.answers[access.key]
        if isinstance(answer, Exception):
            raise answer
        return described(answer) if isinstance(answer, str) else answer

    def says(self, place: int, answer: str | Description | OpenDifyError) -> None:
        self.answers[key_of(place)] = answer

    def asked_about(self, place: int) -> int:
        return self.asked.count(key_of(place))


Make: TypeAlias = Callable[..., Catalog]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """A catalogue in front of a Dify; `configs` are AppConfig fields by place."""
    async with AsyncExitStack() as stack:

        def catalog_of(
            dify: Dify, configs: dict[int, dict[str, Any]] | None = None, *, ttl: float = 300, default: str = ""
        ) -> Catalog:
            cache = Cache()
            cache.setup("mem://")
            entries = [
                AppConfig(key=key, **({"base": BASE} | (configs or {}).get(place, {})))
                for place, key in enumerate(dify.answers)
            ]
            catalog = Catalog(entries, dify, cache, ttl=ttl, default=default)
            stack.push_async_callback(cache.close)
            stack.push_async_callback(catalog.close)
            return catalog

        yield catalog_of


def anyone(model: str, /) -> bool:
    return True


async def names(catalog: Catalog) -> list[str]:
    return [app.name for app in await catalog.apps()]


async def settled(catalog: Catalog) -> None:
    """Until the refresh under way is over."""
    assert catalog._refreshing
    await asyncio.wait((catalog._refreshing,))


async def refreshed(catalog: Catalog) -> None:
    """After the time to live has passed, with the refresh that the next caller starts."""
    await asyncio.sleep(SHORT * 1.5)
    await catalog.entries()
    await settled(catalog)


# -- names


@pytest.mark.parametrize(
    ("answers", "configs", "expected"),
    [
        (["Helper"], {}, ["Helper"]),
        (["A", "B"], {}, ["A", "B"]),
        (["Helper", "Helper", "Helper"], {}, ["Helper", "Helper-2", "Helper-3"]),
        (["Helper", "Helper-2", "Helper"], {}, ["Helper", "Helper-2", "Helper-3"]),
        (["Helper", "other"], {1: {"name": "Helper"}}, ["Helper-2", "Helper"]),
        (["a", "b"], {0: {"name": "same"}, 1: {"name": "same"}}, ["same", "same-2"]),
        (["客服 助手", "team/helper:v1"], {}, ["客服 助手", "team/helper:v1"]),
        (["", ""], {}, ["dify-app", "dify-app-2"]),
        (["", "x"], {0: {"name": "流/一"}}, ["流/一", "x"]),
    ],
)
async def test_names_are_unique_in_configured_order(
    answers: list[str], configs: dict[int, dict[str, Any]], expected: list[str], make: Make
) -> None:
    assert await names(make(Dify(*answers), configs)) == expected


async def test_names_do_not_depend_on_who_answers_first(make: Make) -> None:
    dify = Dify("Helper", "Helper")
    gates = {key_of(0): asyncio.Event(), key_of(1): asyncio.Event()}

    async def describe(access: Access) -> Description:
        await gates[access.key].wait()
        return described("Helper")

    dify.describe = describe  # type: ignore[method-assign]
    catalog = make(dify)
    catalog.start()
    gates[key_of(1)].set()
    await asyncio.sleep(0.01)
    gates[key_of(0)].set()
    assert [(app.name, app.access.key) for app in await catalog.apps()] == [
        ("Helper", key_of(0)),
        ("Helper-2", key_of(1)),
    ]


async def test_an_app_is_what_dify_and_the_configuration_say(make: Make) -> None:
    form = b'{"user_input_form": [{"paragraph": {"variable": "topic", "required": true}}]}'
    catalog = make(Dify(described("Flow", "workflow", form)), {0: {"output": "report"}})
    (app,) = await catalog.apps()
    assert (app.mode, app.inputs[0].name, app.config.output) == ("workflow", "topic", "report")


# -- finding


MATCHING = {
    0: {"aliases": ("gpt-4o", "second")},
    1: {"aliases": ("gpt-4o",)},
    3: {"aliases": ("客服",)},
}


@pytest.mark.parametrize(
    ("model", "place"),
    [
        ("First", 0),
        ("first", 2),
        ("FIRST", 0),
        ("second", 1),
        ("SECOND", 1),
        ("gpt-4o", 0),
        ("客服 助手", 3),
        ("客服", 3),
        ("TEAM/Helper", 4),
        ("STRASSE", 5),
    ],
)
async def test_exact_then_in_another_case_then_by_alias(model: str, place: int, make: Make) -> None:
    catalog = make(Dify("First", "Second", "first", "客服 助手", "team/helper", "Straße"), MATCHING)
    assert (await catalog.find(model, anyone)).access.key == key_of(place)


@pytest.mark.parametrize("model", ["GPT-4O", "", "Fir", "客"])
async def test_an_alias_is_exact_and_nothing_is_guessed(model: str, make: Make) -> None:
    with pytest.raises(ModelNotFound):
        await make(Dify("First"), MATCHING).find(model, anyone)


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("helper-1", "Did you mean 'Helper'?"),
        ("Translater", "Did you mean 'Translator'?"),
        ("gpt-4o", "GET /v1/models lists them."),
    ],
)
async def test_an_unknown_model_is_told_the_close_ones(model: str, hint: str, make: Make) -> None:
    with pytest.raises(ModelNotFound) as caught:
        await make(Dify("Helper", "Translator")).find(model, anyone)
    error = caught.value
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert error.message == f"The model '{model}' does not exist or is not for your key. {hint}"


async def test_the_default_takes_what_is_unknown(make: Make) -> None:
    catalog = make(Dify("Helper", "Translator"), default="translator")
    assert (await catalog.find("gpt-4o", anyone)).name == "Translator"
    assert (await catalog.find("helper", anyone)).name == "Helper"
    assert (await catalog.named("HELPER", anyone)).name == "Helper"
    with pytest.raises(ModelNotFound):
        await catalog.named("gpt-4o", anyone)


async def test_a_default_that_does_not_exist_changes_nothing(make: Make) -> None:
    with pytest.raises(ModelNotFound, match="The model 'gpt-4o'"):
        await make(Dify("Helper"), default="nope").find("gpt-4o", anyone)


@pytest.mark.parametrize("trouble", [DOWN, BAD_KEY])
async def test_the_default_does_not_stand_in_for_an_app_in_trouble(trouble: OpenDifyError, make: Make) -> None:
    catalog = make(Dify(trouble, "Other"), {0: {"name": "flow"}}, default="Other")
    with pytest.raises(type(trouble)):
        await catalog.find("flow", anyone)


async def test_a_restricted_caller_sees_only_its_models(make: Make) -> None:
    catalog = make(Dify("Helper", "Helper two", "Other"), {0: {"aliases": ("gpt-4o",)}}, default="Helper")

    def allowed(model: str, /) -> bool:
        return model == "Other"

    assert (await catalog.find("other", allowed)).name == "Other"
    for model in ("Helper", "gpt-4o", "helpr"):
        with pytest.raises(ModelNotFound) as caught:
            await catalog.find(model, allowed)
        assert "Did you mean 'Helper" not in caught.value.message


# -- trouble


async def test_one_bad_key_does_not_hide_the_others(make: Make) -> None:
    catalog = make(Dify("First", BAD_KEY, "Third"))
    with capture_logs() as lines:
        entries = await catalog.entries()
    assert [entry.label for entry in entries] == ["First", "app-01-...", "Third"]
    assert [entry.problem and entry.problem.code for entry in entries] == [None, "upstream_auth_failed", None]
    assert [(line["event"], line["app"], line["code"]) for line in lines] == [
        ("app_unusable", "app-01-...", "upstream_auth_failed")
    ]


async def test_no_key_is_ever_logged_or_shown(make: Make) -> None:
    catalog = make(Dify("First", BAD_KEY, DOWN, Refused(f"{key_of(3)} is bad", code="x", status=400)), ttl=SHORT)
    with capture_logs() as lines:
        entries = await catalog.entries()
        await refreshed(catalog)
    shown = f"{lines} {[(entry.label, entry.access, entry.problem) for entry in entries]}"
    assert len(lines) >= 3
    assert "SECRET" not in shown


async def test_the_same_trouble_is_logged_once(make: Make) -> None:
    dify = Dify(DOWN)
    catalog = make(dify, ttl=SHORT)
    with capture_logs() as lines:
        await catalog.entries()
        await refreshed(catalog)
        dify.says(0, BrokenUpstream("html"))
        await refreshed(catalog)
        dify.says(0, "Helper")
        await refreshed(catalog)
        dify.says(0, BrokenUpstream("html"))
        await refreshed(catalog)
    assert [line["code"] for line in lines] == ["upstream_unreachable", "upstream_error", "upstream_error"]


@pytest.mark.parametrize(
    "outage", [DOWN, UpstreamTimeout("silent"), BrokenUpstream("html"), Busy("no connection"), LIMITED], ids=range(5)
)
async def test_a_stale_description_is_served_while_dify_is_down(outage: OpenDifyError, make: Make) -> None:
    dify = Dify("Helper", "Other")
    catalog = make(dify, ttl=SHORT)
    assert await names(catalog) == ["Helper", "Other"]
    dify.says(0, outage)
    await refreshed(catalog)
    assert dify.asked_about(0) == 2
    assert await names(catalog) == ["Helper", "Other"]
    problem = (await catalog.entries())[0].problem
    assert problem
    assert problem.message == outage.message
    dify.says(0, "Renamed")
    await refreshed(catalog)
    assert await names(catalog) == ["Renamed", "Other"]
    assert (await catalog.entries())[0].problem is None


async def test_a_key_that_is_refused_is_dropped(make: Make) -> None:
    dify = Dify("Helper", "Other")
    catalog = make(dify, ttl=SHORT)
    assert await names(catalog) == ["Helper", "Other"]
    dify.says(0, BAD_KEY)
    await refreshed(catalog)
    assert await names(catalog) == ["Other"]
    with pytest.raises(ModelNotFound):
        await catalog.find("Helper", anyone)


@pytest.mark.parametrize(
    ("answer", "config", "model", "expected"),
    [
        (DOWN, {}, "gpt-4o", ModelNotFound),
        (UpstreamTimeout("silent"), {"name": "flow"}, "FLOW", UpstreamTimeout),
        (DOWN, {"name": "flow"}, "flow", Unreachable),
        (BAD_KEY, {"name": "flow"}, "flow", Refused),
        (DOWN, {"name": "flow"}, "gpt-4o", ModelNotFound),
        (BAD_KEY, {}, "gpt-4o", ModelNotFound),
        (DOWN, {}, "Other", None),
    ],
)
async def test_an_unknown_name_may_be_the_app_that_cannot_be_asked(
    answer: OpenDifyError, config: dict[str, Any], model: str, expected: type[OpenDifyError] | None, make: Make
) -> None:
    catalog = make(Dify(answer, "Other"), {0: config})
    if expected is None:
        assert (await catalog.find(model, anyone)).name == model
    else:
        with pytest.raises(expected):
            await catalog.find(model, anyone)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [([DOWN], Unreachable), ([BAD_KEY, DOWN], Unreachable), ([LIMITED], Busy), ([BAD_KEY], ModelNotFound)],
)
async def test_where_no_app_can_be_asked_every_name_may_be_theirs(
    answers: list[OpenDifyError], expected: type[OpenDifyError], make: Make
) -> None:
    with pytest.raises(expected):
        await make(Dify(*answers)).find("gpt-4o", anyone)


async def test_a_caller_is_not_told_of_the_apps_of_others(make: Make) -> None:
    catalog = make(Dify(DOWN, "Other"), {0: {"name": "flow"}})
    with pytest.raises(ModelNotFound):
        await catalog.find("flow", lambda model, /: model == "Other")


@pytest.mark.parametrize("model", ["FLOW", "gpt-4o"])
async def test_an_app_that_cannot_be_asked_has_other_names_too(model: str, make: Make) -> None:
    catalog = make(Dify(DOWN), {0: {"name": "flow", "aliases": ("gpt-4o",)}})
    with pytest.raises(Unreachable):
        await catalog.find(model, anyone)


async def test_one_odd_description_does_not_hide_the_others(make: Make) -> None:
    odd = described("Odd", "chat", b'{"system_parameters": {"file_size_limit": "15MB", "image_file_size_limit": null}}')
    assert await names(make(Dify(odd, "Other"))) == ["Odd", "Other"]


async def test_a_failure_that_nobody_expected_does_not_hide_the_others(make: Make) -> None:
    dify = Dify("Helper", "Other")
    dify.says(0, ValueError(key_of(0)))  # type: ignore[arg-type]
    catalog = make(dify)
    with capture_logs() as lines:
        assert await names(catalog) == ["Other"]
    problem = (await catalog.entries())[0].problem
    assert isinstance(problem, BrokenUpstream)
    assert problem.message == "The app's description cannot be read (ValueError)."
    assert "SECRET" not in f"{problem} {lines}"


async def test_no_other_app_takes_the_name_of_one_that_is_refused(make: Make) -> None:
    dify = Dify("Helper", "Helper")
    catalog = make(dify, ttl=SHORT)
    assert await names(catalog) == ["Helper", "Helper-2"]
    dify.says(0, BAD_KEY)
    await refreshed(catalog)
    assert await names(catalog) == ["Helper-2"]
    dify.says(0, "Helper")
    await refreshed(catalog)
    assert await names(catalog) == ["Helper", "Helper-2"]


# -- how often Dify is asked


async def test_fifty_callers_at_once_ask_once(make: Make) -> None:
    dify = Dify("Helper", "Other")
    dify.open.clear()
    catalog = make(dify)
    callers = [asyncio.create_task(catalog.find("helper", anyone)) for _ in range(50)]
    await asyncio.sleep(0.01)
    callers[0].cancel()
    dify.open.set()
    found: list[App] = await asyncio.gather(*callers[1:])
    assert {app.name for app in found} == {"Helper"}
    assert dify.asked == [key_of(0), key_of(1)]


async def test_it_is_asked_concurrently(make: Make) -> None:
    dify = Dify("Helper", "Other", "Third")
    dify.open.clear()
    make(dify).start()
    await asyncio.sleep(0.01)
    assert len(dify.asked) == 3
    dify.open.set()


async def test_within_the_time_to_live_nothing_is_asked(make: Make) -> None:
    dify = Dify("Helper")
    catalog = make(dify)
    for _ in range(5):
        await catalog.find("Helper", anyone)
        await catalog.entries()
    assert dify.asked_about(0) == 1


async def test_a_refresh_makes_nobody_wait(make: Make) -> None:
    dify = Dify("Helper")
    catalog = make(dify, ttl=SHORT)
    assert await names(catalog) == ["Helper"]
    dify.open.clear()
    dify.says(0, "Renamed")
    await asyncio.sleep(SHORT * 1.5)
    async with asyncio.timeout(3):
        assert await names(catalog) == ["Helper"]
        assert await names(catalog) == ["Helper"]
    await asyncio.sleep(0.01)
    assert dify.asked_about(0) == 2
    dify.open.set()
    await settled(catalog)
    assert await names(catalog) == ["Renamed"]


async def test_patience_with_a_silent_dify_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalog.entries, "__defaults__", (0.02,))
    dify = Dify("Helper", "flow")
    dify.open.clear()
    catalog = make(dify, {1: {"name": "flow"}})
    assert [(entry.label, entry.app) for entry in await catalog.entries()] == [("app-00-...", None), ("flow", None)]
    for model in ("flow", "gpt-4o"):
        with pytest.raises(UpstreamTimeout, match="has not described its apps yet"):
            await catalog.named(model, anyone)
    dify.open.set()
    await settled(catalog)
    assert await names(catalog) == ["Helper", "flow"]
    assert dify.asked_about(0) == 1


async def test_after_trouble_it_asks_again_sooner(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", SHORT)
    dify = Dify(DOWN, "Other")
    catalog = make(dify)
    assert await names(catalog) == ["Other"]
    dify.says(0, "Helper")
    await refreshed(catalog)
    assert await names(catalog) == ["Helper", "Other"]
    assert (dify.asked_about(0), dify.asked_about(1)) == (2, 1)


# -- an app that changed


async def test_a_changed_app_is_described_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    dify = Dify("Helper", "Other")
    catalog = make(dify)
    app = await catalog.find("Helper", anyone)
    dify.says(0, described("Helper", "workflow"))
    await catalog.changed(app)
    assert (await catalog.find("Helper", anyone)).mode == "chat"
    await settled(catalog)
    assert (await catalog.find("Helper", anyone)).mode == "workflow"
    assert (dify.asked_about(0), dify.asked_about(1)) == (2, 1)


async def test_an_app_that_keeps_changing_is_not_asked_about_all_the_time(make: Make) -> None:
    dify = Dify("Helper")
    catalog = make(dify)
    app = await catalog.find("Helper", anyone)
    for _ in range(5):
        await catalog.changed(app)
        await catalog.entries()
    await settled(catalog)
    assert dify.asked_about(0) == 1


async def test_a_changed_app_goes_on_while_dify_is_down(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    dify = Dify("Helper")
    catalog = make(dify)
    app = await catalog.find("Helper", anyone)
    dify.says(0, DOWN)
    await catalog.changed(app)
    await settled(catalog)
    assert dify.asked_about(0) == 2
    assert await names(catalog) == ["Helper"]


# -- the end


async def test_closing_ends_a_refresh_under_way(make: Make) -> None:
    dify = Dify("Helper")
    dify.open.clear()
    catalog = make(dify)
    catalog.start()
    await asyncio.sleep(0)
    await catalog.close()
    assert catalog._refreshing
    assert catalog._refreshing.cancelled()


async def test_closing_what_never_began(make: Make) -> None:
    await make(Dify("Helper")).close()
