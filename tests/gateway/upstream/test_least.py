"""The least busy endpoint takes the request, and failing fast is not being fast."""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import permutations
from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.least import LeastInflight, PowerOfTwo
from gateway.upstream.traits import STREAM, WHOLE, Traits
from tests.support.candidates import CHI2_AT_1_PERCENT, FakeEndpoint, chi2, fakes


def test_least_inflight_fills_the_emptiest() -> None:
    """By load per weight; a fast replica takes more."""
    balancer, pool = LeastInflight(), fakes(2, (1, 3))
    for _ in range(40):
        balancer.pick(pool, STREAM, 0.0).busy += 1
    assert [one.busy for one in pool] == [10, 30]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 7))
def test_least_inflight_is_the_least(loads: list[int], picks: int) -> None:
    """Wherever the round of ties stands."""
    balancer, pool = LeastInflight(), fakes(len(loads))
    for one, load in zip(pool, loads, strict=True):
        one.busy = load
    for _ in range(picks):
        assert balancer.pick(pool, STREAM, 0.0).busy == min(loads)


def test_ties_of_least_inflight_go_round() -> None:
    """Idle endpoints share, so that none of them stays cold; fewer candidates do no harm."""
    balancer, pool = LeastInflight(), fakes(3)
    assert {balancer.pick(pool, STREAM, 0.0) for _ in range(3)} == set(pool)
    assert balancer.pick(pool[:1], STREAM, 0.0) is pool[0]


class Watched(FakeEndpoint):
    """Notes that it was looked at."""

    looks: list[FakeEndpoint]

    def load(self, now: float) -> float:
        self.looks.append(self)
        return super().load(now)

    def cost(self, stream: bool, now: float) -> float:
        return 0.0  # Without a latency it is the load that counts.


def test_p2c_compares_two_different_ones_all_pairs_alike() -> None:
    """Chi-squared over the ordered pairs of three, in 12,000 picks."""
    balancer, looks = PowerOfTwo(Random(1)), list[FakeEndpoint]()
    pool = [Watched(f"e{number}") for number in range(3)]
    for one in pool:
        one.looks = looks
    for _ in range(12_000):
        balancer.pick(pool, STREAM, 0.0)
    pairs = Counter(zip(looks[::2], looks[1::2], strict=True))
    assert set(pairs) == set(permutations(pool, 2))
    assert chi2(list(pairs.values()), [1] * 6) < CHI2_AT_1_PERCENT[5]


def test_p2c_shares_equal_ones_evenly() -> None:
    """Chi-squared over 12,000 picks of four idle endpoints; ties fall to either."""
    balancer, pool = PowerOfTwo(Random(2)), fakes(4)
    taken = Counter(balancer.pick(pool, STREAM, 0.0) for _ in range(12_000))
    assert chi2([taken[one] for one in pool], [1] * 4) < CHI2_AT_1_PERCENT[3]


def test_p2c_with_one_candidate_takes_it() -> None:
    """Without a look at its figures."""
    (only,) = fakes(1)
    assert PowerOfTwo(Random(0)).pick([only], STREAM, 0.0) is only


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FakeEndpoint("a", busy=3), FakeEndpoint("b", busy=4)),
        (FakeEndpoint("a", weight=2, busy=4), FakeEndpoint("b", busy=2)),
        (FakeEndpoint("a", busy=3, slow_s=0.1), FakeEndpoint("b", busy=0, slow_s=0.5)),
        (FakeEndpoint("a", busy=3, slow_s=0.5), FakeEndpoint("b", busy=4, slow_s=0.5)),
        (FakeEndpoint("a", weight=9, slow_s=0.8), FakeEndpoint("b", slow_s=0.1)),
        # One of the two has never been observed: only load counts, whichever it is.
        (FakeEndpoint("a", busy=3, slow_s=9.0), FakeEndpoint("b", busy=4)),
        (FakeEndpoint("a", busy=3), FakeEndpoint("b", busy=4, slow_s=0.001)),
    ],
)
def test_p2c_takes_the_cheaper(one: FakeEndpoint, other: FakeEndpoint) -> None:
    """Latency * (load + 1) / weight, in whichever order the two are drawn."""
    balancer = PowerOfTwo(Random(3))
    for _ in range(20):
        assert balancer.pick([one, other], STREAM, 0.0) is one
        assert balancer.pick([other, one], STREAM, 0.0) is one


