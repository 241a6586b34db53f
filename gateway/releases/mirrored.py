"""How like the live answers were the copies of a mirror, in numbers and in the worst cases?

Pure. Each process counts the pairs that it compares into sums, which merge by addition in the store
(`policy/epoch/mirror/metric`), and keeps its worst cases, which go with its own report. Cases hold
figures only; prompts and answers are in them where the policy says `log_content`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import msgspec

from gateway.plan.likeness import Figures, Likeness
from gateway.releases.collect import name_of
from gateway.stats.sums import Rate, Values
from gateway.store.base import Json

MIRRORS = "mirrors"
"""Under which key a process' report to the store has its worst cases."""

ARM = "mirror"
"""The arm in the sums' names: a mirror has one."""

WORST = 20
"""Cases that are kept for each policy, by each process and in a report."""

MOST_CONTENT = 4_000
"""Characters that are kept of a prompt and of an answer."""

RATES = (
    "failed",
    "same_status",
    "exact",
    "normalised",
    "same_finish",
    "same_calls",
    "live_json",
    "copy_json",
    "top1",
)
"""What is so or not so, for each pair where it can be told."""

VALUES = (
    "similarity",
    "cosine",
    "top5",
    "latency_ratio",
    "ttft_ratio",
    "tokens_ratio",
    "live_latency",
    "copy_latency",
    "live_ttft",
    "copy_ttft",
)
"""What has a size. Times are in seconds, ratios are the copy's by the live one's."""


@dataclass(frozen=True, slots=True, repr=False)
class Content:
    """What was asked and answered, its beginning."""

    prompt: str
    live: str
    copy: str

    @classmethod
    def of(cls, prompt: str, live: str, copy: str) -> Self:
        """Cut each to `MOST_CONTENT`."""
        return cls(prompt[:MOST_CONTENT], live[:MOST_CONTENT], copy[:MOST_CONTENT])

    def __repr__(self) -> str:
        return "<Content>"  # Never in a log, in a traceback neither.


@dataclass(frozen=True, slots=True)
class Pair:
    """One live answer and its copy."""

    policy: str
    epoch: int
    request_id: str
    model: str
    route: str
    at_s: float
    """When it was compared, in seconds since the epoch."""
    live: Figures
    copy: Figures
    likeness: Likeness
    content: Content | None = None
    """Only where the policy lets prompts and answers be kept."""

    @property
    def why(self) -> str:
        """What is wrong with the copy, in words, the worst first; "" if nothing is."""
        alike, copy = self.likeness, self.copy
        if copy.failure:
            return f"no whole answer: {copy.failure}"
        found = (
            (not alike.same_status, f"status {copy.status} instead of {self.live.status}"),
            (alike.same_calls is False, "other tool calls"),
            (bool(alike.live_json) and not alike.copy_json, "no valid JSON"),
            (alike.top1 is False, "another class"),
            (alike.cosine is not None and alike.cosine < 1.0, f"cosine {alike.cosine or 0:.3f}"),
            (alike.exact is False, f"text, {(alike.similarity or 0) * 100:.0f} % alike"),
            (alike.same_finish is False, "ended for another reason"),
        )
        return ", ".join(words for holds, words in found if holds)


@dataclass(frozen=True, slots=True)
class Case:
    """One of the worst pairs, as a report shows it."""

    score: float
    """0 for nothing alike to 1; the lowest are kept."""
    pair: Pair


class Mirrored:
    """What the mirrors of one process have found."""

    __slots__ = ("_rates", "_values", "_worst", "revision")

    def __init__(self) -> None:
        self.revision = 0
        """Grows when the worst cases change: only then a snapshot is worth reporting anew."""
        self._rates: dict[tuple[str, int, str], Rate] = {}
        self._values: dict[tuple[str, int, str], Values] = {}
        self._worst: dict[str, list[Case]] = {}

    def heard(self, pair: Pair) -> None:
        """Count a pair. 5 µs, beside the request's way."""
        whose = pair.policy, pair.epoch
        for name, hit in _rates_of(pair):
            self._rates.setdefault((*whose, name), Rate()).add(hit)
        for name, value in _values_of(pair):
            self._values.setdefault((*whose, name), Values()).add(value)
        score = pair.likeness.score
        worst = self._worst.setdefault(pair.policy, [])
        if score < 1.0 and (len(worst) < WORST or score <= worst[-1].score):
            worst.append(Case(score, pair))
            self._worst[pair.policy] = worst_of(worst)
            self.revision += 1

    def take(self) -> dict[str, dict[str, float]]:
        """Return what came since the last call, for the store's outbox."""
        rates, values = self._rates, self._values
        self._rates, self._values = {}, {}
        both: dict[tuple[str, int, str], Rate | Values] = {**rates, **values}
        return {
            name_of(policy, epoch, ARM, name): sums.flat()
            for (policy, epoch, name), sums in both.items()
        }

    def worst(self, policy: str) -> tuple[Case, ...]:
        """Return this process' worst cases, the worst first."""
        return tuple(self._worst.get(policy, ()))

    def snapshot(self) -> Json:
        """Return all worst cases by policy, for this process' report to the store."""
        return {
            policy: [msgspec.to_builtins(case) for case in cases]
            for policy, cases in self._worst.items()
        }

    def keep(self, epochs: Mapping[str, int]) -> None:
        """Forget the cases of policies that are gone, and those of other epochs than these.

        Bad copies by an earlier target would leave no room for those by the present one.
        """
        before = self._worst
        kept = {
            policy: [case for case in cases if case.pair.epoch == epochs.get(policy)]
            for policy, cases in before.items()
        }
        self._worst = {policy: cases for policy, cases in kept.items() if cases}
        self.revision += self._worst != before


def cases_of(policy: str, epoch: int, snapshots: Iterable[Json]) -> tuple[Case, ...]:
    """Return the worst cases of all processes in this epoch; what is no case is passed over."""
    found: list[Case] = []
    for snapshot in snapshots:
        cases = snapshot.get(policy) if isinstance(snapshot, Mapping) else None
        for case in cases if isinstance(cases, list) else ():
            try:
                found.append(msgspec.convert(case, Case))
            except msgspec.ValidationError:
                continue  # Another version wrote it.
    return tuple(worst_of(case for case in found if case.pair.epoch == epoch))


def _rates_of(pair: Pair) -> Iterator[tuple[str, bool]]:
    failed = bool(pair.copy.failure) or pair.copy.status >= 500
    yield "failed", failed
    yield "same_status", pair.likeness.same_status
    for name in RATES[2:]:
        hit = getattr(pair.likeness, name)
        if hit is not None:
            yield name, hit


def _values_of(pair: Pair) -> Iterator[tuple[str, float]]:
    for name in VALUES[:6]:
        value = getattr(pair.likeness, name)
        if value is not None:
            yield name, value
    if not pair.likeness.same_status:
        return
    for whose, figures in (("live", pair.live), ("copy", pair.copy)):
        if figures.latency_s is not None:
            yield f"{whose}_latency", figures.latency_s
        if figures.ttft_s is not None:
            yield f"{whose}_ttft", figures.ttft_s


def worst_of(cases: Iterable[Case]) -> list[Case]:
    """Return the worst of the cases; of equals the newest."""
    return sorted(cases, key=lambda case: (case.score, -case.pair.at_s))[:WORST]
