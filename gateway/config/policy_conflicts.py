"""What do several policies, or a policy and the configuration, contradict each other in?

Pure. Policies come in the order in which they are asked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple, Self

from gateway.config.conflicts import Loc, nearest
from gateway.config.policy import Policy
from gateway.config.policy_fields import Target
from gateway.config.policy_match import Header, Match
from gateway.config.spec import Config

_LISTS = ("routes", "users", "tenants", "keys")


@dataclass(frozen=True, slots=True)
class Known:
    """The names that policies may use."""

    models: Mapping[str, Sequence[str]]
    """Aliases by model."""
    clusters: Collection[str]
    discovers: bool
    """Whether further models are learnt from endpoints; then an unknown name may yet be one."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """What models and clusters are, where the configuration says so: `cluster NAME`, `model NAME`.
    """

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return what a configuration defines."""
        named = {model.cluster for model in config.models.values()}
        return cls(
            {name: model.aliases for name, model in config.models.items()},
            tuple(config.clusters),
            not named.issuperset(config.clusters),
            {name: kind for name, kind in _kinds(config) if kind is not None},
        )

    def expand(self, names: Sequence[str]) -> frozenset[str]:
        """Return what clients may write for these: the names, and the aliases of models."""
        return frozenset(names).union(*(self.models.get(name, ()) for name in names))

    def owner(self, name: str) -> str:
        """Return the model that a name stands for."""
        return next((model for model, aliases in self.models.items() if name in aliases), name)


def _kinds(config: Config) -> Iterator[tuple[str, str | None]]:
    for name, cluster in config.clusters.items():
        yield f"cluster {name}", cluster.kind
    for name, model in config.models.items():
        yield f"model {name}", config.clusters[model.cluster].kind


class PolicyConflict(NamedTuple):
    """One contradiction."""

    which: int
    """Index of the policy at fault."""
    loc: Loc
    message: str


def policy_conflicts(policies: Sequence[Policy], known: Known) -> list[PolicyConflict]:
    """Check policies against the configuration's names and against each other.

    Those that are switched off count for their names only.
    """
    found = [*_same_name(policies)]
    active = [(index, policy) for index, policy in enumerate(policies) if policy.enabled]
    for index, policy in active:
        found += [PolicyConflict(index, *flaw) for flaw in _unknown(policy, known)]
        found += [PolicyConflict(index, *flaw) for flaw in _other_kind(policy, known)]
    for (_, earlier), (index, later) in combinations(active, 2):
        if earlier.steers == later.steers:
            found += [PolicyConflict(index, *flaw) for flaw in _between(earlier, later, known)]
    return [*found, *_loops([each for each in active if each[1].steers], known)]


def targets(policy: Policy) -> list[tuple[Loc, Target]]:
    """Return each way of a policy and where in the file it stands."""
    if policy.rollout is not None:
        rollout = policy.rollout
        return [
            (("rollout", "baseline"), rollout.baseline),
            (("rollout", "canary"), rollout.canary),
        ]
    if policy.mirror is not None:
        return [(("mirror", "to"), policy.mirror.to)]
    if policy.route is not None:
        return [(("route",), policy.route)]
    return [((policy.kind, "arms", index), arm) for index, arm in enumerate(policy.arms)]


def _same_name(policies: Sequence[Policy]) -> Iterator[PolicyConflict]:
    seen: set[str] = set()
    for index, policy in enumerate(policies):
        if policy.name in seen:
            message = f'"{policy.name}" is already the name of another policy'
            yield PolicyConflict(index, ("name",), message)
        seen.add(policy.name)


def _unknown(policy: Policy, known: Known) -> Iterator[tuple[Loc, str]]:
    names = sorted(known.expand(list(known.models)))
    asked: list[tuple[Loc, str | None]] = [
        (("match", "models", index), name) for index, name in enumerate(policy.match.models)
    ]
    ways = targets(policy)
    asked += [((*loc, "model"), target.model) for loc, target in ways]
    for loc, model in asked:
        if model is not None and model not in names and not known.discovers:
            yield loc, f'names the model "{model}", which does not exist{nearest(model, names)}'
    for loc, target in ways:
        if target.cluster is not None and target.cluster not in known.clusters:
            hint = nearest(target.cluster, list(known.clusters))
            yield (
                (*loc, "cluster"),
                f'names the cluster "{target.cluster}", which does not exist{hint}',
            )


