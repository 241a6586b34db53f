"""What is known of endpoints outlives a change of the configuration; what goes, goes in peace."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from gateway.config.cluster import Cluster as ClusterSpec
from gateway.errors import GatewayError
from gateway.model import Outcome
from gateway.upstream.cluster import Cluster
from gateway.upstream.discovery import Member
from gateway.upstream.traits import WHOLE
from gateway.upstream.trust import Trust, trust_of
from tests.support.control import ManualClock

CLOCK = ManualClock()


def spec(*urls: str, **settings: Any) -> ClusterSpec:
    endpoints = [{"url": f"http://{url}"} for url in urls]
    return ClusterSpec.model_validate({"endpoints": endpoints, **settings})


def cluster(*urls: str, **settings: Any) -> Cluster:
    """A cluster whose endpoints are all well."""
    made = Cluster("c", spec(*urls, **settings), CLOCK.monotonic, Random(1))
    for endpoint in made.endpoints:
        endpoint.probed(True, CLOCK.now)
    return made


def change(running: Cluster, new: ClusterSpec) -> None:
    running.configure(new, trust_of(new, running.trust))


def ids(running: Cluster) -> list[str]:
    return [endpoint.id for endpoint in running.endpoints]


def test_endpoints_that_stay_keep_their_state() -> None:
    """By id: requests in flight, health, connections; weight and limit are the new ones."""
    running = cluster("a:1", "b:1")
    a, client = running.endpoints[0], running.clients["a:1"]
    running.listed(a, [{"id": "m"}])
    lease = running.whole().pick("m", WHOLE, CLOCK.now)
    assert lease is not None
    new = ClusterSpec.model_validate(
        {
            "endpoints": [
                {"url": "http://c:1"},
                {"url": "http://a:1", "weight": 3, "max_inflight": 9},
            ]
        }
    )
    change(running, new)
    assert ids(running) == ["c:1", "a:1"]
    assert running.endpoints[1] is a
    assert (a.weight, a.max_inflight, a.models) == (3, 9, ("m",))
    assert running.clients["a:1"] is client
    assert running.models == {"a:1": [{"id": "m"}]}
    lease.close(Outcome.SUCCESS, CLOCK.now)
    assert a.inflight == 0


def test_timers_change_for_the_next_exchange() -> None:
    """On the connections that there are."""
    running = cluster("a:1")
    client = running.clients["a:1"]
    change(running, spec("a:1", timeouts={"idle_s": 7}))
    assert running.clients["a:1"] is client
    assert client.address.idle_s == 7


def test_another_key_means_other_connections() -> None:
    """Idle ones of the old key are not used again; the endpoint stays the same."""
    running = cluster("a:1")
    a, client = running.endpoints[0], running.clients["a:1"]
    change(running, spec("a:1", api_key="sk-new"))
    assert running.endpoints == [a]
    assert running.clients["a:1"] is not client
    assert b"sk-new" in running.clients["a:1"].address.credentials
    assert client.address.max_idle == 0


def test_an_endpoint_that_goes_gets_nothing_new() -> None:
    """Not even from a pool that was handed out before; its last request goes on."""
    running = cluster("a:1", "b:1")
    old = running.part(running.endpoints)
    a, b = running.endpoints
    leases = [old.pick("m", WHOLE, CLOCK.now) for _ in range(8)]
    assert {lease.endpoint for lease in leases if lease} == {a, b}
    change(running, spec("b:1"))
    assert running.part(running.endpoints) is not old
    assert old.pick("m", WHOLE, CLOCK.now).endpoint is b  # type: ignore[union-attr]  # b is left
    running.sweep(CLOCK.now)
    assert running.busy
    for lease in leases:
        assert lease is not None
        lease.close(Outcome.SUCCESS, CLOCK.now)
    running.sweep(CLOCK.now)
    assert not running.busy


def test_nothing_is_waited_for_longer_than_a_request_may_take() -> None:
    """A client that was replaced under load goes when all who know it must have ended."""
    running = cluster("a:1", timeouts={"total_s": 50})
    lease = running.whole().pick("m", WHOLE, CLOCK.now)
    assert lease is not None
    change(running, spec("a:1", api_key="sk", timeouts={"total_s": 50}))
    running.sweep(CLOCK.now + 49)
    assert running.busy
    running.sweep(CLOCK.now + 50)
    assert not running.busy
    lease.close(Outcome.SUCCESS, CLOCK.now)


def test_the_whole_pool_follows_its_cluster() -> None:
    """One object, so that its balancer remembers and who waits finds the new members."""
    running = cluster("a:1")
    whole = running.whole()
    balancer = whole.balancer
    change(running, spec("b:1"))
    assert running.whole() is whole
    assert whole.endpoints == tuple(running.endpoints)
    running.endpoints[0].probed(True, CLOCK.now)
    lease = whole.pick("m", WHOLE, CLOCK.now)
    assert lease is not None
    assert lease.client is running.clients["b:1"]
    lease.close(Outcome.SUCCESS, CLOCK.now)
    assert whole.balancer is balancer
    change(running, spec("b:1", balancer="round_robin"))
    assert whole.balancer is not balancer


def test_registered_endpoints_come_and_go() -> None:
    """The first look after the registration takes them in; the last ones stay."""
    running = cluster(registration=True)
    with pytest.raises(GatewayError, match="No healthy endpoint"):
        running.whole().pick("m", WHOLE, CLOCK.now)
    assert not running.refresh(CLOCK.now)
    running.registered.register(Member("http://a:1"), 10, CLOCK.now)
    assert running.refresh(CLOCK.now)
    assert not running.refresh(CLOCK.now)
    running.endpoints[0].probed(True, CLOCK.now)
    lease = running.whole().pick("m", WHOLE, CLOCK.now)
    assert lease is not None
    lease.close(Outcome.SUCCESS, CLOCK.now)
    assert not running.refresh(CLOCK.now + 11)
    assert ids(running) == ["a:1"]
    running.registered.register(Member("http://b:1"), 10, CLOCK.now + 11)
    assert running.refresh(CLOCK.now + 11)
    assert ids(running) == ["b:1"]


def test_a_cluster_may_become_empty_if_the_configuration_says_so() -> None:
    """Its pool is then a new one, which says that nobody is there."""
    running = cluster(registration=True, allow_empty=True)
    running.registered.register(Member("http://a:1"), 10, CLOCK.now)
    running.refresh(CLOCK.now)
    running.whole()
    assert running.refresh(CLOCK.now + 10)
    assert (ids(running), running.whole().endpoints) == ([], ())


def test_registrations_outlive_a_reload_that_allows_them() -> None:
    """And end with one that does not."""
    running = cluster("a:1", registration=True)
    running.registered.register(Member("http://b:1"), 10, CLOCK.now)
    running.refresh(CLOCK.now)
    change(running, spec("a:1", registration=True, slow_start_s=1))
    assert ids(running) == ["a:1", "b:1"]
    change(running, spec("a:1"))
    assert ids(running) == ["a:1"]
    assert len(running.registered) == 0


def test_room_counts_only_where_there_is_a_cap() -> None:
    """An endpoint's own limit that comes with a reload holds the gate, too."""
    running = cluster("a:1")
    assert running.gate.room is None
    capped = ClusterSpec.model_validate({"endpoints": [{"url": "http://a:1", "max_inflight": 2}]})
    change(running, capped)
    assert running.gate.room is not None
    assert running.gate.room() == 2
    change(running, spec("a:1"))
    assert running.gate.room is None


