"""Do the arms get the shares of traffic that they were given?"""

import numpy as np
import pytest
from scipy import stats

from gateway.stats.ratio import ALPHA, chi_square, mismatch, multinomial_log_evidence


def test_chi_square_gives_the_numbers_of_scipy() -> None:
    counts, shares = np.array([480.0, 330.0, 190.0]), np.array([0.5, 0.3, 0.2])
    want = stats.chisquare(counts, 1000 * shares).pvalue
    assert chi_square(counts, shares) == pytest.approx(want, rel=1e-9)


def test_one_arm_or_no_samples_cannot_mismatch() -> None:
    assert mismatch([500], [1.0]).p == 1.0
    assert mismatch([0, 0], [1.0, 1.0]).p_once == 1.0
    assert mismatch([], []).p == 1.0
    assert not mismatch([0, 0], [0.0, 0.0]).found


def test_the_evidence_is_a_martingale() -> None:
    """Its mean after the next sample is what it was, whatever came before."""
    shares = np.array([0.7, 0.3])
    for before in ([0.0, 0.0], [50.0, 3.0], [100.0, 200.0]):
        counts = np.array(before)
        now = np.exp(multinomial_log_evidence(counts, shares))
        after = sum(
            share * np.exp(multinomial_log_evidence(counts + step, shares))
            for share, step in zip(shares, np.eye(2), strict=True)
        )
        assert after == pytest.approx(now, rel=1e-9)


def test_shares_are_relative_and_arms_without_one_must_stay_empty() -> None:
    """Weights of 90 and 10 are shares of 0.9 and 0.1."""
    assert mismatch([900, 100, 0], [90, 10, 0]) == mismatch([900, 100], [0.9, 0.1])
    with pytest.raises(ValueError, match="without a share"):
        mismatch([900, 100, 1], [90, 10, 0])


def test_evidence_adds_over_a_change_of_shares() -> None:
    """Half before, half after: as much as the two are worth together."""
    first, second = mismatch([550, 450], [1, 1]), mismatch([400, 700], [1, 3])
    both = mismatch([400, 700], [1, 3], log_evidence=first.log_evidence)
    assert both.log_evidence == pytest.approx(first.log_evidence + second.log_evidence)


def test_a_look_after_every_sample_keeps_to_alpha_and_chi_square_does_not() -> None:
    """500 runs of 10,000 assignments as configured, 80:20, at alpha = 0.01."""
    rng = np.random.default_rng(3)
    n = np.arange(1, 10_001, dtype=float)
    shares = np.array([0.8, 0.2])
    wrong, naive, runs = 0, 0, 500
    for _ in range(runs):
        b = np.cumsum(rng.random(10_000) < 0.2, dtype=float)
        evidence = multinomial_log_evidence(np.stack([n - b, b], axis=-1), shares)
        wrong += bool((evidence >= np.log(100)).any())
        chi2 = (b - 0.2 * n) ** 2 / (0.16 * n)
        naive += bool((chi2[100:] >= stats.chi2.ppf(0.99, 1)).any())
    assert wrong <= stats.binom.ppf(0.999, runs, 0.01)
    assert naive / runs > 0.08


def test_a_mismatch_is_found() -> None:
    """An arm that loses 5 of 100 of its requests: within 50,000 assignments, at alpha = 0.001."""
    rng = np.random.default_rng(4)
    found = 0
    for _ in range(50):
        b = int(rng.binomial(50_000, 0.475 / 0.975))
        found += mismatch([50_000 - b, b], [0.5, 0.5]).found
    assert found >= 45
    result = mismatch([26_000, 24_000], [0.5, 0.5])
    assert result.found
    assert result.p < ALPHA
    assert result.p_once < ALPHA
