"""Which parts of one policy contradict one another, and where does each stand?

Pure. What several policies, or a policy and the configuration, contradict each other in is
`gateway.config.policy_conflicts`' question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.config.conflicts import Conflict, Loc, nearest
from gateway.config.policy_rollout import RATES, Rollout
from gateway.config.policy_split import Split


def check_split(split: Split) -> list[Conflict]:
    """Check an experiment's arms, baseline and metrics against each other."""
    return [*_split(split)]


def _split(split: Split) -> Iterator[Conflict]:
    arms, names = split.arms, [arm.name for arm in split.arms]
    yield from repeated(("split", "arms"), names, "name", "the name of arm")
    yield from repeated(("split", "metrics"), split.metrics, None, "the same as")
    if not any(arm.weight for arm in arms):
        yield Conflict(("split", "arms"), "give no arm any weight; one needs more than 0")
    if split.baseline is not None and split.baseline not in names:
        yield Conflict(("split", "baseline"), _no_arm(split.baseline, names))
    same = all(arm.same_place(arms[0]) for arm in arms[1:])
    if same and not split.analysis.aa:
        yield Conflict(
            ("split", "arms"), "are all the same; write analysis: {aa: true} if that is meant"
        )
    if split.analysis.aa and not same:
        yield Conflict(("split", "analysis", "aa"), "is true, but the arms are not all the same")
    if split.on_decision == "promote":
        on_decision = ("split", "on_decision")
        if split.analysis.aa:
            yield Conflict(on_decision, "cannot be promote when the arms are the same on purpose")
        if split.metrics[0] == "output_tokens":
            words = "cannot be promote: longer answers are not better or worse (the first metric)"
            yield Conflict(on_decision, words)


def check_rollout(rollout: Rollout) -> list[Conflict]:
    """Check a rollout's ways, steps and gates against each other."""
    return [*_rollout(rollout)]


def _rollout(rollout: Rollout) -> Iterator[Conflict]:
    if rollout.canary.same_place(rollout.baseline):
        yield Conflict(("rollout", "canary"), "is the same as the baseline")
    for index in range(1, len(rollout.steps)):
        before, step = rollout.steps[index - 1], rollout.steps[index]
        if step.weight <= before.weight:
            yield Conflict(
                ("rollout", "steps", index, "weight"),
                f"must be more than the {before.weight:g} of the step before",
            )
    bounds: dict[tuple[object, ...], int] = {}
    for index, gate in enumerate(rollout.gates):
        key = (gate.metric, gate.effective_quantile)
        first = bounds.setdefault(key, index)
        if first != index:
            what = "metric" if gate.metric in RATES else "metric and quantile"
            yield Conflict(
                ("rollout", "gates", index),
                f"has the same {what} as gate {first + 1}; put both bounds into one",
            )


def check_labels(arms: Sequence[tuple[str, Sequence[str]]], default: str) -> list[Conflict]:
    """Check a classifier's arms (name and labels) and its default against each other."""
    return [*_labels(arms, default)]


def _labels(arms: Sequence[tuple[str, Sequence[str]]], default: str) -> Iterator[Conflict]:
    names = [name for name, _ in arms]
    yield from repeated(("classifier", "arms"), names, "name", "the name of arm")
    owner: dict[str, int] = {}
    for index, (_, labels) in enumerate(arms):
        for place, label in enumerate(labels):
            first = owner.setdefault(label, index)
            if first != index or place != list(labels).index(label):
                where = "this arm" if first == index else f"arm {first + 1}"
                yield Conflict(
                    ("classifier", "arms", index, "labels", place),
                    f'"{label}" already leads to {where}',
                )
    if default not in names:
        yield Conflict(("classifier", "default"), _no_arm(default, names))


def repeated(loc: Loc, values: Sequence[str], key: str | None, what: str) -> Iterator[Conflict]:
    """Yield each value that stands in the list a second time; `key` is its place in an entry."""
    first: dict[str, int] = {}
    for index, value in enumerate(values):
        if value in first:
            place = (*loc, index) if key is None else (*loc, index, key)
            yield Conflict(place, f'"{value}" is already {what} number {first[value] + 1}')
        first.setdefault(value, index)


def _no_arm(name: str, names: Sequence[str]) -> str:
    return f'names the arm "{name}", which does not exist{nearest(name, names)}'
