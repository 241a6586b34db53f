"""A rollout goes on only when its step has passed, and back as soon as a gate has failed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import WINDOW_REQUESTS, Bound, Evidence, Reading, Scope, Verdict
from gateway.plan.rollout import MAX_GAP_S, advance, obey, waiting
from gateway.plan.rollout_state import (
    Command,
    Event,
    Phase,
    RefusedError,
    RolloutState,
    initial,
    read,
    weights,
)

STEPS = [
    {"weight": 5, "hold_s": 60, "min_requests": 100},
    {"weight": 50, "hold_s": 60, "min_requests": 200},
]
NOW = 1_700_000_000.0
PERSON = "ann"


def spec(**fields: Any) -> Rollout:
    """A rollout of two steps, unless the fields say otherwise."""
    given = {"baseline": {"model": "old"}, "canary": {"model": "new"}, "steps": STEPS}
    return Rollout.model_validate(given | fields)


SPEC = spec()


def reading(verdict: Verdict) -> Reading:
    """An error rate with this verdict."""
    return Reading(
        metric="error_rate",
        quantile=None,
        bound=Bound.MAX,
        allowed=0.01,
        verdict=verdict,
        scope=Scope.STEP,
        canary=0.5,
        baseline=None,
        canary_n=100,
        baseline_n=0,
        value=0.5,
        low=0.4,
        high=float("inf"),
        words=f"error_rate {verdict}",
    )


def seen(state: RolloutState, requests: int = 1000, *verdicts: Verdict) -> Evidence:
    """What a look at this state's epoch found; without verdicts its gates pass."""
    found = tuple(reading(verdict) for verdict in verdicts or (Verdict.PASS,))
    return Evidence(state.epoch, state.window, requests, 0, found)


def running(rollout: Rollout = SPEC, step: int = 0) -> RolloutState:
    """A rollout that has just entered a step."""
    state, _ = advance(initial(rollout, NOW), rollout, None, NOW)
    for _ in range(step):
        state, _ = advance(replace(state, elapsed_s=1e9), rollout, seen(state), state.seen_at)
    assert (state.phase, state.step) == (Phase.PROGRESSING, step)
    return state


