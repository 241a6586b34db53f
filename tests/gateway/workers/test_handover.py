"""What a new worker is told."""

from __future__ import annotations

import json
from dataclasses import replace

from gateway.workers.handover import orders
from tests.gateway.workers.test_states import ONE


def test_drains_and_registrations_are_told_registrations_first() -> None:
    """An endpoint must be there before it can be drained; one that has no time left need not."""
    registered = replace(ONE, id="b:1/v x", url="http://b:1", draining=True, expires_in_s=12.5)
    late = replace(ONE, id="c:1", expires_in_s=0.5)
    register, drain = orders([ONE, registered, late])
    assert (register.method, register.path) == ("POST", "/admin/endpoints")
    assert json.loads(register.content) == {
        "cluster": "c",
        "url": "http://b:1",
        "weight": 2.0,
        "max_inflight": 10,
        "ttl_s": 12.5,
    }
    assert (drain.method, drain.path) == ("POST", "/admin/endpoints/b%3A1/v%20x/drain?cluster=c")
