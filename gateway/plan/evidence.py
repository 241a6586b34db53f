"""What is known about a canary at one moment?

Pure: values only. `gateway.plan.gates` makes them from sums, `gateway.plan.rollout` acts on them,
and each transition's audit event carries them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import isfinite
from typing import Any

from gateway.stats.sums import Sums

REQUESTS = "error_rate"
"""The metric that every finished request has, so that its `n` is the number of requests."""


WINDOW_REQUESTS = 1000
"""Requests of the canary in a window. It bounds what a canary that turns bad can hide behind; at
fewer, an increase of one point would hardly ever be proven within a window."""


class Verdict(StrEnum):
    """What a bound says of the canary."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    """Enough data, and the canary's figure is within the bound."""
    FAIL = "fail"
    """Proven: the whole interval lies beyond the bound."""
    UNDECIDED = "undecided"
    """Too few data, or beyond the bound without proof. It holds the step and ends nothing."""


class Bound(StrEnum):
    """Which kind of bound is meant: those of `policy_rollout.Gate`, and one on the baseline."""

    MAX = "max"
    MAX_INCREASE = "max_increase"
    MAX_S = "max_s"
    MAX_RATIO = "max_ratio"
    MIN_RATIO = "min_ratio"
    BASELINE = "baseline"
    """The share of failures above which the baseline is no measure for anything."""


class Scope(StrEnum):
    """Over which time both arms are compared."""

    STEP = "step"
    """The whole epoch."""
    WINDOW = "window"
    """The canary's last requests, so that a long good time does not hide a bad present."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One bound at one moment.

    `value` is what the bound is about: a share, a difference of shares, seconds or a ratio; it
    lies between `low` and `high`. Each end holds by itself, at every look. None: cannot be told.
    """

    metric: str
    quantile: float | None
    bound: Bound
    allowed: float
    verdict: Verdict
    scope: Scope
    canary: float | None
    baseline: float | None
    canary_n: int
    baseline_n: int
    value: float | None
    low: float | None
    high: float | None
    words: str

    @property
    def what(self) -> str:
        """What is looked at, such as "ttft p95"."""
        return self.metric + ("" if self.quantile is None else f" p{self.quantile * 100:g}")

    @property
    def name(self) -> str:
        """Which bound it is, such as "ttft p95 max_ratio"."""
        return f"{self.what} {self.bound}"

    def as_json(self) -> dict[str, Any]:
        """Return all fields by name, for the audit log; never an infinite number."""
        return {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Arms:
    """Sums of both arms by metric, over the same time; they must not change afterwards.

    With `earlier` the baseline's are of the time before the canary had everything: the step
    leaves it nothing, so there is no same time.
    """

    canary: Mapping[str, Sums]
    baseline: Mapping[str, Sums]
    earlier: bool = False

    @property
    def requests(self) -> int:
        """How many requests the canary has finished."""
        found = self.canary.get(REQUESTS)
        return found.n if found is not None else 0

    def since(self, start: Arms) -> Arms:
        """Return what came after `start`; an earlier time's baseline stays what it is."""
        return Arms(
            _minus(self.canary, start.canary),
            self.baseline if self.earlier else _minus(self.baseline, start.baseline),
            self.earlier,
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """One look at a step: `requests` of the canary in it, and what each bound says.

    It counts for the epoch that it was gathered in, and for no other. `recent` is how many of the
    requests belong to the present window, None if its beginning was not seen.
    """

    epoch: int
    window: int
    requests: int
    recent: int | None
    readings: tuple[Reading, ...] = ()

    @property
    def window_over(self) -> bool:
        """Whether a new window is due: this one is full, or cannot be judged."""
        return self.recent is None or self.recent >= WINDOW_REQUESTS

    @property
    def failed(self) -> tuple[Reading, ...]:
        """The bounds that are proven to be broken."""
        return tuple(found for found in self.readings if found.verdict is Verdict.FAIL)

    @property
    def undecided(self) -> tuple[Reading, ...]:
        """The bounds that hold the step."""
        return tuple(found for found in self.readings if found.verdict is Verdict.UNDECIDED)


def _minus(now: Mapping[str, Sums], start: Mapping[str, Sums]) -> dict[str, Sums]:
    # A metric is a Rate at all times or Values at all times.
    return {
        metric: sums.minus(start[metric]) if metric in start else sums  # type: ignore[arg-type]  # see above
        for metric, sums in now.items()
    }