def test_p2c_judges_streams_and_whole_answers_apart() -> None:
    """Each by its own latency."""

    class Chatty(FakeEndpoint):
        def latency(self, stream: bool, now: float) -> float:
            return 0.1 if stream else 9.0

    class Batchy(FakeEndpoint):
        def latency(self, stream: bool, now: float) -> float:
            return 0.5 if stream else 2.0

    chatty, batchy = Chatty("a"), Batchy("b")
    balancer = PowerOfTwo(Random(4))
    for _ in range(10):
        assert balancer.pick([chatty, batchy], STREAM, 0.0) is chatty
        assert balancer.pick([chatty, batchy], WHOLE, 0.0) is batchy


def test_p2c_under_load_shares_by_weight() -> None:
    """With 400 requests always under way, weights 3, 2, 1 hold their shares within 5 %."""
    rng, pool = Random(5), fakes(3, (3, 2, 1))
    balancer, under_way = PowerOfTwo(rng), list[FakeEndpoint]()
    for _ in range(20_000):
        picked = balancer.pick(pool, STREAM, 0.0)
        picked.busy += 1
        under_way.append(picked)
        if len(under_way) > 400:
            under_way.pop(rng.randrange(len(under_way))).busy -= 1
    for one in pool:
        assert one.busy / 400 == pytest.approx(one.weight / 6, rel=0.05)


class Host(FakeEndpoint):
    """One with a decaying latency, as endpoints have: failures count as slow, or (naive) do not."""

    def __init__(self, id_: str, *, naive: bool) -> None:
        super().__init__(id_)
        self._naive = naive
        self._peak_s = 0.0
        self._at = 0.0

    def latency(self, stream: bool, now: float) -> float:
        return self._peak_s * exp((self._at - now) / 10)

    def observe(self, latency_s: float, now: float, *, failed: bool = False) -> None:
        known = self.latency(True, now)
        if failed and not self._naive:
            latency_s = max(2 * known, 1.0)
        self._peak_s, self._at = max(latency_s, 0.9 * known + 0.1 * latency_s), now


def share_of_a_fast_failer(*, naive: bool) -> float:
    """Simulate 60 s at 50 requests/s on three hosts, one of which fails each within 1 ms.

    The others take 200 ms to the first token and 2 s to the last. Return the failer's share of the
    requests after the first 20.
    """
    rng = Random(6)
    hosts = [Host(f"h{number}", naive=naive) for number in range(3)]
    failer, balancer = hosts[0], PowerOfTwo(rng)
    events: list[tuple[float, int, Host | None, float]] = [
        (number * 0.02, number, None, 0.0) for number in range(3000)
    ]
    serial, picks = len(events), Counter[Host]()
    while events:
        now, number, host, latency_s = heapq.heappop(events)
        if host is None:
            picked = balancer.pick(hosts, STREAM, now)
            picked.busy += 1
            picks[picked] += number >= 20
            latency_s = 0.001 if picked is failer else rng.uniform(0.15, 0.25)
            heapq.heappush(events, (now + latency_s, serial, picked, latency_s))
        elif latency_s:
            host.observe(latency_s, now, failed=host is failer)
            rest_s = 0.0 if host is failer else 1.8
            heapq.heappush(events, (now + rest_s, serial, host, 0.0))
        else:
            host.busy -= 1
        serial += 1
    return picks[failer] / picks.total()


def test_a_fast_failer_does_not_attract_traffic() -> None:
    """Its share stays under 5 %, as the fault table wants; taken at its word, it has most of it."""
    assert share_of_a_fast_failer(naive=False) < 0.05
    assert share_of_a_fast_failer(naive=True) > 0.5


def test_balancers_here_need_no_keys() -> None:
    """A request for them costs no object of its own."""
    for balancer in (LeastInflight(), PowerOfTwo(Random(0))):
        assert not balancer.needs_session
        assert not balancer.needs_prompt
    assert PowerOfTwo(Random(0)).pick(fakes(2), Traits(True, b"x", b"y"), 0.0)
