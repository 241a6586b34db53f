"""Where does each arm of a policy lead, and which of them does a request take?

Pure. Junctions are compiled with the table, one for each name that policies apply to, so that
deciding is a match, a hash and two looks into tuples: about 2 µs for a split between two arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.config.policy import ClassifierArm
from gateway.config.policy_fields import Target
from gateway.config.policy_split import Arm
from gateway.plan.classify import Classifier
from gateway.plan.match import Lanes, Rule, Subject
from gateway.plan.override import Override
from gateway.plan.table import Nature, Plan, plan_for

if TYPE_CHECKING:
    from gateway.upstream.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Course:
    """One arm, for one name that clients use."""

    rule: Rule
    arm: str
    plan: Plan | None
    """Where its requests go, under the client's name; None while nobody serves its model."""
    override: Override | None
    """What it changes in their bodies."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One policy, for one name that clients use."""

    rule: Rule
    courses: tuple[Course, ...]
    """In the order of the rule's splitter."""
    classifier: Classifier | None = None
    """Chooses in the splitter's place."""

    def choose(self, subject: Subject, body: bytes) -> Course:
        """Return the course of a request that the rule matches."""
        if self.classifier is not None:
            return self.courses[self.classifier.pick(body).arm]
        rule = self.rule
        return self.courses[rule.splitter.pick(rule.sticky(subject))]


@dataclass(frozen=True, slots=True)
class Junction:
    """The policies that may apply to a name, in the order in which they are asked."""

    steering: tuple[Branch, ...]
    mirrors: tuple[Branch, ...]

    def steer(self, subject: Subject, body: bytes) -> Course | None:
        """Return the course that the first policy that matches gives the request.

        None if it goes its own way. `body` is for classifiers.
        """
        for branch in self.steering:
            if branch.rule.matches(subject):
                return branch.choose(subject, body)
        return None

    def mirror(self, subject: Subject) -> Course | None:
        """Return where a copy of the request goes, too; None for nowhere."""
        for branch in self.mirrors:
            if branch.rule.matches(subject):
                return branch.courses[0]
        return None


def junction_of(
    plan: Plan,
    lanes: Lanes,
    plans: Mapping[str, Plan],
    clusters: Mapping[str, Cluster],
    classifiers: Mapping[str, Classifier],
) -> Junction:
    """Compile what may become of the requests for one name; `plan` is its own.

    `classifiers` are those that are loaded, by their policies' names.
    """

    def branches(rules: tuple[Rule, ...]) -> tuple[Branch, ...]:
        return tuple(
            Branch(
                rule,
                tuple(_course(rule, arm, plan, plans, clusters) for arm in rule.policy.arms),
                classifiers.get(rule.policy.name),
            )
            for rule in rules
            if all(_fits(arm, plan, plans, clusters) for arm in rule.policy.arms)
        )

    return Junction(branches(lanes.steering), branches(lanes.mirrors))


def _fits(
    arm: Target, plan: Plan, plans: Mapping[str, Plan], clusters: Mapping[str, Cluster]
) -> bool:
    """Whether requests for the model can be answered where the arm leads, as far as is known.

    A policy for every model is one for all of its arms' kind.
    """
    kind: str | None = None
    if arm.cluster is not None:
        kind = clusters[arm.cluster].spec.kind
    elif (other := plans.get(arm.model or "")) is not None:
        kind = other.kind
    return kind is None or plan.kind is None or kind == plan.kind


def _course(
    rule: Rule,
    arm: Arm | ClassifierArm,
    plan: Plan,
    plans: Mapping[str, Plan],
    clusters: Mapping[str, Cluster],
) -> Course:
    override = None if arm.override.empty else Override(arm.override)
    return Course(rule, arm.name, _target(arm, plan, plans, clusters), override)


def _target(
    arm: Target, plan: Plan, plans: Mapping[str, Plan], clusters: Mapping[str, Cluster]
) -> Plan | None:
    """Return the plan that serves the client's name where the arm leads."""
    if arm.cluster is not None:
        pool = clusters[arm.cluster].whole()
        upstream = arm.upstream_model or plan.upstream_model
        return plan_for(plan.model, plan.label, pool, upstream, plan.fallbacks, Nature(plan.kind))
    other = plans.get(arm.model or "")
    if other is None:
        return None
    if other.pool is plan.pool and other.upstream_model == plan.upstream_model:
        return replace(plan, junction=None)
    return plan_for(
        plan.model,
        plan.label,
        other.pool,
        other.upstream_model,
        other.fallbacks,
        Nature(other.kind, other.max_model_len),
    )
