"""One process leads at a time, it knows when it does not, and its terms follow each other."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.base import TIMEOUT_S, Fence, FencedError, StoreError
from gateway.store.lease import TAKEOVER_S, Candidate, Election
from tests.gateway.store.flaky import FlakyStore
from tests.gateway.store.pace import Pace
from tests.support.control import PATIENCE_S, ManualClock


def candidate(takeover_s: float = 8.0, owner: str = "a") -> Candidate:
    return Candidate("rollouts", owner, Random(1), takeover_s)


def test_nobody_leads_before_the_store_said_so() -> None:
    """At any time of the clock."""
    assert not candidate().leads(0.0)
    assert not candidate().leads(-5.0)


def test_a_leader_leads_until_its_time_is_up() -> None:
    """Counted from before it asked: three quarters of the takeover's time."""
    one = candidate()
    assert one.heard(7, asked=100.0) == Fence("rollouts", 7)
    assert one.leads(100.0)
    assert one.leads(105.9)
    assert not one.leads(106.0)
    assert one.fence == Fence("rollouts", 7)


def test_granted_again_it_goes_on() -> None:
    """The same term, for longer."""
    one = candidate()
    one.heard(7, asked=100.0)
    assert one.heard(7, asked=104.0) is None
    assert one.leads(109.9)
    assert not one.leads(110.0)


def test_a_new_token_is_a_new_term() -> None:
    """There was a gap: what this process knows may be old."""
    one = candidate()
    one.heard(7, asked=100.0)
    assert one.heard(9, asked=101.0) == Fence("rollouts", 9)


def test_refused_it_leads_no_more() -> None:
    """Another does."""
    one = candidate()
    one.heard(7, asked=100.0)
    assert one.heard(None, asked=101.0) is None
    assert not one.leads(101.0)
    assert one.fence is None
    assert one.heard(7, asked=102.0) == Fence("rollouts", 7)


def test_resigned_it_leads_no_more() -> None:
    """Without asking anybody."""
    one = candidate()
    one.heard(7, asked=100.0)
    one.resign()
    assert not one.leads(100.0)


@given(st.floats(0.5, 60.0), st.integers())
def test_lease_and_pause_fit_into_the_takeover(takeover_s: float, seed: int) -> None:
    """A lease that was prolonged just before its owner's death runs out, and another asks, in
    time; and a leader has asked several times before its own runs out."""
    one = Candidate("l", "a", Random(seed), takeover_s)
    wait_s = one.wait_s()
    assert one.ttl_s + wait_s <= takeover_s
    assert 0 < wait_s <= one.ttl_s / 6
    assert one.wait_s() != wait_s


def test_by_default_a_call_that_fails_ends_no_term() -> None:
    """A pause, a call that runs into its time-out and another one fit into the lease."""
    one = Candidate("l", "a", Random(1))
    assert one.ttl_s + one.pause_s <= TAKEOVER_S
    assert one.pause_s + TIMEOUT_S + 2.0 * one.pause_s < one.ttl_s


class Terms:
    """Remembers which terms began and ended; it leads until its term ends."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.fails: Exception | None = None

    async def lead(self, fence: Fence) -> None:
        self.begun.append(fence.token)
        if self.fails is not None:
            raise self.fails
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            self.ended.append(fence.token)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> FlakyStore:
    return FlakyStore(clock)


async def test_an_election_is_won_and_given_up(clock: ManualClock, store: FlakyStore) -> None:
    """While it runs it leads; cancelled, it gives the lease back at once."""
    pace, terms = Pace(clock), Terms()
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    assert not election.leads
    async with pace.running(election.run()):
        await pace.go(20)
        assert election.leads
        assert len(terms.begun) == 1
        assert not terms.ended
        assert await store.acquire("rollouts", "b", 1.0) is None
    assert terms.ended == terms.begun
    assert not election.leads
    assert await store.acquire("rollouts", "b", 1.0) is not None


async def test_a_loser_waits_for_its_turn(clock: ManualClock, store: FlakyStore) -> None:
    """It asks on, and leads once the other one's time is up; in time for the takeover."""
    other = await store.acquire("rollouts", "b", candidate().ttl_s)
    assert other is not None
    pace, terms, died = Pace(clock), Terms(), clock.now
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        while not election.leads:
            assert not terms.begun
            await pace.go()
        await pace.go()
        assert clock.now - died <= 8.0 + candidate().pause_s
        assert terms.begun[0] > other


async def test_a_leader_that_slept_too_long_begins_a_new_term(
    clock: ManualClock, store: FlakyStore
) -> None:
    """It does not lead the moment that it wakes; what it did in the old term is cancelled."""
    pace, terms = Pace(clock), Terms()
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        await pace.go()
        clock.now += 8.0
        assert not election.leads
        await pace.go(2)
        assert election.leads
        assert len(terms.begun) == 2
        assert terms.ended == terms.begun[:1]
        assert terms.begun[1] > terms.begun[0]


async def test_overtaken_it_ends_its_term(clock: ManualClock, store: FlakyStore) -> None:
    """Another took the lease while this one was stopped."""
    pace, terms = Pace(clock), Terms()
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        await pace.go()
        clock.now += 8.0
        assert await store.acquire("rollouts", "b", 100.0) is not None
        await pace.go(2)
        assert not election.leads
        assert terms.ended == terms.begun
        assert len(terms.begun) == 1


async def test_a_store_that_fails_for_a_moment_ends_no_term(
    clock: ManualClock, store: FlakyStore
) -> None:
    """The lease has time left, and is prolonged when the store is back."""
    pace, terms = Pace(clock), Terms()
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        await pace.go()
        store.down = True
        await pace.go(3)
        assert election.leads
        store.down = False
        await pace.go(10)
        assert election.leads
        assert len(terms.begun) == 1


async def test_a_store_that_stays_down_ends_the_term(
    clock: ManualClock, store: FlakyStore, caplog: pytest.LogCaptureFixture
) -> None:
    """When the lease's time is up; the log says so once. Nothing breaks at the end."""
    pace, terms = Pace(clock), Terms()
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        await pace.go()
        store.down = True
        await pace.go(30)
        assert not election.leads
        assert terms.ended == terms.begun
        assert caplog.text.count("leads rollouts no more") == 1
        store.down = False
        await pace.go(2)
        assert election.leads
        store.down = True


async def test_a_term_that_is_interrupted_is_served_again(
    clock: ManualClock, store: FlakyStore
) -> None:
    """By a write that failed: the next question tells whether this process still leads."""
    pace, terms = Pace(clock), Terms()
    terms.fails = StoreError("a write failed")
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    async with pace.running(election.run()):
        await pace.go(2)
        terms.fails = FencedError("rollouts")
        await pace.go(2)
        terms.fails = None
        await pace.go(3)
        assert election.leads
        assert len(set(terms.begun)) == 1
        assert len(terms.begun) > 2
        assert not terms.ended


async def test_a_defect_of_the_leader_is_not_hidden(clock: ManualClock, store: FlakyStore) -> None:
    """It ends the election, and the lease is given back."""
    pace, terms = Pace(clock), Terms()
    terms.fails = KeyError("a defect")
    election = Election(store, candidate(), terms.lead, clock, pace.sleep)
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(election.run(), PATIENCE_S)
    assert raised.group_contains(KeyError)
    assert await store.acquire("rollouts", "b", 1.0) is not None
