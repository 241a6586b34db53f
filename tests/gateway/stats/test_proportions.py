"""Does a share differ between two arms? With figures for what the tests promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from gateway.stats import proportions, samples
from gateway.stats.proportions import Counts, counts
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import Rate
from tests.gateway.stats.simulation import shares

ALPHA = 0.05
LOOKS = 20_000


def tolerated(runs: int) -> float:
    """The wrong runs that a test with exactly alpha errors exceeds once in a thousand."""
    return float(stats.binom.ppf(0.999, runs, ALPHA))


@st.composite
def rates(draw: st.DrawFn) -> Rate:
    n = draw(st.integers(1, 3000))
    return Rate(n, draw(st.integers(0, n)))


def test_the_root_is_that_of_the_likelihood_ratio() -> None:
    """Checked with the G statistic of scipy on counts moved by Yates's half."""
    a, b = Counts(1000.0, 60.0), Counts(400.0, 40.0)
    expected = 400 * 100 / 1400
    table = [[60 + 0.5, 940 - 0.5], [40 - 0.5, 360 + 0.5]]
    g = stats.chi2_contingency(table, correction=False, lambda_="log-likelihood").statistic
    assert expected < 39.5
    assert float(proportions.signed_root(a, b)) == pytest.approx(np.sqrt(g), rel=1e-9)
    assert float(proportions.signed_root(b, a)) == pytest.approx(-np.sqrt(g), rel=1e-9)


@settings(deadline=None)  # other work on the machine is no failure
@given(rates(), rates(), st.floats(-0.95, 0.95).filter(lambda delta: abs(delta) > 1e-6))
def test_the_null_shares_are_the_likeliest_that_differ_by_delta(
    a: Rate, b: Rate, delta: float
) -> None:
    """The closed form is as likely as what a numerical search finds."""

    def unlikely(p: float) -> float:
        of_a = stats.binom.logpmf(a.hits, a.n, p)
        return -float(of_a + stats.binom.logpmf(b.hits, b.n, min(max(p + delta, 0.0), 1.0)))

    p_a, p_b = proportions._constrained(counts(a), counts(b), delta)
    assert 0 <= p_a <= 1
    assert 0 <= p_b <= 1
    assert float(p_b - p_a) == pytest.approx(delta, abs=1e-9)
    low, high = max(0.0, -delta), min(1.0, 1.0 - delta)
    found = minimize_scalar(unlikely, bounds=(low, high), method="bounded")
    assert unlikely(float(p_a)) <= found.fun + 1e-4


@settings(deadline=None)  # other work on the machine is no failure
@given(rates(), rates())
def test_the_interval_holds_the_difference_and_ends_where_the_root_reaches(
    a: Rate, b: Rate
) -> None:
    low, high = proportions.interval(a, b, 2.5)
    value = b.mean - a.mean
    assert -1 <= low <= value <= high <= 1
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) < 0.999:
            root = sign * float(proportions.signed_root(counts(a), counts(b), end))
            assert root == pytest.approx(2.5, abs=0.01)


@settings(deadline=None)  # other work on the machine is no failure
@given(rates())
def test_the_interval_of_one_arm_ends_where_the_root_reaches(b: Rate) -> None:
    low, high = proportions.interval_of_one(b, 2.5)
    assert 0 <= low <= b.mean <= high <= 1
    for end, sign in ((low, 1), (high, -1)):
        if 0.001 < end < 0.999:
            root = sign * float(proportions.signed_root_of_one(counts(b), end))
            assert root == pytest.approx(2.5, abs=0.01)


def test_an_arm_without_samples_is_no_evidence() -> None:
    """Neither in the root nor in the intervals."""
    assert proportions.signed_root(Counts(0.0, 0.0), Counts(9.0, 9.0)) == 0.0
    found = proportions.sequential(Rate(), Rate(10, 5), ALPHA, 100)
    assert (found.low, found.high, found.p) == (-1.0, 1.0, 1.0)
    assert proportions.interval_of_one(Rate(), 2.0) == (0.0, 1.0)
    once = proportions.z_test(Rate(), Rate(10, 5), ALPHA)
    assert (once.low, once.high, once.p) == (-1.0, 1.0, 1.0)


def test_the_z_test_gives_the_textbook_numbers() -> None:
    """Newcombe 1998, table II (a), method 10: 56/70 against 48/80 is 0.0524 to 0.3339."""
    found = proportions.z_test(Rate(80, 48), Rate(70, 56), ALPHA)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    table = [[48, 32], [56, 14]]
    chi2 = stats.chi2_contingency(table, correction=False)
    assert found.p == pytest.approx(chi2.pvalue, rel=1e-9)


def test_the_z_test_of_arms_that_never_vary_finds_nothing() -> None:
    assert proportions.z_test(Rate(50, 0), Rate(70, 0), ALPHA).p == 1.0


@settings(deadline=None)  # other work on the machine is no failure
@given(rates())
def test_wilson_is_the_interval_of_scipy(rate: Rate) -> None:
    z = float(stats.norm.ppf(0.975))
    want = stats.binomtest(rate.hits, rate.n).proportion_ci(0.95, method="wilson")
    assert proportions.wilson(rate, z) == (
        pytest.approx(want.low, abs=1e-9),
        pytest.approx(want.high, abs=1e-9),
    )


