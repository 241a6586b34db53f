"""What stands in for endpoints, where only the choice among them is tested?"""

from __future__ import annotations

from collections.abc import Sequence

CHI2_AT_1_PERCENT = {1: 6.63, 2: 9.21, 3: 11.34, 5: 15.09, 7: 18.48}
"""Critical values of the chi-squared distribution by degrees of freedom, for p = 0.01."""


class FakeEndpoint:
    """A `Candidate` whose figures a test sets by hand."""

    def __init__(self, id_: str, weight: float = 1.0, busy: float = 0, slow_s: float = 0.0) -> None:
        self.id = id_
        self.weight = weight
        self.busy = busy
        self.slow_s = slow_s
        """Latency of streams; that of whole answers is ten times as long."""

    def __repr__(self) -> str:
        return f"<FakeEndpoint {self.id}>"

    def load(self, now: float) -> float:
        return self.busy

    def latency(self, stream: bool, now: float) -> float:
        return self.slow_s if stream else self.slow_s * 10

    def cost(self, stream: bool, now: float) -> float:
        return self.latency(stream, now) * (self.load(now) + 1) / self.weight


def fakes(count: int, weights: Sequence[float] = ()) -> list[FakeEndpoint]:
    """Make idle ones without a latency."""
    return [
        FakeEndpoint(f"gpu-{number}:8000", weights[number] if weights else 1.0)
        for number in range(count)
    ]


def chi2(observed: Sequence[int], shares: Sequence[float]) -> float:
    """Return Pearson's statistic of counts against expected shares (in any unit)."""
    total, whole = sum(observed), sum(shares)
    expected = [total * share / whole for share in shares]
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
