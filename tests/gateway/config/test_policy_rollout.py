"""Do gates have the bounds that their metrics can have, and plans the steps that they promise?"""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from gateway.config.policy_rollout import PLANS, RATES, TIMES, Gate, GateMetric, Rollout, Step

WAYS = {"baseline": {"model": "a"}, "canary": {"model": "b"}}


@pytest.mark.parametrize(
    ("gate", "quantile"),
    [
        ({"metric": "error_rate", "max": 0.05, "max_increase": 0.01}, None),
        ({"metric": "ttft", "max_ratio": 1.2, "max_s": 5}, 0.95),
        ({"metric": "latency", "quantile": 0.5, "min_ratio": 0.5}, 0.5),
        ({"metric": "output_tokens", "max_ratio": 1.3, "min_ratio": 0.7}, 0.5),
    ],
)
def test_bounds_that_fit(gate: dict[str, Any], quantile: float | None) -> None:
    assert Gate.model_validate(gate).effective_quantile == quantile


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"metric": "error_rate"}, "needs a bound: max, max_increase"),
        ({"metric": "error_rate", "max_ratio": 2}, "which error_rate cannot have"),
        ({"metric": "abort_rate", "quantile": 0.5, "max": 1}, "has quantile, which"),
        ({"metric": "ttft", "max": 0.5}, "has max, which ttft"),
        ({"metric": "ttft", "quantile": 0.5}, "needs a bound: max_ratio, max_s, min_ratio"),
        ({"metric": "ttft", "quantile": 1, "max_s": 1}, "no sample can bound"),
        ({"metric": "output_tokens", "max_s": 1}, "has max_s, which output_tokens"),
        ({"metric": "ttft", "max_ratio": 0.9}, "greater than or equal to 1"),
        ({"metric": "ttft", "min_ratio": 1.1}, "less than or equal to 1"),
    ],
)
def test_bounds_that_do_not_fit(gate: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Gate.model_validate(gate)


def test_metrics_are_rates_times_or_lengths() -> None:
    assert set(get_args(GateMetric)) == RATES | TIMES | {"output_tokens"}


def test_the_well_known_plan() -> None:
    """1 % 1 h, 5 % 4 h, 25 % and 50 % 24 h each, then everything."""
    rollout = Rollout.model_validate({**WAYS, "plan": "standard"})
    found = [(step.weight, step.hold_s) for step in rollout.stages]
    assert found == [(1, 3600), (5, 4 * 3600), (25, 24 * 3600), (50, 24 * 3600)]
    assert Rollout.model_validate(WAYS).stages == rollout.stages
    assert [step.weight for step in PLANS["quick"]] == [5, 10, 25, 50]


def test_a_last_step_of_everything_is_a_stage_only_if_it_asks_for_something() -> None:
    """For a time, or for requests; a condition that is written must not be passed over."""
    half = {"weight": 50, "hold_s": 60}
    ends = Rollout.model_validate({**WAYS, "steps": [half, {"weight": 100}]})
    assert ends.stages == (Step(weight=50, hold_s=60),)
    stays = Rollout.model_validate({**WAYS, "steps": [half, {"weight": 100, "hold_s": 9}]})
    assert [step.weight for step in stays.stages] == [50, 100]
    (asks,) = Rollout.model_validate(
        {**WAYS, "steps": [{"weight": 100, "min_requests": 500}]}
    ).stages
    assert asks.min_requests == 500
    nothing = {"weight": 100, "min_requests": 0}
    assert not Rollout.model_validate({**WAYS, "steps": [nothing]}).stages
    (switch,) = Rollout.model_validate({**WAYS, "plan": "blue_green"}).stages
    assert (switch.weight, switch.hold_s) == (100, 600)


def test_plan_and_steps_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="both plan and steps"):
        Rollout.model_validate({**WAYS, "plan": "quick", "steps": [{"weight": 50}]})
