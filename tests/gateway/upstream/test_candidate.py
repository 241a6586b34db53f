"""A balancer's memory of endpoints is bounded, and not lost too soon."""

from __future__ import annotations

from gateway.upstream.candidate import SPARE, forget_gone
from tests.support.candidates import fakes


def test_an_absence_is_not_forgotten_at_once() -> None:
    """A retry leaves one out and the next request has it again."""
    memory = {one.id: 7 for one in fakes(4)}
    forget_gone(memory, fakes(1))
    assert len(memory) == 4


def test_too_many_absent_ones_are_forgotten_and_the_present_are_not() -> None:
    """Endpoints that come and go for ever do not fill the memory."""
    present = fakes(3)
    memory = {one.id: 7 for one in present} | {f"gone-{n}": 7 for n in range(3 + SPARE)}
    forget_gone(memory, present)
    assert len(memory) == 6 + SPARE
    memory["gone-too"] = 7
    forget_gone(memory, present)
    assert memory == {one.id: 7 for one in present}
