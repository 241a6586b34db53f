"""How many rows does a GPU really run, when only some sizes have a CUDA graph?

    buckets 1, 8, 32        rows  1   2   3   4   5 … 8   9 … 15   16 … 32
                            runs  1   2   3   8   8   8   9 … 15   32

A graph replays one fixed size, so that a smaller batch runs as the next bucket and its other rows
are thrown away. Where that would more than double the work the batch runs without a graph.

Pure: values only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def buckets_of(preferred: Iterable[int], max_batch: int) -> tuple[int, ...]:
    """The sizes that get a graph, rising: 1, the preferred ones, and the largest.

    These are the sizes that a version is warmed up with, so that no client waits for a capture.
    """
    sizes = {1, max_batch, *preferred}
    return tuple(sorted(size for size in sizes if size <= max_batch))


def bucket_for(rows: int, buckets: Sequence[int]) -> int | None:
    """The bucket that runs `rows`, or None if it is better to run them without a graph.

    The bound of half is ours: under it, replaying a graph costs the GPU more than the 5 to 10 µs
    of launches that a graph saves for each dozen kernels.
    """
    for bucket in buckets:
        if bucket >= rows:
            return bucket if bucket <= 2 * rows else None
    return None


@dataclass(frozen=True, slots=True)
class Range:
    """The batches that one optimization profile of a plan allows."""

    least: int
    most: int


def profile_for(rows: int, profiles: Sequence[Range]) -> tuple[int, int]:
    """Which profile runs `rows`, and how many rows it runs then.

    Of the profiles that allow `rows` the one with the smallest range, for it was tuned for sizes
    near them. If none does, the batch is filled up to the next size that one allows. Raises
    `ValueError` for more rows than any allows.
    """
    fitting = [
        (one.most - one.least, index)
        for index, one in enumerate(profiles)
        if one.least <= rows <= one.most
    ]
    if fitting:
        return min(fitting)[1], rows
    above = [(one.least, index) for index, one in enumerate(profiles) if one.least > rows]
    if not above:
        raise ValueError(f"no optimization profile allows a batch of {rows}")
    least, index = min(above)
    return index, least
