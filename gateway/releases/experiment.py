"""What does a split have to show so far, and does it decide anything?

Pure. The first metric decides; the others are reported beside it. An arm wins only if its interval
says so, every arm has `min_samples`, and the arms got the shares of traffic that they were given
(else the experiment itself is broken, and no figure of it means anything).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from math import isfinite
from typing import Any, Self

from gateway.config.policy import Policy
from gateway.config.policy_split import Split
from gateway.releases.collect import ByArm
from gateway.stats.compare import Analysis, Comparison, Decision, Method, compare
from gateway.stats.estimate import Held
from gateway.stats.groups import Groups, crowding, design_effect
from gateway.stats.metrics import METRICS
from gateway.stats.sums import Sums

Grouped = Mapping[str, Mapping[str, Groups]]
"""Sums by groups of keys, by arm, then by metric."""

_COUNTED = "cancel_rate"
"""The metric that every request of an arm has, but for those that were refused."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One split: what was found until now. Survives restarts as JSON."""

    fingerprint: str
    """Of what is compared: another makes it begin anew."""
    epoch: int
    held: Mapping[str, tuple[float | None, float | None, float]] = field(default_factory=dict)
    """By "arm/metric": what the interval's ends and p have shown, None for no end."""
    winner: str | None = None
    """The arm that has everything since it won, with `on_decision: promote`."""
    mismatch: float | None = None
    """p of the arms' shares, at every look; None while there is nothing to say."""
    comparisons: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """Requests by arm."""
    judged: str = ""
    """By which numbers of `analysis` it was judged; by others what was found does not count."""

    def as_json(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Self:
        """Read back what `as_json` gave. Raises `TypeError` or `KeyError` for anything else."""
        known = {name: value[name] for name in cls.__dataclass_fields__ if name in value}
        known["held"] = {name: tuple(held) for name, held in value["held"].items()}
        known["comparisons"] = tuple(value["comparisons"])  # JSON has lists only.
        return cls(**known)


def fingerprint(policy: Policy) -> str:
    """Return what tells one experiment from another: arms, weights, key and what is matched.

    Fields that a later version adds do not, as long as the file leaves them out.
    """
    match = policy.match.model_dump(mode="json", exclude_defaults=True)
    parts: dict[str, Any] = {"match": match, "salt": policy.salt}
    if policy.split is not None:
        kept = {"arms", "by", "missing_key", "baseline"}
        parts["split"] = policy.split.model_dump(mode="json", include=kept, exclude_defaults=True)
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def begin(policy: Policy, before: Experiment | None) -> Experiment:
    """Return the experiment to go on with: a new one in a new epoch if the file says another.

    So it is if a file that only reports takes a promotion back: the sums since are of one arm.
    """
    mark = fingerprint(policy)
    if before is None:
        return Experiment(mark, 0)
    undone = before.winner is not None and not _promotes(policy)
    return Experiment(mark, before.epoch + 1) if undone or before.fingerprint != mark else before


def weights(policy: Policy, state: Experiment | None) -> tuple[float, ...] | None:
    """Return the weights in the order of the arms; None for those of the file."""
    if state is None or state.winner is None or begin(policy, state) is not state:
        return None
    return tuple(float(arm.name == state.winner) for arm in policy.arms)


def look(policy: Policy, state: Experiment, arms: ByArm, groups: Grouped) -> Experiment:
    """Return what the sums of the experiment's epoch say now. Takes 5 to 15 ms a comparison.

    `groups` are the same sums by groups of keys. Requests of one user resemble each other and
    count as fewer samples than they are; how many fewer, the groups show.
    """
    split = policy.split
    assert split is not None  # noqa: S101  the caller knows the kind
    if state.winner is not None:
        return state  # What came after is not of two arms any more.
    names = [arm.name for arm in split.arms]
    counts = {name: _count(arms, name) for name in names}
    crowded = _crowding([groups.get(name, {}).get(_COUNTED) for name in names])
    shares = [arm.weight for arm in split.arms]
    mismatch = _mismatch([counts[name] for name in names], shares, crowded)
    held, found = _compared(policy, state, arms, groups)
    winners = [
        (abs(one["effect"]), one["arm"])
        for one in found
        if one["decides"] and one["decision"] == Decision.PROMOTE
    ]
    enough = min(counts.values()) >= split.analysis.min_samples
    broken = mismatch is not None and mismatch <= _broken_at()
    winner = None
    if winners and enough and not broken and split.on_decision == "promote":
        winner = max(winners)[1]
    return replace(
        state,
        held=held,
        winner=winner,
        mismatch=mismatch,
        comparisons=found,
        counts=counts,
        judged=_judged_by(split),
    )


def verdict(policy: Policy, state: Experiment) -> str:
    """Say in one sentence where the experiment stands."""
    split = policy.split
    assert split is not None  # noqa: S101  the caller knows the kind
    if state.winner is not None:
        return f"{state.winner} has won and has all requests"
    if state.mismatch is not None and state.mismatch <= _broken_at():
        return (
            "the arms did not get the shares of traffic that they were given: look for a defect "
            f"before you believe any figure (p = {state.mismatch:.2g})"
        )
    least = min(state.counts.values(), default=0)
    if least < split.analysis.min_samples:
        return f"not enough data: {least:,} of {split.analysis.min_samples:,} requests in an arm"
    said = [one["text"] for one in state.comparisons if one["decides"]]
    return "; ".join(said) or "nothing to compare yet"


def _judged_by(split: Split) -> str:
    return split.analysis.model_dump_json(exclude={"min_samples", "aa"})


def _compared(
    policy: Policy, state: Experiment, arms: ByArm, groups: Grouped
) -> tuple[dict[str, tuple[float | None, float | None, float]], tuple[Mapping[str, Any], ...]]:
    """Compare each arm with the baseline by each metric; return what to hold, and what was found.

    What `fixed` has said stays said: it errs with alpha in one look, and here is one each second.
    """
    split = policy.split
    assert split is not None  # noqa: S101  the caller knows the kind
    held, said = dict(state.held), {(one["arm"], one["metric"]): one for one in state.comparisons}
    if state.judged not in {"", _judged_by(split)}:
        held, said = {}, {}
    found: list[Mapping[str, Any]] = []
    others = [arm.name for arm in split.arms if arm.name != policy.baseline]
    for metric in split.metrics:
        decides = {"decides": metric == split.metrics[0]}
        analysis = _analysis(split, metric).among(len(others))
        for name in others:
            once = said.get((name, metric))
            if analysis.method is Method.FIXED and once and once["decision"] != Decision.WAIT:
                found.append({**once, **decides})
                continue
            effect = _design_effect(metric, (policy.baseline, name), arms, groups)
            analysis = replace(analysis, design_effect=effect)
            one = _compare(metric, policy.baseline, name, arms, analysis, held)
            if one is not None:
                held[f"{name}/{metric}"] = _finite(one.held)
                found.append({"arm": name, **decides, **_shown(one)})
    return held, tuple(found)


def _promotes(policy: Policy) -> bool:
    return policy.split is not None and policy.split.on_decision == "promote"


def _analysis(split: Split, metric: str) -> Analysis:
    said = split.analysis
    least = said.min_effect if METRICS[metric].is_rate else said.min_relative_effect
    return Analysis(Method(said.method), said.alpha, said.power, least, said.aa)


def _compare(
    metric: str,
    baseline: str,
    name: str,
    arms: ByArm,
    analysis: Analysis,
    held: Mapping[str, tuple[float | None, float | None, float]],
) -> Comparison | None:
    a, b = _sums(arms, baseline, metric), _sums(arms, name, metric)
    if not (a.n and b.n):
        return None
    before = held.get(f"{name}/{metric}")
    seen = None
    if before is not None:
        low, high, p = before
        seen = Held(-_INF if low is None else low, _INF if high is None else high, p)
    return compare(METRICS[metric], a, b, analysis, (baseline, name), seen)


def _sums(arms: ByArm, name: str, metric: str) -> Sums:
    found = arms.get(name, {}).get(metric)
    return METRICS[metric].empty() if found is None else found


def _count(arms: ByArm, name: str) -> int:
    return _sums(arms, name, _COUNTED).n


def _design_effect(metric: str, names: tuple[str, str], arms: ByArm, groups: Grouped) -> float:
    pairs = [(_sums(arms, name, metric), groups.get(name, {}).get(metric)) for name in names]
    known = [(sums, group) for sums, group in pairs if group is not None and sums.n]
    return design_effect(known) if len(known) == len(names) else 1.0


def _crowding(groups: list[Groups | None]) -> float:
    return crowding([group for group in groups if group is not None])


def _mismatch(counts: list[int], shares: list[float], crowded: float) -> float | None:
    from gateway.stats.ratio import mismatch  # noqa: PLC0415 - loads scipy, for the one that leads

    if not sum(counts):
        return None
    try:
        return mismatch(counts, shares, crowding=crowded).p
    except ValueError:  # An arm of weight 0 has requests.
        return 0.0


def _broken_at() -> float:
    from gateway.stats.ratio import ALPHA  # noqa: PLC0415 - as above

    return ALPHA


def _shown(one: Comparison) -> dict[str, Any]:
    """Return the figures of a comparison for people and programs; no infinite numbers."""
    return {
        "metric": one.metric.name,
        "unit": str(one.metric.unit),
        "method": str(one.method),
        "baseline": one.a,
        "value": one.b,
        "effect": one.effect,
        "relative": one.relative,
        "low": one.low if isfinite(one.low) else None,
        "high": one.high if isfinite(one.high) else None,
        "p": one.p,
        "samples": one.samples,
        "needed": one.needed,
        "more": one.more,
        "decision": str(one.decision),
        "text": one.text,
        "quantiles": [
            {"q": each.q, "baseline": each.a, "value": each.b, "low": _or_none(each.low),
             "high": _or_none(each.high)}
            for each in one.quantiles
        ],
    }  # fmt: skip


def _finite(held: Held) -> tuple[float | None, float | None, float]:
    return _or_none(held.low), _or_none(held.high), held.p


def _or_none(number: float) -> float | None:
    return number if isfinite(number) else None


_INF = float("inf")
