"""What does a request tell the balancer that chooses its endpoint?

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.api.body import Facts
from gateway.upstream.pool import Pool
from gateway.upstream.traits import STREAM, WHOLE, Traits
from gateway.wire.guard import Head


def traits_of(head: Head, facts: Facts, pool: Pool) -> Traits:
    """Return what the pool's balancer needs to know; most need but whether it is a stream."""
    balancer = pool.balancer
    streams = facts.stream is True
    if not balancer.needs_session and not balancer.needs_prompt:
        return STREAM if streams else WHOLE
    keys = pool.owner.spec.session.keys
    session = session_of(head, facts, keys) if balancer.needs_session else b""
    prompt = (bytes(facts.messages) or bytes(facts.prompt)) if balancer.needs_prompt else b""
    return Traits(stream=streams, session=session, prompt=prompt)


def session_of(head: Head, facts: Facts, keys: Sequence[str]) -> bytes:
    """Return the first key of a session that the request has; b"" if it has none.

    `keys` say where it may stand: `header:NAME` or `body:user`.
    """
    for key in keys:
        if key == "body:user":
            value = facts.user.encode() if isinstance(facts.user, str) else b""
        else:
            value = head.field(key.removeprefix("header:").encode())
        if value:
            return value
    return b""
