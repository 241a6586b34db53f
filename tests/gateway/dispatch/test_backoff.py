"""Waits spread out as tenacity's do, and an engine that names its own wait is understood."""

from __future__ import annotations

import random
import time
from email.utils import formatdate
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_random_exponential

from gateway.dispatch.backoff import BASE_S, MAX_S, Backoff, retry_after

NOON = 1_800_000_000.0
"""A time of day; its date is Fri, 15 Jan 2027 08:00:00 GMT."""


@given(st.integers(0, 2**32), st.integers(1, 40), st.sampled_from([(BASE_S, MAX_S), (2.0, 3.0)]))
def test_it_is_the_full_jitter_of_tenacity(
    seed: int, retry: int, spread: tuple[float, float]
) -> None:
    """The same formula to the last digit, drawn from the given random numbers."""
    base_s, max_s = spread
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = retry
    drawn = random.getstate()
    try:
        random.seed(seed)
        theirs = wait_random_exponential(multiplier=base_s, max=max_s)(state)
    finally:
        random.setstate(drawn)
    assert Backoff(Random(seed), base_s, max_s).wait_s(retry) == theirs


@pytest.mark.parametrize(
    ("retry", "window_s"), [(1, 0.025), (2, 0.05), (3, 0.1), (6, 0.8), (7, 1.0), (1000, 1.0)]
)
def test_the_window_doubles_up_to_a_second(retry: int, window_s: float) -> None:
    """Waits fill the window: from its beginning to its end."""
    backoff = Backoff(Random(1))
    waits = [backoff.wait_s(retry) for _ in range(500)]
    assert 0 <= min(waits) < 0.02 * window_s
    assert 0.98 * window_s < max(waits) <= window_s


def test_a_base_as_wide_as_the_widest_is_one_window() -> None:
    """No doubling then."""
    backoff = Backoff(Random(1), 0.5, 0.5)
    assert max(backoff.wait_s(9) for _ in range(100)) <= 0.5


@pytest.mark.parametrize(
    ("lines", "wait_s"),
    [
        (b"", None),
        (b"content-length: 3\r\n", None),
        (b"retry-after: 3\r\n", 3.0),
        (b"server: x\r\nRetry-After:3\r\nvia: y\r\n", 3.0),
        (b"retry-after: 0.5", 0.5),
        (b"retry-after:   7  \r\n", 7.0),
        (b"retry-after: -3\r\n", 0.0),
        (b"retry-after: 0\r\n", 0.0),
        (b"retry-after-ms: 1500\r\n", 1.5),
        (b"retry-after-ms: -1\r\nretry-after: 9\r\n", 0.0),
        (b"retry-after: 2\r\nretry-after-ms: 1500\r\n", 1.5),
        (b"retry-after-ms: soon\r\nretry-after: 2\r\n", 2.0),
        (b"retry-after: Fri, 15 Jan 2027 08:00:30 GMT\r\n", 30.0),
        (b"retry-after: Friday, 15-Jan-27 08:00:30 GMT\r\n", 30.0),
        (b"retry-after: Fri Jan 15 08:00:30 2027\r\n", 30.0),
        (b"retry-after: Fri, 15 Jan 2027 07:00:00 GMT\r\n", 0.0),
        (b"retry-after: soon\r\n", None),
        (b"retry-after:\r\n", None),
        (b"retry-after: nan\r\n", None),
        (b"retry-after: inf\r\n", None),
        (b"retry-after: 1e999\r\n", None),
        (b"retry-after-ms: nan\r\nretry-after: -inf\r\n", None),
        (b"retry-after: Fri, 99 Jan 2027 07:00:00 GMT\r\n", None),
        (b"retry-after: Fri, 15 Jan 99999999999999999999 07:00:00 GMT\r\n", None),
        (b"x-retry-after: 3\r\n", None),
        (b"retry-after-s: 3\r\n", None),
        (b"via: retry-after: 3\r\n", None),
    ],
)
def test_what_an_engine_asks_for(lines: bytes, wait_s: float | None) -> None:
    """Seconds, milliseconds or a date; never negative, never endless."""
    assert retry_after(lines, NOON) == wait_s


def test_a_date_without_a_zone_is_gmt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the gateway stands."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Auckland")
        time.tzset()
        try:
            assert retry_after(b"retry-after: Fri Jan 15 08:00:30 2027\r\n", NOON) == 30.0
        finally:
            patch.undo()
            time.tzset()


@given(st.integers(0, 100_000))
def test_a_date_is_as_far_off_as_it_says(seconds: int) -> None:
    """In the form that HTTP wants dates in."""
    date = formatdate(NOON + seconds, usegmt=True).encode()
    assert retry_after(b"retry-after: %b\r\n" % date, NOON) == seconds


@given(st.binary())
@example(b"\xff")
@example(b"15 Jan 0001 00:00:00 +2359")
def test_no_bytes_do_harm(value: bytes) -> None:
    """Whatever stands there, the answer is a wait or none."""
    wait_s = retry_after(b"retry-after: " + value, NOON)
    assert wait_s is None or 0 <= wait_s < float("inf")
