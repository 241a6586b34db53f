"""Gates fail on evidence only, hold while it is missing, and pass what is within its bounds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import WINDOW_REQUESTS, Arms, Bound, Evidence, Reading, Scope, Verdict
from gateway.plan.gates import FEW, Watch, judge
from gateway.stats.sums import Rate, Sums, Values

PASS, FAIL, UNDECIDED = Verdict
ALPHA = 0.001


def spec(*gates: dict[str, Any], **fields: Any) -> Rollout:
    given = {"baseline": {"model": "old"}, "canary": {"model": "new"}, "gates": gates}
    return Rollout.model_validate(given | fields)


ABSOLUTE = {"metric": "error_rate", "max": 0.05}
RISE = {"metric": "error_rate", "max_increase": 0.01}
ABORTS = {"metric": "abort_rate", "max_increase": 0.01}
SECONDS = {"metric": "ttft", "max_s": 3.0}
RATIO = {"metric": "ttft", "max_ratio": 1.5}
LENGTH = {"metric": "output_tokens", "min_ratio": 0.5}


def errors(n: int, hits: int) -> dict[str, Sums]:
    """An arm of n requests of which so many failed."""
    return {"error_rate": Rate(n, hits)}


def lasting(n: int, seconds: Sequence[float], metric: str = "ttft") -> dict[str, Sums]:
    """An arm of n good requests that took these times, in a mixed order."""
    values = Values()
    for index in range(n):
        values.add(seconds[index * 37 % len(seconds)])
    return errors(n, 0) | {metric: values}


EVEN = [1 + index / 100 for index in range(100)]
"""Times whose p95 is 1.95 s."""


def only(
    gate: dict[str, Any], canary: dict[str, Sums], baseline: dict[str, Sums], **more: Any
) -> Reading:
    """The reading of a gate's only bound."""
    return judge(spec(gate), Arms(canary, baseline, **more), ALPHA)[0]


class TestRates:
    @pytest.mark.parametrize(
        ("n", "hits", "verdict"),
        [
            (0, 0, UNDECIDED),
            (FEW - 1, 0, UNDECIDED),
            (FEW, 0, PASS),
            (FEW, 1, PASS),
            (FEW, 2, UNDECIDED),
            (200, 10, PASS),
            (200, 12, UNDECIDED),
            (200, 40, FAIL),
            (10, 10, FAIL),
        ],
    )
    def test_an_absolute_bound(self, n: int, hits: int, verdict: Verdict) -> None:
        """Beyond the bound by the point alone holds; beyond by the interval fails, however few."""
        found = only(ABSOLUTE, errors(n, hits), errors(1000, 0))
        assert found.verdict is verdict
        if verdict is FAIL:
            assert found.low is not None
            assert found.low > 0.05

    @pytest.mark.parametrize(
        ("canary", "baseline", "verdict"),
        [
            ((500, 5), (5000, 10), PASS),
            ((500, 8), (5000, 10), UNDECIDED),
            ((500, 40), (5000, 10), FAIL),
            ((500, 0), (FEW - 1, 0), UNDECIDED),
            ((500, 0), (FEW, 0), PASS),
            ((FEW - 1, 0), (5000, 10), UNDECIDED),
            ((500, 100), (0, 0), UNDECIDED),
        ],
    )
    def test_an_increase(
        self, canary: tuple[int, int], baseline: tuple[int, int], verdict: Verdict
    ) -> None:
        """The same three ways, and no verdict without a baseline."""
        assert only(RISE, errors(*canary), errors(*baseline)).verdict is verdict

    def test_the_words_tell_which_arm_lacks_samples(self) -> None:
        lone = only(RISE, errors(5, 0), errors(5, 0))
        assert "the canary has fewer than 20 samples" in lone.words
        young = only(RISE, errors(50, 0), errors(5, 0))
        assert "the baseline has fewer than 20 samples" in young.words

    def test_a_smaller_alpha_demands_more(self) -> None:
        arms = Arms(errors(100, 9), errors(10_000, 40))
        assert judge(spec(RISE), arms, 0.05)[0].verdict is FAIL
        assert judge(spec(RISE), arms, 1e-6)[0].verdict is UNDECIDED

    def test_alpha_is_shared_among_all_bounds(self) -> None:
        arms = Arms(errors(100, 9), errors(10_000, 40))
        several = spec(RISE | {"max": 0.5}, {"metric": "abort_rate", "max": 0.5})
        alone, shared = judge(spec(RISE), arms, 0.01)[0], judge(several, arms, 0.03)[1]
        assert shared.bound is Bound.MAX_INCREASE
        assert (alone.low, alone.high) == (shared.low, shared.high)


