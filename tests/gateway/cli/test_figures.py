"""Figures are written so that a person reads them right."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.cli import figures


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "-"), (0.0, "0 s"), (0.0841, "84.1 ms"), (2.1, "2.1 s"), (90, "90 s"),
     (150, "2.5 min"), (14_400, "4 h"), (86_400, "24 h"), (345_600, "4 d")],
)  # fmt: skip
def test_times(value: float | None, said: str) -> None:
    """In the unit that fits."""
    assert figures.seconds(value) == said


@pytest.mark.parametrize(
    ("value", "metric", "signed", "said"),
    [
        (None, "ttft", False, "-"),
        (0.998, "success_rate", False, "99.8 %"),
        (0.021, "success_rate", True, "+2.1 points"),
        (-0.021, "success_rate", True, "-2.1 points"),
        (-0.03, "ttft", True, "-30 ms"),
        (0.00125, "error_rate", False, "0.125 %"),
        (12.54, "output_tokens", False, "12.5 tokens"),
        (-1234.5, "output_tokens", True, "-1,234 tokens"),
        (0.5, "feedback", True, "+0.5"),
        (3, "of a newer version", False, "3"),
    ],
)
def test_amounts(value: float | None, metric: str, signed: bool, said: str) -> None:
    """With their metric's unit; differences of shares are points."""
    assert figures.amount(value, metric, signed=signed) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (None, None, "not known yet"),
        (None, 0.01, "up to +10 ms"),
        (-0.01, None, "-10 ms or more"),
        (-0.01, 0.02, "-10 ms to +20 ms"),
    ],
)
def test_intervals(low: float | None, high: float | None, said: str) -> None:
    """An end that is not known is said in words."""
    assert figures.span(low, high, "ttft") == said


def test_shares_chances_and_counts() -> None:
    """What is not known is a dash; expected numbers are marked."""
    assert [figures.percent(None), figures.percent(0.5)] == ["-", "50 %"]
    assert [figures.chance(p) for p in (None, 0.0004, 0.034)] == ["-", "< 0.001", "0.034"]
    assert [figures.count(n) for n in (None, 1234, 12.25)] == ["-", "1,234", "≈ 12.2"]
    assert [figures.count(n, expected=True) for n in (0, 30.0)] == ["0", "≈ 30"]
    assert [figures.share(n) for n in (100, 64.2857, 0.5)] == ["100 %", "64.29 %", "0.5 %"]


def test_figures_of_an_arm() -> None:
    """None where nothing was counted."""
    arm = {"figures": {"ttft": {"n": 0, "mean": 0.0}, "latency": {"n": 2, "mean": 1.0, "p95": 3.0}}}
    assert figures.of_arm(arm, "ttft") is None
    assert figures.of_arm(arm, "feedback") is None
    assert figures.of_arm(arm, "latency", "p95") == 3.0
    assert figures.requests(arm) == 0


def test_where_a_policy_stands() -> None:
    """The first of what is waited for, and how much more; a plain route says nothing."""
    policy: dict[str, Any] = {"rollout": None, "experiment": None, "mirror": None}
    assert figures.stands(policy) == ""
    steps = [{"weight": 5}, {"weight": 50}]
    rollout: dict[str, Any] = {"phase": "paused", "step": 2, "steps": steps, "weight": 50.0}
    rollout |= {"waiting": ["a", "b", "c"], "reason": "paused"}
    said = figures.stands({**policy, "rollout": rollout})
    assert said == "paused, step 2 of 2, 50 % for the canary; waits for: a and 2 more"
    rollout |= {"phase": "failed", "waiting": [], "weight": 0.0, "reason": "only 3 requests"}
    said = figures.stands({**policy, "rollout": rollout})
    assert said == "failed, 0 % for the canary; only 3 requests"
    rollout |= {"phase": "succeeded", "weight": 100.0}
    assert figures.stands({**policy, "rollout": rollout}) == "succeeded, 100 % for the canary"