def test_a_late_list_of_models_is_not_news() -> None:
    """From an endpoint that has gone; nor is what is known already."""
    running = cluster("a:1", "b:1")
    a, b = running.endpoints
    change(running, spec("b:1"))
    assert not running.listed(a, [{"id": "m"}])
    assert running.listed(b, [{"id": "m"}])
    assert not running.listed(b, [{"id": "m"}])
    assert running.models == {"b:1": [{"id": "m"}]}


def test_a_cluster_that_goes_lets_all_go() -> None:
    """And is forgotten when nothing of it is in use."""
    running = cluster("a:1")
    assert "1 endpoints" in repr(running)
    running.retire()
    assert running.endpoints == []
    assert running.busy
    running.sweep(CLOCK.now)
    assert not running.busy
    assert not running.refresh(CLOCK.now)


def test_an_endpoint_that_goes_over_to_https_lists_what_it_did() -> None:
    """Its id stays, so that the same list again is no news; it was shown with no models since."""
    running = cluster("a:443")
    running.listed(running.endpoints[0], [{"id": "m"}])
    change(running, ClusterSpec.model_validate({"endpoints": [{"url": "https://a:443"}]}))
    assert not running.listed(running.endpoints[0], [{"id": "m"}])
    assert running.endpoints[0].models == ("m",)


def test_https_is_by_the_cluster_s_trust() -> None:
    """Another trust is another client, also for the probes."""
    secure = ClusterSpec.model_validate({"endpoints": [{"url": "https://a/base"}]})
    running = Cluster("c", secure, CLOCK.monotonic)
    address = running.clients["a:443/base"].address
    assert (address.tls, address.port, address.base_path) == (running.trust.tls, 443, "/base")
    client = running.clients["a:443/base"]
    running.configure(secure, Trust(trust_of(secure, None).tls))
    assert running.clients["a:443/base"] is not client
