"""A pool chooses the best endpoint that may be tried, and a lease gives back what it took."""

from __future__ import annotations

import logging
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.model import Outcome
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.outlier import OutlierSpec
from gateway.upstream.pool import Lease, Pool, PoolFull, room
from gateway.upstream.traits import STREAM, WHOLE
from tests.support.pools import NOW, pool_of


def pick(pool: Pool, now: float = NOW, *tried: Endpoint) -> Lease:
    lease = pool.pick("m", WHOLE, now, tried)
    assert lease is not None
    return lease


def picked(pool: Pool, now: float = NOW, *tried: Endpoint, times: int = 12) -> set[Endpoint]:
    """Return whom it chooses."""
    found = set()
    for _ in range(times):
        lease = pick(pool, now, *tried)
        found.add(lease.endpoint)
        lease.close(Outcome.CANCELLED, now)
    return found


def fail(endpoint: Endpoint, now: float = NOW) -> None:
    """Open its breaker, and eject it if it may be."""
    for _ in range(5):
        endpoint.finish(endpoint.start(now), Outcome.RETRYABLE, now)


def fell(endpoint: Endpoint, now: float = NOW) -> None:
    for _ in range(3):
        endpoint.probed(False, now)


def refusal(pool: Pool, now: float = NOW) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        pool.pick("m", WHOLE, now)
    return caught.value


# Leases.


def test_a_lease_is_in_flight_until_it_is_closed() -> None:
    """From the pick on: two picks in one turn must see each other."""
    pool = pool_of(1)
    (endpoint,) = pool.endpoints
    lease = pick(pool)
    assert (lease.endpoint, endpoint.inflight, lease.panic) == (endpoint, 1, False)
    lease.close(Outcome.SUCCESS, NOW)
    assert endpoint.inflight == 0


def test_the_beginning_of_an_answer_is_the_latency() -> None:
    """Of the kind that was asked for."""
    pool = pool_of(1)
    (endpoint,) = pool.endpoints
    lease = pool.pick("m", STREAM, NOW)
    assert lease is not None
    lease.committed(NOW + 0.25)
    assert (endpoint.latency(True, NOW + 0.25), endpoint.latency(False, NOW)) == (0.25, 0)
    lease.close(Outcome.SUCCESS, NOW + 60)
    assert endpoint.latency(True, NOW + 0.25) == 0.25


def test_what_changes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """By name, once, and louder when it is for the worse."""
    caplog.set_level(logging.INFO, "sluice.pool")
    pool = pool_of(1)
    for _ in range(5):
        pick(pool).close(Outcome.RETRYABLE, NOW)
    probe = pick(pool, NOW + 5)
    probe.committed(NOW + 6)
    probe.close(Outcome.SUCCESS, NOW + 9)
    for _ in range(5):
        pick(pool, NOW + 9).close(Outcome.FAILURE, NOW + 9)
    pick(pool, NOW + 20).close(Outcome.SUCCESS, NOW + 21)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "endpoint e0:1: breaker open"),
        ("INFO", "endpoint e0:1: breaker closed"),
        ("WARNING", "endpoint e0:1: breaker open"),
        ("INFO", "endpoint e0:1: breaker closed"),
    ]


def test_the_probes_first_token_closes_the_breaker_and_its_latency_counts() -> None:
    """Not that of the failures before; another's first token does nothing."""
    pool = pool_of(1)
    (endpoint,) = pool.endpoints
    old = pick(pool)
    fail(endpoint)
    probe = pick(pool, NOW + 5)
    old.committed(NOW + 5)
    assert str(endpoint.breaker.state) == "half_open"
    probe.committed(NOW + 5.5)
    assert str(endpoint.breaker.state) == "closed"
    assert endpoint.latency(False, NOW + 5.5) == 0.5


# Whom it chooses.


def test_all_that_are_well_take_part() -> None:
    """And nobody else."""
    pool = pool_of(4)
    pool.endpoints[0].drain()
    fail(pool.endpoints[1])
    assert picked(pool) == set(pool.endpoints[2:])
    assert pool.available(NOW) == 2


def test_who_was_tried_is_not_tried_again() -> None:
    """When all were, that is no error: the caller decides what to do."""
    pool = pool_of(3)
    one, two, three = pool.endpoints
    assert picked(pool, NOW, one, three) == {two}
    assert pool.pick("m", WHOLE, NOW, [one, two, three]) is None


def test_who_asked_to_be_left_alone_comes_last() -> None:
    """Until its time is over."""
    pool = pool_of(3)
    one, two, three = pool.endpoints
    one.shun(NOW + 5)
    two.shun(NOW + 5)
    assert picked(pool) == {three}
    assert picked(pool, NOW, three) == {one, two}
    assert picked(pool, NOW + 5) == {one, two, three}
    three.shun(NOW + 9)
    assert picked(pool, NOW + 5, one, two) == {three}


