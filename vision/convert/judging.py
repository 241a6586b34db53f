"""How is what was converted judged, and what does its report say?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.config import Classification, Tensor
from vision.convert import precision, validation
from vision.convert.draft import Draft
from vision.convert.failures import ConversionError, told_in_a_line
from vision.convert.options import Options, Precision
from vision.convert.progress import Steps
from vision.convert.report import Report, compared, file_entry, libraries
from vision.convert.rounding import write_rounded
from vision.convert.running import Opened, all_cores, open_file
from vision.convert.samples import Samples
from vision.tensors import TensorSpec

MODEL, PLAN = "model.onnx", "model.plan"
LOW_AGREEMENT = 0.98
"""The share of equal first classes under which INT8 is warned of; good ones lose a percent."""
BATCH_TOLERANCE = 1e-2
"""Of the largest value: how far rows of one batch may be from the same rows alone."""


@dataclass(frozen=True, slots=True)
class Made:
    """A version's folder before it is judged, and what it was made of.

    `rounded` is where the FP16 file may be written with its rounding; `no_plan` says why there is
    no plan, None if there is one.
    """

    folder: Path
    draft: Draft
    simplified: Path
    rounded: Path
    calibration: Samples | None
    held_out: Samples
    no_plan: str | None
    max_batch: int


def judge(options: Options, made: Made, steps: Steps) -> Report:
    """Run source and result on the same samples."""
    draft, folder = made.draft, made.folder
    report = Report(
        model=options.model,
        precision=options.precision.value,
        max_batch=made.max_batch,
        inputs=[tensor(one).model_dump(mode="json") for one in draft.inputs],
        outputs=[tensor(one).model_dump(mode="json") for one in draft.outputs],
        source_bytes=made.simplified.stat().st_size,
        libraries=libraries(),
    )
    files = [name for name in (MODEL, PLAN) if (folder / name).exists()]
    report.files = {name: file_entry(folder / name) for name in files}
    _fill(report, made, options)
    report.validation = _compared(report, made, "onnx", folder / MODEL, steps)
    agreement = report.validation["top1_agreement"]
    low = agreement is not None and agreement < LOW_AGREEMENT
    if options.precision is Precision.INT8 and low:
        report.warnings.append(
            f"only {agreement:.1%} of the samples have the same first class as the source: give "
            "more samples that are like real ones, or --weight-bits 7 for CPUs without VNNI"
        )
    if options.precision is Precision.FP16 and write_rounded(folder / MODEL, made.rounded):
        report.rounded = _compared(report, made, "rounded", made.rounded, steps)
    runs = {
        "source": open_file("onnx", made.simplified, "cpu"),
        "onnx": open_file("onnx", folder / MODEL, "cpu"),
    }
    if made.no_plan is None:
        report.plan["validation"] = _compared(report, made, "plan", folder / PLAN, steps)
        runs["plan"] = open_file("tensorrt", folder / PLAN, "cuda")
    report.latency = _timed(runs, made, steps)
    return report


def _compared(report: Report, made: Made, name: str, file: Path, steps: Steps) -> dict[str, Any]:
    """One file against the source; what is odd becomes a warning."""
    draft, held_out = made.draft, made.held_out
    steps.begin(f"compare {name}", len(held_out))
    opened = (
        open_file("tensorrt", file, "cuda")
        if name == "plan"
        else open_file("onnx", file, "cpu", all_cores())
    )
    post = draft.config.postprocessing
    is_classifier = isinstance(post, Classification)
    wanted = post.output if isinstance(post, Classification) else None
    classes = validation.classifying(draft.outputs, wanted, is_classifier)
    most = min(made.max_batch, opened.max_batch)
    at_once = min(most, validation.BATCH)
    with told_in_a_line(f"{name} does not run on the samples"):
        found = validation.compare(
            draft.reference, opened.run, held_out, classes, at_once, steps.advance
        )
        off = validation.batch_error(opened.run, held_out, min(most, 3)) if most > 1 else None
    if any(one.broken for one in found.errors.values()):
        raise ConversionError(
            f"{made.draft.source} in {report.precision.upper()} gives NaN or infinite values where "
            "the source does not: its numbers are too large for it"
        )
    largest = max((one.largest for one in found.errors.values()), default=0.0)
    if off is not None and not off <= BATCH_TOLERANCE * max(largest, 1.0):
        report.warnings.append(
            f"{name}: rows in a batch differ by {off:.2g} from the same rows alone"
        )
    return compared(found, held_out.origin, held_out.random, off)


def _timed(runs: Mapping[str, Opened], made: Made, steps: Steps) -> list[dict[str, Any]]:
    """Milliseconds of a call by batch size; a file that takes smaller batches has no figure."""
    row = next(iter(made.held_out))
    sizes = validation.batch_sizes(made.max_batch)
    steps.begin("measure latency", len(sizes))
    lines = []
    for done, size in enumerate(sizes, start=1):
        line: dict[str, Any] = {"batch": size}
        for name, opened in runs.items():
            fits = size <= opened.max_batch
            line[name] = validation.latencies(opened.run, row, [size])[size] if fits else None
        lines.append(line)
        steps.advance(done)
    return lines


def _fill(report: Report, made: Made, options: Options) -> None:
    """Note how the model came to be, and what to be wary of."""
    report.plan.update({"built": made.no_plan is None, "reason": made.no_plan})
    if options.precision is Precision.INT8:
        count, other = precision.zero_points(made.folder / MODEL)
        report.zero_points = {"count": count, "other_than_0": other}
    if made.calibration is not None:
        report.calibration = {
            "from": made.calibration.origin,
            "samples": len(made.calibration),
            "random": made.calibration.random,
            "weight_bits": options.weight_bits,
        }
        if made.calibration.random:
            report.warnings.append(
                "calibrated with random data: the scales are not those of real inputs, and the "
                "model may be far off on them"
            )
    if made.held_out.random:
        report.warnings.append(
            "compared on random data: errors on real inputs may be others, and the same first "
            "class says little"
        )
    report.warnings.extend(made.draft.notes)


def tensor(spec: TensorSpec) -> Tensor:
    """A tensor in the words of config.yaml."""
    return Tensor(
        name=spec.name,
        dtype=spec.dtype,
        shape=tuple(-1 if size is None else size for size in spec.shape),
    )
