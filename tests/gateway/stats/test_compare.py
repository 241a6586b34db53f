"""What does a comparison say, in numbers and in words?"""

import json
import random
from dataclasses import asdict, replace

import pytest

from gateway.stats.compare import Analysis, Comparison, Decision, Method, compare
from gateway.stats.estimate import Held
from gateway.stats.metrics import METRICS, Metric
from gateway.stats.sums import Rate, Values

SUCCESS, ERRORS, TTFT = METRICS["success_rate"], METRICS["error_rate"], METRICS["ttft"]
USUAL = Analysis()
ONCE = Analysis(method=Method.FIXED)


def lengths(seed: int, n: int, mean: float, deviation: float = 0.1) -> Values:
    rng = random.Random(seed)
    sums = Values()
    for _ in range(n):
        sums.add(max(0.0, rng.gauss(mean, deviation * mean)))
    return sums


def rates(share_a: float, share_b: float, n: int = 10_000) -> tuple[Rate, Rate]:
    return Rate(n, round(n * share_a)), Rate(n, round(n * share_b))


def test_a_better_arm_is_to_be_promoted() -> None:
    """With effect, relative effect, interval, p, samples, and a sentence that says them."""
    result = compare(SUCCESS, *rates(0.90, 0.93), USUAL, ("control", "treatment"))
    assert result.decision is Decision.PROMOTE
    assert result.effect == pytest.approx(0.03)
    assert result.relative == pytest.approx(0.03 / 0.90)
    assert 0 < result.low < 0.03 < result.high
    assert result.p < 0.001
    assert (result.samples, result.more) == (20_000, 0)
    assert result.text == (
        "treatment is better by 1.8 to 4.2 points (p < 0.001, 20,000 samples); promote it"
    )


def test_more_errors_are_worse() -> None:
    """The metric knows which direction is better."""
    result = compare(ERRORS, *rates(0.02, 0.04), USUAL)
    assert result.decision is Decision.KEEP
    assert result.text.startswith("B is worse by 1.")
    assert result.text.endswith("; keep A")


def test_a_shorter_wait_is_better_and_comes_with_its_quantiles() -> None:
    result = compare(TTFT, lengths(1, 2000, 0.5), lengths(2, 2000, 0.45), USUAL)
    assert result.decision is Decision.PROMOTE
    assert result.text.startswith("B is better by 4")
    assert " ms (p < 0.001, 4,000 samples); promote it" in result.text
    assert [ratio.q for ratio in result.quantiles] == [0.5, 0.95, 0.99]
    for ratio in result.quantiles:
        assert ratio.low <= ratio.b / ratio.a <= ratio.high
    assert result.quantiles[0].high < 1.0


def test_longer_answers_are_said_to_differ_not_to_be_better() -> None:
    a, b = lengths(1, 500, 200.0), lengths(2, 500, 260.0)
    result = compare(METRICS["output_tokens"], a, b, USUAL)
    assert result.decision is Decision.DIFFERS
    assert result.text.startswith("B is higher by 5")
    back = compare(METRICS["output_tokens"], b, a, USUAL)
    assert back.text.startswith("B is lower by 5")


def test_few_samples_are_not_enough_and_the_sentence_says_how_many_are() -> None:
    result = compare(SUCCESS, *rates(0.90, 0.91, 400), USUAL)
    assert result.decision is Decision.WAIT
    assert result.more > 1000
    assert result.needed > result.samples
    assert result.text == f"not enough data (800 samples): about {result.more:,} more"


