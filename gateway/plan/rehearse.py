"""Would this rollout have gone through, over the requests of an access log?

Pure. The log's requests are counted for the baseline and the canary, and the machine and the gates
of `gateway.plan.rollout` look at them as they would have then. Who counts for which arm:

- `logged`: the requests that the policy has divided, as the log says;
- `models`: those for one model and for another. Of the canary's, as many as the step's weight
  gives it; of the baseline's, the rest.

What the log does not tell is not judged: gates on aborts and truncations are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.config.policy import Policy
from gateway.config.policy_rollout import Gate, Rollout
from gateway.plan.evidence import Arms, Evidence
from gateway.plan.gates import Watch
from gateway.plan.logged import Line
from gateway.plan.rollout import advance, waiting
from gateway.plan.rollout_state import Event, RolloutState, initial
from gateway.plan.split import sampler
from gateway.stats.sums import Rate, Sums, Values
from gateway.telemetry.arms import ArmTally

MAX_LOOK_S = 20.0
"""Between two looks of the machine, below its `MAX_GAP_S`; the running gateway looks each second.
A look takes about 10 ms, so a day takes half a minute."""

QUIET_S = 7 * 86_400.0
"""A silence of the log in which every look is taken, unless holds and deadlines are longer. In what
is left of a longer one nothing can happen: a clock that was set makes fifty years."""

_MIN_LOOK_S = 1.0
_LOOKS = 500
UNLOGGED = frozenset({"abort_rate", "truncation_rate"})
"""What the access log does not tell."""

BASELINE, CANARY = "baseline", "canary"
ArmOf = Callable[[Line, RolloutState], str | None]
"""Which arm a request counts for in a state; None for neither."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What would have become of the rollout."""

    state: RolloutState
    events: tuple[Event, ...]
    waiting: tuple[str, ...]
    """What it still waits for at the end of the log."""
    requests: Mapping[str, int]
    """By arm: those that counted."""
    failed: Mapping[str, int]
    """By arm: those of them that failed."""
    left_out: tuple[str, ...]
    """Metrics of gates that could not be judged."""


def logged(policy: Policy) -> ArmOf:
    """Return which arm the log says that a request had under the policy."""
    name = policy.name
    return lambda line, _: (
        line.arm if line.policy == name and line.arm in (BASELINE, CANARY) else None
    )


def models(policy: Policy, baseline: str, canary: str) -> ArmOf:
    """Return the arm by the model that clients asked for, thinned to the step's weight."""
    salt = policy.salt

    def arm_of(line: Line, state: RolloutState) -> str | None:
        if line.model not in (baseline, canary):
            return None
        arm = BASELINE if line.model == baseline else CANARY
        percent = 100 - state.weight if arm == BASELINE else state.weight
        return arm if sampler(salt, f"rehearse {arm}", percent)(line.request_id.encode()) else None

    return arm_of


def rehearse(rollout: Rollout, lines: Sequence[Line], arm_of: ArmOf) -> Rehearsed:
    """Go through the lines, in the order of their ends.

    ValueError without lines. It starts with the first of them, also with `start: manual`.
    """
    if not lines:
        raise ValueError("there is nothing to rehearse with")
    play = _Play(_judgeable(rollout), arm_of, lines[0].ts)
    span_s = lines[-1].ts - lines[0].ts
    look_s = min(MAX_LOOK_S, max(_MIN_LOOK_S, span_s / _LOOKS))
    due = lines[0].ts
    quiet_s = max(QUIET_S, 2 * _longest_s(rollout))
    for line in lines:
        skip_at = due + quiet_s
        while line.ts >= due:
            play.look(due)
            due += look_s
            if due > skip_at:
                due = max(due, line.ts)
        play.count(line)
    play.look(lines[-1].ts)
    state = play.state
    return Rehearsed(
        state=state,
        events=tuple(play.events),
        waiting=waiting(state, play.rollout, play.evidence),
        requests=play.requests,
        failed=play.failed,
        left_out=tuple(sorted({gate.metric for gate in rollout.gates} & UNLOGGED)),
    )


class _Play:
    """A rollout under way in the log's time."""

    __slots__ = (
        "_arm_of", "_news", "_tallies", "_watch", "events", "evidence", "failed", "requests",
        "rollout", "state",
    )  # fmt: skip

    def __init__(self, rollout: Rollout, arm_of: ArmOf, now: float) -> None:
        self.rollout = rollout
        self.state = initial(rollout, now)
        self.events: list[Event] = []
        self.evidence: Evidence | None = None
        self.requests = dict.fromkeys((BASELINE, CANARY), 0)
        self.failed = dict.fromkeys((BASELINE, CANARY), 0)
        self._arm_of = arm_of
        self._tallies: dict[tuple[int, str], ArmTally] = {}
        self._watch = Watch()
        self._news = True

    def count(self, line: Line) -> None:
        """Count a request for its arm, if it has one."""
        arm = self._arm_of(line, self.state)
        if arm is None:
            return
        tally = self._tally(self.state.epoch, arm)
        before = tally.error_rate.hits
        tally.observe(line.record())
        self.requests[arm] += 1
        self.failed[arm] += tally.error_rate.hits - before
        self._news = True

    def look(self, now: float) -> None:
        """Let the machine look; what it saw last counts while nothing has come since."""
        state = self.state
        if self._news or self.evidence is None or not _is_of(self.evidence, state):
            self.evidence = self._watch.look(self.rollout, state.epoch, state.window, self._arms())
            self._news = False
        self.state, events = advance(state, self.rollout, self.evidence, now)
        self.events.extend(events)

    def _arms(self) -> Arms:
        state = self.state
        assert state.baseline_epoch is not None  # noqa: S101  another file would unset it; there is one
        canary = _sums(self._tally(state.epoch, CANARY))
        baseline = _sums(self._tally(state.baseline_epoch, BASELINE))
        return Arms(canary, baseline, earlier=state.earlier)

    def _tally(self, epoch: int, arm: str) -> ArmTally:
        return self._tallies.setdefault((epoch, arm), ArmTally())


def _longest_s(rollout: Rollout) -> float:
    """Return how long it may take through all steps without a request."""
    stages = rollout.stages
    return sum(stage.hold_s for stage in stages) + (rollout.step_deadline_s or 0.0) * len(stages)


def _is_of(evidence: Evidence, state: RolloutState) -> bool:
    return (evidence.epoch, evidence.window) == (state.epoch, state.window)


def _judgeable(rollout: Rollout) -> Rollout:
    gates: Iterable[Gate] = (gate for gate in rollout.gates if gate.metric not in UNLOGGED)
    return rollout.model_copy(update={"gates": tuple(gates), "start": "auto"})


def _sums(tally: ArmTally) -> dict[str, Sums]:
    """Return the sums as they are now: the tally's own go on."""
    return {
        metric: sums.copy() if isinstance(sums, Values) else Rate(sums.n, sums.hits)
        for metric, sums in tally.sums().items()
    }
