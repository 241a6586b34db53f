"""How are numbers said?"""

from dataclasses import replace
from math import inf

import pytest

from gateway.stats.compare import Analysis, Comparison, Decision, compare
from gateway.stats.metrics import METRICS, Unit
from gateway.stats.sums import Rate
from gateway.stats.words import amount, recommend


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0423, Unit.SHARE, "4.2 points"),
        (0.0004, Unit.SHARE, "0.04 points"),
        (0.035, Unit.SECONDS, "35.0 ms"),
        (2.34, Unit.SECONDS, "2.3 s"),
        (1234.5, Unit.TOKENS, "1,234 tokens"),
        (12.0, Unit.TOKENS_PER_S, "12.0 tokens/s"),
        (0.25, Unit.SCORE, "0.25"),
        (0.00000012, Unit.SCORE, "0"),
        (0.00002, Unit.SCORE, "0.00002"),
    ],
)
def test_amounts_have_the_digits_that_matter(value: float, unit: Unit, said: str) -> None:
    assert amount(value, unit) == said


def result(metric: str, low: float, high: float, p: float) -> Comparison:
    found = compare(METRICS["success_rate"], Rate(500, 400), Rate(500, 450), Analysis())
    return replace(
        found, metric=METRICS[metric], low=low, high=high, p=p, decision=Decision.PROMOTE
    )


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("success_rate", 0.019, 0.042, "1.9 to 4.2 points"),
        ("ttft", -0.042, -0.019, "19.0 to 42.0 ms"),
        ("latency", -2.5, -0.5, "0.5 to 2.5 s"),
        ("tokens_per_s", 3.0, inf, "3.0 tokens/s or more"),
    ],
)
def test_intervals_are_said_as_sizes_smaller_first(
    metric: str, low: float, high: float, said: str
) -> None:
    text = recommend(result(metric, low, high, 0.0123), ("A", "B"), Analysis())
    assert text == f"B is better by {said} (p = 0.012, 1,000 samples); promote it"
