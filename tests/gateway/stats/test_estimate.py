"""What earlier looks have shown stays shown."""

from gateway.stats.estimate import Estimate, Held


def test_looks_are_held_together() -> None:
    """The interval is what all have in common, p the least."""
    held = Held().and_now(Estimate(0.1, -0.2, 0.4, 0.3)).and_now(Estimate(0.2, -0.1, 0.5, 0.6))
    assert (held.low, held.high, held.p) == (-0.1, 0.4, 0.3)
    assert not held.changed


def test_intervals_that_exclude_each_other_show_a_change() -> None:
    held = Held().and_now(Estimate(0.1, 0.05, 0.2, 0.01)).and_now(Estimate(-0.1, -0.2, 0.0, 0.5))
    assert held.changed
