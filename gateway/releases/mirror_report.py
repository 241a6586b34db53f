"""What does a mirror's report say, of all processes together?

Pure: made from the sums of the store and the cases that the processes report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec

from gateway.releases.mirrored import ARM, RATES, VALUES, Case, worst_of
from gateway.stats.sums import Rate, Values
from gateway.store.base import Sums

_AT_MOST_1 = frozenset({"similarity", "cosine", "top5"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report."""

    metric: str
    n: int
    """Pairs where there was something to tell."""
    mean: float
    """Of a rate the share, from 0 to 1."""
    p5: float | None = None
    """The lowest 5 % are at or below it. None for a rate, as the next two."""
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a mirror has found so far."""

    policy: str
    pairs: int
    rows: tuple[Row, ...]
    """In the order of `RATES` and `VALUES`; without those that nothing is known of."""
    worst: tuple[Case, ...]
    words: str

    def row(self, metric: str) -> Row | None:
        """Return one of the rows."""
        return next((row for row in self.rows if row.metric == metric), None)

    def json(self) -> Any:
        """Return it as values that JSON can say."""
        return msgspec.to_builtins(self)


def report(policy: str, totals: Sums, worst: Iterable[Case] = ()) -> Report:
    """Make the report from the store's sums, over all processes.

    `totals` are those of `prefix_of(policy, epoch)`; what is not a mirror's is passed over.
    """
    merged: dict[str, Rate | Values] = {}
    for name, flat in totals.items():
        owner, _, rest = name.partition("/")
        _, _, place = rest.partition("/")
        arm, _, metric = place.partition("/")
        if owner == policy and arm == ARM:
            _merge(merged, metric, flat)
    rows = tuple(_row(name, merged[name]) for name in (*RATES, *VALUES) if name in merged)
    failed = next((row for row in rows if row.metric == "failed"), Row("failed", 0, 0.0))
    return Report(policy, failed.n, rows, tuple(worst_of(worst)), _words(failed, rows))


def _merge(merged: dict[str, Rate | Values], metric: str, flat: Mapping[str, float]) -> None:
    found = merged.get(metric)
    if metric in RATES:
        rate = Rate.of(flat)
        if isinstance(found, Rate):
            rate.merge(found)
        merged[metric] = rate
    elif metric in VALUES:
        values = Values.of(flat)
        if isinstance(found, Values):
            values.merge(found)
        merged[metric] = values


def _row(metric: str, sums: Rate | Values) -> Row:
    if isinstance(sums, Rate):
        return Row(metric, sums.n, sums.mean)
    # A quantile read from a histogram is up to 1.1 % beyond the value; none is more alike than 1.
    most = 1.0 if metric in _AT_MOST_1 else inf
    p5, p50, p95 = (min(sums.quantile(q), most) for q in (0.05, 0.5, 0.95))
    return Row(metric, sums.n, sums.mean, p5, p50, p95)


def _words(failed: Row, rows: Iterable[Row]) -> str:
    """Say the report in two or three sentences."""
    if not failed.n:
        return "Nothing has been compared yet."
    known = {row.metric: row for row in rows}
    said = [f"{failed.n:,} pairs were compared; {_share(failed.mean)} of the copies failed."]
    if (similarity := known.get("similarity")) is not None:
        exact = known["exact"].mean if "exact" in known else 0.0
        said.append(
            f"{_share(exact)} of the texts are equal, and they are {_share(similarity.mean)} alike "
            f"on average."
        )
    if (top1 := known.get("top1")) is not None:
        said.append(f"The best class is the same in {_share(top1.mean)} of the predictions.")
    if (cosine := known.get("cosine")) is not None:
        said.append(f"The embeddings' cosine is {cosine.mean:.4f} on average.")
    if (ratio := known.get("latency_ratio")) is not None and ratio.p50:
        said.append(f"The copy takes {ratio.p50:.2f} times as long (median).")
    return " ".join(said)


def _share(share: float) -> str:
    return f"{share * 100:.3g} %"
