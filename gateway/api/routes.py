"""Which requests are data-plane requests, and how are their streams watched?

The table is the allow-list: a path that is not in it never reaches an engine, so an engine's own
admin routes cannot be reached through the gateway.
"""

from __future__ import annotations

from gateway.api.body import Facts
from gateway.model import Dialect, ErrorShape, Route
from gateway.relay.watch import ChatWatcher, TypedWatcher, Watcher

_TYPED = Dialect.TYPED
_ANTHROPIC = ErrorShape.ANTHROPIC

_ROUTES = (
    Route("/v1/chat/completions", "chat", injects_usage=True),
    Route("/v1/completions", "completions", injects_usage=True),
    Route("/v1/embeddings", "embeddings"),
    Route("/v1/responses", "responses", _TYPED),
    Route("/v1/messages", "messages", _TYPED, shape=_ANTHROPIC),
    Route("/v1/messages/count_tokens", "count_tokens", _TYPED, shape=_ANTHROPIC),
    Route("/v1/rerank", "rerank"),
    Route("/v1/score", "score"),
    Route("/tokenize", "tokenize"),
    Route("/detokenize", "detokenize"),
    Route("/v1/audio/transcriptions", "transcriptions", multipart=True),
)

ROUTES = {route.path.encode(): route for route in _ROUTES}
"""Path as on the wire → route. All of them are POST."""


def watcher_for(route: Route, facts: Facts, *, strip_usage: bool) -> Watcher:
    """Make the watcher of one stream; `strip_usage` says that the usage chunk was our wish."""
    if route.dialect is Dialect.TYPED:
        return TypedWatcher()
    return ChatWatcher(facts.choices, strip_usage=strip_usage)
