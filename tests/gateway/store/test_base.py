"""Revisions rise whatever the clock does, and times to live end whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.base import decode, encode, is_live, next_revision


@given(st.integers(0, 2**52), st.floats(0, 4e9))
def test_a_revision_is_newer_and_not_behind_the_clock(last: int, wall_s: float) -> None:
    """So an empty store hands out newer ones than it did before it lost its state."""
    new = next_revision(last, wall_s)
    assert new > last
    assert new >= int(wall_s * 1e6)
    assert new in (last + 1, int(wall_s * 1e6))


@pytest.mark.parametrize(
    ("now", "live"),
    [(100.0, True), (109.9, True), (110.0, False), (99.9, False), (0.0, False)],
)
def test_what_was_granted_ends(now: float, live: bool) -> None:
    """Granted at 100 for 10 s; a clock that went back ends it too."""
    assert is_live(110.0, 10.0, now) is live


def test_nothing_lives_for_no_time() -> None:
    """0 seconds withdraw."""
    assert not is_live(100.0, 0.0, 100.0)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_values_come_back_as_they_were(value: object) -> None:
    """Through JSON, surrogates and all."""
    assert decode(encode(value)) == value
