"""Who does worse than the others leaves the pool, for longer each time, and never too many."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.outlier import WINDOW_S, Member, Outliers, OutlierSpec

SPEC = OutlierSpec()


def members(count: int, spec: OutlierSpec = SPEC) -> tuple[Outliers, list[Member]]:
    outliers = Outliers(spec)
    return outliers, [outliers.join() for _ in range(count)]


def fail(outliers: Outliers, member: Member, now: float, times: int = 5) -> bool:
    """Fail in a row; return whether the last of it ejected."""
    return [outliers.record(member, False, now) for _ in range(times)][-1]


def mixed(outliers: Outliers, member: Member, total: int, every: int, now: float) -> bool:
    """Record `total` results, each `every`-th a failure; return whether one ejected."""
    return sum(outliers.record(member, n % every != 0, now) for n in range(1, total + 1)) > 0


def test_failures_in_a_row_eject() -> None:
    """Not four; a success begins the count anew."""
    outliers, (bad, _) = members(2)
    assert not fail(outliers, bad, 0.0, 4)
    outliers.record(bad, True, 0.0)
    assert not fail(outliers, bad, 0.0, 4)
    assert outliers.record(bad, False, 0.0)
    assert (bad.ejected_until, bad.ejections_total) == (30.0, 1)


def test_a_pool_of_one_is_never_ejected() -> None:
    """There is nobody to be worse than."""
    outliers, (only,) = members(1)
    assert not fail(outliers, only, 0.0, 50)


def test_each_ejection_is_longer_up_to_the_most() -> None:
    """30 s times their number, to 300 s."""
    outliers, (bad, _) = members(2)
    now, lengths = 0.0, []
    for _ in range(12):
        assert fail(outliers, bad, now)
        lengths.append(bad.ejected_until - now)
        now = bad.ejected_until
    assert lengths == [min(30.0 * n, 300.0) for n in range(1, 13)]


def test_time_in_the_pool_makes_ejections_short_again() -> None:
    """One less for each 30 s, and never fewer than none."""
    outliers, (bad, _) = members(2)
    lengths = []
    for peace_s in (0.0, 0.0, 0.0, 65.0, 29.0, 1000.0):
        now = bad.ejected_until + peace_s
        assert fail(outliers, bad, now)
        lengths.append(bad.ejected_until - now)
    assert lengths == [30, 60, 90, 60, 90, 30]


@pytest.mark.parametrize(
    ("count", "percent", "most"),
    [(2, 50, 1), (3, 50, 1), (4, 50, 2), (5, 50, 2), (2, 10, 1), (4, 100, 4), (4, 0, 0)],
)
def test_never_more_than_the_share(count: int, percent: float, most: int) -> None:
    """One of two may go whatever the share, unless it is 0."""
    outliers, all_bad = members(count, replace(SPEC, max_ejected_percent=percent))
    assert sum(fail(outliers, one, 1.0) for one in all_bad) == most


def test_who_could_not_go_goes_as_soon_as_there_is_room() -> None:
    """Its row of failures is not forgotten."""
    outliers, (one, two) = members(2)
    assert fail(outliers, one, 0.0)
    assert not fail(outliers, two, 0.0)
    assert outliers.record(two, False, 30.0)


def test_while_ejected_nothing_counts() -> None:
    """What comes in began before; after the return it is judged anew."""
    outliers, (bad, _) = members(2)
    fail(outliers, bad, 0.0)
    assert not fail(outliers, bad, 29.0, 50)
    assert bad.ejected_until == 30.0
    assert not fail(outliers, bad, 30.0, 4)


def test_a_low_share_of_successes_ejects_if_the_others_do_better() -> None:
    """Half of 40 failed, and none of the other's."""
    outliers, (bad, good) = members(2)
    mixed(outliers, good, 40, 100, 0.0)
    assert mixed(outliers, bad, 40, 2, 1.0)


def test_a_share_of_few_says_nothing() -> None:
    """Below min_requests, of its own or of the others."""
    outliers, (bad, good) = members(2)
    mixed(outliers, good, 40, 100, 0.0)
    assert not mixed(outliers, bad, 19, 2, 0.0)
    outliers, (bad, good) = members(2)
    mixed(outliers, good, 19, 100, 0.0)
    assert not mixed(outliers, bad, 40, 2, 0.0)


def test_when_all_fail_alike_nobody_goes() -> None:
    """The cause is not in one of them."""
    outliers, (one, two) = members(2)
    assert not mixed(outliers, one, 100, 2, 0.0)
    assert not mixed(outliers, two, 100, 2, 0.0)


def test_a_share_above_the_least_is_well_enough() -> None:
    """One in five failed."""
    outliers, (bad, good) = members(2)
    mixed(outliers, good, 100, 1000, 0.0)
    assert not mixed(outliers, bad, 100, 5, 0.0)


def test_the_window_slides() -> None:
    """Failures of 30 s ago count no more, those of a moment ago do."""
    outliers, (bad, good) = members(2)
    mixed(outliers, good, 100, 1000, 0.0)
    mixed(outliers, bad, 19, 2, 0.0)
    mixed(outliers, good, 100, 1000, WINDOW_S)
    assert not mixed(outliers, bad, 19, 2, WINDOW_S)
    assert mixed(outliers, bad, 21, 2, WINDOW_S + 9)


def test_who_leaves_is_not_compared() -> None:
    """Nor does it count in the size of the pool."""
    outliers, (one, two) = members(2)
    outliers.leave(two)
    assert not fail(outliers, one, 0.0, 9)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 12)), max_size=200),
    st.integers(2, 5),
)
def test_whatever_happens_the_share_holds(steps: list[tuple[int, bool, int]], count: int) -> None:
    """At no time are more out than may be, and only a failure ejects, for 30 to 300 s."""
    outliers, all_of_them = members(count, replace(SPEC, failures=2, min_requests=3))
    now = 1000
    for index, good, wait_s in steps:
        now += wait_s
        member = all_of_them[index % count]
        until = member.ejected_until
        if outliers.record(member, good, now):
            assert not good
            assert until <= now
            assert 30 <= member.ejected_until - now <= 300
        else:
            assert member.ejected_until == until
        assert sum(one.ejected_until > now for one in all_of_them) <= max(1, count // 2)


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=60))
def test_counts_are_those_of_the_last_ten_buckets(steps: list[tuple[float, bool]]) -> None:
    """As a plain list of all results says."""
    member, now, seen = Member(), 0.0, []
    for wait_s, good in steps:
        now += wait_s
        (member.succeed if good else member.fail)(now)
        seen.append((int(now / 3), good))
        recent = [one for slot, one in seen if slot > int(now / 3) - 10]
        assert member.counts(now) == (sum(recent), len(recent) - sum(recent))