def test_who_is_full_is_passed_over() -> None:
    """The shunned ones come before a refusal; when all are full, it is said."""
    pool = pool_of(3)
    for endpoint in pool.endpoints:
        endpoint.configure(1.0, 1)
    one, two, three = pool.endpoints
    two.shun(NOW + 5)
    held = [one.start(NOW), three.start(NOW)]
    assert picked(pool) == {two}
    held.append(two.start(NOW))
    with pytest.raises(PoolFull) as caught:
        pool.pick("m", WHOLE, NOW)
    error = caught.value
    assert (error.status, error.code, error.retry, error.retry_after_s) == (
        503,
        "overloaded",
        True,
        1,
    )
    pool.owner.gate.try_enter()
    pool.owner.gate.leave(NOW - 20, NOW)  # Each place is held for 20 s: one of them for as long.
    with pytest.raises(PoolFull) as caught:
        pool.pick("m", WHOLE, NOW, [one])
    assert 20 <= (caught.value.retry_after_s or 0) <= 30
    one.finish(held[0], Outcome.SUCCESS, NOW)
    assert picked(pool) == {one}
    with pytest.raises(PoolFull):
        pool.pick("m", WHOLE, NOW, [one])


def test_in_panic_ejections_do_not_count() -> None:
    """Under half of the pool: better too much for it than all on the last one."""
    pool = pool_of(4)
    pool.endpoints[0].peers.outliers.spec = OutlierSpec(max_ejected_percent=100)
    one, two, three, four = pool.endpoints
    for endpoint in (one, two, three):
        fail(endpoint)
    assert picked(pool, NOW + 1) == {four}  # The breakers still rule.
    lease = pick(pool, NOW + 1)
    assert lease.panic
    lease.close(Outcome.CANCELLED, NOW + 1)
    assert picked(pool, NOW + 6, times=60) == {one, two, three, four}


def test_half_of_the_pool_is_no_panic() -> None:
    """One of two is out, and stays out."""
    pool = pool_of(2)
    fail(pool.endpoints[0])
    lease = pick(pool, NOW + 10)
    assert (lease.endpoint, lease.panic) == (pool.endpoints[1], False)


def test_who_is_out_of_service_makes_no_panic() -> None:
    """An operator who drains most of a pool wants the rules to hold for the rest."""
    pool = pool_of(5)
    for endpoint in pool.endpoints[:3]:
        endpoint.drain()
    fail(pool.endpoints[3])
    lease = pick(pool, NOW + 10)
    assert (lease.endpoint, lease.panic) == (pool.endpoints[4], False)


def test_a_dead_pool_is_tried_once_in_a_while() -> None:
    """By as many requests as it takes to open the breakers, then by one each time."""
    pool = pool_of(2)
    for endpoint in pool.endpoints:
        fell(endpoint)
    made = 0
    for second in range(5):
        for _ in range(20):
            try:
                lease = pick(pool, NOW + second)
            except GatewayError as error:
                assert error.code == "no_healthy_upstream"  # noqa: PT017  no error is right, too
                continue
            assert lease.panic
            lease.close(Outcome.RETRYABLE, NOW + second)
            made += 1
    assert made == 10
    one = pick(pool, NOW + 6)
    two = pick(pool, NOW + 6)
    assert one.endpoint is not two.endpoint
    assert refusal(pool, NOW + 6).code == "no_healthy_upstream"


def test_the_unhealthy_are_tried_only_when_nobody_is_available() -> None:
    """Not for a second attempt either."""
    pool = pool_of(2)
    one, two = pool.endpoints
    fell(one)
    assert picked(pool) == {two}
    assert pool.pick("m", WHOLE, NOW, [two]) is None


@pytest.mark.parametrize("out", ["drain", "asleep", "leaving", "unknown"])
def test_some_are_never_tried(out: str) -> None:
    """Not in any panic."""
    pool = pool_of(1)
    (endpoint,) = pool.endpoints
    match out:
        case "drain":
            endpoint.drain()
        case "asleep":
            endpoint.sleep(True, NOW)
        case "leaving":
            endpoint.leave(NOW)
        case _:
            pool = Pool(pool.owner, [Endpoint("http://e0:1")], pool.balancer, Random(1))
    assert refusal(pool).code == "no_healthy_upstream"


