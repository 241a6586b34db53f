"""Which test, which least effect and how many samples does a comparison take?"""

from __future__ import annotations

from math import ceil, sqrt

from scipy.special import ndtri

from gateway.stats import means, proportions, quantiles, samples
from gateway.stats.compare import Analysis, Method, QuantileRatio
from gateway.stats.estimate import Estimate
from gateway.stats.metrics import Metric
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import Rate, Sums, Values

QUANTILES = (0.5, 0.95, 0.99)
"""The ones that people ask for."""

_LEAST_SHARE = 0.01
_LEAST_RELATIVE = 0.05


def estimate(a: Sums, b: Sums, analysis: Analysis) -> Estimate:
    """Compare two arms by the test that the analysis names; TypeError if they are of two kinds."""
    sequential = analysis.method is Method.SEQUENTIAL
    effect = analysis.design_effect
    if isinstance(a, Rate) and isinstance(b, Rate):
        if sequential:
            return proportions.sequential(a, b, analysis.alpha, analysis.tuned_for, effect)
        return proportions.z_test(a, b, analysis.alpha, effect)
    if isinstance(a, Values) and isinstance(b, Values):
        if sequential:
            return means.sequential(a, b, analysis.alpha, analysis.tuned_for, effect)
        return means.welch(a, b, analysis.alpha, effect)
    raise TypeError("a rate cannot be compared with values")


def least_effect(metric: Metric, a: Sums, b: Sums, analysis: Analysis) -> float:
    """Return the least effect that matters, in the metric's unit.

    Of values without a baseline mean to be relative to, it is relative to their deviation.
    """
    if metric.is_rate:
        return _LEAST_SHARE if analysis.min_effect is None else analysis.min_effect
    relative = _LEAST_RELATIVE if analysis.min_effect is None else analysis.min_effect
    return relative * (abs(a.mean) or _deviation(a, b) or 1.0)


def needed(a: Sums, b: Sums, analysis: Analysis, min_effect: float) -> int:
    """Return the samples of both arms to find `min_effect`, at their present split.

    Means need `SMALLEST_ARM` values an arm whatever the effect.
    """
    if analysis.method is Method.FIXED and analysis.samples is not None:
        return analysis.samples
    share = _share_b(a, b)
    alpha, power = analysis.alpha, analysis.power
    if analysis.method is Method.SEQUENTIAL:
        count = samples.for_sequential(
            _deviation(a, b), min_effect, alpha, power, share, analysis.tuned_for
        )
    elif isinstance(a, Rate):
        # Towards a half, where it takes more, and not out of 0 to 1.
        effect = min(min_effect, 0.5) if a.mean < 0.5 else -min(min_effect, 0.5)
        count = samples.for_shares(a.mean, effect, alpha, power, share)
    else:
        count = samples.for_means(_deviation(a, b), min_effect, alpha, power, share)
    return max(ceil(count * analysis.design_effect), _least_count(a, share))


def more(a: Sums, b: Sums, analysis: Analysis, min_effect: float, planned: int) -> int:
    """Return about how many more samples it takes until something can be said.

    For the sequential test: until the interval is so narrow that, were the effect what it seems
    now, it would exclude either zero or `min_effect`. An effect beyond `min_effect` is not
    believed to be larger, for the first samples exaggerate.
    """
    n = a.n + b.n
    if analysis.method is Method.FIXED:
        return max(planned - n, 0)
    seen = abs(b.mean - a.mean)
    half_width = max(min_effect - seen, min(seen, min_effect))
    share = _share_b(a, b)
    count = samples.for_width(
        _deviation(a, b), half_width, analysis.alpha, share, analysis.tuned_for
    )
    return max(ceil(count * analysis.design_effect), _least_count(a, share), n + 1) - n


def quantile_ratios(a: Sums, b: Sums, analysis: Analysis) -> tuple[QuantileRatio, ...]:
    """Return how b's p50, p95 and p99 relate to a's; nothing for rates or empty arms.

    Each interval errs with alpha of its own.
    """
    if isinstance(a, Rate) or isinstance(b, Rate) or not (a.n and b.n):
        return ()
    if analysis.method is Method.SEQUENTIAL:
        mixing = rho2(analysis.alpha, analysis.tuned_for)
        mixture = Mixture(effective(a.n, b.n), mixing, analysis.design_effect)
        reach = float(mixture.reach(analysis.alpha))
    else:
        reach = float(ndtri(1 - analysis.alpha / 2)) * sqrt(analysis.design_effect)
    return tuple(
        QuantileRatio(q, a.quantile(q), b.quantile(q), *quantiles.ratio_interval(a, b, q, reach))
        for q in QUANTILES
    )


def _share_b(a: Sums, b: Sums) -> float:
    """Return b's share of the samples, kept off 0 and 1 so that a sample size exists."""
    n = a.n + b.n
    return min(max(b.n / n, 0.001), 0.999) if n else 0.5


def _least_count(a: Sums, share_b: float) -> int:
    return 2 if isinstance(a, Rate) else ceil(means.SMALLEST_ARM / min(share_b, 1 - share_b))


def _deviation(a: Sums, b: Sums) -> float:
    """Return the deviation d for which d^2 / effective samples is the difference's variance."""
    share = _share_b(a, b)
    of_a, of_b = _deviation_of(a), _deviation_of(b)
    return sqrt(share * of_a * of_a + (1 - share) * of_b * of_b)


def _deviation_of(arm: Sums) -> float:
    return samples.deviation_of_share(arm) if isinstance(arm, Rate) else means.deviation(arm)