class TestTimes:
    @pytest.mark.parametrize(
        ("n", "factor", "verdict"),
        [(19, 1, UNDECIDED), (20, 1, PASS), (200, 1.6, UNDECIDED), (500, 3, FAIL)],
    )
    def test_seconds(self, n: int, factor: float, verdict: Verdict) -> None:
        canary = lasting(n, [factor * time for time in EVEN])
        assert only(SECONDS, canary, lasting(1000, EVEN)).verdict is verdict

    @pytest.mark.parametrize(
        ("n", "factor", "verdict"),
        [(19, 1, UNDECIDED), (40, 1.4, PASS), (40, 1.7, UNDECIDED), (500, 2.5, FAIL)],
    )
    def test_a_ratio(self, n: int, factor: float, verdict: Verdict) -> None:
        canary = lasting(n, [factor * time for time in EVEN])
        found = only(RATIO, canary, lasting(2000, EVEN))
        assert found.verdict is verdict
        assert found.quantile == 0.95

    @pytest.mark.parametrize(
        ("n", "factor", "verdict"),
        [(19, 1, UNDECIDED), (40, 0.6, PASS), (30, 0.47, UNDECIDED), (500, 0.2, FAIL)],
    )
    def test_answers_that_become_too_short(self, n: int, factor: float, verdict: Verdict) -> None:
        canary = lasting(n, [factor * time for time in EVEN], "output_tokens")
        found = only(LENGTH, canary, lasting(2000, EVEN, "output_tokens"))
        assert found.verdict is verdict

    @pytest.mark.parametrize(("q", "need"), [(0.99, 100), (0.95, 20), (0.5, 20), (0.02, 50)])
    def test_a_quantile_needs_more_samples_the_farther_out_it_is(self, q: float, need: int) -> None:
        gate = RATIO | {"quantile": q}
        few = only(gate, lasting(need - 1, EVEN), lasting(1000, EVEN))
        assert few.verdict is UNDECIDED
        assert f"fewer than {need} samples" in few.words
        assert only(gate, lasting(need, EVEN), lasting(1000, EVEN)).verdict is not FAIL
        assert "fewer" not in only(gate, lasting(need, EVEN), lasting(1000, EVEN)).words

    def test_a_baseline_of_zeros_has_no_ratio_but_to_zeros(self) -> None:
        zeros = lasting(50, [0.0], "output_tokens")
        longest = {"metric": "output_tokens", "max_ratio": 2}
        assert only(longest, zeros, zeros).value == 1.0
        found = only(longest, lasting(50, [7.0], "output_tokens"), zeros)
        assert (found.value, found.verdict) == (float("inf"), FAIL)

    def test_what_no_request_has_is_no_obstacle(self) -> None:
        """Where nobody streams, there is no first token to wait for."""
        found = only(RATIO, errors(FEW, 0), errors(1000, 0))
        assert found.verdict is PASS
        assert "no request has it" in found.words
        assert only(RATIO, errors(FEW - 1, 0), errors(1000, 0)).verdict is UNDECIDED

    def test_what_only_one_arm_has_is_an_obstacle(self) -> None:
        for arms in (errors(500, 0), lasting(500, EVEN)), (lasting(500, EVEN), errors(500, 0)):
            assert only(RATIO, *arms).verdict is UNDECIDED
        assert only(SECONDS, errors(500, 0), lasting(500, EVEN)).verdict is UNDECIDED


