"""Clusters change all together; registrations are refused in words that say why."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway.config.spec import Config
from gateway.errors import GatewayError
from gateway.model import Outcome
from gateway.upstream import fleet
from gateway.upstream.fleet import Fleet, Term
from gateway.upstream.traits import WHOLE
from tests.support.control import ManualClock

CLOCK = ManualClock()
OPEN = {"registration": True}


def listed(*urls: str, **settings: Any) -> dict[str, Any]:
    return {"endpoints": [{"url": f"http://{url}"} for url in urls], **settings}


def specs(**clusters: Any) -> Any:
    return Config.model_validate({"clusters": clusters}).clusters


def make(**clusters: Any) -> Fleet:
    return Fleet(specs(**clusters), CLOCK.monotonic, Random(1))


def apply(running: Fleet, **clusters: Any) -> None:
    new = specs(**clusters)
    running.apply(new, running.prepare(new))


def ids(running: Fleet, cluster: str) -> list[str]:
    return [endpoint.id for endpoint in running.clusters[cluster].endpoints]


def refused(running: Fleet, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(GatewayError) as caught:
        running.register(*arguments)
    return caught.value.status, caught.value.code


def test_who_is_gone_is_said_once_nothing_is_under_way_there() -> None:
    """Not while a request may still come to its end, and not of an endpoint that is back."""
    running = make(a=listed("a:1", "a:2"), b=listed("b:1"))
    (b,) = running.clusters["b"].endpoints
    ticket = b.start(CLOCK.now)
    apply(running, a=listed("a:1"))
    assert running.sweep(CLOCK.now) == [("a", "a:2")]
    assert running.sweep(CLOCK.now) == []
    b.finish(ticket, Outcome.SUCCESS, CLOCK.now)
    assert running.sweep(CLOCK.now) == [("b", "b:1")]
    apply(running, a=listed("a:2"))
    apply(running, a=listed("a:1", "a:2"), b=listed("b:1"))
    apply(running, b=listed("b:1"))
    apply(running, a=listed("a:2"), b=listed("b:1"))
    assert running.sweep(CLOCK.now) == [("a", "a:1")]


def test_clusters_come_stay_and_go() -> None:
    """In the configuration's order, in the same mapping; those that stay are the same objects."""
    running = make(a=listed("a:1"), b=listed("b:1"))
    clusters, b = running.clusters, running.clusters["b"]
    apply(running, c=listed("c:1"), b=listed("b:1", "b:2"))
    assert running.clusters is clusters
    assert list(clusters) == ["c", "b"]
    assert clusters["b"] is b
    assert ids(running, "b") == ["b:1", "b:2"]


def test_a_cluster_that_went_is_looked_after_until_it_is_idle() -> None:
    """Its timers run on, and its connections are closed with the others."""
    running = make(a=listed("a:1"), b=listed("b:1"))
    endpoint = running.clusters["a"].endpoints[0]
    endpoint.probed(True, CLOCK.now)
    lease = running.clusters["a"].whole().pick("m", WHOLE, CLOCK.now)
    assert lease is not None
    apply(running, b=listed("b:1"))
    running.sweep(CLOCK.now)
    assert len(running._going) == 1
    lease.close(Outcome.SUCCESS, CLOCK.now)
    running.sweep(CLOCK.now)
    assert running._going == []


def test_what_can_fail_fails_before_anything_changes(tmp_path: Path) -> None:
    """A CA bundle without certificates is found while the old clusters all stand."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("rubbish")
    running = make(a=listed("a:1"))
    bad = {"endpoints": [{"url": "https://z"}], "tls": {"ca_file": str(bundle)}}
    with pytest.raises(OSError, match="no certificates"):
        running.prepare(specs(a=listed("b:1"), z=bad))
    assert list(running.clusters) == ["a"]
    assert ids(running, "a") == ["a:1"]


def test_endpoints_register_renew_and_leave() -> None:
    """Each call answers with, or asks for, the id that metrics show."""
    running = make(a={**OPEN, **listed("s:1")})
    assert running.register("a", "HTTP://X/", Term(2.0, 5, 10)) == "x:80"
    assert [cluster.name for cluster in running.refresh(CLOCK.now)] == ["a"]
    endpoint = running.clusters["a"].endpoints[1]
    assert (endpoint.id, endpoint.weight, endpoint.max_inflight) == ("x:80", 2.0, 5)
    assert running.register("a", "http://x", Term(2.0, 5, 10)) == "x:80"
    assert running.refresh(CLOCK.now) == []
    running.remove("a", "x:80")
    running.refresh(CLOCK.now)
    assert ids(running, "a") == ["s:1"]
    with pytest.raises(GatewayError) as caught:
        running.remove("a", "x:80" * 100)
    assert (caught.value.status, caught.value.code) == (404, "endpoint_not_found")
    assert len(caught.value.message) < 300


def test_registrations_are_refused_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown or closed clusters, what no file could say, what the file says, and too many."""
    running = make(a={**OPEN, **listed("s:1")}, closed=listed("c:1"))
    assert refused(running, "b", "http://x") == (404, "cluster_not_found")
    assert refused(running, "closed", "http://x") == (409, "registration_disabled")
    assert refused(running, "a", "http://s:1/") == (409, "endpoint_is_static")
    for url in ("x", "http://u@x", "http://x/v1", "file:///x", "http://x?y"):
        assert refused(running, "a", url) == (400, "invalid_request_error")
    for term in (Term(weight=0), Term(max_inflight=0), Term(ttl_s=0.5), Term(ttl_s=1e9)):
        assert refused(running, "a", "http://x", term) == (400, "invalid_request_error")
    monkeypatch.setattr(fleet, "MAX_REGISTERED", 1)
    running.register("a", "http://x")
    assert refused(running, "a", "http://y") == (409, "too_many_endpoints")
    assert running.register("a", "http://x") == "x:80"
    with pytest.raises(GatewayError, match="configuration file"):
        running.remove("a", "s:1")


def test_the_last_one_stays_unless_a_cluster_may_be_empty() -> None:
    """An operator who means it drains it, or says so in the file."""
    running = make(a=OPEN, b={**OPEN, "allow_empty": True})
    for name in ("a", "b"):
        running.register(name, "http://x")
    running.refresh(CLOCK.now)
    with pytest.raises(GatewayError) as caught:
        running.remove("a", "x:80")
    assert (caught.value.status, caught.value.code) == (409, "last_endpoint")
    running.remove("b", "x:80")
    running.refresh(CLOCK.now)
    assert (ids(running, "a"), ids(running, "b")) == (["x:80"], [])
