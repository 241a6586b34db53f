"""What do all runtimes check and say alike when they load a file?

Pure: values only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vision.config import Tensor
from vision.errors import LoadError
from vision.tensors import TensorSpec

Axis = int | None
"""A size in a file; None for one that the caller chooses."""


def reason(error: BaseException) -> str:
    """The first line of what a library says; libraries append stack traces and advice."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


def ordinal(device: str) -> int:
    """Which CUDA device `cuda:1`, `cuda` or `auto` mean: the number, or else the first one."""
    return int(device.partition(":")[2] or 0)


def split_batch(file: Path, name: str, shape: Sequence[Axis]) -> tuple[Axis, tuple[Axis, ...]]:
    """Take the batch axis off a tensor's shape as it stands in the file.

    Raises `LoadError` for a tensor without axes and for a batch fixed at another size than 1: to
    pad every batch to it would hide from the operator what each request costs.
    """
    if not shape:
        raise LoadError(f"{file}: {name} has no batch axis")
    batch, *rest = shape
    if batch not in (None, 1):
        raise LoadError(
            f"{file}: {name} has a batch of {batch} built in: export it with a dynamic first axis"
        )
    return batch, tuple(rest)


def batch_limit(file: Path, inputs: Iterable[Axis], outputs: Iterable[Axis], wanted: int) -> int:
    """The most rows of a batch: `wanted`, or 1 where the file has a batch of 1 built in.

    Raises `LoadError` if there are several rows going in but always one coming out: such an output
    says nothing of the single row.
    """
    if 1 in inputs:
        return 1
    if 1 in outputs:
        raise LoadError(f"{file}: an output has no row for each row of the inputs")
    return wanted


def agreed(
    file: Path, kind: str, found: Sequence[TensorSpec], wanted: Sequence[Tensor]
) -> tuple[TensorSpec, ...]:
    """What the file has, in the configuration's order and with the sizes that it makes definite.

    `kind` is `input` or `output`. Every input has to be named, of the outputs only those that are
    wanted: the others are not computed for anybody. Without `wanted` it is the file's own.
    Raises `LoadError` where the two contradict each other.
    """
    if not wanted:
        return tuple(found)
    by_name = {spec.name: spec for spec in found}
    chosen = []
    for tensor in wanted:
        spec = by_name.pop(tensor.name, None)
        if spec is None:
            names = ", ".join(one.name for one in found)
            raise LoadError(f"{file}: no {kind} is called {tensor.name}; it has {names}")
        chosen.append(_narrowed(file, kind, spec, tensor.spec))
    if by_name and kind == "input":
        raise LoadError(f"{file}: inputs that config.yaml leaves out: {', '.join(by_name)}")
    return tuple(chosen)


def _narrowed(file: Path, kind: str, found: TensorSpec, wanted: TensorSpec) -> TensorSpec:
    """One tensor with the definite sizes of both sides."""
    where = f"{file}: {kind} {found.name}"
    if found.dtype is not wanted.dtype:
        raise LoadError(f"{where} is {found.dtype}, config.yaml says {wanted.dtype}")
    shape = []
    pairs = zip(found.shape, wanted.shape, strict=False)
    for ours, theirs in pairs:
        if ours is not None and theirs is not None and ours != theirs:
            break
        shape.append(theirs if ours is None else ours)
    if not len(shape) == len(found.shape) == len(wanted.shape):
        raise LoadError(f"{where} is {_said(found)}, config.yaml says {_said(wanted)}")
    return TensorSpec(found.name, found.dtype, tuple(shape))


def _said(spec: TensorSpec) -> str:
    """A shape as config.yaml writes it."""
    return "[" + ", ".join("-1" if size is None else str(size) for size in spec.shape) + "]"
