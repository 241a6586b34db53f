"""How may traffic be divided, and what is compared between its parts?

Pure: values only. `gateway.plan.split` assigns, `gateway.stats` compares.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import Count, Spec, Text
from gateway.config.policy_fields import ArmWeight, Label, Metric, Probability, StickyBy, Target

MissingKey = Literal["request", "baseline"]

BY = (
    "What always goes the same way: `user` (the body's field), `session` (x-session-id, else "
    "x-user-id, else the body's user), `api_key`, `header:NAME`, or `request` for each by itself."
)
SALT = (
    "Mixed into the hash. Policies with different salts assign independently of each other; "
    "without it the policy's name."
)
MISSING = (
    "Where requests without that key go: each by itself by weight (`request`, as Envoy does "
    "without a hash), or to the `baseline`."
)


class Arm(Target):
    """One way that requests can go."""

    name: Label = Field(description="Its name in metrics, logs and reports.")
    weight: ArmWeight = Field(
        default=1,
        description="Its share, relative to the sum of the arms' weights. Raising it moves keys "
        "only into this arm, lowering it only out of it.",
    )


class Analysis(Spec):
    """How the arms are compared."""

    method: Literal["sequential", "fixed"] = Field(
        default="sequential",
        description="`sequential` holds however often it is looked at; `fixed` (z and t tests) "
        "only when it is looked at once, with the needed number of samples: what it says "
        "then stays said.",
    )
    alpha: Annotated[Probability, Field(le=0.5)] = Field(
        default=0.05, description="Share of false alarms that is put up with; 0.05 by convention."
    )
    power: Probability = Field(
        default=0.8,
        description="Chance of seeing an effect of the minimal size, for the number of samples "
        "that is asked for (Cohen, 1988: 0.8).",
    )
    min_effect: Probability = Field(
        default=0.02,
        description="Smallest difference of a rate that matters, as a share: 0.02 is 2 points.",
    )
    min_relative_effect: Probability = Field(
        default=0.05,
        description="Smallest relative difference of any other metric that matters.",
    )
    min_samples: Count = Field(
        default=100, description="Requests in each arm before anything is decided."
    )
    aa: bool = Field(
        default=False,
        description="The arms are the same on purpose: any difference is a defect, and reported "
        "as one.",
    )


class Split(Spec):
    """An experiment (A/B/n): requests are divided among arms, and the arms compared."""

    by: StickyBy = Field(default="session", description=BY)
    salt: Text | None = Field(default=None, description=SALT)
    missing_key: MissingKey = Field(default="request", description=MISSING)
    arms: tuple[Arm, ...] = Field(min_length=2, description="The ways; two at least.")
    baseline: Label | None = Field(
        default=None,
        description="The arm that the others are compared with; without it the first.",
    )
    metrics: tuple[Metric, ...] = Field(
        default=("success_rate", "ttft", "latency"),
        min_length=1,
        description="What is compared. The first decides, the others are reported.",
    )
    analysis: Analysis = Field(default=Analysis(), description="How it is compared.")
    on_decision: Literal["report", "promote"] = Field(
        default="report",
        description="Once an arm is better: say so, or let it have all requests.",
    )
