"""In what form does every test of this package give its answer?"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True, slots=True)
class Estimate:
    """An effect, the interval that it lies in, and the p value of "there is none"."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Held:
    """What earlier looks of a sequential test have shown; it stays shown.

    All intervals of a confidence sequence hold together, so their intersection does too, and the
    least of the p values is valid (Johari et al. 2022). An empty intersection (`low` > `high`)
    says that the effect has changed while it was being measured.
    """

    low: float = -inf
    high: float = inf
    p: float = 1.0

    def and_now(self, now: Estimate) -> Held:
        """Return what this look and the earlier ones show together."""
        return Held(max(self.low, now.low), min(self.high, now.high), min(self.p, now.p))

    @property
    def changed(self) -> bool:
        """Whether no single effect fits all looks."""
        return self.low > self.high
