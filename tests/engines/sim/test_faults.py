"""Which faults does a spec describe, and how often are they drawn?"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim import faults
from engines.sim.faults import NONE, Break, Faults


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", NONE),
        ("status=503", Faults(status=503)),
        ("delay-headers=1.5; delay-first=2", Faults(delay_headers_s=1.5, delay_first_s=2.0)),
        ("cut-after=3", Faults(broken=Break.CUT, after_tokens=3)),
        ("reset", Faults(reset=True)),
        ("no-done,big-header", Faults(no_done=True, big_header=True)),
        ("error-200", Faults(error_200=True)),
        ("garbage-head", Faults(garbage_head=True)),
        ("stall-after=9, reset-after=2", Faults(broken=Break.RESET, after_tokens=2)),
        ("reset-after=2, stall-after=9", Faults(broken=Break.RESET, after_tokens=2)),
    ],
)
def test_specs_are_read(spec: str, expected: Faults) -> None:
    """Clauses compose; of several breaks the earliest counts."""
    assert faults.parse(spec) == expected


@pytest.mark.parametrize("kind", list(Break))
def test_every_break_can_be_asked_for(kind: Break) -> None:
    """The spec's name of a break is its value."""
    assert faults.parse(f"{kind}=0") == Faults(broken=kind, after_tokens=0)


@pytest.mark.parametrize(
    "spec", ["explode", "status", "status=200", "cut-after=-1", "delay-first=x", "reset=1", "="]
)
def test_wrong_clauses_are_named(spec: str) -> None:
    """The error says which clause is wrong."""
    with pytest.raises(ValueError, match="not a fault"):
        faults.parse(f"no-done, {spec}")


@given(st.text(max_size=30))
def test_any_text_is_either_read_or_refused(spec: str) -> None:
    """A spec from a header never raises anything but ValueError."""
    try:
        faults.parse(spec)
    except ValueError as error:
        assert "not a fault" in str(error)  # noqa: PT017 - either way of ending is right


def test_drawing_follows_the_rate() -> None:
    """A rate of 0 never fails, of 100 always, of 25 about a quarter of the time."""
    types = faults.parse_types("rate_limit, reset-after=1")
    rng = random.Random(3)
    assert {faults.draw(0, types, rng) for _ in range(50)} == {NONE}
    assert {faults.draw(100, types, rng) for _ in range(50)} == set(types)
    share = sum(faults.draw(25, types, rng) != NONE for _ in range(2000)) / 2000
    assert 0.2 < share < 0.3


def test_failure_types_have_the_names_of_llm_d() -> None:
    """An empty list means all of them."""
    statuses = [fault.status for fault in faults.parse_types("")]
    assert statuses == [429, 401, 400, 400, 404, 503]
