"""What would the gateway do with this request, were a client to send it?

It is read as the data path reads it, and refused for the same reasons; then nothing is sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from gateway.api.body import read_json
from gateway.api.prepare import media_of
from gateway.api.routes import ROUTES, check_kind
from gateway.api.traits import session_of
from gateway.dispatch.steering import subject_of
from gateway.errors import bad_request
from gateway.model import Body, Kind
from gateway.plan.explain import Explanation, explain
from gateway.plan.table import Table
from gateway.telemetry.record import Record
from gateway.upstream.traits import Traits
from gateway.wire.guard import Limits, read_head
from gateway.wire.types import Request

_CHAT, _PREDICT = "/v1/chat/completions", "/v1/predict"


class Explainer:
    """Explains requests by the table that is in effect."""

    def __init__(
        self, table: Callable[[], Table], monotonic: Callable[[], float], limits: Limits
    ) -> None:
        self._table = table
        self._monotonic = monotonic
        self._limits = limits

    def explain(
        self, body: bytes, headers: Mapping[str, str] | None = None, path: str | None = None
    ) -> Explanation:
        """Say what would become of a request; `headers` are the client's.

        Without a `path` it is a chat, or a prediction if that is what the model makes. Raises the
        `GatewayError` that the client would get for its form or its model, and 400 for
        paths without JSON bodies.
        """
        route = ROUTES.get((path or self._usual_path(body)).encode())
        if route is None or route.body is Body.FORM:
            known = ", ".join(
                key.decode() for key, one in ROUTES.items() if one.body is not Body.FORM
            )
            raise bad_request(f"The path must be one of: {known}.", "path")
        fields = [
            (name.lower().encode(), value.encode("latin-1", "replace"))
            for name, value in (headers or {}).items()
            if name.lower() not in _FRAMING
        ]
        head = read_head([(b"host", b"explain"), *fields], self._limits)
        request = Request(route, head, body, "")
        if media_of(request) is not Body.JSON:
            raise bad_request("Only requests with JSON bodies can be explained.", "headers")
        facts = read_json(body, self._limits.json_depth)
        plan = self._table().lookup(facts.model or "")
        check_kind(plan, route)
        request_id = head.request_id or secrets.token_hex(16).encode()
        record = Record(route.name, request_id, "", self._monotonic())
        record.model = plan.model
        subject = subject_of(request, facts, record)
        keys = plan.pool.owner.spec.session.keys
        prompt = bytes(facts.messages) or bytes(facts.prompt)
        traits = Traits(facts.stream is True, session_of(head, facts, keys), prompt)
        return explain(plan, subject, body, traits, self._monotonic())

    def _usual_path(self, body: bytes) -> str:
        facts = read_json(body, self._limits.json_depth)
        plan = self._table().lookup(facts.model or "")
        return _PREDICT if plan.kind is Kind.VISION else _CHAT


_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})
"""What a copied request brings of its connection; it says nothing here."""
