"""Is the canary as good as the gates demand?

Pure. A bound *fails* only on evidence: the near end of an always-valid interval (`gateway.stats.
bounds`) is beyond it, not merely the point. It is *undecided*, which holds the step, while

- an arm has too few samples: fewer than 20 (`FEW`), or than the quantile needs to be more than the
  largest value seen (100 for p99);
- the point is beyond the bound and the interval is not: suspicious, but not proven;
- any bound needs the baseline, and the baseline fails more than 5 % of its own requests (`FLAKY`):
  that a canary is no worse than something broken is no merit. A reading of its own says so.
  Evidence against the canary, and its absolute bounds (`max`, `max_s`), count all the same.

Else it *passes*. A metric that no request of either arm has (ttft, where nobody streams) passes
too. Both arms are compared over the same time: the sums are of one epoch. Only a step that leaves
the baseline nothing (blue/green) is compared with the epoch before; if that is empty, increases
are counted from zero, and ratios cannot be asked for.

How alpha is shared, so that a good canary is rolled back with that chance at most, all looks
together: evenly over the steps, and in a step evenly over its bounds. Half of a bound's share
belongs to the test over the whole step, which holds at every look. The other half is for *windows*
of 1,000 canary requests: without them a canary that turns bad after a million good requests would
have to fail ten thousand before the average shows it. Window j = 2, 3, … gets 1 / (j (j - 1)) of
that half, which adds up to all of it. (The first would be the step once more.) Whoever lets a step
begin anew, by `resume` after a failed gate or by editing the file, spends its share again.

Requests count as if they were independent. Those of one sticky key are not: a user whose requests
fail wherever they go, and whom the hash sends to the canary, fails it more often than alpha says.
Counting users instead would spare some good canaries that, and let bad ones go on until several
users have suffered; a gate is there for the latter. `by: request` has no such keys.

Simulated, with a look at each 1,000 requests: of 200 canaries as good as the baseline (default
gates, the quick plan) all succeeded; of 184 that are worse by exactly what two gates allow none was
rolled back in 150 looks. What bad ones cost stands in tests/gateway/plan/test_rollout_simulation.

A step's judgement costs about 10 ms, most of it for ratios of quantiles; call it in a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf

from gateway.config.policy_rollout import Gate, Rollout
from gateway.plan.evidence import REQUESTS, Arms, Bound, Evidence, Reading, Scope, Verdict
from gateway.plan.readings import describe
from gateway.stats.sums import Rate, Sums, Values

FEW = 20
"""Samples of an arm below which nothing passes: of 20, the 95 % quantile is not the largest."""

FLAKY = 0.05
"""Share of the baseline's requests that may fail before it is no measure any more. Argo Rollouts'
own example calls a service unfit below 95 % of successes."""

TUNED_FOR = 100.0
"""Effective samples for which the intervals are narrowest. Bad canaries are to be found early; at
1,000 the intervals are 7 % wider than they could be."""

_KINDS = (Bound.MAX, Bound.MAX_INCREASE, Bound.MAX_S, Bound.MAX_RATIO, Bound.MIN_RATIO)
_COMPARED = frozenset({Bound.MAX_INCREASE, Bound.MAX_RATIO, Bound.MIN_RATIO})
_NO_RATE, _NO_VALUES = Rate(), Values()


class Watch:
    """What one process remembers between two looks: the sums as they were when a window began.

    A process that begins to look in the middle of a window says so by `recent` None, and the
    machine answers with a new window.
    """

    __slots__ = ("_last", "_start", "_window")

    def __init__(self) -> None:
        self._window = (-1, 0)
        self._start: Arms | None = None
        self._last: Arms | None = None

    def look(self, rollout: Rollout, epoch: int, window: int, arms: Arms) -> Evidence:
        """Judge the sums of this epoch, as they are now."""
        start = self._started(epoch, window, arms)
        self._last = arms
        steps = max(1, len(rollout.stages))
        readings = judge(rollout, arms, rollout.alpha / steps / 2)
        recent: int | None = arms.requests
        if window > 1:
            recent = None
            if start is not None:
                since = arms.since(start)
                recent = since.requests
                share = rollout.alpha / steps / 2 / (window * (window - 1))
                readings = _closer(readings, judge(rollout, since, share, Scope.WINDOW))
        return Evidence(epoch, window, arms.requests, recent, readings)

    def _started(self, epoch: int, window: int, arms: Arms) -> Arms | None:
        """Return the sums at the window's beginning, if this process has seen it."""
        if (epoch, window) != self._window:
            follows = self._window == (epoch, window - 1)
            self._start = self._last if follows else None
            self._window = (epoch, window)
        if self._start is not None and not _grown(self._start, arms):
            self._start = None  # The store has lost sums; what came since cannot be told.
        return self._start


