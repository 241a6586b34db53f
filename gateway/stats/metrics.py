"""What is measured of every arm, and which direction is better?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from gateway.stats.sums import Rate, Sums, Values


class Better(StrEnum):
    """Which way of two arms wins."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Unit(StrEnum):
    """What a metric's numbers are; shares are shown as points."""

    SHARE = "share"
    SECONDS = "s"
    TOKENS = "tokens"
    TOKENS_PER_S = "tokens/s"
    SCORE = "score"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what is counted, its unit and its better direction."""

    name: str
    what: str
    unit: Unit
    better: Better

    @property
    def is_rate(self) -> bool:
        """Whether it is a share of requests (`Rate`), not an average of `Values`."""
        return self.unit is Unit.SHARE

    def empty(self) -> Sums:
        """Return the sums to begin with."""
        return Rate() if self.is_rate else Values()

    def of(self, flat: Mapping[str, float]) -> Sums:
        """Read back what the sums' `flat` gave."""
        return Rate.of(flat) if self.is_rate else Values.of(flat)


_ALL = (
    Metric("success_rate", "requests answered whole", Unit.SHARE, Better.HIGHER),
    Metric("error_rate", "requests that failed", Unit.SHARE, Better.LOWER),
    Metric("cancel_rate", "requests that the client left", Unit.SHARE, Better.LOWER),
    Metric("abort_rate", "answers that an engine gave up", Unit.SHARE, Better.LOWER),
    Metric("truncation_rate", "answers that broke off", Unit.SHARE, Better.LOWER),
    Metric("ttft", "time to the first token", Unit.SECONDS, Better.LOWER),
    Metric("inter_token", "time between two tokens", Unit.SECONDS, Better.LOWER),
    Metric("latency", "time to the end of the answer", Unit.SECONDS, Better.LOWER),
    Metric("tokens_per_s", "tokens per second of one answer", Unit.TOKENS_PER_S, Better.HIGHER),
    # Longer may be more thorough or more long-winded; that is for a person to say.
    Metric("output_tokens", "length of the answers", Unit.TOKENS, Better.NEITHER),
    Metric("feedback", "score of the feedback", Unit.SCORE, Better.HIGHER),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""Every metric by its name in policy files."""
