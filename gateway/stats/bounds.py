"""Between which bounds does a quantity lie, each bound erring with alpha, at every look?

For gates, which ask on one side: a bound of an interval that errs with alpha on each side.
"""

from __future__ import annotations

from gateway.stats import means, proportions, quantiles
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import Rate, Values

Bounds = tuple[float, float]


def share(b: Rate, alpha: float, tuned_for: float) -> Bounds:
    """Return the bounds of one arm's share."""
    return proportions.interval_of_one(b, _reach(b.n, alpha, tuned_for))


def share_rise(a: Rate, b: Rate, alpha: float, tuned_for: float) -> Bounds:
    """Return the bounds of share b minus share a."""
    return proportions.interval(a, b, _reach(effective(a.n, b.n), alpha, tuned_for))


def quantile(b: Values, q: float, alpha: float, tuned_for: float) -> Bounds:
    """Return the bounds of one arm's q-quantile."""
    return quantiles.interval_of_one(b, q, _reach(b.n, alpha, tuned_for))


def quantile_ratio(a: Values, b: Values, q: float, alpha: float, tuned_for: float) -> Bounds:
    """Return the bounds of b's q-quantile divided by a's."""
    return quantiles.ratio_interval(a, b, q, _reach(effective(a.n, b.n), alpha, tuned_for))


def mean_ratio(a: Values, b: Values, alpha: float, tuned_for: float) -> Bounds:
    """Return the bounds of b's mean divided by a's; of values that are never negative."""
    return means.ratio_interval(a, b, _reach(effective(a.n, b.n), alpha, tuned_for))


def _reach(m: float, alpha: float, tuned_for: float) -> float:
    # A two-sided interval at 2 alpha errs with about alpha on either side, so it is tuned as one.
    return float(Mixture(m, rho2(2 * alpha, tuned_for)).reach_above(alpha))
