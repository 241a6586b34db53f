"""How far is a converted model from its source, and how fast is it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from vision.convert.draft import Reference
from vision.convert.samples import Row, Samples
from vision.tensors import Array, Arrays, TensorSpec

BATCH = 16
"""Rows that are compared at once: a source and its conversion run equal batches."""
TIMED_S = 0.3
"""Seconds that one batch size is timed for, at least; slow models run three times."""
LEAST_RUNS = 3
MOST_RUNS = 200


@dataclass(slots=True)
class Error:
    """Differences of one output, over all its finite values.

    `broken` counts values that are NaN or infinite though the source's are not.
    """

    most: float = 0.0
    total: float = 0.0
    values: int = 0
    largest: float = 0.0
    broken: int = 0

    def add(self, ours: Array, theirs: Array) -> None:
        """Count one batch in."""
        wide = theirs.astype(np.float64)
        usable = np.isfinite(wide)
        self.broken += int((usable & ~np.isfinite(ours)).sum())
        usable &= np.isfinite(ours)
        wide = wide[usable]
        difference = np.abs(ours[usable].astype(np.float64) - wide)
        self.most = max(self.most, float(difference.max(initial=0.0)))
        self.total += float(difference.sum())
        self.values += difference.size
        self.largest = max(self.largest, float(np.abs(wide).max(initial=0.0)))

    @property
    def mean(self) -> float:
        """The mean absolute difference."""
        return self.total / self.values if self.values else 0.0


@dataclass(slots=True)
class Comparison:
    """What running the same samples through both gave."""

    samples: int = 0
    errors: dict[str, Error] = field(default_factory=dict)
    agreeing: int | None = None
    right_source: int | None = None
    right_converted: int | None = None

    def share(self, count: int | None) -> float | None:
        """A count as a share of the samples; None if it was not counted."""
        return None if count is None or not self.samples else count / self.samples


def compare(
    source: Reference,
    converted: Reference,
    samples: Samples,
    classes: str | None,
    rows_at_once: int = BATCH,
    advance: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Run all samples through both, in batches; `classes` names the output that classifies.

    `advance` hears how many samples are done.
    """
    found = Comparison()
    labels = iter(samples.labels) if samples.labels is not None else None
    if classes is not None:
        found.agreeing = 0
        if labels is not None:
            found.right_source = found.right_converted = 0
    for batch in batches(samples, rows_at_once):
        theirs, ours = source(batch), converted(batch)
        rows = len(next(iter(batch.values())))
        found.samples += rows
        advance(found.samples)
        for name, array in theirs.items():
            found.errors.setdefault(name, Error()).add(ours[name], array)
        if classes is None:
            continue
        best, mine = (one[classes].reshape(rows, -1).argmax(axis=1) for one in (theirs, ours))
        found.agreeing = (found.agreeing or 0) + int((best == mine).sum())
        if labels is not None:
            right = np.array([next(labels) for _ in range(rows)])
            found.right_source = (found.right_source or 0) + int((best == right).sum())
            found.right_converted = (found.right_converted or 0) + int((mine == right).sum())
    return found


def batches(samples: Samples, size: int) -> Iterator[Arrays]:
    """Neighbours of equal shapes as batches; texts of different lengths do not mix."""
    waiting: list[Row] = []
    for row in samples:
        if waiting and (len(waiting) == size or _shapes(row) != _shapes(waiting[0])):
            yield _joined(waiting)
            waiting = []
        waiting.append(row)
    if waiting:
        yield _joined(waiting)


def batch_error(converted: Reference, samples: Samples, rows: int = 3) -> float | None:
    """The largest difference of rows that run together to the same rows alone; None for too few.

    Integer kernels round alike, but floating-point sums depend a little on the batch.
    """
    together = next(iter(batches(samples.part(range(min(rows, len(samples)))), rows)), None)
    if together is None or len(next(iter(together.values()))) < 2:
        return None
    whole = converted(together)
    error = Error()
    for at in range(len(next(iter(together.values())))):
        alone = converted({name: one[at : at + 1] for name, one in together.items()})
        for name, array in alone.items():
            error.add(whole[name][at : at + 1], array)
    return error.most


def latencies(
    run: Reference,
    row: Row,
    sizes: Sequence[int],
    monotonic: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Median milliseconds of a call, by batch size; the first call of each is not counted."""
    return {size: _median_ms(run, _repeated(row, size), monotonic) for size in sizes}


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4 and so on, and the largest."""
    sizes = [1]
    while sizes[-1] * 2 < most:
        sizes.append(sizes[-1] * 2)
    return sizes if most == 1 else [*sizes, most]


def classifying(outputs: Sequence[TensorSpec], wanted: str | None, classifier: bool) -> str | None:
    """The output whose largest value is a class: the configured one of a classifier.

    Without a configuration, the only output if it is a vector of floats.
    """
    if classifier:
        return wanted or outputs[0].name
    if len(outputs) == 1 and len(outputs[0].shape) == 1 and outputs[0].dtype.numpy.kind == "f":
        return outputs[0].name
    return None


def _median_ms(run: Reference, batch: Arrays, monotonic: Callable[[], float]) -> float:
    run(batch)
    took: list[float] = []
    while len(took) < LEAST_RUNS or (sum(took) < TIMED_S and len(took) < MOST_RUNS):
        begun = monotonic()
        run(batch)
        took.append(monotonic() - begun)
    return float(np.median(took)) * 1000


def _repeated(row: Row, size: int) -> Arrays:
    return {name: np.repeat(array, size, axis=0) for name, array in row.items()}


def _joined(rows: Sequence[Row]) -> Arrays:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _shapes(row: Row) -> list[tuple[int, ...]]:
    return [array.shape for array in row.values()]
