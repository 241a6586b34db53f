"""Sums of two arms give windows, and a look says what has failed."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf

from gateway.plan.evidence import WINDOW_REQUESTS, Arms, Bound, Evidence, Reading, Scope, Verdict
from gateway.stats.sums import Rate, Values

READING = Reading(
    metric="ttft",
    quantile=0.95,
    bound=Bound.MAX_RATIO,
    allowed=1.5,
    verdict=Verdict.PASS,
    scope=Scope.STEP,
    canary=1.0,
    baseline=1.0,
    canary_n=10,
    baseline_n=10,
    value=1.0,
    low=0.0,
    high=inf,
    words="fine",
)


def values(*numbers: float) -> Values:
    found = Values()
    for number in numbers:
        found.add(number)
    return found


def test_the_audit_log_gets_every_field_and_no_infinite_number() -> None:
    written = json.loads(json.dumps(READING.as_json(), allow_nan=False))
    assert written["high"] is None
    assert (written["low"], written["bound"], written["words"]) == (0.0, "max_ratio", "fine")
    assert written.keys() == {*READING.__slots__}


def test_a_reading_has_a_name_of_its_own() -> None:
    assert READING.name == "ttft p95 max_ratio"
    assert replace(READING, metric="error_rate", quantile=None).name == "error_rate max_ratio"


def test_requests_are_counted_by_the_metric_that_all_have() -> None:
    assert Arms({"error_rate": Rate(7, 1), "ttft": values(1.0)}, {}).requests == 7
    assert Arms({}, {}).requests == 0


def test_a_window_is_what_came_since_its_start() -> None:
    start = Arms({"error_rate": Rate(10, 1)}, {"error_rate": Rate(100, 2), "ttft": values(1.0)})
    now = Arms(
        {"error_rate": Rate(15, 4), "ttft": values(3.0)},
        {"error_rate": Rate(120, 2), "ttft": values(1.0, 2.0)},
    )
    since = now.since(start)
    assert since.canary["error_rate"].flat() == {"n": 5, "hits": 3}
    assert since.canary["ttft"].flat() == values(3.0).flat()
    assert since.baseline["error_rate"].flat() == {"n": 20, "hits": 0}
    assert since.baseline["ttft"].flat() == values(2.0).flat()


def test_an_earlier_baseline_is_the_same_for_every_window() -> None:
    now = Arms({"error_rate": Rate(15, 4)}, {"error_rate": Rate(120, 2)}, earlier=True)
    since = now.since(Arms({"error_rate": Rate(10, 1)}, now.baseline, earlier=True))
    assert since.requests == 5
    assert since.baseline == now.baseline
    assert since.earlier


def test_a_window_is_over_when_it_is_full_or_its_beginning_unseen() -> None:
    evidence = Evidence(1, 2, 5000, WINDOW_REQUESTS - 1)
    assert not evidence.window_over
    assert replace(evidence, recent=WINDOW_REQUESTS).window_over
    assert replace(evidence, recent=None).window_over


def test_a_look_knows_what_failed_and_what_is_undecided() -> None:
    failed = replace(READING, verdict=Verdict.FAIL)
    undecided = replace(READING, verdict=Verdict.UNDECIDED)
    evidence = Evidence(1, 1, 10, 10, (READING, failed, undecided))
    assert evidence.failed == (failed,)
    assert evidence.undecided == (undecided,)
