"""Does an arm keep a limit, does it break it, or can nobody say yet?

A gate of a rollout asks this again and again; each answer may be acted on, because the bounds hold
at every look. An arm FAILS only if even the bound of the interval lies beyond the limit, and HOLDS
only if the bound lies within it; what lies between is OPEN. Chance makes an arm that is just at
its limit fail with probability alpha, over all looks together; several gates share that out by
`Certainty.among`. Ask about the sums of one step of a rollout: while weights change, an arm gets
more of its requests at other times of the day than the other, and what differs is the day
(Simpson's paradox). The question is about these requests; `compare` asks about their users.

Cheap to import: numpy and scipy (0.25 s, 40 MB) are loaded by the first question. A question
takes 0.2 to 3 ms, so questions belong into a thread, not on the event loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.stats.sums import Rate, Values


class Verdict(StrEnum):
    """What the evidence says of a limit."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Certainty:
    """How sure one wants to be, and about how soon. ValueError for numbers out of range."""

    alpha: float = 0.05
    tuned_for: float = 200.0
    """Effective samples (about the canary's requests, while it is the smaller arm) at which the
    bounds are sharpest. A bad canary should not touch many; see `sequential.rho2`."""

    def __post_init__(self) -> None:
        if not (0 < self.alpha <= 0.5 and self.tuned_for > 0):
            raise ValueError("alpha lies in 0 to 0.5, tuned_for above 0")

    def among(self, gates: int) -> Certainty:
        """Return the certainty of each of several gates that err with alpha together."""
        return replace(self, alpha=self.alpha / max(gates, 1))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its numbers; each of `low` and `high` errs with alpha."""

    verdict: Verdict
    value: float
    low: float
    high: float
    at_least: float
    at_most: float
    """The limits asked about; minus and plus infinity where there is none."""
    samples_a: int
    """Of the baseline; 0 where it was not asked."""
    samples_b: int


USUAL = Certainty()


def share_at_most(b: Rate, limit: float, certainty: Certainty = USUAL) -> Judgement:
    """Judge "arm b's share is at most the limit"."""
    from gateway.stats import bounds  # noqa: PLC0415 - loads scipy, for the process that asks

    found = bounds.share(b, certainty.alpha, certainty.tuned_for)
    return _judge(b.mean, found, (-_INF, limit), (0, b.n))


def share_rise_at_most(a: Rate, b: Rate, limit: float, certainty: Certainty = USUAL) -> Judgement:
    """Judge "arm b's share is at most `limit` above arm a's" (0.01 is one point)."""
    from gateway.stats import bounds  # noqa: PLC0415 - loads scipy, for the process that asks

    found = bounds.share_rise(a, b, certainty.alpha, certainty.tuned_for)
    return _judge(b.mean - a.mean, found, (-_INF, limit), (a.n, b.n))


def quantile_at_most(b: Values, q: float, limit: float, certainty: Certainty = USUAL) -> Judgement:
    """Judge "arm b's q-quantile is at most the limit", in the values' unit."""
    from gateway.stats import bounds  # noqa: PLC0415 - loads scipy, for the process that asks

    found = bounds.quantile(b, q, certainty.alpha, certainty.tuned_for)
    return _judge(b.quantile(q), found, (-_INF, limit), (0, b.n))


def quantile_ratio_at_most(
    a: Values, b: Values, q: float, limit: float, certainty: Certainty = USUAL
) -> Judgement:
    """Judge "arm b's q-quantile is at most `limit` times arm a's"."""
    from gateway.stats import bounds  # noqa: PLC0415 - loads scipy, for the process that asks

    found = bounds.quantile_ratio(a, b, q, certainty.alpha, certainty.tuned_for)
    return _judge(_ratio(b.quantile(q), a.quantile(q)), found, (-_INF, limit), (a.n, b.n))


def mean_ratio_within(
    a: Values, b: Values, at_least: float, at_most: float, certainty: Certainty = USUAL
) -> Judgement:
    """Judge "arm b's mean is between `at_least` and `at_most` times arm a's"."""
    from gateway.stats import bounds  # noqa: PLC0415 - loads scipy, for the process that asks

    found = bounds.mean_ratio(a, b, certainty.alpha, certainty.tuned_for)
    return _judge(_ratio(b.mean, a.mean), found, (at_least, at_most), (a.n, b.n))


_INF = float("inf")


def _judge(
    value: float, found: tuple[float, float], limits: tuple[float, float], samples: tuple[int, int]
) -> Judgement:
    low, high = found
    at_least, at_most = limits
    if low > at_most or high < at_least:
        verdict = Verdict.FAILS
    elif low >= at_least and high <= at_most:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.OPEN
    return Judgement(verdict, value, low, high, at_least, at_most, *samples)


def _ratio(b: float, a: float) -> float:
    if a == 0.0:
        return 1.0 if b == 0.0 else _INF
    return b / a
