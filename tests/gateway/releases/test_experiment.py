"""What a split says holds for all looks together; what it goes by is tested with `Member`."""

from __future__ import annotations

from typing import Any

from gateway.config.policy import Policy
from gateway.releases.experiment import Experiment, begin, look, verdict
from gateway.stats.sums import Rate
from tests.gateway.releases.test_member import split


def policy(*, on_decision: str = "promote", **analysis: Any) -> Policy:
    return Policy.model_validate(split(analysis=analysis, on_decision=on_decision))


def seen(made: Policy, state: Experiment | None, n: int, a: int, b: int) -> Experiment:
    """Look at `n` requests of each arm, of which `a` and `b` were answered whole."""
    arms = {
        name: {"success_rate": Rate(n, hits), "cancel_rate": Rate(n, 0)}
        for name, hits in (("a", a), ("b", b))
    }
    return look(made, begin(made, state), arms, {})


def test_a_fixed_test_is_looked_at_once() -> None:
    """With the needed samples; what would be said of more later is not, or chance would win."""
    fixed = policy(method="fixed", min_effect=0.1)
    early = seen(fixed, None, 100, 90, 99)
    assert early.comparisons[0]["decision"] == "wait"
    enough = seen(fixed, early, 400, 360, 362)
    assert enough.comparisons[0]["decision"] == "no_difference"
    later = seen(fixed, enough, 4000, 3600, 3700)
    assert (later.winner, later.comparisons) == (None, enough.comparisons)
    assert later.counts == {"a": 4000, "b": 4000}
    assert seen(fixed, None, 4000, 3600, 3700).winner == "b"


def test_a_fixed_test_that_has_spoken_waits_for_samples_and_orders() -> None:
    """It promotes when the file lets it, by what it has said."""
    words = {"method": "fixed", "min_effect": 0.3, "min_samples": 500}
    spoken = seen(policy(**words, on_decision="report"), None, 400, 300, 390)
    assert spoken.comparisons[0]["decision"] == "promote"
    assert "not enough data" in verdict(policy(**words), spoken)
    spoken = seen(policy(**words, on_decision="report"), spoken, 600, 500, 500)
    assert spoken.winner is None
    assert seen(policy(**words), spoken, 600, 500, 500).winner == "b"


def test_what_looser_numbers_have_shown_proves_nothing_to_stricter_ones() -> None:
    """The same sums are judged anew, as if nobody had looked before."""
    strict = policy(alpha=0.01)
    alone = seen(strict, None, 2000, 1800, 1853)
    assert alone.winner is None
    for loose in (
        policy(alpha=0.4, on_decision="report"),
        policy(method="fixed", min_effect=0.2, on_decision="report"),
    ):
        before = seen(loose, None, 2000, 1800, 1853)
        assert before.comparisons[0]["low"] > 0
        assert seen(strict, before, 2000, 1800, 1853) == alone


def test_what_the_same_numbers_have_shown_stays_shown() -> None:
    """Also if an earlier version has looked, which did not say by which."""
    usual = policy(on_decision="report")
    strong = seen(usual, None, 2000, 1700, 1900)
    old = Experiment.of({**strong.as_json(), "judged": ""})
    for before in (strong, old):
        after = seen(usual, before, 2000, 1800, 1800).held["b/success_rate"]
        assert after[::2] == strong.held["b/success_rate"][::2]
