"""By which steps does a new version take over, and what must hold on the way?

Pure: values only. `gateway.plan.rollout` is the state machine that they drive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gateway.config.fields import Pause, Seconds, Share, Spec, Text
from gateway.config.policy_fields import Number, Probability, Ratio, StickyBy, Target
from gateway.config.policy_split import BY, MISSING, SALT, MissingKey

GateMetric = Literal[
    "error_rate",
    "abort_rate",
    "truncation_rate",
    "cancel_rate",
    "ttft",
    "inter_token",
    "latency",
    "output_tokens",
]
RATES = frozenset({"error_rate", "abort_rate", "truncation_rate", "cancel_rate"})
TIMES = frozenset({"ttft", "inter_token", "latency"})


class Step(Spec):
    """One stage of a rollout."""

    weight: Annotated[Number, Field(gt=0, le=100)] = Field(
        description="Percent of the keys that the canary has in this step."
    )
    hold_s: Pause = Field(
        default=0, description="Seconds that the step lasts at least, pauses not counted."
    )
    min_requests: int = Field(
        default=100,
        ge=0,
        description="Requests that the canary must have finished in this step before it can end.",
    )

    @property
    def asks(self) -> bool:
        """Whether something is written that must hold before it ends."""
        return self.hold_s > 0 or (
            self.min_requests > 0 and "min_requests" in self.model_fields_set
        )


class Gate(Spec):
    """One condition on the canary. It fails only when an interval's bound, not a point, is over."""

    metric: GateMetric = Field(description="What is looked at.")
    quantile: Share | None = Field(
        default=None,
        description="Of times and lengths: which quantile; 0.95 if nothing is said, for "
        "output_tokens 0.5.",
    )
    max: Share | None = Field(
        default=None, description="Of rates: the canary's largest share, whatever the baseline's."
    )
    max_increase: Share | None = Field(
        default=None,
        description="Of rates: largest difference from the baseline over the same time, as a "
        "share: 0.01 is 1 point.",
    )
    max_s: Seconds | None = Field(
        default=None, description="Of times: Seconds at the most, whatever the baseline's."
    )
    max_ratio: Annotated[Ratio, Field(ge=1)] | None = Field(
        default=None,
        description="Of times and lengths: the canary's quantile over the baseline's, at the most.",
    )
    min_ratio: Annotated[Ratio, Field(le=1)] | None = Field(
        default=None, description="The same at the least; for answers that become too short."
    )

    @property
    def effective_quantile(self) -> float | None:
        """The quantile that is compared; None for rates."""
        if self.metric in RATES:
            return None
        if self.quantile is not None:
            return self.quantile
        return 0.5 if self.metric == "output_tokens" else 0.95

    @model_validator(mode="after")
    def _bounds_fit_the_metric(self) -> Self:
        given = {
            name
            for name in ("quantile", "max", "max_increase", "max_s", "max_ratio", "min_ratio")
            if getattr(self, name) is not None
        }
        allowed = {"max", "max_increase"}
        if self.metric not in RATES:
            allowed = {"quantile", "max_ratio", "min_ratio"}
        if self.metric in TIMES:
            allowed |= {"max_s"}
        if given - allowed:
            raise ValueError(
                f"has {', '.join(sorted(given - allowed))}, which {self.metric} cannot have "
                f"(it can: {', '.join(sorted(allowed))})"
            )
        if not given - {"quantile"}:
            raise ValueError(f"needs a bound: {', '.join(sorted(allowed - {'quantile'}))}")
        if self.quantile in (0, 1):
            raise ValueError(
                "has a quantile that no sample can bound; use more than 0, less than 1"
            )
        return self