class TestTheBaseline:
    def baseline(self, n: int, hits: int) -> Reading:
        *_, found = judge(spec(ABORTS), Arms(errors(500, 0), errors(n, hits)), ALPHA)
        assert found.bound is Bound.BASELINE
        return found

    def test_one_that_fails_more_than_one_in_twenty_is_no_measure(self) -> None:
        assert self.baseline(1000, 50).verdict is PASS
        found = self.baseline(1000, 51)
        assert found.verdict is UNDECIDED
        assert found.words == (
            "error_rate undecided (no measure for the canary): "
            "baseline 5.1 % (51 of 1,000); at most 5 %"
        )

    def test_one_of_few_requests_is_not_called_so(self) -> None:
        arms = Arms(errors(500, 0), errors(FEW - 1, 5))
        assert [found.bound for found in judge(spec(ABORTS), arms, ALPHA)] == ["max_increase"]
        arms = Arms(errors(500, 0), {})
        assert [found.bound for found in judge(spec(ABORTS), arms, ALPHA)] == ["max_increase"]

    def test_it_does_not_matter_to_absolute_bounds(self) -> None:
        absolute = spec({"metric": "error_rate", "max": 0.05}, {"metric": "ttft", "max_s": 3})
        readings = judge(absolute, Arms(errors(500, 0), errors(1000, 900)), ALPHA)
        assert [found.bound for found in readings] == ["max", "max_s"]

    def test_the_canary_fails_beside_a_flaky_one_all_the_same(self) -> None:
        gate = {"metric": "error_rate", "max_increase": 0.01, "max": 0.1}
        arms = Arms(errors(500, 200), errors(1000, 200))
        verdicts = [found.verdict for found in judge(spec(gate), arms, ALPHA)]
        assert verdicts == [FAIL, FAIL, UNDECIDED]

    def test_without_gates_nothing_is_asked(self) -> None:
        assert judge(spec(), Arms(errors(500, 400), errors(1000, 900)), ALPHA) == ()


class TestBlueGreen:
    def test_an_earlier_baseline_is_compared_with(self) -> None:
        found = only(RISE, errors(500, 60), errors(5000, 500), earlier=True)
        assert found.verdict is UNDECIDED
        slow = lasting(500, [3 * time for time in EVEN])
        assert only(RATIO, slow, lasting(500, EVEN), earlier=True).verdict is FAIL

    @pytest.mark.parametrize("baseline", [{}, errors(FEW - 1, 0)])
    def test_without_one_increases_count_from_zero(self, baseline: dict[str, Sums]) -> None:
        for hits, verdict in (2, PASS), (6, UNDECIDED), (60, FAIL):
            found = only(RISE, errors(500, hits), baseline, earlier=True)
            assert found.verdict is verdict
        assert "no baseline, counted from zero" in found.words
        assert only(RISE, errors(5, 0), baseline, earlier=True).verdict is UNDECIDED

    def test_without_one_there_are_no_ratios(self) -> None:
        found = only(RATIO, lasting(500, EVEN), {}, earlier=True)
        assert found.verdict is PASS
        assert "no baseline to compare with" in found.words


RATE = spec({"metric": "error_rate", "max_increase": 0.01}, steps=[{"weight": 10}])
GOOD = errors(90_000, 90)


