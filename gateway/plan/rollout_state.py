"""Where does a rollout stand, and what is told about each change?

Pure: values only, that survive restarts as JSON. `gateway.plan.rollout` moves from one to the next.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from gateway.config.policy_fields import Target
from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import Reading


class Phase(StrEnum):
    """The states of the machine."""

    PENDING = "pending"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether only `start`, or another canary in the file, leads out of it."""
        return self in _FINAL


_FINAL = frozenset({Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED})


class Command(StrEnum):
    """What a person may ask for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    """The canary has everything at once, whatever the gates say."""
    ABORT = "abort"
    """The baseline has everything at once."""


EventKind: TypeAlias = Literal[
    "changed", "failed", "paused", "resumed", "rolled_back", "started", "stepped", "succeeded"
]


class RefusedError(Exception):
    """The command does not fit the phase; the message says why, for the person who gave it."""


Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout. Raises `ValueError` when the fields contradict each other."""

    phase: Phase
    step: Annotated[int, Field(ge=0)]
    """Index of the step in the file's list; of no meaning unless progressing or paused."""
    weight: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
    """Percent of the keys that the canary has."""
    epoch: Annotated[int, Field(ge=0)]
    """Names the sums that are counted now. It grows with each change of weight, and whenever the
    comparison begins anew."""
    baseline_epoch: Annotated[int, Field(ge=0)] | None
    """The epoch whose baseline the canary is compared with: the present one, or, while the canary
    has everything, the last in which the baseline had something; None if there is none."""
    window: Annotated[int, Field(ge=1)]
    """Which stretch of the canary's requests in this epoch is looked at closely."""
    elapsed_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """How long the step has lasted, without pauses and without times in which no gateway ran."""
    seen_at: Finite
    """Wall clock of the last look; a heartbeat."""
    since: Finite
    """Wall clock at which the phase was entered."""
    by_gate: bool
    """Whether it was a failed gate that paused it."""
    canary: str
    """Fingerprint of the canary's target in the file."""
    baseline: str
    """Fingerprint of the baseline's target in the file."""
    changes: Annotated[int, Field(ge=0)]
    """How many events there have been; the last one's number."""
    reason: str
    """Why it is as it is: the last event's words."""

    def __post_init__(self) -> None:
        all_or_nothing = {
            Phase.PENDING: 0,
            Phase.SUCCEEDED: 100,
            Phase.ROLLED_BACK: 0,
            Phase.FAILED: 0,
        }
        expected = all_or_nothing.get(self.phase)
        if expected is not None and self.weight != expected:
            raise ValueError(f"{self.phase} with a weight of {self.weight:g}")
        if expected is None and not self.weight:
            raise ValueError(f"{self.phase} without weight")
        if self.by_gate and self.phase is not Phase.PAUSED:
            raise ValueError(f"{self.phase}, but paused by a gate")
        if self.baseline_epoch is not None and self.baseline_epoch > self.epoch:
            raise ValueError("compared with an epoch that is yet to come")

    @property
    def earlier(self) -> bool:
        """Whether the baseline's sums are of an earlier time: `Arms.earlier`."""
        return self.baseline_epoch != self.epoch

    def as_json(self) -> dict[str, Any]:
        """Return all fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Event:
    """One transition, for the audit log: what changed, why, and the numbers behind it.

    `number` counts a rollout's events, so policy and number name an event for ever.
    """

    number: int
    kind: EventKind
    at: float
    before: Phase
    after: Phase
    step: int
    weight_before: float
    weight_after: float
    epoch: int
    requests: int | None
    """Requests of the canary in the epoch that ended or goes on; None if nobody looked."""
    by: str
    """Who caused it: a person's name, `gate`, `file`, `clock` or `steps`."""
    words: str
    readings: tuple[Reading, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return all fields by name, infinite numbers as None."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return fields | {"readings": [reading.as_json() for reading in self.readings]}


def read(value: object) -> RolloutState:
    """Read back what `RolloutState.as_json` gave.

    Fields that are not known are left out: a newer process may have written them. Raises
    `ValueError` (pydantic's) for anything that is no state.
    """
    return _adapter().validate_python(value)


def initial(rollout: Rollout, now: float) -> RolloutState:
    """Return the state of a rollout that the store has not heard of."""
    return RolloutState(
        phase=Phase.PENDING,
        step=0,
        weight=0.0,
        epoch=0,
        baseline_epoch=0,
        window=1,
        elapsed_s=0.0,
        seen_at=now,
        since=now,
        by_gate=False,
        canary=fingerprint(rollout.canary),
        baseline=fingerprint(rollout.baseline),
        changes=0,
        reason="not started",
    )


def weights(state: RolloutState | None, rollout: Rollout) -> tuple[float, float]:
    """Return the percentages of baseline and canary that apply now, in the order of the arms.

    The baseline has everything while nothing is known, and while the state is about another
    canary: a file that was just read must not give a new version its predecessor's share.
    """
    if state is None or state.canary != fingerprint(rollout.canary):
        return 100.0, 0.0
    return 100 - state.weight, state.weight


def fingerprint(target: Target) -> str:
    """Return what tells one target from another; a field that a later version adds does not."""
    text = json.dumps(target.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


@cache
def _adapter() -> TypeAdapter[RolloutState]:
    return TypeAdapter(RolloutState)
