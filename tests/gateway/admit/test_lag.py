"""A late event loop sheds new work until it has been on time for a moment."""

from __future__ import annotations

import pytest

from gateway.admit.lag import LoopLag

STEP = 0.1


def run(lag: LoopLag, at: float, lags: list[float]) -> list[bool]:
    """Tick once for each of `lags`; return whether it sheds after each."""
    seen = []
    for late in lags:
        at += STEP
        lag.tick(at, at + late)
        seen.append(lag.shedding)
    return seen


def test_on_time() -> None:
    """A loop that is on time, or a little early, is not late."""
    lag = LoopLag(1.0)
    assert run(lag, 0.0, [0.0, 0.001, -0.001]) == [False] * 3
    assert lag.last_s == 0.0
    assert lag.peak_s == pytest.approx(0.001, rel=0.15)
    assert lag.retry_after_s() == 1


def test_one_long_lag_sheds_at_once_and_fades() -> None:
    """Just over the limit: shed for ln 2 seconds, then not."""
    lag = LoopLag(1.0)
    assert lag.tick(10.0, 11.01)
    assert lag.shedding
    assert lag.last_s == lag.peak_s == pytest.approx(1.01)
    seen = run(lag, 11.01, [0.0] * 10)
    assert seen == [True] * 7 + [False] * 3


def test_the_change_is_told_once() -> None:
    """For the log: on, still on, off."""
    lag = LoopLag(1.0)
    assert not lag.tick(1.0, 1.0)
    assert lag.tick(2.0, 4.0)
    assert not lag.tick(4.1, 4.1)
    assert lag.tick(9.0, 9.0)
    assert not lag.shedding


def test_between_the_marks_nothing_changes() -> None:
    """Above half of the limit is not yet over for one that sheds, nor a reason to begin."""
    shedding, accepting = LoopLag(1.0), LoopLag(1.0)
    run(shedding, 0.0, [1.5])
    assert run(shedding, 0.1, [0.7] * 50) == [True] * 50
    assert run(accepting, 0.0, [0.7] * 50) == [False] * 50


def test_retry_after_is_the_time_to_fade() -> None:
    """Ten times the limit takes ln 20 = 3.0 s to come to half of it."""
    lag = LoopLag(0.5)
    lag.tick(0.0, 5.0)
    assert lag.retry_after_s() == 3
    lag.tick(8.0, 8.0)
    assert lag.retry_after_s() == 1
    assert not lag.shedding


def test_a_reload_changes_the_limit() -> None:
    """The next tick goes by the new one."""
    lag = LoopLag(1.0)
    assert run(lag, 0.0, [0.6]) == [False]
    lag.limit(0.5)
    assert run(lag, 0.1, [0.6]) == [True]
