"""The table of routes is the allow-list, and each family's streams get their own watcher."""

from __future__ import annotations

import pytest

from gateway.api.body import Facts
from gateway.api.routes import ROUTES, watcher_for
from gateway.model import ErrorShape
from gateway.relay.watch import ChatWatcher, TypedWatcher
from tests.support.engine import DONE, finish, token, usage


def test_each_route_is_found_under_its_own_path() -> None:
    """Keys are the paths on the wire, names are distinct: they become labels."""
    assert {path.decode() for path in ROUTES} == {route.path for route in ROUTES.values()}
    assert len({route.name for route in ROUTES.values()}) == len(ROUTES)


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