def test_the_stated_number_of_samples_is_enough() -> None:
    """If things stay as they are, half of it is not and all of it is."""
    for share_b in (0.900, 0.905, 0.91):
        first = compare(SUCCESS, *rates(0.90, share_b, 2000), USUAL)
        assert first.decision is Decision.WAIT
        n = (first.samples + first.more) // 2
        assert compare(SUCCESS, *rates(0.90, share_b, n // 2), USUAL).decision is Decision.WAIT
        decided = compare(SUCCESS, *rates(0.90, share_b, round(1.1 * n)), USUAL).decision
        assert decided is not Decision.WAIT


def test_equal_arms_end_in_no_difference_that_matters() -> None:
    result = compare(SUCCESS, *rates(0.90, 0.901, 60_000), USUAL)
    assert result.decision is Decision.NO_DIFFERENCE
    assert result.text == "no difference beyond ±1.0 points (120,000 samples)"


def test_a_least_effect_of_values_is_relative_to_the_baseline() -> None:
    """10 % of half a second."""
    a, b = lengths(1, 800, 0.5), lengths(2, 800, 0.5)
    result = compare(TTFT, a, b, replace(USUAL, min_effect=0.1))
    assert result.min_effect == pytest.approx(0.05, rel=0.02)
    assert result.decision is Decision.NO_DIFFERENCE


def test_equal_arms_that_differ_are_a_defect() -> None:
    result = compare(SUCCESS, *rates(0.90, 0.93), replace(USUAL, aa=True))
    assert result.decision is Decision.DEFECT
    assert "look for a defect" in result.text


def test_what_an_earlier_look_has_shown_stays_shown() -> None:
    """p is the least of all looks; the interval what all have in common."""
    first = compare(SUCCESS, *rates(0.90, 0.93, 5000), USUAL)
    assert first.decision is Decision.PROMOTE
    later = (Rate(6000, 5400), Rate(6000, 5490))
    assert compare(SUCCESS, *later, USUAL).decision is Decision.WAIT
    second = compare(SUCCESS, *later, USUAL, held=first.held)
    assert second.decision is Decision.PROMOTE
    assert second.p == first.p
    assert second.low == first.low


def test_an_effect_that_turns_is_said_to_have_changed() -> None:
    """No single difference fits both looks."""
    first = compare(SUCCESS, *rates(0.90, 0.95), USUAL)
    result = compare(SUCCESS, *rates(0.90, 0.85, 50_000), USUAL, held=first.held)
    assert result.decision is Decision.CHANGED
    assert "anew" in result.text


def test_what_is_held_survives_json() -> None:
    held = compare(SUCCESS, *rates(0.90, 0.93), USUAL).held
    assert Held(**json.loads(json.dumps(asdict(held)))) == held


def test_a_fixed_test_says_nothing_before_its_planned_samples() -> None:
    """However small p is; then it is read once."""
    early = compare(SUCCESS, *rates(0.90, 0.93, 2000), replace(ONCE, samples=20_000))
    assert early.p < 0.001
    assert early.decision is Decision.WAIT
    assert (early.needed, early.more) == (20_000, 16_000)
    due = compare(SUCCESS, *rates(0.90, 0.93), replace(ONCE, samples=20_000))
    assert due.decision is Decision.PROMOTE


def test_a_fixed_test_plans_by_its_power() -> None:
    """For shares and for means; it ignores what earlier looks have shown."""
    result = compare(SUCCESS, *rates(0.90, 0.901), replace(ONCE, min_effect=0.02))
    assert 6000 < result.needed < 9000
    assert result.decision is Decision.NO_DIFFERENCE
    poor = compare(SUCCESS, *rates(0.30, 0.30, 9000), replace(ONCE, min_effect=0.02))
    assert 16_000 < poor.needed < 18_000
    held = Held(0.5, 0.6, 0.0)
    values = compare(TTFT, lengths(1, 500, 0.5), lengths(2, 500, 0.5), ONCE, held=held)
    assert values.needed < 1000
    assert values.held != held
    assert values.decision is Decision.NO_DIFFERENCE


def test_a_fixed_test_without_a_difference_says_what_it_would_have_found() -> None:
    """Its interval may reach beyond the least effect."""
    result = compare(SUCCESS, *rates(0.90, 0.91, 4000), replace(ONCE, min_effect=0.02))
    assert result.decision is Decision.NO_DIFFERENCE
    assert result.text == (
        "no difference found (p = 0.13, 8,000 samples); one of 2.0 points would have been, "
        "80% of the time"
    )


@pytest.mark.parametrize("analysis", [USUAL, ONCE], ids=["sequential", "fixed"])
@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_empty_arms_wait(metric: Metric, analysis: Analysis) -> None:
    """Every metric, before the first request and when one arm has none."""
    for n in (0, 1):
        b = metric.of({"n": n, "hits": n, "total": n, "squares": n})
        result = compare(metric, metric.empty(), b, analysis)
        assert result.decision is Decision.WAIT
        assert result.more > 0
        assert result.quantiles == ()
        assert result.relative is None
        assert result.p == 1.0


@pytest.mark.parametrize("method", Method)
def test_requests_that_resemble_each_other_count_for_less(method: Method) -> None:
    """A design effect of 4: as if there were a quarter of the samples."""
    alone = Analysis(method=method, tuned_for=2500)
    blurred = replace(alone, design_effect=4.0)
    few = compare(SUCCESS, *rates(0.90, 0.93, 2500), alone)
    many = compare(SUCCESS, *rates(0.90, 0.93, 10_000), blurred)
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.05)
    assert many.needed == pytest.approx(4 * few.needed, rel=0.05)
    a, b = lengths(1, 4000, 0.5), lengths(2, 4000, 0.45)
    sharp, dull = compare(TTFT, a, b, alone), compare(TTFT, a, b, blurred)
    assert dull.p > sharp.p
    assert dull.high - dull.low > 1.5 * (sharp.high - sharp.low)
    # The median's interval is as narrow as buckets allow in both cases.
    narrow, wide = sharp.quantiles[-1], dull.quantiles[-1]
    assert wide.high / wide.low > narrow.high / narrow.low


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0.0}, {"alpha": 0.7}, {"power": 1.0}, {"tuned_for": 0.0}, {"min_effect": 0.0}],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="lie"):
        replace(USUAL, **wrong)


def test_a_least_effect_beyond_all_shares_is_cut_to_what_can_be() -> None:
    """Nobody means it, and nothing breaks."""
    assert compare(SUCCESS, *rates(0.90, 0.93), replace(ONCE, min_effect=0.95)).needed < 100


def test_sums_of_two_kinds_cannot_be_compared() -> None:
    with pytest.raises(TypeError, match="rate"):
        compare(SUCCESS, Rate(1, 1), Values(), USUAL)


def test_several_comparisons_share_the_error_out() -> None:
    assert USUAL.among(5).alpha == pytest.approx(0.01)
    assert USUAL.among(0).alpha == USUAL.alpha


def test_a_result_is_plain_data() -> None:
    """For the admin API."""
    result = compare(TTFT, lengths(1, 100, 0.5), lengths(2, 100, 0.5), USUAL)
    assert isinstance(result, Comparison)
    assert json.loads(json.dumps(asdict(result)))["decision"] == "wait"
