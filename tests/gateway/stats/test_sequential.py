"""How much evidence may be claimed by someone who looks after every sample?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.stats.sequential import Mixture, effective, rho2

ALPHA = 0.05


@settings(deadline=None)  # other work on the machine is no failure
@given(st.floats(1, 1e7), st.floats(10, 1e5), st.floats(0.0005, 0.5))
def test_at_the_reach_the_evidence_is_one_over_alpha(m: float, tuned: float, alpha: float) -> None:
    """On both sides, and on one."""
    mixture = Mixture(m, rho2(alpha, tuned))
    reach = mixture.reach(alpha)
    for r in (reach, -reach):
        assert float(mixture.log_evidence(r)) == pytest.approx(-np.log(alpha), rel=1e-9)
        assert float(mixture.p_value(r)) == pytest.approx(alpha, rel=1e-9)
    above = mixture.reach_above(alpha)
    assert float(mixture.log_evidence_above(above)) == pytest.approx(-np.log(alpha), rel=1e-6)
    assert mixture.reach(min(2 * alpha, 1.0)) <= above <= reach


def test_the_evidence_is_the_likelihood_ratio_averaged_over_normal_effects() -> None:
    """By the closed form and by adding up over effects, both kinds."""
    m, variance, r = 40.0, 0.02, 2.7
    effects = np.linspace(-2, 2, 400_001)
    density = np.exp(-(effects**2) / 2 / variance) / np.sqrt(2 * np.pi * variance)
    ratio = np.exp(effects * r * np.sqrt(m) - effects**2 * m / 2)
    step = effects[1] - effects[0]
    both = (ratio * density).sum() * step
    half = (ratio * 2 * density)[effects > 0].sum() * step
    mixture = Mixture(m, variance)
    assert np.exp(mixture.log_evidence(r)) == pytest.approx(both, rel=1e-6)
    assert np.exp(mixture.log_evidence_above(r)) == pytest.approx(half, rel=1e-3)


def test_no_evidence_leaves_the_p_value_at_one() -> None:
    assert Mixture(100.0, 0.1).p_value(0.0) == 1.0


def test_without_samples_nothing_is_enough() -> None:
    """No reach is far enough, on either test."""
    mixture = Mixture(effective(10, 0), rho2(ALPHA, 100))
    assert mixture.reach(ALPHA) == np.inf
    assert mixture.reach_above(ALPHA) == np.inf
    assert mixture.p_value(5.0) == 1.0
    assert effective(0, 0) == 0


def test_the_interval_is_narrowest_where_it_is_tuned() -> None:
    """And not delicate: as wide as the docstring says elsewhere."""
    reaches = [
        float(Mixture(1000.0, rho2(ALPHA, tuned)).reach(ALPHA))
        for tuned in (10_000, 1250, 1000, 800, 100)
    ]
    assert min(reaches) == reaches[2]
    assert reaches[0] / reaches[2] == pytest.approx(1.26, abs=0.01)
    assert reaches[4] / reaches[2] == pytest.approx(1.07, abs=0.01)


@settings(deadline=None)  # other work on the machine is no failure
@given(st.floats(1, 1e6), st.floats(1, 50), st.floats(-6, 6))
def test_a_design_effect_divides_samples_and_evidence(m: float, design: float, r: float) -> None:
    """m samples of which d are worth one are m/d samples with a root smaller by sqrt(d)."""
    blurred, sharp = Mixture(m, 0.1, design), Mixture(m / design, 0.1)
    inner = r / np.sqrt(design)
    assert float(blurred.log_evidence(r)) == pytest.approx(float(sharp.log_evidence(inner)))
    assert float(blurred.log_evidence_above(r)) == pytest.approx(
        float(sharp.log_evidence_above(inner)), abs=1e-9
    )
    scale = np.sqrt(design)
    assert float(blurred.reach(0.05)) == pytest.approx(float(sharp.reach(0.05)) * scale)
    assert float(blurred.reach_above(0.05)) == pytest.approx(float(sharp.reach_above(0.05)) * scale)


def test_an_uneven_split_has_about_the_smaller_arm_in_effective_samples() -> None:
    assert effective(5000, 5000) == 2500
    assert effective(9900, 100) == 99


@pytest.mark.parametrize("one_sided", [False, True])
def test_brownian_motion_crosses_in_no_more_than_alpha_of_all_runs(one_sided: bool) -> None:
    """1,000 walks of 20,000 normal steps, a look after each; and not in far fewer."""
    rng = np.random.default_rng(11)
    m = np.arange(1, 20_001, dtype=float)
    mixture = Mixture(m, rho2(ALPHA, 50))
    reach = mixture.reach_above(ALPHA) if one_sided else mixture.reach(ALPHA)
    crossed = 0
    for _ in range(1000):
        r = np.cumsum(rng.standard_normal(20_000, dtype=np.float32)) / np.sqrt(m)
        crossed += bool(((r if one_sided else np.abs(r)) >= reach).any())
    assert 0.02 <= crossed / 1000 <= 0.06
