"""A rollout over a log ends as it would have: by evidence, in the log's own time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from gateway.config.policy import Policy
from gateway.model import Outcome
from gateway.plan import rehearse as module
from gateway.plan.logged import Line
from gateway.plan.rehearse import BASELINE, CANARY, logged, models, rehearse
from gateway.plan.rollout import advance
from gateway.plan.rollout_state import Phase

STEPS = [
    {"weight": 10, "hold_s": 10, "min_requests": 20},
    {"weight": 50, "hold_s": 10, "min_requests": 20},
]
GATES = [
    {"metric": "error_rate", "max_increase": 0.01},
    {"metric": "ttft", "max_ratio": 1.5},
    {"metric": "abort_rate", "max": 0.1},
]


def policy(**more: Any) -> Policy:
    rollout = {
        "baseline": {"model": "old"},
        "canary": {"model": "new"},
        "steps": STEPS,
        "gates": GATES,
        **more,
    }
    return Policy.model_validate({"name": "p", "rollout": rollout})


def lines(
    model: str,
    rng: Random,
    count: int,
    span_s: float,
    failing: float = 0.0,
    make: Callable[[Line], Line] = lambda line: line,
) -> list[Line]:
    found = []
    for number in range(count):
        outcome = Outcome.FAILURE if rng.random() < failing else Outcome.SUCCESS
        at = 1_000_000.0 + span_s * number / count
        ttft_ms = 100 * rng.lognormvariate(0, 0.3)
        line = Line(at, f"{model}-{number}", "chat", model, outcome, 900.0, True, 50, ttft_ms)
        found.append(make(line))
    return found


def merged(*parts: list[Line]) -> list[Line]:
    return sorted((line for part in parts for line in part), key=lambda line: line.ts)


def test_a_good_canary_goes_through() -> None:
    """Over the other model's requests, as many as each step lets it have."""
    rng, tried = Random(1), policy()
    assert tried.rollout is not None
    log = merged(lines("old", rng, 1200, 60), lines("new", rng, 1200, 60))
    found = rehearse(tried.rollout, log, models(tried, "old", "new"))
    assert found.state.phase is Phase.SUCCEEDED
    assert [event.kind for event in found.events] == ["started", "stepped", "succeeded"]
    started, stepped, succeeded = (event.at - log[0].ts for event in found.events)
    assert started == 0
    assert 10 <= stepped < 16
    assert 10 <= succeeded - stepped < 12
    assert found.left_out == ("abort_rate",)
    assert found.waiting == ()
    # 10 % of 20 a second, then half of them, and all of them at the end.
    assert 600 < found.requests[CANARY] < 1000
    assert found.failed == {BASELINE: 0, CANARY: 0}


def test_a_bad_canary_is_rolled_back_early() -> None:
    """Few of its requests would have been touched."""
    rng, tried = Random(2), policy()
    assert tried.rollout is not None
    log = merged(lines("old", rng, 1200, 60), lines("new", rng, 1200, 60, failing=0.5))
    found = rehearse(tried.rollout, log, models(tried, "old", "new"))
    assert found.state.phase is Phase.ROLLED_BACK
    assert "error_rate" in found.events[-1].words
    assert 0 < found.failed[CANARY] <= found.requests[CANARY] < 60


def test_what_was_logged_is_judged_again() -> None:
    """By the policy's own arms, under the gates of the file as it is now."""
    rng, tried = Random(3), policy(start="manual")
    assert tried.rollout is not None

    def under(arm: str, name: str = "p") -> Callable[[Line], Line]:
        def make(line: Line) -> Line:
            line.policy, line.arm = name, arm
            return line

        return make

    log = merged(
        lines("m", rng, 900, 45, make=under(BASELINE)),
        lines("m", rng, 450, 45, make=under(CANARY)),
        lines("m", rng, 50, 45, failing=1, make=under(CANARY, "another")),
        lines("m", rng, 50, 45, failing=1),
    )
    found = rehearse(tried.rollout, log, logged(tried))
    assert found.state.phase is Phase.SUCCEEDED
    assert found.requests == {BASELINE: 900, CANARY: 450}


def test_a_log_that_ends_too_early_leaves_it_waiting() -> None:
    """And says for what."""
    rng, tried = Random(4), policy()
    assert tried.rollout is not None
    log = merged(lines("old", rng, 100, 5), lines("new", rng, 20, 5))
    found = rehearse(tried.rollout, log, models(tried, "old", "new"))
    assert found.state.phase is Phase.PROGRESSING
    assert any("held 5 of 10 s" in words for words in found.waiting)
    assert any("of 20 requests" in words for words in found.waiting)


def test_a_canary_that_has_everything_is_compared_with_nothing_before() -> None:
    """Blue/green over a log: the first step leaves the baseline nothing."""
    rng, tried = Random(5), policy(steps=[], plan="blue_green")
    assert tried.rollout is not None
    log = merged(lines("old", rng, 700, 700), lines("new", rng, 700, 700))
    found = rehearse(tried.rollout, log, models(tried, "old", "new"))
    assert found.state.phase is Phase.SUCCEEDED
    assert found.requests[BASELINE] == 0


def test_quiet_hours_hold_and_prove_nothing() -> None:
    """Time passes without requests, and the last evidence stays."""
    rng, tried = Random(6), policy()
    assert tried.rollout is not None
    log = merged(lines("old", rng, 200, 10), lines("new", rng, 200, 10))
    later = lines("other", rng, 1, 1)
    later[0].ts += 60
    found = rehearse(tried.rollout, log + later, models(tried, "old", "new"))
    assert found.state.phase is Phase.PROGRESSING
    assert found.state.elapsed_s == pytest.approx(60, abs=1)
    assert found.requests[CANARY] < 40


def test_a_clock_that_was_set_is_no_fifty_years_of_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that starts in 1970 logs its first requests then; what follows counts as ever."""
    tried, looks = policy(), 0
    assert tried.rollout is not None

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return advance(*arguments)

    monkeypatch.setattr(module, "advance", counted)
    monkeypatch.setattr(module, "QUIET_S", 1000.0)
    rng = Random(7)
    early = lines("old", rng, 1, 1)
    early[0].ts = 0.0
    log = merged(lines("old", rng, 400, 600), lines("new", rng, 400, 600))
    found = rehearse(tried.rollout, early + log, models(tried, "old", "new"))
    assert looks < 2000
    assert found.requests[CANARY] > 100


def test_nothing_to_rehearse_with() -> None:
    """Is an error, not a success."""
    tried = policy()
    assert tried.rollout is not None
    with pytest.raises(ValueError, match="nothing"):
        rehearse(tried.rollout, [], logged(tried))
