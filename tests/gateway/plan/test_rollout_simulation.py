"""Bad canaries go back after few requests, good ones go through, whatever the baseline does.

Requests that a canary still got after it had turned bad (10 % of errors, truncations or aborts, or
a first token that takes three times as long), with the default gates and a look at each 10 of its
requests; median and most of 20 runs:

    weight of the step               5 %       10 %       25 %       50 %
    errors                        100, 183    89, 173   106, 209   194, 312
    slow first token               31,  52    38,  81    75, 120   187, 413
    truncations                    66, 260    76, 141   116, 161   166, 241
    aborts                         74, 146    81, 153   103, 178   176, 315
    the same after 20,000 good requests in that step:
    errors                        120, 254   133, 259   177, 355   316, 529
    slow first token               53,  99    70, 115   140, 203   347, 504
    truncations                   123, 225   164, 273   175, 297   287, 512
    aborts                        114, 335   110, 206   182, 316   284, 451
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gateway.config.policy_rollout import PLANS, Rollout
from gateway.plan.evidence import Bound
from gateway.plan.gates import Watch
from gateway.plan.rollout import waiting
from gateway.plan.rollout_state import Phase
from tests.support.canary import BAD, GOOD, Engine, Traffic

WEIGHTS = [step.weight for step in PLANS["quick"]]
MOST = 700
"""Requests that a canary may be sent after it has turned bad; well above those in the table."""


def spec(**fields: Any) -> Rollout:
    """The quick plan, held for minutes that are short."""
    steps = [step.model_copy(update={"hold_s": 20.0}) for step in PLANS["quick"]]
    given = {"baseline": {"model": "old"}, "canary": {"model": "new"}, "steps": steps}
    return Rollout.model_validate(given | fields)


def traffic(seed: int, **fields: Any) -> Traffic:
    return Traffic(spec(**fields), np.random.default_rng(seed))


def slowly(service: Traffic) -> None:
    """From now on the canary gets about 20 requests between two looks, one second apart."""
    service.per_look = int(20 / service.state.weight * 100)
    service.look_s = 1.0


def damage(service: Traffic, canary: Engine) -> int:
    """Let the canary turn bad; return how many requests it still got."""
    before = service.canary_requests
    while service.state.phase is Phase.PROGRESSING and service.canary_requests - before < MOST:
        service.look(canary)
    assert service.state.phase is Phase.ROLLED_BACK
    assert service.state.weight == 0
    return service.canary_requests - before


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_canary_that_turns_bad_goes_back_within_few_requests(kind: str, step: int) -> None:
    service = traffic(step)
    service.enter(step)
    slowly(service)
    assert damage(service, BAD[kind]) < MOST
    (event,) = service.events
    metric = {"errors": "error_rate", "slow first token": "ttft"}.get(kind)
    failed = [reading.metric for reading in event.readings if reading.verdict == "fail"]
    assert failed == [metric or {"truncations": "truncation_rate", "aborts": "abort_rate"}[kind]]


@pytest.mark.parametrize("kind", BAD)
def test_so_it_does_after_a_long_good_time_in_the_same_step(kind: str) -> None:
    """Over the whole step it would take hundreds of failures more to be proven."""
    long = [step.model_copy(update={"hold_s": 86_400.0}) for step in PLANS["quick"]]
    service = traffic(7, steps=long)
    service.enter(1)
    service.per_look = 10_000
    for _ in range(20):
        service.look()
    slowly(service)
    assert damage(service, BAD[kind]) < MOST
    failed = [reading for reading in service.events[-1].readings if reading.verdict == "fail"]
    assert {reading.scope for reading in failed} == {"window"}


def test_so_it_does_when_another_process_has_taken_over() -> None:
    """It has not seen the window's beginning, opens another and judges that one."""
    long = [step.model_copy(update={"hold_s": 86_400.0}) for step in PLANS["quick"]]
    service = traffic(8, steps=long)
    service.enter(1)
    service.per_look = 10_000
    for _ in range(20):
        service.look()
    service.watch = Watch()
    slowly(service)
    assert damage(service, BAD["errors"]) < MOST


def test_good_canaries_go_through() -> None:
    """All of 20; the rule is at least 95 % of them."""
    for seed in range(20):
        service = traffic(seed)
        service.until_end(looks=200)
        assert service.state.phase is Phase.SUCCEEDED
        kinds = [event.kind for event in service.events]
        assert kinds == ["started", "stepped", "stepped", "stepped", "succeeded"]


def test_a_canary_slightly_worse_than_allowed_never_gets_far_without_proof() -> None:
    """Twice the allowed increase: some steps end by luck of the point, the last does not."""
    for seed in range(5):
        service = traffic(seed)
        service.until_end(replace(GOOD, error_rate=0.03), looks=200)
        assert service.state.phase is not Phase.SUCCEEDED


class TestAFlakyBaseline:
    FLAKY = replace(GOOD, error_rate=0.2)

    def test_it_does_not_promote_a_canary_that_is_as_bad(self) -> None:
        service = traffic(1)
        for _ in range(50):
            service.look(self.FLAKY, self.FLAKY)
        assert (service.state.phase, service.state.step) == (Phase.PROGRESSING, 0)
        evidence = service.watch.look(service.rollout, 1, service.state.window, service.arms)
        assert Bound.BASELINE in [reading.bound for reading in evidence.undecided]
        words = waiting(service.state, service.rollout, evidence)
        assert any("no measure for the canary" in said for said in words)

    def test_an_absolute_bound_sends_that_canary_back(self) -> None:
        gates = [{"metric": "error_rate", "max": 0.05, "max_increase": 0.01}]
        service = traffic(1, gates=gates)
        service.until_end(self.FLAKY, self.FLAKY, looks=50)
        assert service.state.phase is Phase.ROLLED_BACK

    def test_one_that_is_flaky_now_and_then_does_not_promote_it_either(self) -> None:
        service = traffic(2)
        for look in range(60):
            bad = self.FLAKY if look % 3 == 0 else GOOD
            service.look(bad, bad)
        assert service.state.phase is not Phase.SUCCEEDED

    def test_a_canary_that_is_worse_still_goes_back(self) -> None:
        service = traffic(3)
        service.until_end(replace(GOOD, error_rate=0.6), self.FLAKY, looks=50)
        assert service.state.phase is Phase.ROLLED_BACK

    def test_when_the_baseline_has_recovered_a_good_canary_goes_on(self) -> None:
        service = traffic(4)
        for _ in range(5):
            service.look(GOOD, self.FLAKY)
        assert service.state.step == 0
        service.until_end(looks=200)
        assert service.state.phase is Phase.SUCCEEDED


class TestLowTraffic:
    def test_it_holds_however_long_it_takes(self) -> None:
        service = traffic(5)
        service.per_look = 2
        for _ in range(100):
            service.look()
        assert (service.state.phase, service.state.step) == (Phase.PROGRESSING, 0)
        assert service.state.elapsed_s > 900

    def test_past_the_deadline_it_fails(self) -> None:
        service = traffic(5, step_deadline_s=300)
        service.per_look = 2
        service.until_end(looks=100)
        assert (service.state.phase, service.state.weight) == (Phase.FAILED, 0.0)


def test_blue_green_goes_back_too() -> None:
    """All is on the canary: it is compared with the time before."""
    steps = [{"weight": 100, "hold_s": 600}]
    for kind in BAD:
        service = traffic(6, steps=steps, start="manual")
        service.look()
        service.enter(0)
        slowly(service)
        assert damage(service, BAD[kind]) < MOST
