"""A lease counts as in flight exactly as long as it is held."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError, bad_request
from gateway.upstream.balancer import RoundRobin
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.pool import Pool
from gateway.wire.upstream import Address, Client


def pool(*, healthy: bool) -> Pool:
    endpoint = Endpoint("http://e:1")
    endpoint.probed(healthy)
    client = Client(Address("e", 1), lambda: 0.0)
    return Pool("c", [endpoint], {endpoint.id: client}, RoundRobin())


def test_a_lease_is_in_flight_until_it_ends() -> None:
    """Picking claims nothing; an exception gives back as well."""
    one = pool(healthy=True)
    (endpoint,) = one.endpoints
    lease = one.pick("m")
    assert endpoint.inflight == 0
    with lease:
        assert (lease.endpoint, endpoint.inflight) == (endpoint, 1)
    assert endpoint.inflight == 0
    with pytest.raises(GatewayError), one.pick("m"):
        raise bad_request("in the middle")
    assert endpoint.inflight == 0


def test_no_endpoint_is_a_503_that_says_when_to_come_again() -> None:
    """The model exists; it is only not served now."""
    with pytest.raises(GatewayError) as caught:
        pool(healthy=False).pick("m")
    assert (caught.value.status, caught.value.code) == (503, "no_healthy_upstream")
    assert caught.value.retry_after_s