_HOUR_S = 3600
PLANS: Mapping[str, tuple[Step, ...]] = {
    "standard": (
        Step(weight=1, hold_s=_HOUR_S, min_requests=500),
        Step(weight=5, hold_s=4 * _HOUR_S, min_requests=2000),
        Step(weight=25, hold_s=24 * _HOUR_S, min_requests=5000),
        Step(weight=50, hold_s=24 * _HOUR_S, min_requests=5000),
    ),
    "quick": (
        Step(weight=5, hold_s=300, min_requests=200),
        Step(weight=10, hold_s=300, min_requests=200),
        Step(weight=25, hold_s=300, min_requests=500),
        Step(weight=50, hold_s=300, min_requests=500),
    ),
    "blue_green": (Step(weight=100, hold_s=600, min_requests=100),),
}
"""Steps by the name of a plan; each ends with all traffic on the canary. `blue_green` switches at
once, and goes back within its ten minutes if a gate fails."""

DEFAULT_GATES = (
    Gate(metric="error_rate", max_increase=0.01),
    Gate(metric="abort_rate", max_increase=0.01),
    Gate(metric="truncation_rate", max_increase=0.01),
    Gate(metric="ttft", quantile=0.95, max_ratio=1.5),
    Gate(metric="latency", quantile=0.95, max_ratio=1.5),
)
"""A point more of failures, as Flagger's own example (success rate at least 99 %) leaves room for.
The ratio of times is a choice of ours, wide enough that a cold prefix cache does not fail it."""


class Rollout(Spec):
    """A canary: a new version takes over by steps, and goes back when a gate fails."""

    baseline: Target = Field(description="What serves now.")
    canary: Target = Field(description="What is to take over.")
    by: StickyBy = Field(default="session", description=BY)
    salt: Text | None = Field(default=None, description=SALT)
    missing_key: MissingKey = Field(default="request", description=MISSING)
    plan: Literal["standard", "quick", "blue_green"] | None = Field(
        default=None,
        description="Well-known steps: `standard` 1 % for 1 h, 5 % for 4 h, 25 % and 50 % for 24 h "
        "each, 100 %; `quick` 5-10-25-50-100 with 5 min each; `blue_green` 100 % at once, and "
        "10 min in which it can go back. `standard` if neither plan nor steps are given.",
    )
    steps: tuple[Step, ...] = Field(
        default=(),
        description="Instead of `plan`: steps of rising weight. After the last the canary has "
        "everything. One of 100 that says neither hold_s nor min_requests is that end; one that "
        "does is a step, in which it can still go back.",
    )
    gates: tuple[Gate, ...] = Field(
        default=DEFAULT_GATES,
        description="What must hold, in every step. Those of the default: at most 1 point more of "
        "errors, aborts and truncations, and 95 % quantiles of ttft and latency of at most 1.5 "
        "times the baseline's.",
    )
    alpha: Probability = Field(
        default=0.05,
        description="Chance that a canary as good as the baseline is rolled back, all gates, "
        "steps and looks together.",
    )
    start: Literal["auto", "manual"] = Field(
        default="auto",
        description="Whether it begins when the file is first read, or with "
        "`sluice rollout start`.",
    )
    on_failure: Literal["rollback", "pause"] = Field(
        default="rollback",
        description="When a gate fails: all requests back to the baseline, or wait for a person "
        "with the weight as it is.",
    )
    step_deadline_s: Seconds | None = Field(
        default=None,
        description="Seconds after which a step that still has too few requests fails the rollout; "
        "null lets it wait. (Argo's progressDeadlineSeconds.)",
    )

    @property
    def stages(self) -> tuple[Step, ...]:
        """The steps before the canary has everything: those written, or the plan's.

        A last step of 100 % that asks for nothing, no hold and no requests, is no stage: it is the
        end.
        """
        steps = self.steps or PLANS[self.plan or "standard"]
        if steps and steps[-1].weight == 100 and not steps[-1].asks:
            return steps[:-1]
        return steps

    @model_validator(mode="after")
    def _plan_or_steps(self) -> Self:
        if self.plan is not None and self.steps:
            raise ValueError("has both plan and steps; one of them says how it goes")
        return self