def judge(
    rollout: Rollout, arms: Arms, alpha: float, scope: Scope = Scope.STEP
) -> tuple[Reading, ...]:
    """Return what each bound of each gate says of these sums; each errs with its share of alpha.

    The last one is of the baseline itself, if any bound needs it.
    """
    bounds = [(gate, kind) for gate in rollout.gates for kind in _of(gate)]
    if not bounds:
        return ()
    alpha /= len(bounds)
    found = [_Case(gate, kind, arms, alpha, scope).reading() for gate, kind in bounds]
    if any(kind in _COMPARED for _, kind in bounds):
        found.extend(_baseline(arms, scope))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Case:
    """One bound of one gate, before the judgement."""

    gate: Gate
    kind: Bound
    arms: Arms
    alpha: float
    scope: Scope

    def reading(self) -> Reading:
        compared = self.kind in _COMPARED
        canary, baseline = self._sums(self.arms.canary), self._sums(self.arms.baseline)
        alone = compared and self.arms.earlier and baseline.n < self._need
        value = self._value(canary, baseline, compared and not alone)
        low, high = self._interval(canary, baseline, compared and not alone, value)
        reading = Reading(
            metric=self.gate.metric,
            quantile=self.gate.effective_quantile,
            bound=self.kind,
            allowed=self._allowed,
            verdict=Verdict.PASS,
            scope=self.scope,
            canary=self._point(canary),
            baseline=self._point(baseline),
            canary_n=canary.n,
            baseline_n=baseline.n,
            value=value,
            low=low,
            high=high,
            words="",
        )
        verdict, why = self._verdict(reading, compared and not alone)
        reading = replace(reading, verdict=verdict)
        return replace(reading, words=describe(reading, why))

    @property
    def _allowed(self) -> float:
        return float(getattr(self.gate, self.kind))

    @property
    def _need(self) -> int:
        q = self.gate.effective_quantile
        return FEW if q is None else max(FEW, ceil(1 / min(q, 1 - q)))

    def _sums(self, sums: Mapping[str, Sums]) -> Sums:
        empty = _NO_VALUES if self.gate.effective_quantile is not None else _NO_RATE
        return sums.get(self.gate.metric, empty)

    def _point(self, sums: Sums) -> float | None:
        if not sums.n:
            return None
        return sums.mean if isinstance(sums, Rate) else sums.quantile(self._q)

    @property
    def _q(self) -> float:
        return self.gate.effective_quantile or 0.0

    def _value(self, b: Sums, a: Sums, compared: bool) -> float | None:
        """Return the figure that the bound is about."""
        if not b.n or (compared and not a.n):
            return None
        if isinstance(b, Rate):
            return b.mean - a.mean if compared else b.mean
        point = b.quantile(self._q)
        if self.kind is Bound.MAX_S:
            return point
        base = a.quantile(self._q) if compared and isinstance(a, Values) else None
        if base is None:
            return None
        return point / base if base else (inf if point else 1.0)

    def _interval(
        self, b: Sums, a: Sums, compared: bool, value: float | None
    ) -> tuple[float | None, float | None]:
        """Return the figure's bounds; of a window only if its point could fail."""
        if value is None or (self.scope is Scope.WINDOW and not self._beyond(value)):
            return None, None
        # numpy and scipy take 0.25 s and 40 MB: only a process that judges loads them.
        from gateway.stats import bounds  # noqa: PLC0415 - see the line above

        if isinstance(b, Rate):
            if compared and isinstance(a, Rate):
                return bounds.share_rise(a, b, self.alpha, TUNED_FOR)
            return bounds.share(b, self.alpha, TUNED_FOR)
        if compared and isinstance(a, Values):
            return bounds.quantile_ratio(a, b, self._q, self.alpha, TUNED_FOR)
        return bounds.quantile(b, self._q, self.alpha, TUNED_FOR)

    def _verdict(self, found: Reading, compared: bool) -> tuple[Verdict, str]:
        """Return the verdict, and the reason where the figures do not say it."""
        if not found.canary_n and not found.baseline_n and self.arms.requests >= FEW:
            return Verdict.PASS, "no request has it"
        alone = not compared and self.kind in _COMPARED
        if alone and found.value is None and found.canary_n:
            return Verdict.PASS, "no baseline to compare with"
        best = found.high if self.kind is Bound.MIN_RATIO else found.low
        if self._beyond(best):
            return Verdict.FAIL, "no baseline, counted from zero" if alone else ""
        few = [found.canary_n < self._need, compared and found.baseline_n < self._need]
        if any(few):
            arm = "canary" if few[0] else "baseline"
            return Verdict.UNDECIDED, f"the {arm} has fewer than {self._need} samples"
        if self._beyond(found.value):
            return Verdict.UNDECIDED, "suspicious, not proven"
        return Verdict.PASS, "no baseline, counted from zero" if alone else ""

    def _beyond(self, figure: float | None) -> bool:
        if figure is None:
            return False
        allowed = self._allowed
        return figure < allowed if self.kind is Bound.MIN_RATIO else figure > allowed


