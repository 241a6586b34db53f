"""When a worker is started again."""

from __future__ import annotations

from random import Random

from gateway.workers.restarts import MAX_FAILURES, MAX_S, STABLE_S, Restarts


def test_the_first_end_is_followed_by_a_start_at_once() -> None:
    restarts = Restarts(Random(1))
    restarts.up(0.0)
    assert restarts.ended(1.0, -9, alone=True) == 0.0
    assert restarts.total == 1


def test_ends_in_a_row_wait_longer_and_longer_but_not_for_ever() -> None:
    """With others up it is tried again and again: they serve meanwhile."""
    restarts = Restarts(Random(1))
    waits = [restarts.ended(float(number), 1, alone=False) for number in range(20)]
    assert waits[0] == 0.0
    for number, wait in enumerate(waits[1:]):
        assert wait is not None
        longest = min(MAX_S, 0.25 * 2**number)
        assert longest / 2 <= wait <= longest
    assert restarts.failures == restarts.total == 20


def test_a_long_run_forgets_what_was_before() -> None:
    restarts = Restarts(Random(1))
    for _ in range(4):
        restarts.ended(0.0, -9, alone=False)
    restarts.up(1.0)
    assert restarts.ended(1.0 + STABLE_S, -9, alone=True) == 0.0


def test_what_said_why_it_cannot_start_is_not_tried_again_alone() -> None:
    """An exit code before the first success: a port, a certificate, a file."""
    assert Restarts(Random(1)).ended(0.0, 1, alone=True) is None
    assert Restarts(Random(1)).ended(0.0, 1, alone=False) == 0.0
    assert Restarts(Random(1)).ended(0.0, -9, alone=True) == 0.0  # Killed: it said nothing.


def test_a_crash_loop_ends_when_nobody_is_left() -> None:
    restarts = Restarts(Random(1))
    restarts.up(0.0)
    waits = [restarts.ended(1.0, -11, alone=True) for _ in range(MAX_FAILURES)]
    assert None not in waits[:-1]
    assert waits[-1] is None
