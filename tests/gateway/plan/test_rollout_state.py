"""A rollout's state survives as JSON, and nothing else passes for one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.config.policy_fields import Target
from gateway.config.policy_rollout import Rollout
from gateway.plan.rollout_state import (
    Event,
    Phase,
    RolloutState,
    fingerprint,
    initial,
    read,
    weights,
)

ROLLOUT = Rollout.model_validate({"baseline": {"model": "old"}, "canary": {"model": "new"}})
PENDING = initial(ROLLOUT, 1000.5)
RUNNING = replace(PENDING, phase=Phase.PROGRESSING, weight=2.5, epoch=3, baseline_epoch=3, window=2)
PAUSED = replace(RUNNING, phase=Phase.PAUSED, by_gate=True)
DONE = replace(RUNNING, phase=Phase.SUCCEEDED, weight=100.0, baseline_epoch=None)


@pytest.mark.parametrize("state", [PENDING, RUNNING, PAUSED, DONE])
def test_a_state_comes_back_from_json_as_it_was(state: RolloutState) -> None:
    assert read(json.loads(json.dumps(state.as_json()))) == state


def test_what_a_newer_process_added_is_left_out() -> None:
    assert read(RUNNING.as_json() | {"mood": "good"}) == RUNNING


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "running"},
        {"weight": 101},
        {"weight": -1},
        {"weight": float("nan")},
        {"weight": 0},
        {"epoch": -1},
        {"baseline_epoch": 4},
        {"window": 0},
        {"elapsed_s": float("inf")},
        {"seen_at": float("nan")},
        {"by_gate": True},
        {"phase": "pending"},
        {"phase": "succeeded"},
        {"step": "two"},
        {"reason": None},
    ],
)
def test_what_is_no_state_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="RolloutState"):
        read(RUNNING.as_json() | change)


@pytest.mark.parametrize("value", [None, 1, "progressing", [], {}])
def test_what_is_not_even_a_mapping_of_all_fields_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="RolloutState"):
        read(value)


def test_only_three_phases_are_final() -> None:
    final = {phase for phase in Phase if phase.final}
    assert final == {Phase.SUCCEEDED, Phase.ROLLED_BACK, Phase.FAILED}


def test_weights_are_the_states_if_it_is_about_this_canary() -> None:
    assert weights(RUNNING, ROLLOUT) == (97.5, 2.5)
    assert weights(None, ROLLOUT) == (100.0, 0.0)
    other = ROLLOUT.model_copy(update={"canary": Target(model="newer")})
    assert weights(RUNNING, other) == (100.0, 0.0)


def test_a_measure_of_another_epoch_is_an_earlier_one() -> None:
    assert not RUNNING.earlier
    assert replace(RUNNING, baseline_epoch=2).earlier
    assert DONE.earlier


def test_targets_with_equal_fields_have_equal_fingerprints() -> None:
    assert fingerprint(Target(model="a")) == fingerprint(Target.model_validate({"model": "a"}))
    assert fingerprint(Target(model="a")) != fingerprint(Target(cluster="a"))


def test_an_event_names_all_its_fields() -> None:
    event = Event(
        number=1,
        kind="started",
        at=1.0,
        before=Phase.PENDING,
        after=Phase.PROGRESSING,
        step=0,
        weight_before=0.0,
        weight_after=1.0,
        epoch=1,
        requests=None,
        by="ann",
        words="started",
    )
    written = json.loads(json.dumps(event.as_json(), allow_nan=False))
    assert written.keys() == {*Event.__slots__}
    assert (written["after"], written["readings"]) == ("progressing", [])
