"""What may a policy file say, in which units, and what holds if it says nothing?

Pure: values only. A file holds one policy: what it matches, and one of five things to do with that:

    route        one way for all of it
    split        an experiment: several ways by weight, compared (A/B/n)
    rollout      a canary that takes over by steps, under gates
    classifier   a small model that looks at the request chooses the way
    mirror       a copy of it goes elsewhere too; the answer stays where it is

The first four *steer*: of those the first that matches decides. Mirrors are looked at apart, and
again the first that matches counts, so that traffic can be steered and mirrored at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.conflicts import Conflict
from gateway.config.fields import Count, Percent, Seconds, Share, Spec, Text
from gateway.config.policy_checks import check_labels, check_rollout, check_split
from gateway.config.policy_fields import Label, StickyBy, Target
from gateway.config.policy_match import Match
from gateway.config.policy_rollout import Rollout
from gateway.config.policy_split import Arm, MissingKey, Split

Kind = Literal["route", "split", "rollout", "classifier", "mirror"]
KINDS: tuple[Kind, ...] = ("route", "split", "rollout", "classifier", "mirror")


class ClassifierArm(Target):
    """One way that a classifier can choose."""

    name: Label = Field(description="Its name in metrics, logs and reports.")
    labels: tuple[Text, ...] = Field(
        default=(),
        description="The classes that lead here, numbers as text; without any the arm's name.",
    )

    @property
    def effective_labels(self) -> tuple[str, ...]:
        """The classes that lead here."""
        return self.labels or (self.name,)


class Classifier(Spec):
    """An ONNX classifier over cheap features of the request chooses the arm.

    It needs the extra `classifier` (onnxruntime).
    """

    file: Text = Field(
        description="The ONNX file, from the policy file's folder. One input of shape [n, 10], "
        "32-bit floats, whose columns gateway/plan/features.py names; the first output is the "
        "label.",
    )
    arms: tuple[ClassifierArm, ...] = Field(min_length=1, description="The ways.")
    default: Label = Field(
        description="The arm for a label without arm, and whenever the classifier or its library "
        "is missing or fails."
    )


class Mirror(Spec):
    """Copies requests elsewhere and compares the answers. The client never waits for a copy."""

    to: Target = Field(description="Where the copies go.")
    percent: Percent = Field(
        default=100, description="Share of the matching requests that are copied, in percent."
    )
    max_concurrency: Count = Field(
        default=8, description="Copies under way at once; what comes beyond is not copied."
    )
    max_load: Share = Field(
        default=0.8,
        description="No copies while a cluster that the live request and its copy share is "
        "busier than this share of its max_inflight.",
    )
    timeout_s: Seconds = Field(default=120, description="Seconds after which a copy is given up.")
    log_content: bool = Field(
        default=False,
        description="Keep prompts and answers of the worst pairs for `sluice policy report`. "
        "Without it only figures are kept.",
    )


class Policy(Spec):
    """One policy: what it matches and what happens to it. Raises `pydantic.ValidationError`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [kind]} for kind in KINDS]})

    name: Label = Field(description="Its name in metrics, logs and commands; unique.")
    description: str = Field(default="", description="What it is for; shown with its state.")
    enabled: bool = Field(default=True, description="Whether it has any effect.")
    order: int = Field(
        default=100,
        description="Lower ones are asked first. Of equal ones the file's name decides.",
    )
    match: Match = Field(default=Match(), description="Which requests it applies to.")
    route: Target | None = Field(default=None, description="One way for all of them.")
    split: Split | None = Field(default=None, description="An experiment among several ways.")
    rollout: Rollout | None = Field(default=None, description="A new version, by steps.")
    classifier: Classifier | None = Field(default=None, description="A model chooses the way.")
    mirror: Mirror | None = Field(default=None, description="A copy goes elsewhere too.")

    @property
    def kind(self) -> Kind:
        """Which of the five it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def steers(self) -> bool:
        """Whether it decides where the answer comes from; a mirror does not."""
        return self.mirror is None

    @property
    def by(self) -> StickyBy:
        """What always goes the same way."""
        divided = self.split or self.rollout
        return divided.by if divided else "request"

    @property
    def missing_key(self) -> MissingKey:
        """What happens to requests without that."""
        divided = self.split or self.rollout
        return divided.missing_key if divided else "request"

    @property
    def salt(self) -> str:
        """What makes its hashes its own."""
        divided = self.split or self.rollout
        return (divided.salt if divided else None) or self.name

    @property
    def baseline(self) -> str:
        """The name of the arm that others are compared with, or that is left when all fails."""
        if self.split is not None:
            return self.split.baseline or self.split.arms[0].name
        return self.classifier.default if self.classifier is not None else self.arms[0].name

    @property
    def arms(self) -> Sequence[Arm | ClassifierArm]:
        """Its ways, whatever its kind.

        Those of a rollout are `baseline` and `canary`, with all of the weight on the baseline; the
        one of a route is called `route`, of a mirror `mirror`.
        """
        if self.split is not None:
            return self.split.arms
        if self.classifier is not None:
            return self.classifier.arms
        if self.rollout is not None:
            return (
                _arm("baseline", self.rollout.baseline, 1),
                _arm("canary", self.rollout.canary, 0),
            )
        if self.mirror is not None:
            return (_arm("mirror", self.mirror.to, 1),)
        assert self.route is not None  # noqa: S101 - the validator lets nothing else through
        return (_arm("route", self.route, 1),)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "does nothing"
            raise ValueError(f"{found}; a policy is one of {', '.join(KINDS)}")
        errors = [
            InitErrorDetails(
                # The message is a context value, so that braces in names stay what they are.
                type=PydanticCustomError("conflict", "{message}", {"message": flaw.message}),
                loc=flaw.loc,
                input=None,
            )
            for flaw in self._flaws()
        ]
        if errors:
            # pydantic adopts the errors of a ValidationError raised here, each at its own place.
            raise ValidationError.from_exception_data("Policy", errors)
        return self

    def _flaws(self) -> list[Conflict]:
        if self.split is not None:
            return check_split(self.split)
        if self.rollout is not None:
            return check_rollout(self.rollout)
        if self.classifier is not None:
            arms = self.classifier.arms
            return check_labels(
                [(arm.name, arm.effective_labels) for arm in arms], self.classifier.default
            )
        return []


def _arm(name: str, target: Target, weight: float) -> Arm:
    values = {field: getattr(target, field) for field in Target.model_fields}
    return Arm.model_construct(name=name, weight=weight, **values)
