"""The rate at which requests end is measured, also after a quiet time and in a stall."""

from __future__ import annotations

import pytest

from gateway.admit.drain import WINDOW_S, DrainRate


def test_littles_law() -> None:
    """Eight places, each held for 2 s, come free four times a second."""
    drain = DrainRate()
    for step in range(100):
        drain.ended(2.0, step * 0.25)
    assert drain.per_s(8, 24.75, waiting=True) == pytest.approx(4.0)


def test_little_demand_is_not_little_capacity() -> None:
    """One request a minute, each 0.5 s: 16 at once would still end at 32 a second."""
    drain = DrainRate()
    for minute in range(5):
        drain.ended(0.5, minute * 60.0)
    drain.filled(300.0)
    assert drain.per_s(16, 300.0, waiting=True) == pytest.approx(32.0)
    assert drain.per_s(16, 299.0, waiting=False) == pytest.approx(32.0)


def test_a_stall_lowers_the_rate() -> None:
    """With 4 places full and nothing ending for 20 s, no more than 4 can end in 20 s."""
    drain = DrainRate()
    drain.filled(0.0)
    drain.ended(1.0, 1.0)
    assert drain.per_s(4, 2.0, waiting=True) == pytest.approx(4.0)
    assert drain.per_s(4, 21.0, waiting=True) == pytest.approx(0.2)


def test_before_the_first_end() -> None:
    """Nothing is known at first, so the rate is high; each second without an end lowers it."""
    drain = DrainRate()
    drain.filled(10.0)
    assert drain.per_s(4, 10.0, waiting=True) >= 1e6
    assert drain.per_s(4, 12.0, waiting=True) == pytest.approx(2.0)
    assert drain.per_s(0, 12.0, waiting=True) == pytest.approx(0.5)


def test_old_ends_fade() -> None:
    """After a change the mean follows: at once after a window's silence, else little by little."""
    drain = DrainRate()
    drain.ended(1.0, 0.0)
    drain.ended(4.0, 5.0)  # Half of the window later the first counts half.
    assert drain.per_s(1, 5.0, waiting=False) == pytest.approx(1.5 / 4.5)
    drain.ended(8.0, 5.0 + WINDOW_S)
    assert drain.per_s(1, 15.0, waiting=False) == pytest.approx(1 / 8)


def test_requests_of_no_duration() -> None:
    """Answers faster than the clock's step do not divide by zero."""
    drain = DrainRate()
    drain.ended(0.0, 1.0)
    assert drain.per_s(1, 1.0, waiting=True) == pytest.approx(1e6)
