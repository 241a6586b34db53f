"""Which requests are data-plane requests, and how are their streams watched?

The table is the allow-list: a path that is not in it never reaches an engine, so an engine's own
admin routes cannot be reached through the gateway.
"""

from __future__ import annotations

from gateway.api.body import Facts
from gateway.errors import wrong_route
from gateway.model import Body, Dialect, ErrorShape, Kind, Route
from gateway.plan.table import Plan
from gateway.relay.watch import ChatWatcher, TypedWatcher, Watcher

_TYPED = Dialect.TYPED
_ANTHROPIC = ErrorShape.ANTHROPIC

_ROUTES = (
    Route("/v1/chat/completions", "chat", streams=True, injects_usage=True),
    Route("/v1/completions", "completions", streams=True, injects_usage=True),
    Route("/v1/embeddings", "embeddings"),
    Route("/v1/responses", "responses", _TYPED, streams=True),
    Route("/v1/messages", "messages", _TYPED, streams=True, shape=_ANTHROPIC),
    Route("/v1/messages/count_tokens", "count_tokens", _TYPED, shape=_ANTHROPIC),
    Route("/v1/rerank", "rerank"),
    Route("/v1/score", "score"),
    Route("/tokenize", "tokenize"),
    Route("/detokenize", "detokenize"),
    Route("/v1/audio/transcriptions", "transcriptions", body=Body.FORM),
)
_PREDICT = Route("/v1/predict", "predict", body=Body.ANY, kind=Kind.VISION)

ROUTES = {route.path.encode(): route for route in (*_ROUTES, _PREDICT)} | {b"/predict": _PREDICT}
"""Path as on the wire → route, which names the path upstream. All of them are POST."""


def watcher_for(route: Route, facts: Facts, *, strip_usage: bool) -> Watcher:
    """Make the watcher of one stream; `strip_usage` says that the usage chunk was our wish."""
    if route.dialect is Dialect.TYPED:
        return TypedWatcher()
    return ChatWatcher(facts.choices, strip_usage=strip_usage)


def check_kind(plan: Plan, route: Route) -> None:
    """Refuse a model that does not answer on this route, before any endpoint is asked.

    What nobody has told of yet may be anything. Raises `GatewayError` 400.
    """
    if plan.kind is not None and plan.kind is not route.kind:
        raise wrong_route(plan.model, plan.kind, route.path)
