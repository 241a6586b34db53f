"""How many samples does an answer take?

All numbers are of both arms together, with a share `share_b` of them in arm b. They are worked
out for a standard deviation of one value; of a share p that is sqrt(p (1 - p)).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

from scipy.special import ndtri

from gateway.stats.proportions import wilson
from gateway.stats.sequential import Mixture, rho2
from gateway.stats.sums import Rate

_MOST = 1e12
"""More than anybody will ever count."""


def for_shares(p: float, effect: float, alpha: float, power: float, share_b: float = 0.5) -> int:
    """Return the samples for a z test to find a share p raised (or lowered) by `effect`.

    Fleiss, Tytun and Ury (Biometrics 1980), without the correction for continuity. ValueError if
    p + effect is not a share.
    """
    if not 0 <= p + effect <= 1:
        raise ValueError("the effect leads out of 0 to 1")
    share_a = 1 - share_b
    other = p + effect
    pooled = share_a * p + share_b * other
    under_null = sqrt(pooled * (1 - pooled) / (share_a * share_b))
    under_effect = sqrt(p * (1 - p) / share_a + other * (1 - other) / share_b)
    root = (_z(1 - alpha / 2) * under_null + _z(power) * under_effect) / abs(effect)
    return ceil(root * root)


def for_means(
    deviation: float, effect: float, alpha: float, power: float, share_b: float = 0.5
) -> int:
    """Return the samples for a two-sided test of means to find a difference of `effect`.

    The normal approximation: (z_(1-alpha/2) + z_power)^2 variance (1/share_a + 1/share_b) /
    effect^2 (Lehr 1992 for even shares).
    """
    root = (_z(1 - alpha / 2) + _z(power)) * deviation / effect
    return ceil(root * root / (share_b * (1 - share_b)))


def for_sequential(
    deviation: float, effect: float, alpha: float, power: float, share_b: float, tuned_for: float
) -> int:
    """Return the samples by which the sequential test has found an effect, with that power.

    The least n at which the boundary lies z_power standard errors below the effect. Crossings
    before n add a little to the power, so the number is on the safe side.
    """
    mixing = rho2(alpha, tuned_for)
    split = share_b * (1 - share_b)

    def enough(n: float) -> bool:
        m = n * split
        reach = float(Mixture(m, mixing).reach(alpha)) + _z(power)
        return reach * deviation <= abs(effect) * sqrt(m)

    return _least(enough)


def for_width(
    deviation: float, half_width: float, alpha: float, share_b: float, tuned_for: float
) -> int:
    """Return the samples at which the sequential interval reaches this far to either side."""
    return for_sequential(deviation, half_width, alpha, 0.5, share_b, tuned_for)


def deviation_of_share(rate: Rate) -> float:
    """Return the standard deviation of one request's result.

    The share is taken from the end of its Wilson interval that is nearer to a half: so few or no
    hits yet do not pass for certainty.
    """
    if not rate.n:
        return 0.5
    low, high = wilson(rate, 1.0)
    p = min(max(0.5, low), high)
    return sqrt(p * (1 - p))


def _z(probability: float) -> float:
    return float(ndtri(probability))


def _least(enough: Callable[[float], bool]) -> int:
    """Return the least number that is enough; infinitely many are cut off at `_MOST`."""
    low, high = 0.0, 64.0
    while not enough(high) and high < _MOST:
        low, high = high, 2 * high
    while high - low > max(1.0, high / 1000):
        n = (low + high) / 2
        low, high = (low, n) if enough(n) else (n, high)
    return ceil(high)
