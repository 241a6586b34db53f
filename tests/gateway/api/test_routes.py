"""The table of routes is the allow-list, and each family's streams get their own watcher."""

from __future__ import annotations

import pytest

from gateway.api.body import Facts
from gateway.api.routes import ROUTES, check_kind, watcher_for
from gateway.errors import GatewayError
from gateway.model import ErrorShape, Kind
from gateway.plan.table import Nature, plan_for
from gateway.relay.watch import ChatWatcher, TypedWatcher
from tests.support.engine import DONE, finish, token, usage
from tests.support.pools import pool_of


def test_each_route_is_found_under_its_own_path() -> None:
    """Keys are the paths on the wire, names are distinct: they become labels."""
    paths = {path.decode(): route for path, route in ROUTES.items()}
    plain = paths.pop("/predict")
    assert plain is paths["/v1/predict"]
    assert set(paths) == {route.path for route in paths.values()}
    assert len({route.name for route in paths.values()}) == len(paths)


@pytest.mark.parametrize(
    "path", [b"/load_lora_adapter", b"/sleep", b"/metrics", b"/v1/models", b"/"]
)
def test_an_engines_admin_routes_are_not_reachable(path: bytes) -> None:
    """vLLM serves these; the gateway forwards none of them."""
    assert path not in ROUTES


def test_usage_is_asked_for_only_where_the_api_has_the_option() -> None:
    """`stream_options` is a field of these two families only."""
    asking = {route.path for route in ROUTES.values() if route.injects_usage}
    assert asking == {"/v1/chat/completions", "/v1/completions"}


def test_families_with_typed_events_are_watched_as_such() -> None:
    """And errors of the Anthropic family have Anthropic's shape."""
    typed = {
        route.path
        for route in ROUTES.values()
        if isinstance(watcher_for(route, Facts(), strip_usage=False), TypedWatcher)
    }
    assert typed == {"/v1/responses", "/v1/messages", "/v1/messages/count_tokens"}
    shaped = {route.path for route in ROUTES.values() if route.shape is ErrorShape.ANTHROPIC}
    assert shaped == {"/v1/messages", "/v1/messages/count_tokens"}


def test_the_watcher_knows_choices_and_whose_wish_the_usage_was() -> None:
    """Two choices need two finish reasons; our own usage chunk is taken out."""
    watcher = watcher_for(ROUTES[b"/v1/completions"], Facts(n=2), strip_usage=True)
    assert isinstance(watcher, ChatWatcher)
    assert watcher.see(token("a") + finish() + usage()) == token("a") + finish()
    assert watcher.closing() is None
    watcher.see(finish())
    assert watcher.closing() == DONE


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        (Kind.VISION, b"/v1/chat/completions", "is a vision model: ask for it at /v1/predict."),
        (Kind.LLM, b"/predict", "is no vision model, and /v1/predict is for those."),
    ],
)
def test_a_model_of_another_kind_is_refused(kind: Kind, path: bytes, words: str) -> None:
    """With words that say where it would be answered."""
    plan = plan_for("m", "m", pool_of(0), "m", (), Nature(kind))
    with pytest.raises(GatewayError, match=words) as caught:
        check_kind(plan, ROUTES[path])
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "wrong_route",
        "model",
    )


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/predict"])
def test_what_nobody_has_told_of_may_be_asked_anywhere(path: bytes) -> None:
    """The endpoint will say."""
    check_kind(plan_for("m", "m", pool_of(0), "m"), ROUTES[path])
