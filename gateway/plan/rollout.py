"""What becomes of a rollout: the next step, a wait, or the way back?

    pending --start, or at once with `start: auto`--> progressing (first step)
    progressing --step passed--> progressing (next step) … --last step passed--> succeeded
    progressing <--pause, resume--> paused
    progressing, paused --a gate failed--> rolled_back, or paused with `on_failure: pause`
    progressing --step_deadline_s over, still too few requests--> failed
    pending, progressing, paused --promote--> succeeded      --abort--> rolled_back
    succeeded, rolled_back, failed --start--> progressing (first step)
    any --another canary in the file--> progressing (first step), or pending with `start: manual`

Pending, rolled_back and failed mean that the baseline has everything, succeeded that the canary
has. Going back takes one transition: the weight is 0 in the state that `advance` returns.

A step *passes* when its `hold_s` is over, the canary has finished its `min_requests`, and no bound
of a gate is failed or undecided (`gateway.plan.gates` says when). While paused by a person the
gates still guard: a failure ends it. While paused by a gate only a person ends it; `resume` then
repeats the step with new sums, for the old ones would fail it again.

Time. The state outlives processes, so `now` is the wall clock, and a hold is the sum of the
differences between looks. A difference below zero (the clock was set back) or above `MAX_GAP_S`
(it was set forward, or no gateway was running) adds nothing, so that neither ends a hold. Pauses
add nothing either.

The file may change at any time; every look goes by the file as it is. Another canary starts anew.
Another baseline is compared with anew, in the same step. Other steps: it goes on with the largest
weight that is not above the present one, without beginning anew if that is the same; if all are
above, with the first, as it would if it began now, or after the pause. Other gates and numbers
apply at once.

Pure: wall seconds come as `now`; nothing here reads sums, clocks or stores.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from types import MappingProxyType
from typing import Any, TypeAlias

from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import Evidence
from gateway.plan.rollout_state import (
    Command,
    Event,
    EventKind,
    Phase,
    RefusedError,
    RolloutState,
    fingerprint,
)

MAX_GAP_S = 30.0
"""The longest time between two looks that counts as held: several times what a new leader needs
to take over from a dead one, and nothing beside any hold that means something."""

Moved: TypeAlias = tuple[RolloutState, tuple[Event, ...]]
"""The new state, and an event for each transition on the way to it."""

_PROGRESSING = Phase.PROGRESSING
_UNDER_WAY = frozenset({Phase.PROGRESSING, Phase.PAUSED})
_OPEN = _UNDER_WAY | {Phase.PENDING}
_FITS: Mapping[Command, frozenset[Phase]] = MappingProxyType(
    {
        Command.START: frozenset(Phase) - _UNDER_WAY,
        Command.PAUSE: frozenset({Phase.PROGRESSING}),
        Command.RESUME: frozenset({Phase.PAUSED}),
        Command.PROMOTE: _OPEN,
        Command.ABORT: _OPEN,
    }
)
_CANNOT: Mapping[Phase, str] = MappingProxyType(
    {
        Phase.PENDING: "it has not started",
        Phase.PROGRESSING: "it is in progress",
        Phase.PAUSED: "it is paused; resume, promote or abort it",
        Phase.SUCCEEDED: "it has succeeded; only start begins it anew",
        Phase.ROLLED_BACK: "it was rolled back; only start begins it anew",
        Phase.FAILED: "it has failed; only start begins it anew",
    }
)


def advance(state: RolloutState, rollout: Rollout, evidence: Evidence | None, now: float) -> Moved:
    """Look once: return the new state, and an event for each transition.

    `evidence` is None when none could be gathered; then time passes and no step ends. Evidence of
    another epoch than the state's is not heeded.
    """
    move = _Move(state, rollout, now)
    move.tick()
    move.follow_file()
    if move.state.phase is Phase.PENDING and rollout.start == "auto":
        move.begin(0, "started", "file", "starts by itself")
    elif evidence is not None and evidence.epoch == move.state.epoch:
        move.judge(evidence)
    return move.result


def obey(state: RolloutState, rollout: Rollout, command: Command, by: str, now: float) -> Moved:
    """Do what a person asks for; `by` is their name, for the audit log.

    Raises `RefusedError` if it does not fit the phase; nothing has changed then.
    """
    move = _Move(state, rollout, now)
    move.tick()
    move.follow_file()
    move.obey(command, by)
    return move.result


def waiting(state: RolloutState, rollout: Rollout, evidence: Evidence | None) -> tuple[str, ...]:
    """Return what the step still waits for, in words; empty if it would pass or nothing is on."""
    if state.phase is Phase.PAUSED:
        return ("resume, promote or abort",)
    if state.phase is Phase.PENDING:
        return ("start",)
    if state.phase is not Phase.PROGRESSING or state.step >= len(rollout.stages):
        return ()
    stage = rollout.stages[state.step]
    if evidence is None or evidence.epoch != state.epoch:
        return ("figures of both arms",)
    found = []
    if state.elapsed_s < stage.hold_s:
        found.append(f"held {state.elapsed_s:,.0f} of {stage.hold_s:,.0f} s")
    if evidence.requests < stage.min_requests:
        found.append(f"{evidence.requests:,} of {stage.min_requests:,} requests by the canary")
    found.extend(reading.words for reading in (*evidence.failed, *evidence.undecided))
    return tuple(found)


@dataclass(slots=True)
class _Move:
    """A state on its way to the next, and the events on that way."""

    state: RolloutState
    rollout: Rollout
    now: float
    events: list[Event] = field(default_factory=list)
    evidence: Evidence | None = None

    @property
    def result(self) -> Moved:
        return self.state, tuple(self.events)

    def tick(self) -> None:
        passed = self.now - self.state.seen_at
        held = passed if self.state.phase is _PROGRESSING and 0 < passed <= MAX_GAP_S else 0.0
        elapsed_s = self.state.elapsed_s + held
        self.state = replace(self.state, seen_at=self.now, elapsed_s=elapsed_s)

    def follow_file(self) -> None:
        """Make the state one of the file as it is now."""
        canary, baseline = fingerprint(self.rollout.canary), fingerprint(self.rollout.baseline)
        other_canary = canary != self.state.canary
        other_baseline = baseline != self.state.baseline
        if other_baseline:
            self.state = replace(self.state, baseline=baseline, baseline_epoch=None)
        if other_canary:
            self.state = replace(self.state, canary=canary)
            if self.rollout.start == "auto":
                self.begin(0, "changed", "file", "another canary: starts anew")
            else:
                words = "another canary: waits for its start"
                self.go(Phase.PENDING, "changed", "file", words, weight=0.0)
        elif other_baseline:
            under_way = self.state.phase in _UNDER_WAY
            words = "another baseline" + (": compared anew" if under_way else "")
            weight = self.state.weight if under_way else None
            self.go(self.state.phase, "changed", "file", words, weight=weight)
        if self.state.phase in _UNDER_WAY:
            self._fit_steps()

    def _fit_steps(self) -> None:
        state, stages = self.state, self.rollout.stages
        if state.step < len(stages) and stages[state.step].weight == state.weight:
            return
        step = self._fitting_step()
        weight = stages[step].weight if stages else inf
        if weight == state.weight:
            words = f"other steps: goes on as step {step + 1} of {len(stages)}"
            self.go(state.phase, "changed", "file", words, step=step)
        elif state.phase is _PROGRESSING:
            self.begin(step, "changed", "file", "other steps")
        elif weight < state.weight:
            words = f"other steps: down to {weight:g} %, still paused"
            self.go(state.phase, "changed", "file", words, step=step, weight=weight)

    def _fitting_step(self) -> int:
        """Return the last step that raises no weight; the first if all would."""
        weights = [stage.weight for stage in self.rollout.stages]
        return max(0, bisect_right(weights, self.state.weight) - 1)

    def judge(self, evidence: Evidence) -> None:
        """Go back, wait or go on, by what is known of the present step."""
        state = self.state
        if state.phase not in _UNDER_WAY or state.by_gate:
            return
        self.evidence = evidence
        if evidence.failed:
            self._fail("; ".join(found.words for found in evidence.failed))
        elif state.phase is _PROGRESSING and self._overdue(evidence):
            words = f"only {evidence.requests:,} requests by the canary in {state.elapsed_s:,.0f} s"
            self.go(Phase.FAILED, "failed", "clock", words, weight=0.0)
        elif state.phase is _PROGRESSING and not waiting(state, self.rollout, evidence):
            words = (
                f"step {state.step + 1} passed: {evidence.requests:,} requests by the canary, "
                f"{state.elapsed_s:,.0f} s"
            )
            self.begin(state.step + 1, "stepped", "steps", words)
        elif evidence.window == state.window and evidence.window_over:
            self.state = replace(state, window=state.window + 1)

    def _overdue(self, evidence: Evidence) -> bool:
        deadline_s = self.rollout.step_deadline_s
        few = evidence.requests < self.rollout.stages[self.state.step].min_requests
        return deadline_s is not None and few and self.state.elapsed_s > deadline_s

    def _fail(self, words: str) -> None:
        if self.rollout.on_failure == "rollback":
            self.go(Phase.ROLLED_BACK, "rolled_back", "gate", words, weight=0.0)
        else:
            self.go(Phase.PAUSED, "paused", "gate", words, by_gate=True)

    def obey(self, command: Command, by: str) -> None:
        phase = self.state.phase
        if phase not in _FITS[command]:
            raise RefusedError(f"cannot {command}: {_CANNOT[phase]}")
        match command:
            case Command.START:
                self.begin(0, "started", by, "started")
            case Command.PAUSE:
                self.go(Phase.PAUSED, "paused", by, "paused")
            case Command.RESUME if self.state.by_gate:
                words = "resumed after a failed gate, with new sums"
                self.begin(self._fitting_step(), "resumed", by, words)
            case Command.RESUME:
                self.go(_PROGRESSING, "resumed", by, "resumed")
            case Command.PROMOTE:
                words = "promoted: the canary has everything"
                self.go(Phase.SUCCEEDED, "succeeded", by, words, weight=100.0)
            case _:  # Abort; a new command would have no entry in _FITS.
                words = "aborted: the baseline has everything"
                self.go(Phase.ROLLED_BACK, "rolled_back", by, words, weight=0.0)

    def begin(self, step: int, kind: EventKind, by: str, words: str) -> None:
        """Enter a step with new sums; after the last, succeed."""
        stages = self.rollout.stages
        if step >= len(stages):
            words = f"{words}; the canary has everything"
            self.go(Phase.SUCCEEDED, "succeeded", by, words, weight=100.0)
            return
        weight = stages[step].weight
        words = f"{words}; step {step + 1} of {len(stages)}: {weight:g} % for the canary"
        self.go(_PROGRESSING, kind, by, words, step=step, weight=weight)

    def go(self, phase: Phase, kind: EventKind, by: str, words: str, **change: Any) -> None:
        """Make the transition and its event. With a `weight` the comparison begins anew."""
        before, evidence = self.state, self.evidence
        weight = change.pop("weight", None)
        if weight is not None:
            epoch = before.epoch + 1
            # While the canary has everything, the last epoch in which it had not is the measure.
            reference = epoch if weight < 100 else before.baseline_epoch
            change |= {"weight": weight, "epoch": epoch, "baseline_epoch": reference}
            change |= {"window": 1, "elapsed_s": 0.0}
        if phase is not before.phase:
            change = {"since": self.now, "by_gate": False} | change
        number = before.changes + 1
        after = replace(before, phase=phase, changes=number, reason=words, **change)
        self.state = after
        self.events.append(
            Event(
                number=number,
                kind=kind,
                at=self.now,
                before=before.phase,
                after=phase,
                step=after.step,
                weight_before=before.weight,
                weight_after=after.weight,
                epoch=after.epoch,
                requests=evidence.requests if evidence is not None else None,
                by=by,
                words=words,
                readings=evidence.readings if evidence is not None else (),
            )
        )
