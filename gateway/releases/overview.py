"""What is there to tell people of the policies: state, verdicts, and each arm's figures now?

The figures are the store's, so they are those of all processes, a second old at the most. While the
store is down there are none, and it is said that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gateway.config.policy import Policy
from gateway.config.policy_fields import Target
from gateway.plan.match import Rule, Rules
from gateway.plan.rollout_state import Command
from gateway.releases.collect import ByArm, by_arm, prefix_of
from gateway.releases.member import Member
from gateway.releases.mirror_report import report
from gateway.releases.mirrored import MIRRORS, cases_of
from gateway.releases.trail import AUDIT, FIELD
from gateway.stats.metrics import METRICS
from gateway.stats.sums import Sums, Values
from gateway.store.base import Json, StoreError


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Figure(_Shown):
    """One metric of one arm, over all processes, in the policy's present epoch."""

    n: int
    """Requests, or answers, that have it."""
    mean: float
    """Of a rate the share, from 0 to 1; times are in seconds."""
    p50: float | None
    """Null for rates, as the next."""
    p95: float | None


class ArmView(_Shown):
    """One way that a policy's requests can go."""

    name: str
    to: str
    """The model, or the cluster and perhaps its model."""
    share: float
    """What it has at the moment, in percent."""
    figures: dict[str, Figure]
    """By metric; those that no request has are left out."""


class StepView(_Shown):
    """One stage of a rollout."""

    weight: float
    """Percent of the keys that the canary has in it."""
    hold_s: float
    min_requests: int


class RolloutView(_Shown):
    """Where a rollout stands."""

    phase: str
    step: int
    """From 1; of no meaning unless progressing or paused."""
    steps: list[StepView]
    weight: float
    """Percent of the keys that the canary has."""
    elapsed_s: float
    """How long the step has lasted, pauses not counted."""
    since: float
    """When the phase was entered, in seconds since the epoch."""
    reason: str
    requests: int | None
    """Of the canary in this step; null if nobody has looked yet."""
    waiting: list[str]
    """What the step still waits for."""
    gates: list[dict[str, Any]]
    """Each bound with its verdict, its figures and the whole in words; at the end the deciding
    ones."""


class ExperimentView(_Shown):
    """What a split has shown."""

    verdict: str
    winner: str | None
    """The arm that has everything since it won; null for none."""
    mismatch: float | None
    """p of "the arms have the shares that they were given", at every look."""
    comparisons: list[dict[str, Any]]
    """Each metric of each arm against the baseline: effect, interval, p, samples, in words."""


class PolicyView(_Shown):
    """One policy as it stands."""

    name: str
    kind: str
    description: str
    models: list[str]
    """The names that it is about; empty for every one."""
    epoch: int
    """Which stretch of time the figures belong to."""
    arms: list[ArmView]
    rollout: RolloutView | None
    experiment: ExperimentView | None
    mirror: dict[str, Any] | None
    """What the comparison of its copies came to: rows of figures, worst cases, words."""


class StoreView(_Shown):
    """What the processes share."""

    label: str
    available: bool
    reason: str
    """Why it does not answer; empty if it does."""


class PoliciesView(_Shown):
    """All policies, in the order in which they are asked."""

    policies: list[PolicyView]
    store: StoreView
    leads: bool
    """Whether the process that answers is the one that looks at the policies."""


