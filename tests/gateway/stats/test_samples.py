"""How many samples does an answer take?"""

import numpy as np
import pytest
from scipy import stats

from gateway.stats import samples
from gateway.stats.proportions import z_test
from gateway.stats.sequential import Mixture, rho2
from gateway.stats.sums import Rate


def test_the_textbook_number_for_shares() -> None:
    """10 % against 12 %, alpha 0.05, power 0.8: 3,841 an arm (Fleiss, Levin and Paik 2003)."""
    assert samples.for_shares(0.10, 0.02, 0.05, 0.8) == pytest.approx(2 * 3841, abs=2)


def test_the_textbook_number_for_means() -> None:
    """A tenth of a deviation: 2 * 7.849 * 100 an arm."""
    assert samples.for_means(1.0, 0.1, 0.05, 0.8) == pytest.approx(3140, abs=2)


def test_the_number_for_shares_gives_the_power_that_it_promises() -> None:
    """At a split of 9:1 too."""
    n = samples.for_shares(0.10, 0.03, 0.05, 0.8, share_b=0.1)
    rng = np.random.default_rng(5)
    n_b = round(n / 10)
    found = sum(
        z_test(
            Rate(n - n_b, int(rng.binomial(n - n_b, 0.10))),
            Rate(n_b, int(rng.binomial(n_b, 0.13))),
            0.05,
        ).p
        <= 0.05
        for _ in range(1000)
    )
    assert 0.77 <= found / 1000 <= 0.84


def test_an_effect_that_leads_out_of_the_unit_interval_has_no_number() -> None:
    with pytest.raises(ValueError, match="out of 0 to 1"):
        samples.for_shares(0.99, 0.02, 0.05, 0.8)


def test_uneven_splits_need_more() -> None:
    for function in (samples.for_shares, samples.for_means):
        assert function(0.1, 0.02, 0.05, 0.8, 0.1) > 2 * function(0.1, 0.02, 0.05, 0.8, 0.5)


def test_the_sequential_number_is_the_least_at_which_the_boundary_lies_below_the_effect() -> None:
    n = samples.for_sequential(0.3, 0.02, 0.05, 0.8, 0.5, 2500)
    z = float(stats.norm.ppf(0.8))

    def margin(count: float) -> float:
        m = count / 4
        reach = float(Mixture(m, rho2(0.05, 2500)).reach(0.05))
        return 0.02 * np.sqrt(m) / 0.3 - reach - z

    assert margin(n) >= 0
    assert margin(0.99 * n) < 0


def test_the_width_is_reached_at_the_stated_number() -> None:
    n = samples.for_width(1.0, 0.05, 0.05, 0.5, 2500)
    reach = float(Mixture(n / 4, rho2(0.05, 2500)).reach(0.05))
    assert reach / np.sqrt(n / 4) == pytest.approx(0.05, rel=0.002)


def test_an_effect_of_nothing_is_never_found() -> None:
    """A number beyond all counting, not an endless search."""
    assert samples.for_sequential(1.0, 0.0, 0.05, 0.8, 0.5, 2500) >= 1e12


def test_few_requests_without_hits_do_not_pass_for_certainty() -> None:
    """The deviation shrinks only as samples come in; hits above a half count as misses would."""
    assert samples.deviation_of_share(Rate()) == 0.5
    assert samples.deviation_of_share(Rate(10, 0)) > 0.2
    assert samples.deviation_of_share(Rate(100_000, 0)) < 0.01
    mirrored = samples.deviation_of_share(Rate(10, 10))
    assert mirrored == pytest.approx(samples.deviation_of_share(Rate(10, 0)))
    assert samples.deviation_of_share(Rate(10, 5)) == 0.5
