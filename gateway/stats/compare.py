"""What does the comparison of two arms by one metric say, in numbers and in words?

`compare` is cheap to import: numpy and scipy (0.25 s, 40 MB) are loaded by its first call.
It takes 2 ms for rates and 8 ms for values, so it belongs into a thread, not on the event loop.

A caller that compares several arms with a baseline, or several metrics, and acts on any of them,
shares the error out among them: `analysis.among(arms * metrics)` (Bonferroni).

The requests of one user or session resemble each other. A split that is sticky by them keeps
`Groups` beside its sums and hands on their design effect, or the interval would be too narrow.

Compare sums of a time in which the weights of the arms were constant. While weights change, an arm
gets more of its requests at other times of the day than the other, and what differs is the day
(Simpson's paradox).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from gateway.stats.estimate import Held
from gateway.stats.metrics import Better, Metric
from gateway.stats.sums import Sums


class Method(StrEnum):
    """When one may look: at any time, or once, after a planned number of samples."""

    SEQUENTIAL = "sequential"
    FIXED = "fixed"


class Decision(StrEnum):
    """What follows from a comparison of b with the baseline a."""

    PROMOTE = "promote"
    KEEP = "keep"
    """The baseline is better."""
    DIFFERS = "differs"
    """They differ in a metric that has no better direction."""
    NO_DIFFERENCE = "no_difference"
    """Any difference is too small to matter."""
    WAIT = "wait"
    """Too few samples to say."""
    DEFECT = "defect"
    """Two equal arms differ: the experiment itself is broken."""
    CHANGED = "changed"
    """The difference has changed while it was measured."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """How two arms are compared. ValueError for numbers out of range."""

    method: Method = Method.SEQUENTIAL
    alpha: float = 0.05
    """How often two equal arms may be called different, in all looks together."""
    power: float = 0.8
    """How often a difference of `min_effect` is to be found within the needed samples."""
    min_effect: float | None = None
    """The least difference that matters. Of a share: absolute (0.02 is two points). Of values:
    relative to the baseline's mean. None: 0.01 and 0.05."""
    aa: bool = False
    """The arms are equal on purpose; a difference is a defect."""
    tuned_for: float = 2500.0
    """Effective samples at which the interval is narrowest: 10,000 of both arms, evenly split."""
    design_effect: float = 1.0
    """How many samples are worth one independent one: what `groups.design_effect` finds for a split
    that is sticky by user or session; 1 for a split by request."""
    samples: int | None = None
    """For `fixed`: the planned samples of both arms; None: what the power needs."""

    def __post_init__(self) -> None:
        if not (0 < self.alpha <= 0.5 and 0 < self.power < 1 and self.tuned_for > 0):
            raise ValueError("alpha lies in 0 to 0.5, power in 0 to 1, tuned_for above 0")
        if self.min_effect is not None and self.min_effect <= 0:
            raise ValueError("min_effect lies above 0")

    def among(self, comparisons: int) -> Analysis:
        """Return the analysis of one out of several comparisons that err with alpha together."""
        return replace(self, alpha=self.alpha / max(comparisons, 1))


@dataclass(frozen=True, slots=True)
class QuantileRatio:
    """b's quantile as a multiple of a's, with its interval."""

    q: float
    a: float
    b: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result. `effect`, `low` and `high` are b minus a in the metric's unit."""

    metric: Metric
    method: Method
    a: float
    b: float
    effect: float
    relative: float | None
    """The effect as a share of a; None where a is zero."""
    low: float
    high: float
    p: float
    samples_a: int
    samples_b: int
    needed: int
    """Samples of both arms to find a difference of `min_effect`, at the present split."""
    more: int
    """About how many more until it can be decided; 0 once it is."""
    min_effect: float
    """In the metric's unit."""
    quantiles: tuple[QuantileRatio, ...]
    decision: Decision
    held: Held
    """Keep it, and give it to the next look."""
    text: str = ""

    @property
    def samples(self) -> int:
        """How many samples both arms have."""
        return self.samples_a + self.samples_b


def compare(
    metric: Metric,
    a: Sums,
    b: Sums,
    analysis: Analysis,
    names: tuple[str, str] = ("A", "B"),
    held: Held | None = None,
) -> Comparison:
    """Compare arm b with the baseline a.

    `held`: of the last look of the same sequential comparison; p is the least of all looks and the
    interval what they have in common. TypeError if the sums are not of the metric's kind.
    """
    from gateway.stats import analyse, words  # noqa: PLC0415 - loads scipy, for the one that asks

    estimate = analyse.estimate(a, b, analysis)
    if analysis.method is Method.SEQUENTIAL:
        held = (held or Held()).and_now(estimate)
    else:
        held = Held().and_now(estimate)
    min_effect = analyse.least_effect(metric, a, b, analysis)
    needed = analyse.needed(a, b, analysis, min_effect)
    decision = _decide(metric, held, analysis, min_effect, enough=a.n + b.n >= needed)
    result = Comparison(
        metric,
        analysis.method,
        a.mean,
        b.mean,
        estimate.value,
        estimate.value / abs(a.mean) if a.mean else None,
        held.low,
        held.high,
        held.p,
        a.n,
        b.n,
        needed,
        analyse.more(a, b, analysis, min_effect, needed) if decision is Decision.WAIT else 0,
        min_effect,
        analyse.quantile_ratios(a, b, analysis),
        decision,
        held,
    )
    return replace(result, text=words.recommend(result, names, analysis))


def _decide(
    metric: Metric, held: Held, analysis: Analysis, min_effect: float, *, enough: bool
) -> Decision:
    if analysis.method is Method.FIXED and not enough:
        return Decision.WAIT
    if held.changed:
        return Decision.CHANGED
    if held.low > 0 or held.high < 0:
        return _difference(metric, higher=held.low > 0, aa=analysis.aa)
    if analysis.method is Method.FIXED or (held.low >= -min_effect and held.high <= min_effect):
        return Decision.NO_DIFFERENCE
    return Decision.WAIT


def _difference(metric: Metric, *, higher: bool, aa: bool) -> Decision:
    if aa:
        return Decision.DEFECT
    if metric.better is Better.NEITHER:
        return Decision.DIFFERS
    return Decision.PROMOTE if higher is (metric.better is Better.HIGHER) else Decision.KEEP
