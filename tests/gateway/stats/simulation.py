"""Many runs of an experiment at once, one row a run, one column a sample."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.stats.means import Moments
from gateway.stats.proportions import Counts

Array = npt.NDArray[np.float64]
_CHUNK = 5


class Arms(NamedTuple):
    a: Counts
    b: Counts


class Averages(NamedTuple):
    a: Moments
    b: Moments


def _chunks(runs: int) -> Iterator[int]:
    for start in range(0, runs, _CHUNK):
        yield min(_CHUNK, runs - start)


def shares(
    seed: int, runs: int, samples: int, p: tuple[float, float], share_b: float
) -> Iterator[Arms]:
    """Bernoulli results of arms a and b after every sample, some rows at a time."""
    rng = np.random.default_rng(seed)
    n = np.arange(1, samples + 1, dtype=float)
    for rows in _chunks(runs):
        in_b = rng.random((rows, samples), dtype=np.float32) < share_b
        chance = rng.random((rows, samples), dtype=np.float32)
        hit = chance < np.where(in_b, np.float32(p[1]), np.float32(p[0]))
        n_b = np.cumsum(in_b, axis=1, dtype=float)
        hits_b = np.cumsum(in_b & hit, axis=1, dtype=float)
        hits = np.cumsum(hit, axis=1, dtype=float)
        yield Arms(Counts(n - n_b, hits - hits_b), Counts(n_b, hits_b))


def values(
    seed: int,
    shape: tuple[int, int],
    draw: Callable[[np.random.Generator, tuple[int, int]], Array],
    share_b: float,
    change_b: Callable[[Array], Array] = lambda x: x,
) -> Iterator[Averages]:
    """The moments of both arms after every sample, some rows at a time."""
    rng = np.random.default_rng(seed)
    runs, samples = shape
    n = np.arange(1, samples + 1, dtype=float)
    for rows in _chunks(runs):
        in_b = rng.random((rows, samples), dtype=np.float32) < share_b
        x = draw(rng, (rows, samples))
        x = np.where(in_b, change_b(x), x)
        n_b = np.cumsum(in_b, axis=1, dtype=float)
        of_b = np.where(in_b, x, 0.0)
        total, total_b = np.cumsum(x, axis=1), np.cumsum(of_b, axis=1)
        squares, squares_b = np.cumsum(x * x, axis=1), np.cumsum(of_b * of_b, axis=1)
        yield Averages(
            Moments(n - n_b, total - total_b, squares - squares_b),
            Moments(n_b, total_b, squares_b),
        )
