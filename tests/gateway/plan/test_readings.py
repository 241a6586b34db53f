"""A judgement is said in one line that holds every number it stands on."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from gateway.plan.evidence import Bound, Reading, Scope, Verdict
from gateway.plan.readings import describe

RATE = Reading(
    metric="error_rate",
    quantile=None,
    bound=Bound.MAX_INCREASE,
    allowed=0.01,
    verdict=Verdict.FAIL,
    scope=Scope.STEP,
    canary=0.065,
    baseline=0.004,
    canary_n=200,
    baseline_n=16_000,
    value=0.061,
    low=0.029,
    high=0.114,
    words="",
)
TIME = replace(
    RATE,
    metric="ttft",
    quantile=0.95,
    bound=Bound.MAX_RATIO,
    allowed=1.5,
    verdict=Verdict.UNDECIDED,
    canary=1.2,
    baseline=0.5,
    value=2.4,
    low=0.0,
    high=inf,
)


def test_an_increase_is_told_in_points() -> None:
    assert describe(RATE, "") == (
        "error_rate fails: canary 6.5 % (13 of 200), baseline 0.4 % (64 of 16,000); "
        "increase 6.1 points [2.9, 11.4], at most 1 points"
    )


def test_an_absolute_share_is_told_in_percent_and_only_once() -> None:
    found = replace(RATE, bound=Bound.MAX, value=0.065, scope=Scope.WINDOW)
    assert describe(found, "") == (
        "error_rate fails in the last requests: canary 6.5 % (13 of 200), "
        "baseline 0.4 % (64 of 16,000); [2.9, 11.4], at most 1 %"
    )


def test_a_ratio_of_times_names_its_quantile_and_reason() -> None:
    assert describe(TIME, "suspicious, not proven") == (
        "ttft p95 undecided (suspicious, not proven): canary 1.2 s (200), baseline 0.5 s (16,000); "
        "ratio 2.4 [0, ∞], at most 1.5"
    )


def test_seconds_are_told_as_such() -> None:
    found = replace(TIME, bound=Bound.MAX_S, allowed=2.0, value=1.2, low=-inf, high=1.4)
    assert describe(found, "").endswith("; [-∞, 1.4], at most 2 s")


def test_lengths_have_no_unit_and_may_be_too_short() -> None:
    found = replace(
        TIME, metric="output_tokens", quantile=0.5, bound=Bound.MIN_RATIO, allowed=0.5, high=3.0
    )
    said = describe(replace(found, verdict=Verdict.PASS), "")
    assert said.startswith("output_tokens p50 passes: canary 1.2 (200), baseline 0.5 (16,000);")
    assert said.endswith("; ratio 2.4 [0, 3], at least 0.5")


def test_what_is_not_known_is_left_out() -> None:
    assert describe(replace(TIME, low=None, high=None), "").endswith("; ratio 2.4, at most 1.5")
    nothing = replace(TIME, canary=None, baseline=None, value=None, low=None, high=None)
    assert describe(nothing, "").endswith(": canary none, baseline none; ratio at most 1.5")


def test_of_the_baseline_itself_the_canary_does_not_matter() -> None:
    found = replace(
        RATE, bound=Bound.BASELINE, allowed=0.05, canary=None, value=0.004, low=None, high=None
    )
    assert describe(found, "") == ("error_rate fails: baseline 0.4 % (64 of 16,000); at most 5 %")