def _other_kind(policy: Policy, known: Known) -> Iterator[tuple[Loc, str]]:
    asked = {known.kinds.get(f"model {known.owner(name)}") for name in policy.match.models} - {None}
    for loc, target in targets(policy):
        kind = kind_at(target, known)
        if kind is not None and asked - {kind}:
            key = "model" if target.cluster is None else "cluster"
            yield (*loc, key), f"leads to where {kind} models are; those it matches are others"


def kind_at(target: Target, known: Known) -> str | None:
    """Return the kind of models that a way leads to; None where the configuration does not say."""
    if target.cluster is not None:
        return known.kinds.get(f"cluster {target.cluster}")
    return known.kinds.get(f"model {known.owner(target.model or '')}")


def _between(earlier: Policy, later: Policy, known: Known) -> Iterator[tuple[Loc, str]]:
    ours, theirs = (
        {kind_at(target, known) for _, target in targets(one)} for one in (earlier, later)
    )
    if None not in ours | theirs and not ours & theirs:
        return  # Each is about the models of its own kind.
    if _covers(earlier.match, later.match, known):
        if _takes_all(earlier):
            yield (
                ("match",),
                f'is never reached: the policy "{earlier.name}" comes first and matches all of it',
            )
            return
    elif not _covers(later.match, earlier.match, known):
        return
    if {earlier.kind, later.kind} == {"split", "rollout"}:
        message = (
            f'is about the same requests as the {earlier.kind} "{earlier.name}"; an experiment '
            "and a rollout at once would spoil each other's figures"
        )
        yield ("match",), message


def _takes_all(policy: Policy) -> bool:
    """Whether it leaves none of the requests that meet its conditions to later ones."""
    copied = policy.mirror.percent if policy.mirror is not None else 100
    return policy.match.percent == copied == 100


def _covers(wide: Match, narrow: Match, known: Known) -> bool:
    """Whether `wide` matches whatever `narrow` does, percentages left aside."""
    if wide.models and not (
        narrow.models and known.expand(wide.models) >= known.expand(narrow.models)
    ):
        return False
    for name in _LISTS:
        outer, inner = getattr(wide, name), getattr(narrow, name)
        if outer and not (inner and set(outer) >= set(inner)):
            return False
    return all(any(_implies(have, want) for have in narrow.headers) for want in wide.headers)


def _implies(have: Header, want: Header) -> bool:
    """Whether a value that meets `have` surely meets `want`."""
    if have == want:
        return True
    if have.name != want.name or have.invert or want.invert or have.present is False:
        return False
    if want.present is not None:
        return want.present
    start = have.exact or have.prefix
    if want.prefix is not None and start is not None:
        return start.startswith(want.prefix)
    if want.regex is not None and have.exact is not None:
        return re.fullmatch(want.regex, have.exact) is not None
    return False


def _may_meet(one: Match, other: Match) -> bool:
    """Whether a request may match both, models left aside."""
    for name in _LISTS:
        left, right = getattr(one, name), getattr(other, name)
        if left and right and not set(left) & set(right):
            return False
    exact = {each.name: each.exact for each in one.headers if each.exact and not each.invert}
    return not any(
        each.exact and not each.invert and exact.get(each.name, each.exact) != each.exact
        for each in other.headers
    )


def _loops(policies: Sequence[tuple[int, Policy]], known: Known) -> Iterator[PolicyConflict]:
    """Find models that policies send to each other in a circle.

    No request would go round: policies are applied once. But nobody can mean it.
    """
    for position, (index, policy) in enumerate(policies):
        earlier = [each for _, each in policies[:position] if _may_meet(each.match, policy.match)]
        sources = {known.owner(name) for name in policy.match.models}
        for loc, target in targets(policy):
            if target.model is None or known.owner(target.model) in sources:
                continue
            way = _way_back(known.owner(target.model), sources, earlier, known)
            if way is not None:
                message = f'leads to "{target.model}", which the policy "{way}" sends back'
                yield PolicyConflict(index, (*loc, "model"), message)


def _way_back(
    start: str, goals: Collection[str], policies: Sequence[Policy], known: Known
) -> str | None:
    """Return the policy whose arm closes a circle from `start` to one of `goals`."""
    reached, todo = {start}, [start]
    while todo:
        model = todo.pop()
        for policy in policies:
            if model not in {known.owner(name) for name in policy.match.models}:
                continue
            for _, target in targets(policy):
                following = known.owner(target.model) if target.model is not None else model
                if following in goals:
                    return policy.name
                if following not in reached:
                    reached.add(following)
                    todo.append(following)
    return None