class TestWatch:
    def look(self, watch: Watch, window: int, canary: dict[str, Sums]) -> Evidence:
        """Look at a step of 10 %: for each request of the canary the baseline has had nine."""
        n = Arms(canary, {}).requests
        return watch.look(RATE, 1, window, Arms(canary, errors(9 * n, n // 100)))

    def test_the_first_window_is_the_step_itself(self) -> None:
        evidence = self.look(Watch(), 1, errors(500, 1))
        assert (evidence.epoch, evidence.window, evidence.requests) == (1, 1, 500)
        assert evidence.recent == 500
        assert [found.scope for found in evidence.readings] == [Scope.STEP, Scope.STEP]

    def test_a_long_good_time_does_not_hide_a_bad_present(self) -> None:
        watch = Watch()
        self.look(watch, 1, errors(100_000, 100))
        evidence = self.look(watch, 2, errors(100_060, 130))
        assert evidence.recent == 60
        (found,) = evidence.failed
        assert (found.scope, found.canary_n, found.baseline_n) == (Scope.WINDOW, 60, 540)

    def test_of_a_window_only_what_is_proven_counts(self) -> None:
        watch = Watch()
        watch.look(RATE, 1, 1, Arms(errors(10_000, 10), GOOD))
        later = Arms(errors(10_060, 12), errors(90_540, 91))
        evidence = watch.look(RATE, 1, 2, later)
        assert [found.verdict for found in evidence.readings] == [PASS, PASS]
        assert [found.scope for found in evidence.readings] == [Scope.STEP, Scope.STEP]

    def test_a_baseline_that_has_become_flaky_holds_too(self) -> None:
        watch = Watch()
        watch.look(RATE, 1, 1, Arms(errors(10_000, 10), GOOD))
        evidence = watch.look(RATE, 1, 2, Arms(errors(10_060, 10), errors(90_540, 200)))
        (found,) = evidence.undecided
        assert (found.bound, found.scope, found.baseline_n) == (Bound.BASELINE, "window", 540)

    def test_a_process_that_comes_later_does_not_know_the_window(self) -> None:
        watch = Watch()
        assert self.look(watch, 4, errors(100_000, 100)).recent is None
        assert self.look(watch, 4, errors(100_010, 100)).recent is None
        assert self.look(watch, 5, errors(100_015, 100)).recent == 5
        assert self.look(watch, 7, errors(100_020, 100)).recent is None

    def test_a_new_epoch_has_nothing_of_the_old_one(self) -> None:
        watch = Watch()
        self.look(watch, 1, errors(5000, 5))
        fresh = watch.look(RATE, 2, 2, Arms(errors(100, 0), GOOD))
        assert fresh.recent is None

    @pytest.mark.parametrize("lost", [{}, errors(50, 0)])
    def test_sums_that_the_store_has_lost_end_the_window(self, lost: dict[str, Sums]) -> None:
        """Of either arm."""
        whole = errors(5000, 5)
        for arms in Arms(lost, whole), Arms(whole, lost):
            watch = Watch()
            watch.look(RATE, 1, 1, Arms(whole, whole))
            assert watch.look(RATE, 1, 2, Arms(whole, whole)).recent == 0
            assert watch.look(RATE, 1, 2, arms).recent is None
            assert watch.look(RATE, 1, 2, Arms(whole, whole)).recent is None

    def test_an_earlier_baseline_may_be_another_than_before(self) -> None:
        watch = Watch()
        watch.look(RATE, 1, 1, Arms(errors(1000, 1), GOOD, earlier=True))
        arms = Arms(errors(1010, 1), errors(100, 0), earlier=True)
        assert watch.look(RATE, 1, 2, arms).recent == 10

    def test_later_windows_demand_more_evidence(self) -> None:
        def verdict(window: int) -> bool:
            watch = Watch()
            watch.look(RATE, 1, window - 1, Arms(errors(100_000, 100), GOOD))
            arms = Arms(errors(100_040, 106), errors(90_400, 90))
            return bool(watch.look(RATE, 1, window, arms).failed)

        assert verdict(2)
        assert not verdict(10_000)

    def test_the_shares_of_all_windows_add_up(self) -> None:
        assert sum(1 / (j * (j - 1)) for j in range(2, 100_000)) == pytest.approx(1, abs=1e-4)

    def test_more_steps_demand_more_evidence_of_each(self) -> None:
        gate = {"metric": "error_rate", "max_increase": 0.01}
        arms = Arms(errors(100, 8), errors(10_000, 10))
        one = spec(gate, steps=[{"weight": 1}])
        many = spec(gate, steps=[{"weight": weight} for weight in range(1, 99)])
        none = spec(gate, steps=[{"weight": 100}])
        assert Watch().look(one, 1, 1, arms).failed
        assert Watch().look(none, 1, 1, arms).failed
        assert not Watch().look(many, 1, 1, arms).failed

    @pytest.mark.parametrize(("steps", "fails"), [(1, True), (98, False)])
    def test_so_they_do_of_each_window(self, steps: int, fails: bool) -> None:
        rollout = spec(RISE, steps=[{"weight": 1 + index} for index in range(steps)])
        watch = Watch()
        watch.look(rollout, 1, 1, Arms(errors(100_000, 100), GOOD))
        arms = Arms(errors(100_040, 106), errors(90_400, 90))
        assert bool(watch.look(rollout, 1, 2, arms).failed) is fails


def test_a_window_is_long_enough_to_prove_a_few_points() -> None:
    """The worst delay is a window whose first half was good, and a step of 50 %."""
    half = WINDOW_REQUESTS // 2
    watch = Watch()
    watch.look(RATE, 1, 1, Arms(errors(100_000, 100), GOOD))
    bad = Arms(errors(100_000 + 2 * half, 100 + half // 10), errors(91_000, 91))
    assert watch.look(RATE, 1, 2, bad).failed


def test_a_process_that_never_judges_loads_no_numpy() -> None:
    """A proxy reads states and weights, and pays nothing for the statistics."""
    code = "import sys, gateway.plan.rollout, gateway.plan.gates; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