def hold(state: RolloutState, seconds: float, rollout: Rollout = SPEC) -> RolloutState:
    """Look each 10 s without evidence."""
    for _ in range(int(seconds // 10)):
        state, events = advance(state, rollout, None, state.seen_at + 10)
        assert not events
    return state


def paused(rollout: Rollout = SPEC) -> RolloutState:
    state, _ = obey(running(rollout), rollout, Command.PAUSE, PERSON, NOW)
    return state


def paused_by_gate(rollout: Rollout, step: int = 0) -> RolloutState:
    state = running(rollout, step)
    state, _ = advance(state, rollout, seen(state, 10, Verdict.FAIL), state.seen_at)
    assert state.by_gate
    return state


def ended(phase: Phase) -> RolloutState:
    state = running()
    if phase is Phase.FAILED:
        late = spec(step_deadline_s=5)
        state, _ = advance(replace(state, elapsed_s=6.0), late, seen(state, 1), NOW)
    else:
        command = Command.PROMOTE if phase is Phase.SUCCEEDED else Command.ABORT
        state, _ = obey(state, SPEC, command, PERSON, NOW)
    assert state.phase is phase
    return state


FINAL = (Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED)


class TestTheWayForward:
    def test_with_start_auto_the_first_look_begins_the_first_step(self) -> None:
        state, (event,) = advance(initial(SPEC, NOW), SPEC, None, NOW + 1)
        assert (state.phase, state.step, state.weight) == (Phase.PROGRESSING, 0, 5.0)
        assert (state.epoch, state.baseline_epoch, state.since) == (1, 1, NOW + 1)
        assert (event.kind, event.by, event.number) == ("started", "file", 1)
        assert event.words == "starts by itself; step 1 of 2: 5 % for the canary"
        assert state.reason == event.words

    def test_with_start_manual_it_waits_for_the_command(self) -> None:
        manual = spec(start="manual")
        state, events = advance(initial(manual, NOW), manual, None, NOW + 1)
        assert (state.phase, events) == (Phase.PENDING, ())
        assert waiting(state, manual, None) == ("start",)
        state, (event,) = obey(state, manual, Command.START, PERSON, NOW + 2)
        assert (state.phase, event.by) == (Phase.PROGRESSING, PERSON)

    def test_a_step_passes_when_held_with_enough_requests_and_gates_that_pass(self) -> None:
        state = replace(hold(running(), 60), window=7)
        state, (event,) = advance(state, SPEC, seen(state, 100), state.seen_at)
        assert (state.step, state.weight, state.epoch) == (1, 50.0, 2)
        assert (state.elapsed_s, state.window) == (0.0, 1)
        assert (event.kind, event.weight_before, event.weight_after) == ("stepped", 5.0, 50.0)
        assert (event.requests, event.by) == (100, "steps")
        assert [found.verdict for found in event.readings] == [Verdict.PASS]
        assert event.words == (
            "step 1 passed: 100 requests by the canary, 60 s; step 2 of 2: 50 % for the canary"
        )

    def test_after_the_last_step_the_canary_has_everything(self) -> None:
        state = hold(running(step=1), 60)
        state, (event,) = advance(state, SPEC, seen(state, 200), state.seen_at)
        assert (state.phase, state.weight) == (Phase.SUCCEEDED, 100.0)
        assert (event.kind, event.by) == ("succeeded", "steps")
        assert state.baseline_epoch == 2  # The last in which the baseline had something.
        assert waiting(state, SPEC, None) == ()

    def test_a_rollout_of_no_steps_succeeds_at_its_start(self) -> None:
        at_once = spec(steps=[{"weight": 100}])
        state, (event,) = advance(initial(at_once, NOW), at_once, None, NOW)
        assert (state.phase, event.kind) == (Phase.SUCCEEDED, "succeeded")

    @pytest.mark.parametrize(
        ("elapsed_s", "requests", "verdicts", "words"),
        [
            (59.0, 100, (), "held 59 of 60 s"),
            (60.0, 99, (), "99 of 100 requests by the canary"),
            (60.0, 100, (Verdict.PASS, Verdict.UNDECIDED), "error_rate undecided"),
        ],
    )
    def test_each_condition_alone_holds_the_step(
        self, elapsed_s: float, requests: int, verdicts: tuple[Verdict, ...], words: str
    ) -> None:
        state = replace(running(), elapsed_s=elapsed_s)
        evidence = seen(state, requests, *verdicts)
        assert waiting(state, SPEC, evidence) == (words,)
        assert advance(state, SPEC, evidence, state.seen_at) == (state, ())

    def test_without_evidence_of_this_epoch_no_step_ends(self) -> None:
        state = replace(running(), elapsed_s=1e9)
        for evidence in (None, replace(seen(state), epoch=state.epoch - 1)):
            assert advance(state, SPEC, evidence, state.seen_at) == (state, ())
            assert waiting(state, SPEC, evidence) == ("figures of both arms",)

    def test_a_blue_green_step_is_compared_with_the_epoch_before(self) -> None:
        blue_green = spec(steps=[{"weight": 100, "hold_s": 60}])
        state = running(blue_green)
        assert (state.weight, state.epoch, state.baseline_epoch) == (100.0, 1, 0)
        assert state.earlier
        assert not running().earlier


class TestTheWayBack:
    @pytest.mark.parametrize("verdicts", [(Verdict.FAIL,), (Verdict.PASS, Verdict.FAIL)])
    def test_a_failed_gate_gives_the_baseline_everything_at_once(
        self, verdicts: tuple[Verdict, ...]
    ) -> None:
        state = running()
        state, (event,) = advance(state, SPEC, seen(state, 3, *verdicts), NOW + 1)
        assert (state.phase, state.weight, state.epoch) == (Phase.ROLLED_BACK, 0.0, 2)
        assert (event.kind, event.by, event.words) == ("rolled_back", "gate", "error_rate fail")
        assert (event.requests, len(event.readings)) == (3, len(verdicts))

    def test_with_on_failure_pause_the_weight_stays_for_a_person_to_see(self) -> None:
        careful = spec(on_failure="pause")
        state = running(careful)
        state, (event,) = advance(state, careful, seen(state, 3, Verdict.FAIL), NOW + 1)
        assert (state.phase, state.weight, state.epoch) == (Phase.PAUSED, 5.0, 1)
        assert (event.kind, event.by) == ("paused", "gate")
        again = seen(state, 4, Verdict.FAIL)
        assert advance(state, careful, again, state.seen_at) == (state, ())

    def test_a_failed_gate_counts_while_a_person_has_paused(self) -> None:
        state = paused()
        state, (event,) = advance(state, SPEC, seen(state, 3, Verdict.FAIL), NOW + 1)
        assert (state.phase, event.before) == (Phase.ROLLED_BACK, Phase.PAUSED)

    def test_evidence_of_an_earlier_window_still_counts_against_the_canary(self) -> None:
        state = replace(running(), window=4)
        evidence = replace(seen(state, 3, Verdict.FAIL), window=3)
        state, _ = advance(state, SPEC, evidence, NOW)
        assert state.phase is Phase.ROLLED_BACK

    def test_a_failure_in_an_epoch_that_is_over_is_not_heeded(self) -> None:
        state = running()
        evidence = replace(seen(state, 3, Verdict.FAIL), epoch=0)
        assert advance(state, SPEC, evidence, NOW) == (state, ())

    def test_too_few_requests_by_the_deadline_fail_it(self) -> None:
        late = spec(step_deadline_s=100)
        state = replace(running(late), elapsed_s=100.0)
        state, events = advance(state, late, seen(state, 99), NOW)
        assert (state.phase, events) == (Phase.PROGRESSING, ())
        state, (event,) = advance(state, late, seen(state, 99), NOW + 1)
        assert (state.phase, state.weight, event.by) == (Phase.FAILED, 0.0, "clock")
        assert event.words == "only 99 requests by the canary in 101 s"

    def test_past_the_deadline_enough_requests_only_wait_for_the_gates(self) -> None:
        late = spec(step_deadline_s=100)
        state = replace(running(late), elapsed_s=1000.0)
        evidence = seen(state, 100, Verdict.UNDECIDED)
        assert advance(state, late, evidence, NOW) == (state, ())


class TestTime:
    def test_a_clock_set_back_adds_nothing_and_takes_nothing(self) -> None:
        state = hold(running(), 20)
        state, _ = advance(state, SPEC, None, NOW - 1e6)
        assert (state.elapsed_s, state.seen_at) == (20.0, NOW - 1e6)
        assert hold(state, 10).elapsed_s == 30.0

    def test_a_clock_set_forward_or_a_long_stop_does_not_count(self) -> None:
        state, _ = advance(running(), SPEC, None, NOW + MAX_GAP_S + 1)
        assert state.elapsed_s == 0.0
        state, _ = advance(state, SPEC, None, state.seen_at + MAX_GAP_S)
        assert state.elapsed_s == MAX_GAP_S

    def test_a_pause_does_not_count(self) -> None:
        state = hold(running(), 20)
        state, _ = obey(state, SPEC, Command.PAUSE, PERSON, state.seen_at + 1)
        state = hold(state, 100)
        state, _ = obey(state, SPEC, Command.RESUME, PERSON, state.seen_at + 1)
        assert state.elapsed_s == 21.0


class TestWindows:
    @pytest.mark.parametrize("recent", [None, WINDOW_REQUESTS])
    def test_a_full_or_unseen_window_is_followed_by_another(self, recent: int | None) -> None:
        state = running()
        evidence = replace(seen(state), recent=recent)
        moved, events = advance(state, SPEC, evidence, NOW)
        assert (moved, events) == (replace(state, window=2), ())
        # The same evidence again, from a slow process: it is about the window before.
        assert advance(moved, SPEC, evidence, NOW) == (moved, ())

    def test_a_window_goes_on_until_it_is_full(self) -> None:
        state = running()
        evidence = replace(seen(state), recent=WINDOW_REQUESTS - 1)
        assert advance(state, SPEC, evidence, NOW) == (state, ())


class TestCommands:
    def test_promote_gives_the_canary_everything(self) -> None:
        for state in (initial(SPEC, NOW), running(), paused()):
            moved, (event,) = obey(state, spec(start="manual"), Command.PROMOTE, PERSON, NOW)
            assert (moved.phase, moved.weight) == (Phase.SUCCEEDED, 100.0)
            assert (event.kind, event.by) == ("succeeded", PERSON)

    def test_abort_gives_the_baseline_everything(self) -> None:
        for state in (initial(SPEC, NOW), running(), paused()):
            moved, (event,) = obey(state, SPEC, Command.ABORT, PERSON, NOW)
            assert (moved.phase, moved.weight) == (Phase.ROLLED_BACK, 0.0)
            assert event.kind == "rolled_back"

    def test_a_pause_keeps_the_weight_and_resume_the_sums(self) -> None:
        state = paused()
        assert (state.phase, state.weight, state.epoch) == (Phase.PAUSED, 5.0, 1)
        assert waiting(state, SPEC, None) == ("resume, promote or abort",)
        done = seen(replace(state, elapsed_s=60.0))
        assert advance(state, SPEC, done, NOW) == (state, ())
        state, (event,) = obey(state, SPEC, Command.RESUME, PERSON, NOW)
        assert (state.phase, state.epoch, event.kind) == (Phase.PROGRESSING, 1, "resumed")

    def test_resume_after_a_failed_gate_repeats_the_step_with_new_sums(self) -> None:
        careful = spec(on_failure="pause")
        state = replace(paused_by_gate(careful, step=1), elapsed_s=30.0)
        moved, _ = obey(state, careful, Command.RESUME, PERSON, NOW)
        assert (moved.phase, moved.step, moved.weight) == (Phase.PROGRESSING, 1, 50.0)
        assert (moved.epoch, moved.elapsed_s, moved.by_gate) == (state.epoch + 1, 0.0, False)

    @pytest.mark.parametrize("phase", FINAL)
    def test_start_begins_a_finished_one_anew(self, phase: Phase) -> None:
        state = ended(phase)
        moved, (event,) = obey(state, SPEC, Command.START, PERSON, NOW)
        assert (moved.phase, moved.step, moved.weight) == (Phase.PROGRESSING, 0, 5.0)
        assert moved.epoch == state.epoch + 1
        assert event.number == state.changes + 1

    @pytest.mark.parametrize("phase", FINAL)
    def test_what_has_ended_stays_whatever_is_seen(self, phase: Phase) -> None:
        state = ended(phase)
        for verdict in Verdict:
            assert advance(state, SPEC, seen(state, 1000, verdict), NOW) == (state, ())

    @pytest.mark.parametrize(
        ("state", "refused"),
        [
            (initial(SPEC, NOW), {Command.PAUSE, Command.RESUME}),
            (running(), {Command.START, Command.RESUME}),
            (paused(), {Command.START, Command.PAUSE}),
            *((ended(phase), set(Command) - {Command.START}) for phase in FINAL),
        ],
    )
    def test_what_does_not_fit_is_refused_in_words(
        self, state: RolloutState, refused: set[Command]
    ) -> None:
        manual = spec(start="manual")
        for command in Command:
            if command in refused:
                with pytest.raises(RefusedError, match=f"cannot {command}: it (is|was|has) "):
                    obey(state, manual, command, PERSON, NOW)
            else:
                obey(state, manual, command, PERSON, NOW)


class TestAChangedFile:
    @pytest.mark.parametrize("state", [running(step=1), paused(), *map(ended, FINAL)])
    def test_another_canary_starts_anew(self, state: RolloutState) -> None:
        newer = spec(canary={"model": "newer"})
        assert weights(state, newer) == (100.0, 0.0)
        moved, (event,) = advance(state, newer, None, NOW)
        assert (moved.phase, moved.step, moved.weight) == (Phase.PROGRESSING, 0, 5.0)
        assert (event.kind, event.by, moved.epoch) == ("changed", "file", state.epoch + 1)
        assert weights(moved, newer) == (95.0, 5.0)

    @pytest.mark.parametrize("state", [running(step=1), paused(), *map(ended, FINAL)])
    def test_with_start_manual_another_canary_waits(self, state: RolloutState) -> None:
        newer = spec(canary={"model": "newer"}, start="manual")
        moved, (event,) = advance(state, newer, None, NOW)
        assert (moved.phase, moved.weight, event.kind) == (Phase.PENDING, 0.0, "changed")

    def test_another_override_is_another_canary(self) -> None:
        state = running(step=1)
        hotter = spec(canary={"model": "new", "override": {"temperature": 1}})
        moved, _ = advance(state, hotter, None, NOW)
        assert moved.step == 0

    def test_another_baseline_is_compared_with_anew_in_the_same_step(self) -> None:
        other = spec(baseline={"model": "older"})
        state = replace(running(step=1), elapsed_s=50.0)
        moved, (event,) = advance(state, other, seen(state), state.seen_at)
        assert (moved.step, moved.weight, moved.elapsed_s) == (1, 50.0, 0.0)
        assert (moved.epoch, moved.baseline_epoch) == (state.epoch + 1, state.epoch + 1)
        assert event.words == "another baseline: compared anew"

    def test_another_baseline_is_no_earlier_measure_for_a_blue_green_step(self) -> None:
        both = spec(
            baseline={"model": "new"},
            canary={"model": "newer"},
            steps=[{"weight": 100, "hold_s": 60}],
        )
        moved, _ = advance(ended(Phase.SUCCEEDED), both, None, NOW)
        assert (moved.weight, moved.baseline_epoch, moved.earlier) == (100.0, None, True)

    @pytest.mark.parametrize("phase", FINAL)
    def test_another_baseline_changes_nothing_that_has_ended(self, phase: Phase) -> None:
        state = ended(phase)
        moved, (event,) = advance(state, spec(baseline={"model": "older"}), None, NOW)
        assert (moved.phase, moved.weight, moved.epoch) == (phase, state.weight, state.epoch)
        assert event.words == "another baseline"

    def test_a_gates_pause_outlasts_another_baseline(self) -> None:
        state = paused_by_gate(spec(on_failure="pause"))
        moved, _ = advance(state, spec(baseline={"model": "older"}), None, NOW)
        assert (moved.phase, moved.by_gate) == (Phase.PAUSED, True)

    def test_other_gates_and_numbers_apply_at_once_without_a_word(self) -> None:
        state = replace(running(), elapsed_s=30.0)
        shorter = spec(steps=[STEPS[0] | {"hold_s": 30}, STEPS[1]], gates=[])
        moved, (event,) = advance(state, shorter, seen(state), state.seen_at)
        assert (moved.step, event.kind) == (1, "stepped")

    def test_with_other_steps_it_goes_on_at_the_same_weight(self) -> None:
        more = spec(steps=[{"weight": 1}, *STEPS])
        state = replace(running(), elapsed_s=30.0)
        moved, (event,) = advance(state, more, None, state.seen_at)
        assert (moved.step, moved.weight, moved.epoch, moved.elapsed_s) == (1, 5.0, 1, 30.0)
        assert event.words == "other steps: goes on as step 2 of 3"

    def test_else_with_the_largest_weight_below(self) -> None:
        other = spec(steps=[{"weight": 10}, {"weight": 40}, {"weight": 60}])
        state = running(step=1)
        moved, (event,) = advance(state, other, None, NOW)
        assert (moved.step, moved.weight, moved.epoch) == (1, 40.0, state.epoch + 1)
        assert event.words == "other steps; step 2 of 3: 40 % for the canary"

    def test_else_with_the_first(self) -> None:
        moved, _ = advance(running(), spec(steps=[{"weight": 10}]), None, NOW)
        assert (moved.step, moved.weight) == (0, 10.0)

    def test_a_file_without_steps_lets_it_succeed(self) -> None:
        moved, (event,) = advance(running(), spec(steps=[{"weight": 100}]), None, NOW)
        assert (moved.phase, event.words) == (
            Phase.SUCCEEDED,
            "other steps; the canary has everything",
        )

    def test_in_a_pause_the_weight_may_fall_but_not_rise(self) -> None:
        state = paused()
        moved, (event,) = advance(state, spec(steps=[{"weight": 2}]), None, NOW)
        assert (moved.phase, moved.weight) == (Phase.PAUSED, 2.0)
        assert event.words == "other steps: down to 2 %, still paused"
        higher = spec(steps=[{"weight": 10}, {"weight": 20}])
        assert advance(state, higher, None, NOW) == (state, ())
        assert advance(state, spec(steps=[{"weight": 100}]), None, NOW) == (state, ())

    def test_after_the_pause_it_goes_on_by_the_file_of_then(self) -> None:
        higher = spec(steps=[{"weight": 10}, {"weight": 20}])
        state, _ = obey(paused(), higher, Command.RESUME, PERSON, NOW)
        assert state.weight == 5.0
        state, _ = advance(state, higher, None, NOW)
        assert (state.step, state.weight) == (0, 10.0)

    def test_resumed_after_a_failed_gate_it_repeats_a_step_of_the_file_of_then(self) -> None:
        state = paused_by_gate(spec(on_failure="pause"), step=1)
        shorter = spec(steps=[{"weight": 60, "hold_s": 60}])
        state, _ = obey(state, shorter, Command.RESUME, PERSON, NOW)
        assert (state.phase, state.step, state.weight) == (Phase.PROGRESSING, 0, 60.0)

    def test_a_status_of_steps_that_are_gone_waits_for_nothing(self) -> None:
        state = running(step=1)
        assert waiting(state, spec(steps=[{"weight": 5, "hold_s": 1}]), seen(state)) == ()


SPECS = [
    SPEC,
    spec(start="manual"),
    spec(on_failure="pause", step_deadline_s=40),
    spec(steps=[{"weight": 1, "hold_s": 20}, {"weight": 25, "hold_s": 5}, {"weight": 50}]),
    spec(steps=[{"weight": 100, "hold_s": 20, "min_requests": 10}]),
    spec(steps=[{"weight": 100}]),
    spec(canary={"model": "newer"}),
    spec(baseline={"model": "older"}, canary={"cluster": "newest"}, start="manual"),
]


class Machine(RuleBasedStateMachine):
    """Any commands, evidence, files and clocks, checked against what a person would expect."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout = SPEC
        self.state = initial(SPEC, NOW)
        self.now = NOW
        self.held_s = 0.0
        self.number = 0

    @initialize(rollout=st.sampled_from(SPECS))
    def first_file(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self.state = initial(rollout, NOW)

    @rule(rollout=st.sampled_from(SPECS))
    def file(self, rollout: Rollout) -> None:
        self.rollout = rollout

    @rule(
        passed=st.one_of(st.floats(-1e7, 1e7), st.floats(0, 40)),
        lag=st.sampled_from([0, 0, 0, 1]),
        requests=st.one_of(st.none(), st.integers(0, 2000)),
        recent=st.one_of(st.none(), st.integers(0, 2000)),
        verdicts=st.lists(st.sampled_from([*Verdict, Verdict.PASS, Verdict.PASS]), max_size=3),
    )
    def look(
        self,
        passed: float,
        lag: int,
        requests: int | None,
        recent: int | None,
        verdicts: list[Verdict],
    ) -> None:
        before = self.state
        self.now += passed
        evidence = None
        if requests is not None:
            found = tuple(map(reading, verdicts))
            epoch = max(0, before.epoch - lag)
            evidence = Evidence(epoch, before.window, requests, recent, found)
        after, events = advance(before, self.rollout, evidence, self.now)
        by_file = bool(events) and events[0].by == "file"
        if after.weight > before.weight and not by_file:
            assert events[0].by == "steps"
            assert evidence is not None
            assert evidence.epoch == before.epoch
            assert set(verdicts) <= {Verdict.PASS}
            assert before.phase is Phase.PROGRESSING
            stage = self.rollout.stages[before.step]
            assert evidence.requests >= stage.min_requests
            assert self.held_s + min(max(passed, 0.0), MAX_GAP_S) >= stage.hold_s
        fails = evidence is not None and bool(evidence.failed) and evidence.epoch == before.epoch
        if evidence is None or evidence.epoch != before.epoch:
            assert after.weight == before.weight or by_file
        guarded = before.phase in (Phase.PROGRESSING, Phase.PAUSED) and not before.by_gate
        if fails and guarded and not by_file:
            back = (Phase.ROLLED_BACK, 0.0), (Phase.PAUSED, before.weight)
            assert (after.phase, after.weight) == back[self.rollout.on_failure == "pause"]
        if before.phase.final:
            assert after.phase is before.phase or by_file
        self.check(after, events)

    @rule(command=st.sampled_from(Command), passed=st.floats(0, 40))
    def command(self, command: Command, passed: float) -> None:
        before = self.state
        self.now += passed
        try:
            after, events = obey(before, self.rollout, command, PERSON, self.now)
        except RefusedError:
            return
        assert events[-1].by == PERSON
        if before.phase.final and len(events) == 1:
            assert command is Command.START
        if command is Command.ABORT:
            assert after.weight == 0
        if command is Command.PAUSE:
            assert after.weight == events[-1].weight_before
        self.check(after, events)

    def check(self, after: RolloutState, events: tuple[Event, ...]) -> None:
        """Whatever happened: each change has its event, and the events lead from then to now."""
        before = self.state
        phase, weight = before.phase, before.weight
        for event in events:
            self.number += 1
            assert event.number == self.number
            assert (event.before, event.weight_before) == (phase, weight)
            phase, weight = event.after, event.weight_after
            json.dumps(event.as_json(), allow_nan=False)
        assert (after.phase, after.weight, after.changes) == (phase, weight, self.number)
        if not events:
            same = {"seen_at": 0.0, "elapsed_s": 0.0, "window": 1}
            assert replace(after, **same) == replace(before, **same)
        if after.weight != before.weight:
            assert after.epoch > before.epoch
        passed = self.now - before.seen_at
        self.held_s = self.held_s + min(max(passed, 0.0), MAX_GAP_S)
        if after.epoch != before.epoch:
            self.held_s = 0.0
        assert after.elapsed_s <= self.held_s + 1e-6
        self.state = after

    @invariant()
    def survives_a_restart(self) -> None:
        assert read(json.loads(json.dumps(self.state.as_json(), allow_nan=False))) == self.state

    @invariant()
    def weights_add_up(self) -> None:
        assert sum(weights(self.state, self.rollout)) == 100


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestMachine = Machine.TestCase
