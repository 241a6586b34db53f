"""How do several items run as one batch: into one array, and the answers out of it again?

Each row is copied once, into a buffer that stays: the instance allocates it (pinned memory on a
GPU), and a batch is a view of its first rows. A lone item is not copied at all. On the way back
each output is copied once, because an instance may use its arrays again, and every item gets a view
of its own rows in the copy. So one item's answer keeps the batch's in memory, which is what a copy
for each item would take, but for longer if one of them is slow to be sent.

A `Stack` belongs to one instance and is used by its thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from vision.errors import ExecutionFailed, VisionError
from vision.tensors import Array, Arrays, DataType, TensorSpec

_log = logging.getLogger("sluice.vision.stacking")

Answer = dict[str, Array] | VisionError
Allocate = Callable[[DataType, tuple[int, ...]], Array]
Run = Callable[[Arrays], dict[str, Array]]
Key = tuple[tuple[int, ...], ...]

SHAPES = 8
"""Shapes of rows whose buffers are kept; the one unused for longest goes. A model that takes any
size would otherwise keep one for every size it has ever seen."""


def shape_key(specs: Sequence[TensorSpec], inputs: Arrays) -> Key:
    """What items have to have in common to share a batch: the shape of a row of every input.

    Names and types need no place in it, for inputs have been checked against the specs.
    """
    return tuple([inputs[spec.name].shape[1:] for spec in specs])


HELD = 500
"""Elements up to which numpy copies without letting other threads run."""

LINE = 200
"""Characters of a library's error that a client reads."""


class Stack:
    """The buffers of one instance, up to `max_batch` rows each."""

    __slots__ = ("_allocate", "_buffers", "_max_batch", "_specs")

    def __init__(self, specs: Sequence[TensorSpec], allocate: Allocate, max_batch: int) -> None:
        self._specs = specs
        self._allocate = allocate
        self._max_batch = max_batch
        self._buffers: dict[Key, tuple[int, dict[str, Array]]] = {}

    def stack(self, items: Sequence[Arrays], rows: int) -> dict[str, Array]:
        """Return the items' rows, one after the other, `rows` in all, C-contiguous.

        All items have the same shape key. The result is valid until the next call. A lone item's
        own arrays come back where they are contiguous. 2 µs and 0.25 µs an item and input, copying
        small rows included.
        """
        if len(items) == 1:
            return {spec.name: np.ascontiguousarray(items[0][spec.name]) for spec in self._specs}
        buffers = self._room(shape_key(self._specs, items[0]), rows)
        batch = {name: buffer[:rows] for name, buffer in buffers.items()}
        for name, array in batch.items():
            _copy([item[name] for item in items], array)
        return batch

    def _room(self, key: Key, rows: int) -> dict[str, Array]:
        """Buffers for so many rows; they grow by powers of two, for few shapes fill a batch."""
        size, buffers = self._buffers.pop(key, (0, {}))
        if size < rows:
            size = min(1 << (rows - 1).bit_length(), self._max_batch)
            buffers = {
                spec.name: self._allocate(spec.dtype, (size, *shape))
                for spec, shape in zip(self._specs, key, strict=True)
            }
        self._buffers[key] = (size, buffers)  # As the newest.
        if len(self._buffers) > SHAPES:
            del self._buffers[next(iter(self._buffers))]
        return buffers


def _copy(arrays: Sequence[Array], out: Array) -> None:
    """Copy one after the other; fast if they are small, and in one go if they are large.

    numpy lets other threads run while it copies more than 500 elements. Getting Python's lock back
    takes up to 5 ms whenever the event loop is busy, for every single item: 167 ms for 32 images
    of 3 x 224 x 224 that are copied in 1.6. `memoryview` copies as fast and keeps the lock.
    """
    if out.size <= HELD * len(arrays):
        np.concatenate(arrays, out=out, casting="no")
        return
    target = out.data.cast("B")
    start = 0
    for array in arrays:
        end = start + array.nbytes
        target[start:end] = np.ascontiguousarray(array).data.cast("B")
        start = end


def split(outputs: Arrays, sizes: Sequence[int], rows: int) -> list[dict[str, Array]]:
    """Return each item's rows of every output; `sizes` are the items' rows, in order.

    Raises `ExecutionFailed` if an output does not have exactly `rows` rows first. 2 µs and 0.15 µs
    an item and output, copying small rows included.
    """
    copies: dict[str, Array] = {}
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            raise ExecutionFailed(
                f"The model's output {name!r} has the shape {list(array.shape)}, "
                f"which does not begin with the batch's {rows} rows."
            )
        copies[name] = array.copy()
    if len(sizes) == 1:
        return [copies]
    parts: list[dict[str, Array]] = []
    start = 0
    for size in sizes:
        end = start + size
        parts.append({name: array[start:end] for name, array in copies.items()})
        start = end
    return parts


def execute(run: Run, stack: Stack, items: Sequence[Arrays], sizes: Sequence[int]) -> list[Answer]:
    """Run items as one batch and return an answer for each, in their order.

    If the batch fails, each item is run again alone, so that one which the model cannot take
    does not cost the others their answers. Blocks for as long as the library does.
    """
    rows = sum(sizes)
    try:
        return [*split(run(stack.stack(items, rows)), sizes, rows)]
    except Exception as error:  # Whatever a library raises; each client has to get an answer.
        reason = error
    if len(items) > 1:
        _log.warning("a batch of %d rows failed; its items run alone: %s", rows, reason)
        alone = zip(items, sizes, strict=True)
        return [execute(run, stack, [item], [size])[0] for item, size in alone]
    if isinstance(reason, ExecutionFailed):
        return [reason]
    _log.error("the model failed on an item", exc_info=reason)
    return [ExecutionFailed(f"The model failed on this input: {_first_line(reason)}")]


def _first_line(error: Exception) -> str:
    """What a client may read of a library's error; the rest of it is in the log."""
    line = str(error).strip().partition("\n")[0]
    return line[:LINE] or type(error).__name__
