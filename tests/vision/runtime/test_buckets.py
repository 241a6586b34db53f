"""Sizes that have a graph, and profiles that allow them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.runtime.buckets import Range, bucket_for, buckets_of, profile_for


def test_the_sizes_with_a_graph_are_those_of_the_warm_up() -> None:
    assert buckets_of((8, 4, 64), 32) == (1, 4, 8, 32)
    assert buckets_of((), 1) == (1,)


@pytest.mark.parametrize(
    ("rows", "bucket"),
    [(1, 1), (2, None), (3, None), (4, 8), (8, 8), (9, None), (15, None), (16, 32), (32, 32)],
)
def test_a_batch_fills_at_least_half_of_its_bucket(rows: int, bucket: int | None) -> None:
    assert bucket_for(rows, (1, 8, 32)) == bucket


def test_without_buckets_there_is_no_graph() -> None:
    assert bucket_for(3, ()) is None


@given(st.lists(st.integers(1, 64)), st.integers(1, 64), st.data())
def test_a_bucket_holds_all_rows_within_the_limit(
    preferred: list[int], most: int, data: st.DataObject
) -> None:
    rows = data.draw(st.integers(1, most))
    bucket = bucket_for(rows, buckets_of(preferred, most))
    assert bucket is None or rows <= bucket <= min(most, 2 * rows)


def test_of_profiles_that_fit_the_narrowest_is_taken() -> None:
    profiles = [Range(1, 32), Range(1, 1), Range(16, 32)]
    assert profile_for(1, profiles) == (1, 1)
    assert profile_for(2, profiles) == (0, 2)
    assert profile_for(16, profiles) == (2, 16)


def test_a_batch_under_every_profile_is_filled_up() -> None:
    assert profile_for(2, [Range(8, 16), Range(4, 4)]) == (1, 4)
    assert profile_for(5, [Range(8, 16), Range(4, 4)]) == (0, 8)


def test_a_batch_over_every_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 17"):
        profile_for(17, [Range(8, 16), Range(4, 4)])