def test_a_look_after_every_sample_keeps_to_alpha_and_the_naive_test_does_not() -> None:
    """2,000 A/A runs of 20,000 samples: at most 5 % wrong; of z tests, a third and more."""
    runs, wrong, naive = 2000, 0, 0
    for a, b in shares(1, runs, LOOKS, (0.1, 0.1), 0.5):
        m = effective(a.n, b.n)
        mixture = Mixture(m, rho2(ALPHA, 2500))
        root = proportions.signed_root(a, b)
        wrong += int((np.abs(root) >= mixture.reach(ALPHA)).any(axis=1).sum())
        pooled = (a.hits + b.hits) / (a.n + b.n)
        gap = b.hits / np.maximum(b.n, 1) - a.hits / np.maximum(a.n, 1)
        late = np.s_[:, 100:]  # the z test's own rule of thumb: not before 10 hits
        z2 = gap[late] ** 2 * m[late] / np.maximum(pooled[late] * (1 - pooled[late]), 1e-9)
        naive += int((z2 >= stats.norm.ppf(1 - ALPHA / 2) ** 2).any(axis=1).sum())
    assert wrong <= tolerated(runs)
    assert wrong / runs <= ALPHA
    assert naive / runs > 0.4


@pytest.mark.parametrize(
    ("p", "share_b", "tuned"),
    [(0.01, 0.5, 2500), (0.01, 0.01, 2500), (0.99, 0.1, 2500), (0.5, 0.01, 200), (0.1, 0.1, 200)],
)
def test_low_base_rates_and_uneven_splits_keep_to_alpha(
    p: float, share_b: float, tuned: float
) -> None:
    """A/A with a look after each of 20,000 samples; both the two-sided and each one-sided test."""
    runs = 150
    wrong = np.zeros(3)
    for a, b in shares(2, runs, LOOKS, (p, p), share_b):
        m = effective(a.n, b.n)
        root = proportions.signed_root(a, b)
        both = Mixture(m, rho2(ALPHA, tuned)).log_evidence(root)
        side = Mixture(m, rho2(2 * ALPHA, tuned))
        for i, evidence in enumerate(
            (both, side.log_evidence_above(root), side.log_evidence_above(-root))
        ):
            wrong[i] += (evidence >= -np.log(ALPHA)).any(axis=1).sum()
    assert (wrong <= tolerated(runs)).all(), wrong / runs


@pytest.mark.parametrize(("p", "share_b"), [(0.01, 0.1), (0.9, 0.5)])
def test_one_arm_against_its_own_share_keeps_to_alpha(p: float, share_b: float) -> None:
    """The absolute bounds of gates, a look after every sample."""
    runs = 200
    wrong = np.zeros(2)
    for _, b in shares(3, runs, 10_000, (p, p), share_b):
        side = Mixture(b.n, rho2(2 * ALPHA, 200))
        root = proportions.signed_root_of_one(b, p)
        for i, sign in enumerate((1, -1)):
            evidence = side.log_evidence_above(sign * root)
            wrong[i] += (evidence >= -np.log(ALPHA)).any(axis=1).sum()
    assert (wrong <= tolerated(runs)).all(), wrong / runs


def test_the_interval_covers_a_true_difference_at_every_look() -> None:
    """10 % against 12 %, split 9:1, all 8,000 looks of a run together."""
    runs, missed = 200, 0
    for a, b in shares(4, runs, 8000, (0.10, 0.12), 0.1):
        reach = Mixture(effective(a.n, b.n), rho2(ALPHA, 2500)).reach(ALPHA)
        # The interval holds 0.02 exactly where the root against 0.02 stays within the reach.
        root = proportions.signed_root(a, b, np.array([0.02]))
        missed += int((np.abs(root) > reach).any(axis=1).sum())
    assert missed <= tolerated(runs)


def test_a_canary_just_at_its_limit_is_seldom_failed() -> None:
    """One point above a baseline of 2 %, as allowed; a look after each of 8,000 samples, 9:1."""
    runs, failed = 200, 0
    for a, b in shares(8, runs, 8000, (0.02, 0.03), 0.1):
        side = Mixture(effective(a.n, b.n), rho2(2 * ALPHA, 200))
        root = proportions.signed_root(a, b, np.array([0.01]))
        failed += int((side.log_evidence_above(root) >= -np.log(ALPHA)).any(axis=1).sum())
    assert failed <= tolerated(runs)


@pytest.mark.parametrize("p", [0.05, 0.10])
def test_a_true_effect_of_two_points_is_found_within_the_stated_samples(p: float) -> None:
    """Power of 0.8 at n, which is less than twice what one look would need."""
    deviation = float(np.sqrt((p + 0.01) * (0.99 - p)))
    n = samples.for_sequential(deviation, 0.02, ALPHA, 0.8, 0.5, 2500)
    assert n < 2 * samples.for_shares(p, 0.02, ALPHA, 0.8)
    runs, found = 300, 0
    for a, b in shares(5, runs, n, (p, p + 0.02), 0.5):
        reach = Mixture(effective(a.n, b.n), rho2(ALPHA, 2500)).reach(ALPHA)
        found += int((proportions.signed_root(a, b) >= reach).any(axis=1).sum())
    assert found / runs >= 0.8


def test_a_bad_canary_is_found_within_a_few_dozen_of_its_requests() -> None:
    """20 % errors against 1 %, a canary of 5 %, bounds tuned for gates."""
    seen = []
    for a, b in shares(6, 200, 2000, (0.01, 0.20), 0.05):
        side = Mixture(effective(a.n, b.n), rho2(2 * ALPHA, 200))
        failed = side.log_evidence_above(proportions.signed_root(a, b)) >= -np.log(ALPHA)
        assert failed.any(axis=1).all()
        first = failed.argmax(axis=1)
        seen += list(b.n[np.arange(len(first)), first])
    assert np.median(seen) <= 25
    assert np.percentile(seen, 95) <= 50
