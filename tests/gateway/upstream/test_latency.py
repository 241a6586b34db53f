"""Peak-EWMA rises at once and falls by decay; failures never look fast."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.latency import MAX_PENALTY_S, TAU_S, PeakEwma


def test_nothing_observed_is_zero() -> None:
    """That is how balancers know."""
    assert PeakEwma().read(1e6) == 0.0


def test_a_slower_answer_counts_at_once() -> None:
    """The peak."""
    ewma = PeakEwma()
    for latency_s in (0.1, 0.5, 3.0):
        ewma.observe(latency_s, 100.0)
        assert ewma.read(100.0) == latency_s


def test_faster_answers_draw_it_down_with_the_time_constant() -> None:
    """After one time constant 1/e of the difference is left."""
    ewma = PeakEwma()
    ewma.observe(1.0, 100.0)
    ewma.observe(0.1, 100.0)
    assert ewma.read(100.0) == 1.0
    ewma.observe(0.1, 100.0 + TAU_S)
    assert ewma.read(100.0 + TAU_S) == pytest.approx(0.1 + 0.9 * exp(-1))


def test_it_decays_where_nothing_is_observed() -> None:
    """So that who was slow is tried again."""
    ewma = PeakEwma()
    ewma.observe(2.0, 100.0)
    assert ewma.read(100.0 + TAU_S) == pytest.approx(2 * exp(-1))
    assert ewma.read(1e6) == 0.0


def test_failures_double_it_between_a_second_and_a_minute() -> None:
    """However fast they came."""
    ewma, seen = PeakEwma(), []
    for _ in range(8):
        ewma.penalise(100.0)
        seen.append(ewma.read(100.0))
    assert seen == [1, 2, 4, 8, 16, 32, MAX_PENALTY_S, MAX_PENALTY_S]


def test_what_is_forgotten_was_never_observed() -> None:
    """And the next observation begins anew."""
    ewma = PeakEwma()
    ewma.observe(9.0, 100.0)
    ewma.forget()
    assert ewma.read(100.0) == 0.0
    ewma.observe(0.2, 150.0)
    assert ewma.read(150.0) == pytest.approx(0.2)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 600)), min_size=1, max_size=20))
def test_it_stays_within_what_was_observed(steps: list[tuple[float, float]]) -> None:
    """And never below the last, which it would make look faster than it was."""
    ewma, now = PeakEwma(), 1000.0
    for wait_s, latency_s in steps:
        now += wait_s
        ewma.observe(latency_s, now)
        assert latency_s * (1 - 1e-9) <= ewma.read(now) <= max(one for _, one in steps) * (1 + 1e-9)
