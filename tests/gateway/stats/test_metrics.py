"""What is measured of every arm?"""

import pytest

from gateway.stats.metrics import METRICS, Better, Metric
from gateway.stats.sums import Rate, Values


def test_every_metric_of_the_policy_files_is_there() -> None:
    wanted = "success_rate ttft inter_token latency tokens_per_s output_tokens cancel_rate feedback"
    assert set(wanted.split()) <= METRICS.keys()
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_sums_are_of_the_metrics_kind(metric: Metric) -> None:
    """Empty ones and those read back."""
    kind = Rate if metric.name.endswith("_rate") else Values
    assert type(metric.empty()) is kind
    back = metric.of({"n": 4, "hits": 1, "total": 2.0})
    assert type(back) is kind
    assert back.n == 4


def test_the_length_of_answers_has_no_better_direction() -> None:
    neither = [metric.name for metric in METRICS.values() if metric.better is Better.NEITHER]
    assert neither == ["output_tokens"]