def test_slow_start_holds_back_who_returns() -> None:
    """To a tenth at first; at the end it has its share."""
    pool = pool_of(2)
    pool.endpoints[0].drain()
    pool.endpoints[0].undrain(NOW)

    def share(now: float) -> float:
        found = 0
        for _ in range(1000):
            lease = pick(pool, now)
            found += lease.endpoint is pool.endpoints[0]
            lease.close(Outcome.CANCELLED, now)
        return found / 1000

    assert share(NOW) == pytest.approx(0.1 / 1.1, abs=0.03)
    assert share(NOW + 30) == 0.5


# What it says when there is nobody.


def test_the_wait_is_computed_from_who_is_back_first() -> None:
    """In whole seconds, from 1 to 60."""
    pool = pool_of(2)
    one, two = pool.endpoints
    one.leave(NOW)
    two.leave(NOW + 5)
    assert refusal(pool).retry_after_s == 30
    assert refusal(pool, NOW + 12.5).retry_after_s == 18
    assert refusal(pool, NOW + 29.9).retry_after_s == 1
    one.left_until = two.left_until = NOW + 500
    one.configure(1.0, None)
    two.configure(1.0, None)
    assert refusal(pool).retry_after_s == 60


def test_where_nobody_knows_the_wait_is_a_probe_interval() -> None:
    """An empty pool and one that an operator has drained."""
    pool = pool_of(1)
    pool.endpoints[0].drain()
    error = refusal(pool)
    assert (error.status, error.code, error.retry_after_s) == (503, "no_healthy_upstream", 2)
    assert refusal(pool_of(0)).retry_after_s == 2


# What it is.


def test_it_says_what_it_is() -> None:
    """For logs, and to be told from others."""
    pool = pool_of(2)
    assert (pool.cluster, pool.key) == ("c", ("c", "e0:1", "e1:1"))
    assert repr(pool) == "<Pool c, 2 endpoints>"


def test_endpoints_of_two_clusters_make_no_pool() -> None:
    """It would not hear of the changes of some."""
    pool = pool_of(1)
    with pytest.raises(ValueError, match="one cluster"):
        Pool(pool.owner, [Endpoint("http://a:1"), Endpoint("http://b:1")], pool.balancer, Random())


def test_room_is_what_the_available_ones_have() -> None:
    """Without end where one has no cap, and where none is available: nobody is to wait then."""
    pool = pool_of(3)
    one, two, three = pool.endpoints
    assert room(pool.endpoints, NOW) > 10**9
    for endpoint in pool.endpoints:
        endpoint.configure(1.0, 2)
    one.start(NOW)
    two.drain()
    assert room(pool.endpoints, NOW) == 3
    one.configure(1.0, 0)
    assert room(pool.endpoints, NOW) == 2
    one.drain()
    three.drain()
    assert room(pool.endpoints, NOW) > 10**9


EVENTS = st.sampled_from(["bad", "good", "fell", "rose", "shun", "leave", "drain", "up", "cap"])


@given(st.lists(st.tuples(st.integers(0, 2), EVENTS, st.floats(0, 8)), max_size=40))
def test_what_it_remembers_is_what_holds(steps: list[tuple[int, str, float]]) -> None:
    """A pool that has seen everything chooses as one that looks for the first time."""
    pool, now = pool_of(3), NOW
    for index, event, wait_s in steps:
        now += wait_s
        happen(pool.endpoints[index], event, now)
        fresh = Pool(pool.owner, pool.endpoints, pool.balancer, Random(1))
        assert whom(pool, now) == whom(fresh, now)


def whom(pool: Pool, now: float) -> list[object]:
    """All that it would choose, one after the other, and how it ends."""
    found: list[object] = []
    tried: list[Endpoint] = []
    leases: list[Lease] = []
    while True:
        try:
            lease = pool.pick("m", WHOLE, now, tried)
        except GatewayError as error:
            found.append((error.code, error.retry_after_s))
            break
        if lease is None:
            break
        tried.append(lease.endpoint)
        leases.append(lease)
    for lease in leases:
        lease.close(Outcome.CANCELLED, now)
    return [*sorted((one.endpoint.id, one.panic) for one in leases), *found]


def happen(endpoint: Endpoint, event: str, now: float) -> None:
    match event:
        case "bad":
            fail(endpoint, now)
        case "good":
            endpoint.finish(endpoint.start(now), Outcome.SUCCESS, now)
        case "fell":
            fell(endpoint, now)
        case "rose":
            endpoint.probed(True, now)
            endpoint.probed(True, now)
        case "shun":
            endpoint.shun(now + 5)
        case "leave":
            endpoint.leave(now)
        case "drain":
            endpoint.drain()
        case "up":
            endpoint.undrain(now)
        case _:
            endpoint.configure(1.0, 0 if endpoint.max_inflight is None else None)