def _of(gate: Gate) -> Iterator[Bound]:
    return (kind for kind in _KINDS if getattr(gate, kind) is not None)


def _baseline(arms: Arms, scope: Scope) -> Iterator[Reading]:
    """Yield what the baseline's own failures say, once they can be told."""
    found = arms.baseline.get(REQUESTS)
    if not isinstance(found, Rate) or found.n < FEW:
        return
    flaky = found.mean > FLAKY
    reading = Reading(
        metric=REQUESTS,
        quantile=None,
        bound=Bound.BASELINE,
        allowed=FLAKY,
        verdict=Verdict.UNDECIDED if flaky else Verdict.PASS,
        scope=scope,
        canary=None,
        baseline=found.mean,
        canary_n=arms.requests,
        baseline_n=found.n,
        value=found.mean,
        low=None,
        high=None,
        words="",
    )
    yield replace(reading, words=describe(reading, "no measure for the canary" if flaky else ""))


def _closer(step: tuple[Reading, ...], window: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """Return the step's readings, or the window's where that one shows more harm.

    A window has few samples for long, so of it only what is proven counts, and a flaky baseline.
    """
    recent = {found.name: found for found in window}

    def worse(found: Reading) -> Reading:
        other = recent.get(found.name, found)
        fails = other.verdict is Verdict.FAIL and found.verdict is not Verdict.FAIL
        flaky = other.bound is Bound.BASELINE and other.verdict is Verdict.UNDECIDED
        return other if fails or flaky else found

    return tuple(worse(found) for found in step)


def _grown(start: Arms, now: Arms) -> bool:
    """Whether no sum is smaller than it was."""
    pairs = [(start.canary, now.canary)]
    if not now.earlier:
        pairs.append((start.baseline, now.baseline))
    return all(
        metric in after and after[metric].n >= sums.n
        for before, after in pairs
        for metric, sums in before.items()
    )
