"""A breaker opens on failures, lets one probe through at a time, and ignores late results."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model import Outcome
from gateway.upstream.breaker import STALE, Breaker, BreakerSpec, State

SPEC = BreakerSpec(failures=2, open_s=5.0, max_open_s=12.0)
BAD = [Outcome.RETRYABLE, Outcome.FAILURE]
IGNORED = [Outcome.CANCELLED, Outcome.REJECTED]


def opened(now: float = 0.0, spec: BreakerSpec = SPEC) -> Breaker:
    breaker = Breaker(spec)
    for _ in range(spec.failures):
        breaker.record(breaker.start(now), Outcome.FAILURE, now)
    assert breaker.state is State.OPEN
    return breaker


@pytest.mark.parametrize("outcome", BAD)
def test_failures_in_a_row_open_it(outcome: Outcome) -> None:
    """Not one fewer, and it says so once."""
    breaker = Breaker(SPEC)
    assert breaker.record(breaker.start(0.0), outcome, 0.0) is None
    assert breaker.record(breaker.start(0.0), outcome, 0.0) is State.OPEN
    assert (breaker.blocked_until, breaker.trips_total) == (5.0, 1)
    assert repr(breaker) == "<Breaker open, 0 failures, 1 trips>"


@pytest.mark.parametrize("outcome", IGNORED)
def test_refusals_and_clients_that_leave_neither_open_nor_mend_it(outcome: Outcome) -> None:
    """They stand for nothing, also in the middle of a row of failures."""
    breaker = Breaker(SPEC)
    for _ in range(9):
        assert breaker.record(breaker.start(0.0), outcome, 0.0) is None
    breaker.record(breaker.start(0.0), Outcome.FAILURE, 0.0)
    breaker.record(breaker.start(0.0), outcome, 0.0)
    assert breaker.record(breaker.start(0.0), Outcome.FAILURE, 0.0) is State.OPEN


def test_a_success_ends_the_row() -> None:
    """Failures with successes between them never open it."""
    breaker = Breaker(SPEC)
    for _ in range(5):
        assert breaker.record(breaker.start(0.0), Outcome.FAILURE, 0.0) is None
        assert breaker.record(breaker.start(0.0), Outcome.SUCCESS, 0.0) is None


def test_one_probe_at_a_time_once_the_time_is_up() -> None:
    """The first request after it is the probe; while it is under way nobody else may start."""
    breaker = opened()
    assert breaker.blocked_until == 5.0
    probe = breaker.start(5.0)
    assert (breaker.state, breaker.blocked_until) == (State.HALF_OPEN, inf)
    assert breaker.start(6.0) == STALE
    assert breaker.record(probe, Outcome.SUCCESS, 7.0) is State.CLOSED
    assert breaker.blocked_until == 0.0


def test_who_starts_all_the_same_is_not_counted() -> None:
    """A request on an open breaker neither probes nor prolongs."""
    breaker = opened()
    ticket = breaker.start(4.9)
    assert breaker.record(ticket, Outcome.FAILURE, 4.9) is None
    assert breaker.record(ticket, Outcome.SUCCESS, 4.9) is None
    assert breaker.blocked_until == 5.0


@pytest.mark.parametrize("outcome", IGNORED)
def test_a_probe_that_says_nothing_leaves_its_place_to_another(outcome: Outcome) -> None:
    """It stays half open."""
    breaker = opened()
    assert breaker.record(breaker.start(5.0), outcome, 6.0) is None
    assert (breaker.state, breaker.blocked_until) == (State.HALF_OPEN, 0.0)
    assert breaker.record(breaker.start(6.0), Outcome.SUCCESS, 6.0) is State.CLOSED


def test_each_failed_probe_opens_it_for_longer_up_to_the_most() -> None:
    """open_s times the trips in a row."""
    breaker = opened()
    waits = []
    for _ in range(3):
        now = breaker.blocked_until
        assert breaker.record(breaker.start(now), Outcome.RETRYABLE, now) is State.OPEN
        waits.append(breaker.blocked_until - now)
    assert waits == [10.0, 12.0, 12.0]


def test_only_a_whole_success_makes_the_next_opening_short_again() -> None:
    """First tokens alone do not: who always breaks off after them is left alone for longer."""
    breaker = opened()
    for wait in (10.0, 12.0):
        now = breaker.blocked_until
        kept = breaker.commit(breaker.start(now))
        breaker.record(kept, Outcome.FAILURE, now)
        assert breaker.record(breaker.start(now), Outcome.FAILURE, now) is State.OPEN
        assert breaker.blocked_until - now == wait
    now = breaker.blocked_until
    breaker.record(breaker.start(now), Outcome.SUCCESS, now)
    for _ in range(2):
        breaker.record(breaker.start(now), Outcome.FAILURE, now)
    assert breaker.blocked_until - now == 5.0


def test_the_probes_first_token_closes_it() -> None:
    """What happens to the stream later counts as in any closed state: as one failure."""
    breaker = opened()
    probe = breaker.start(5.0)
    kept = breaker.commit(probe)
    assert (breaker.state, breaker.blocked_until) == (State.CLOSED, 0.0)
    assert kept != probe
    assert breaker.record(probe, Outcome.FAILURE, 6.0) is None
    assert breaker.record(kept, Outcome.FAILURE, 6.0) is None
    assert breaker.record(breaker.start(6.0), Outcome.FAILURE, 6.0) is State.OPEN


def test_other_first_tokens_change_nothing() -> None:
    """Neither in the closed state, nor those of requests from before it opened."""
    breaker = Breaker(SPEC)
    old = breaker.start(0.0)
    assert breaker.commit(old) == old
    for _ in range(2):
        breaker.record(breaker.start(0.0), Outcome.FAILURE, 0.0)
    probe = breaker.start(5.0)
    assert breaker.commit(old) == old
    assert breaker.state is State.HALF_OPEN
    assert breaker.record(old, Outcome.SUCCESS, 6.0) is None
    assert breaker.blocked_until == inf
    assert breaker.record(probe, Outcome.SUCCESS, 6.0) is State.CLOSED


def test_a_try_can_be_allowed_early_but_not_put_off() -> None:
    """Probes that are well again bring it forward."""
    breaker = opened()
    breaker.retry_now(9.0)
    assert breaker.blocked_until == 5.0
    breaker.retry_now(2.0)
    assert breaker.blocked_until == 2.0
    assert breaker.start(2.0) != STALE


class Machine(RuleBasedStateMachine):
    """Any requests, in any order, with any ends."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(SPEC)
        self.now = 0.0
        self.tickets: list[int] = []
        self.probes: list[int] = []

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def start(self) -> None:
        may = self.now >= self.breaker.blocked_until
        ticket = self.breaker.start(self.now)
        assert (ticket == STALE) is not may
        if self.breaker.state is State.HALF_OPEN and ticket != STALE:
            self.probes.append(ticket)
        else:
            self.tickets.append(ticket)

    @precondition(lambda self: self.tickets)
    @rule(outcome=st.sampled_from(Outcome), data=st.data())
    def end(self, outcome: Outcome, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.tickets) - 1))
        was = self.breaker.state
        state = self.breaker.record(self.tickets.pop(index), outcome, self.now)
        # Who is no probe can only open a closed one.
        assert state is None or (was, state) == (State.CLOSED, State.OPEN)

    @precondition(lambda self: self.probes)
    @rule(outcome=st.sampled_from(Outcome))
    def end_probe(self, outcome: Outcome) -> None:
        state = self.breaker.record(self.probes.pop(), outcome, self.now)
        expected = {Outcome.SUCCESS: State.CLOSED, **dict.fromkeys(BAD, State.OPEN)}
        assert state is expected.get(outcome)

    @precondition(lambda self: self.probes)
    @rule()
    def commit_probe(self) -> None:
        self.tickets.append(self.breaker.commit(self.probes.pop()))
        assert self.breaker.state is State.CLOSED

    @invariant()
    def one_probe_at_most_and_only_half_open(self) -> None:
        assert len(self.probes) == (self.breaker.blocked_until == inf)
        if self.probes:
            assert self.breaker.state is State.HALF_OPEN

    @invariant()
    def it_never_stays_shut_for_longer_than_the_most(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.blocked_until - self.now <= SPEC.max_open_s


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
