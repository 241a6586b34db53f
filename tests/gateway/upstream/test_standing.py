"""What takes an endpoint out of rotation, for how long, and what brings it back."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Outcome
from gateway.upstream import breaker
from gateway.upstream.breaker import BreakerSpec
from gateway.upstream.outlier import Outliers, OutlierSpec
from gateway.upstream.peers import Peers
from gateway.upstream.standing import Change, EndpointSpec, Health, Standing, State

SPEC = EndpointSpec(breaker=BreakerSpec(failures=5, open_s=5.0))
NOW = 1000.0


def standing(spec: EndpointSpec = SPEC, outliers: OutlierSpec | None = None) -> Standing:
    """One that became healthy long ago, with a peer."""
    peers = Peers(Outliers(outliers))
    one = Standing(spec, peers)
    Standing(spec, peers)
    one.probed(True, NOW - 100)
    assert one.available(NOW)
    return one


def fail(one: Standing, now: float = NOW, times: int = 5) -> Change | None:
    """Fail as often in a row; return what the last one changed."""
    return [one.judge(one.begin(now), Outcome.RETRYABLE, now) for _ in range(times)][-1]


def probes(one: Standing, pattern: str, now: float = NOW) -> None:
    for mark in pattern:
        one.probed(mark == "+", now)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_health_follows_the_last_probes(seen: list[bool], rise: int, fall: int) -> None:
    """`fall` failures take it out, `rise` successes bring it back; at first one suffices."""
    one = Standing(EndpointSpec(rise, fall))
    expected = Health.UNKNOWN
    for count in range(1, len(seen) + 1):
        last = seen[:count]
        before = expected
        if expected is Health.HEALTHY:
            if len(last) >= fall and not any(last[-fall:]):
                expected = Health.UNHEALTHY
        elif last[-1] and (expected is Health.UNKNOWN or (count >= rise and all(last[-rise:]))):
            expected = Health.HEALTHY
        changed = one.probed(last[-1], NOW)
        assert one.health is expected
        assert changed is (None if expected is before else expected)
        assert one.available(NOW) is (expected is Health.HEALTHY)


def test_probes_take_it_out_and_back_with_slow_start() -> None:
    """Nothing but they can: time alone never does."""
    one = standing()
    probes(one, "---")
    assert (one.state(NOW), one.blocked_until) == (State.UNHEALTHY, inf)
    assert one.next_change(NOW) == inf
    probes(one, "++", NOW + 50)
    assert one.state(NOW + 50) is State.HEALTHY
    assert one.ramp(NOW + 50) == pytest.approx(0.1)
    assert one.ramp(NOW + 80) == 1.0


def test_failures_open_the_breaker_and_eject() -> None:
    """Both have to let it in again: the breaker after 5 s, the ejection after 30 s."""
    one = standing()
    change = fail(one)
    assert change == Change(breaker.State.OPEN, 30.0)
    assert str(change) == "breaker open, ejected for 30 s"
    assert change.is_bad
    assert (one.state(NOW), one.blocked_until) == (State.EJECTED, NOW + 30)
    assert (one.ejected_until, one.ejections_total) == (NOW + 30, 1)
    assert (one.blocked_in_panic(), one.blocked_at_worst()) == (NOW + 5, NOW + 5)
    assert one.next_change(NOW) == NOW + 5
    assert one.next_change(NOW + 5) == NOW + 30
    assert not one.available(NOW + 29)
    assert one.available(NOW + 30)
    assert one.state(NOW + 30) is State.OPEN
    assert one.ramp(NOW + 30) == pytest.approx(0.1)


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.REJECTED])
def test_refusals_and_clients_that_leave_change_nothing(outcome: Outcome) -> None:
    """However many, they neither open nor eject nor end a row of failures."""
    one = standing()
    for _ in range(50):
        assert one.judge(one.begin(NOW), outcome, NOW) is None
    fail(one, times=4)
    one.judge(one.begin(NOW), outcome, NOW)
    assert fail(one, times=1) == Change(breaker.State.OPEN, 30.0)


def test_the_probe_of_a_half_open_breaker_shuts_the_door_behind_it() -> None:
    """Until its end is known; a probe that says nothing opens it for another."""
    one = standing(outliers=OutlierSpec(max_ejected_percent=0))
    assert str(fail(one)) == "breaker open"
    now = NOW + 5
    probe = one.begin(now)
    assert (one.state(now), one.blocked_until) == (State.HALF_OPEN, inf)
    assert one.judge(probe, Outcome.CANCELLED, now) is None
    assert one.available(now)
    change = one.judge(one.begin(now), Outcome.SUCCESS, now)
    assert change == Change(breaker.State.CLOSED)
    assert (str(change), change.is_bad) == ("breaker closed", False)
    assert one.state(now) is State.HEALTHY
    assert one.ramp(now) == pytest.approx(0.1)


def test_the_probes_first_token_opens_the_door() -> None:
    """Other first tokens do nothing."""
    one = standing(outliers=OutlierSpec(max_ejected_percent=0))
    plain = one.begin(NOW)
    assert one.commit(plain, NOW) == plain
    fail(one)
    now = NOW + 7
    probe = one.begin(now)
    assert one.commit(plain, now) == plain
    assert not one.available(now)
    assert one.commit(probe, now) != probe
    assert one.available(now)
    assert one.ramp(now) == pytest.approx(0.1)


def test_an_ejection_alone_says_so() -> None:
    """Where the breaker is more patient."""
    one = standing(EndpointSpec(breaker=BreakerSpec(failures=50)))
    change = fail(one)
    assert str(change) == "ejected for 30 s"
    assert change is not None
    assert change.is_bad


def test_a_restart_ends_ejection_and_wait() -> None:
    """The probes fell and rose: what was done in another life does not count."""
    one = standing()
    fail(one)
    probes(one, "---", NOW + 1)
    probes(one, "++", NOW + 2)
    assert one.available(NOW + 2)
    assert one.state(NOW + 2) is State.OPEN  # One request may try it.
    one.begin(NOW + 2)
    assert not one.available(NOW + 2)
    assert one.ramp(NOW + 32) == 1.0


def test_who_is_overloaded_comes_after_others_only() -> None:
    """It stays available; the longest time asked for holds."""
    one = standing()
    one.shun(NOW + 9)
    revision = one.peers.revision
    one.shun(NOW + 3)
    assert (one.shunned_until, one.peers.revision) == (NOW + 9, revision)
    assert one.available(NOW)
    assert one.state(NOW) is State.OVERLOADED
    assert one.next_change(NOW) == NOW + 9
    assert one.state(NOW + 9) is State.HEALTHY


def test_who_says_that_it_goes_is_out_at_once() -> None:
    """Though its probes are well; for as long as an ejection."""
    one = standing()
    one.leave(NOW)
    probes(one, "+++", NOW + 1)
    assert (one.state(NOW + 1), one.blocked_until) == (State.LEAVING, NOW + 30)
    assert (one.blocked_in_panic(), one.blocked_at_worst()) == (NOW + 30, NOW + 30)
    assert not one.in_service(NOW + 1)
    assert one.ejections_total == 0
    assert one.available(NOW + 30)
    assert one.in_service(NOW + 30)


@pytest.mark.parametrize("restart", ["-++", "---++"])
def test_who_went_and_came_back_is_taken_at_once(restart: str) -> None:
    """A restart may be too quick for the verdict to change; one failed probe is enough."""
    one = standing()
    probes(one, "-++")
    one.leave(NOW)
    probes(one, restart[:-1], NOW + 1)
    assert not one.available(NOW + 1)
    probes(one, restart[-1], NOW + 3)
    assert one.available(NOW + 3)
    assert one.ramp(NOW + 3) == pytest.approx(0.1)


def test_sleep_takes_it_out_until_it_is_awake() -> None:
    """With slow start after it."""
    one = standing()
    assert one.sleep(True, NOW)
    assert not one.sleep(True, NOW)
    assert (one.state(NOW), one.blocked_at_worst()) == (State.ASLEEP, inf)
    assert not one.in_service(NOW)
    assert one.sleep(False, NOW + 5)
    assert one.available(NOW + 5)
    assert one.ramp(NOW + 5) == pytest.approx(0.1)


def test_an_operator_takes_it_out_and_back() -> None:
    """Nothing else ends it; to undrain what is not drained starts no slow start."""
    one = standing()
    one.undrain(NOW)
    assert one.ramp(NOW) == 1.0
    one.drain()
    probes(one, "---+++")
    assert (one.state(NOW), one.blocked_at_worst()) == (State.DRAINING, inf)
    assert not one.in_service(NOW)
    one.undrain(NOW + 60)
    assert one.available(NOW + 60)
    assert one.ramp(NOW + 60) == pytest.approx(0.1)


def test_who_was_never_well_is_never_tried() -> None:
    """Not at the worst either: it may be anything."""
    one = Standing()
    assert (one.state(NOW), one.blocked_at_worst(), one.in_service(NOW)) == (
        State.UNKNOWN,
        inf,
        False,
    )


def test_the_unhealthy_are_for_the_worst_only() -> None:
    """Panic over ejections does not bring them in."""
    one = standing()
    probes(one, "---")
    assert (one.blocked_in_panic(), one.blocked_at_worst()) == (inf, 0.0)
    assert one.in_service(NOW)


def test_who_has_retired_is_compared_no_more() -> None:
    """Its peer is alone then, and cannot be ejected."""
    peers = Peers()
    one, other = Standing(SPEC, peers), Standing(SPEC, peers)
    one.probed(True, NOW)
    other.retire()
    change = fail(one)
    assert change == Change(breaker.State.OPEN)


EVENTS = st.sampled_from(["fail", "ok", "+", "-", "shun", "leave", "sleep", "wake", "drain", "up"])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 10)), max_size=60))
def test_each_change_is_announced(steps: list[tuple[str, float]]) -> None:
    """What may be done never changes without a new revision or a time that was told."""
    one, now = standing(), NOW
    for event, wait_s in steps:
        before = [one.blocked_until, one.blocked_in_panic(), one.blocked_at_worst()]
        shunned, revision, until = one.shunned_until, one.peers.revision, one.next_change(now)
        might = [now >= time for time in (*before, shunned)]
        now += wait_s
        if now < until:
            assert might == [now >= time for time in (*before, shunned)]
        apply(one, event, now)
        after = [one.blocked_until, one.blocked_in_panic(), one.blocked_at_worst()]
        assert (after, one.shunned_until) == (before, shunned) or one.peers.revision > revision
        assert (one.state(now) in {State.HEALTHY, State.OVERLOADED}) <= one.available(now)


def apply(one: Standing, event: str, now: float) -> None:
    match event:
        case "fail":
            one.judge(one.begin(now), Outcome.FAILURE, now)
        case "ok":
            one.judge(one.begin(now), Outcome.SUCCESS, now)
        case "+" | "-":
            one.probed(event == "+", now)
        case "shun":
            one.shun(now + 5)
        case "leave":
            one.leave(now)
        case "sleep" | "wake":
            one.sleep(event == "sleep", now)
        case "drain":
            one.drain()
        case _:
            one.undrain(now)
