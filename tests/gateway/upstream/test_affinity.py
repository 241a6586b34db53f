"""Sessions stay where they are, few move when endpoints come and go, and none overloads its own."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.affinity import Session, arrival, hash64
from gateway.upstream.candidate import SPARE
from gateway.upstream.traits import STREAM, Traits
from tests.support.candidates import CHI2_AT_1_PERCENT, FakeEndpoint, chi2, fakes

KEYS = [b"user-%d" % number for number in range(10_000)]


def session(max_load: float = 1.25, free_load: float = 4) -> Session:
    return Session(max_load, free_load, Random(0))


def homes(pool: list[FakeEndpoint], keys: list[bytes] = KEYS) -> dict[bytes, str]:
    """Where each key's session is, with nobody busy."""
    balancer = session()
    return {key: balancer.pick(pool, Traits(True, key), 0.0).id for key in keys}


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
def test_one_more_endpoint_moves_its_share_of_sessions_and_no_other(count: int) -> None:
    """At most 1.3/n of 10,000 keys move, and each of them to the one that is new."""
    before, after = homes(fakes(count - 1)), homes(fakes(count))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert len(moved) <= 1.3 / count * len(KEYS)
    assert {after[key] for key in moved} == {f"gpu-{count - 1}:8000"}


def test_one_that_leaves_takes_only_its_own_and_has_them_back() -> None:
    """Others' sessions do not notice, and the absent one's are spread over all that remain."""
    pool = fakes(5)
    before, without = homes(pool), homes(pool[:2] + pool[3:])
    moved = {key for key in KEYS if before[key] != without[key]}
    assert moved == {key for key in KEYS if before[key] == pool[2].id}
    spread = Counter(without[key] for key in moved)
    assert chi2(list(spread.values()), [1] * 4) < CHI2_AT_1_PERCENT[3]
    assert homes(pool) == before


def test_shares_are_as_the_weights() -> None:
    """Chi-squared over 10,000 keys, p > 0.01, for weights far apart as well."""
    weights = (1, 2, 5, 0.1)
    pool = fakes(4, weights)
    taken = Counter(homes(pool).values())
    assert chi2([taken[one.id] for one in pool], weights) < CHI2_AT_1_PERCENT[3]


def test_more_weight_draws_sessions_and_moves_none_between_others() -> None:
    """A changed weight concerns only the endpoint that has it."""
    before, after = homes(fakes(4)), homes(fakes(4, (2, 1, 1, 1)))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert {after[key] for key in moved} == {"gpu-0:8000"}


@given(st.binary(min_size=1, max_size=40), st.permutations(range(5)))
def test_the_order_of_candidates_does_not_matter(key: bytes, order: list[int]) -> None:
    """Nor which instance is asked: gateways agree."""
    pool = fakes(5)
    shuffled = [pool[at] for at in order]
    assert homes(pool, [key]) == homes(shuffled, [key])


def test_homes_survive_a_restart() -> None:
    """Another process, with another hash seed, sends each session to the same endpoint."""
    code = (
        "from tests.gateway.upstream.test_affinity import KEYS, homes\n"
        "from tests.support.candidates import fakes\n"
        "print(sorted(homes(fakes(7), KEYS[:50]).items()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(sorted(homes(fakes(7), KEYS[:50]).items()))


def test_hashes_are_what_they_always_were() -> None:
    """A change of the hash moves every session of every installation: not by accident."""
    assert hash64(b"alice") == 0x4DEAEC0CCE54DA89
    assert arrival(hash64(b"alice"), hash64(b"gpu-0:8000"), 1.0) == pytest.approx(
        1.9666747283597437, rel=1e-12
    )


def test_one_hot_session_does_not_drown_its_endpoint() -> None:
    """All are of one session: none has more than 1.25 times the average, once it counts."""
    balancer, pool = session(), fakes(4)
    for sent in range(1, 401):
        picked = balancer.pick(pool, Traits(True, b"hot"), 0.0)
        picked.busy += 1
        assert picked.busy <= max(1.25 * sent / 4 + 1, 4)
    assert max(one.busy for one in pool) <= 126


@given(
    st.lists(st.tuples(st.integers(0, 300), st.floats(0.001, 1000)), min_size=1, max_size=8),
    st.floats(1.01, 10),
    st.binary(min_size=1, max_size=8),
)
def test_the_bound_always_holds_and_somebody_always_has_room(
    figures: list[tuple[int, float]], max_load: float, key: bytes
) -> None:
    """Whatever the loads and weights: who is picked is below its bound."""
    pool = fakes(len(figures), [weight for _, weight in figures])
    for one, (busy, _) in zip(pool, figures, strict=True):
        one.busy = busy
    picked = session(max_load).pick(pool, Traits(True, key), 0.0)
    share = picked.weight / sum(one.weight for one in pool)
    assert picked.busy < max(max_load * (sum(one.busy for one in pool) + 1) * share, 4)


def test_a_full_endpoint_passes_sessions_on_and_has_them_back() -> None:
    """Each to its own next one, the same as when the endpoint is gone."""
    pool = fakes(5)
    before = homes(pool)
    pool[2].busy = 100
    assert homes(pool) == homes(pool[:2] + pool[3:])
    pool[2].busy = 3
    assert homes(pool) == before


def test_a_few_requests_are_no_load() -> None:
    """In an idle pool even parallel requests of a session stay together, up to `free_load`."""
    balancer, pool = session(), fakes(3)
    for _ in range(4):
        balancer.pick(pool, Traits(True, b"alice"), 0.0).busy += 1
    assert sorted(one.busy for one in pool) == [0, 0, 4]


def test_without_a_session_the_cheaper_of_two_is_taken() -> None:
    """As with p2c."""
    balancer, pool = session(), fakes(2)
    pool[0].busy = 1
    assert {balancer.pick(pool, STREAM, 0.0) for _ in range(20)} == {pool[1]}


def test_memory_of_hashes_is_bounded() -> None:
    """Endpoints that come and go leave nothing behind."""
    balancer = session()
    for number in range(500):
        balancer.pick([FakeEndpoint(f"pod-{number}")], Traits(True, b"x"), 0.0)
    assert len(balancer._hashes) <= 2 + SPARE