class Overview:
    """Reads what one process knows and what the store holds. Used in the main loop."""

    def __init__(self, member: Member, rules: Callable[[], Rules]) -> None:
        """`rules` returns those in effect."""
        self._member = member
        self._rules = rules

    async def policies(self) -> PoliciesView:
        """Return all policies. Never raises for a store that is down."""
        rules = self._rules().rules  # A reload may come while the store is asked.
        found = [
            await self._view(rules[status["name"]], status) for status in self._member.status()
        ]
        shared = self._member.shared
        standing = shared.standing
        store = StoreView(
            label=shared.store.label, available=standing.available, reason=standing.reason
        )
        return PoliciesView(policies=found, store=store, leads=self._member.leads)

    async def policy(self, name: str) -> PolicyView:
        """Return one. Raises `KeyError` if there is none of this name."""
        rule = self._rules().rules[name]
        (status,) = (each for each in self._member.status() if each["name"] == name)
        return await self._view(rule, status)

    async def command(self, name: str, wanted: Command, by: str) -> Json:
        """Do what a person asks of a rollout. Raises as `Member.command`."""
        return await self._member.command(name, wanted, by)

    async def audit(self, count: int, policy: str | None = None) -> list[Json]:
        """Return the last transitions, the newest last; of one policy, or of all.

        Raises `StoreError`.
        """
        events = await self._member.shared.store.tail(AUDIT, _MOST if policy else count)
        return [each for each in events if policy in (None, each.get("policy"))][-count:]

    async def _view(self, rule: Rule, status: Mapping[str, Any]) -> PolicyView:
        policy = rule.policy
        arms = await self._arms(policy.name, rule.epoch)
        return PolicyView(
            name=policy.name,
            kind=policy.kind,
            description=policy.description,
            models=list(policy.match.models),
            epoch=rule.epoch,
            arms=[*_arm_views(rule, arms)],
            rollout=_rollout(policy, status),
            experiment=_experiment(policy, status),
            mirror=await self._mirror(rule) if policy.mirror is not None else None,
        )

    async def _arms(self, policy: str, epoch: int) -> ByArm:
        try:
            return by_arm(await self._member.shared.store.totals(prefix_of(policy, epoch)))
        except StoreError:  # `StoreView` says so.
            return {}

    async def _mirror(self, rule: Rule) -> Any:
        store, name = self._member.shared.store, rule.policy.name
        try:
            totals = await store.totals(prefix_of(name, rule.epoch))
            reports = await store.reports()
        except StoreError:  # As above.
            return None
        snapshots = [each.get(MIRRORS) for each in reports.values() if isinstance(each, Mapping)]
        return report(name, totals, cases_of(name, rule.epoch, snapshots)).json()


_MOST = 10_000
"""What the store keeps of the audit log; one policy's events may be far back in it."""


def _arm_views(rule: Rule, arms: ByArm) -> list[ArmView]:
    shares = dict(zip(rule.splitter.names, rule.splitter.weights, strict=True))
    whole = sum(shares.values())
    return [
        ArmView(
            name=arm.name,
            to=_words(arm),
            share=round(100 * shares[arm.name] / whole, 6),
            figures={
                metric: _figure(arms[arm.name][metric])
                for metric in METRICS
                if metric in arms.get(arm.name, {})
            },
        )
        for arm in rule.policy.arms
    ]


def _words(target: Target) -> str:
    if target.model is not None:
        return target.model
    upstream = f" ({target.upstream_model})" if target.upstream_model else ""
    return f"cluster {target.cluster}{upstream}"


def _figure(sums: Sums) -> Figure:
    if isinstance(sums, Values):
        return Figure(n=sums.n, mean=sums.mean, p50=sums.quantile(0.5), p95=sums.quantile(0.95))
    return Figure(n=sums.n, mean=sums.mean, p50=None, p95=None)


def _rollout(policy: Policy, status: Mapping[str, Any]) -> RolloutView | None:
    rollout, state = policy.rollout, status.get("state", {})
    if rollout is None:
        return None
    return RolloutView(
        phase=state.get("phase", "pending"),
        step=state.get("step", 0) + 1,
        steps=[
            StepView(weight=step.weight, hold_s=step.hold_s, min_requests=step.min_requests)
            for step in rollout.stages
        ],
        weight=state.get("weight", 0.0),
        elapsed_s=state.get("elapsed_s", 0.0),
        since=state.get("since", 0.0),
        reason=state.get("reason", "nobody has looked at it yet"),
        requests=status.get("requests"),
        waiting=list(status.get("waiting") or ()),
        gates=list(status.get("readings") or _deciding(status, state)),
    )


def _deciding(status: Mapping[str, Any], state: Mapping[str, Any]) -> list[Json]:
    """Return the readings that the phase was entered by, if it was."""
    last = (status.get(FIELD) or [{}])[-1].get("event", {})
    return list(last.get("readings", ())) if last.get("after") == state.get("phase") else []


def _experiment(policy: Policy, status: Mapping[str, Any]) -> ExperimentView | None:
    if policy.split is None:
        return None
    state = status.get("state", {})
    return ExperimentView(
        verdict=status.get("verdict", "nobody has looked at it yet"),
        winner=state.get("winner"),
        mismatch=state.get("mismatch"),
        comparisons=list(state.get("comparisons") or ()),
    )
