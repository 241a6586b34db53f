"""What does an operator ask of a conversion?

Pure: values only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vision.convert.failures import ConversionError
from vision.tensors import DataType, TensorSpec

Shape = tuple[int, ...]


class Precision(StrEnum):
    """In what a converted model computes."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes of one input, batch axis included, that a TensorRT profile is tuned for."""

    input: str
    least: Shape
    usual: Shape
    most: Shape


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """How TensorRT builds; what is None is left to it. `build` None: if it can be done here.

    `level` is `builder_optimization_level`, 0 to 5, of which TensorRT's default is 3;
    `workspace_bytes` the scratch memory that kernels may take, by default all of the GPU's.
    """

    build: bool | None = None
    level: int | None = None
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """One conversion.

    `model` is a name, `hf:` and an id or folder, a path of an ONNX file, or `module:function`;
    `calibration` a folder of images or npz files, an npz file, `random`, or None; `held_out` the
    same, None for what calibration leaves over.
    """

    model: str
    output: Path
    precision: Precision = Precision.FP32
    max_batch: int = 32
    calibration: str | None = None
    calibration_samples: int = 200
    held_out: str | None = None
    weight_bits: int = 8
    version: int | None = None
    force: bool = False
    config: Path | None = None
    repository: Path = Path("models")
    inputs: tuple[TensorSpec, ...] = ()
    plan: PlanOptions = PlanOptions()


_TENSOR = re.compile(r"(?P<name>[^:]+):(?P<sizes>[\dx?]+)(:(?P<dtype>\w+))?")


def parse_input(text: str) -> TensorSpec:
    """Read `image:3x224x224` or `ids:?:INT64`, sizes without the batch axis, `?` for any.

    Raises `ConversionError`.
    """
    match = _TENSOR.fullmatch(text)
    if match is None:
        raise ConversionError(f"--input {text}: has to be NAME:3x224x224, or NAME:3x224x224:FP32")
    dtype = (match["dtype"] or "FP32").upper()
    try:
        sizes = tuple(None if size == "?" else int(size) for size in match["sizes"].split("x"))
        return TensorSpec(match["name"], DataType(dtype), sizes)
    except ValueError:
        names = ", ".join(DataType)
        raise ConversionError(f"--input {text}: sizes are 3x224x224, types {names}") from None


def parse_profile(text: str) -> Profile:
    """Read `input:1x3x224x224,8x3x224x224,32x3x224x224`: the least, the usual, the most.

    One shape stands for all three. Raises `ConversionError`.
    """
    name, _, shapes = text.rpartition(":")
    try:
        parsed = [tuple(int(size) for size in shape.split("x")) for shape in shapes.split(",")]
    except ValueError:
        parsed = []
    if not name or len(parsed) not in {1, 3} or len({len(shape) for shape in parsed}) != 1:
        raise ConversionError(
            f"--profile {text}: has to be INPUT:MIN,OPT,MAX with shapes like 8x3x224x224"
        )
    least, usual, most = parsed * 3 if len(parsed) == 1 else parsed
    if not all(1 <= a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
        raise ConversionError(f"--profile {text}: sizes have to rise from min over opt to max")
    return Profile(name, least, usual, most)


def profiles_for(
    inputs: Sequence[TensorSpec], max_batch: int, given: Sequence[Profile]
) -> list[dict[str, Profile]]:
    """The profiles of a plan, each with one entry for every input.

    Those that were given are dealt out by input: the second one of an input belongs to the second
    profile. Without any there is one: batches of 1 to `max_batch`, tuned for the
    largest, since a full batch is when time matters. Raises `ConversionError` for an input that is
    not there, a shape that does not fit, and a free axis of which nothing says how long it gets.
    """
    by_name = {spec.name: spec for spec in inputs}
    for profile in given:
        spec = by_name.get(profile.input)
        if spec is None:
            raise ConversionError(
                f"--profile {profile.input}: no input has this name; there is {', '.join(by_name)}"
            )
        if not spec.fits(profile.most[1:]) or not spec.fits(profile.least[1:]):
            raise ConversionError(f"--profile {profile.input}: the model's input is {_said(spec)}")
    if given and all(one.least[0] > 1 for one in given):
        raise ConversionError("--profile: none takes a batch of 1, which a lone request is")
    dealt = {name: [one for one in given if one.input == name] for name in by_name}
    count = max(1, *map(len, dealt.values()))
    return [_whole(inputs, dealt, index, max_batch) for index in range(count)]


def _whole(
    inputs: Sequence[TensorSpec],
    dealt: Mapping[str, Sequence[Profile]],
    index: int,
    max_batch: int,
) -> dict[str, Profile]:
    """Profile number `index`; inputs without one take its batch sizes, or the default's."""
    given = [shapes[index] for shapes in dealt.values() if index < len(shapes)]
    batches = (
        (given[0].least[0], given[0].usual[0], given[0].most[0])
        if given
        else (1, max_batch, max_batch)
    )
    chosen = {one.input: one for one in given}
    for spec in inputs:
        if spec.name in chosen:
            continue
        rest = tuple(size for size in spec.shape if size is not None)
        if len(rest) != len(spec.shape):
            raise ConversionError(
                f"input {spec.name} is {_said(spec)}: say how long its free axes get: "
                f"--profile {spec.name}:MIN,OPT,MAX"
            )
        least, usual, most = ((batch, *rest) for batch in batches)
        chosen[spec.name] = Profile(spec.name, least, usual, most)
    return chosen


def _said(spec: TensorSpec) -> str:
    return "x".join(["batch", *("?" if size is None else str(size) for size in spec.shape)])
