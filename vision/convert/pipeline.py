"""What are the steps of a conversion?

    source ──► FP32 ONNX ──► simplified ──► FP16 or INT8 ──► plan      (plan: where there is a GPU)
      └──────────── validation: the same samples through both ──┘
                         └──► report ──► models/<name>/<version>/

Everything is written beside its place and moved there at the end.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vision.config import Batching, Classification, ModelConfig, Tensor
from vision.configs import config_file, read_file
from vision.convert import graph, output, planning, precision, samples, validation
from vision.convert.draft import Draft
from vision.convert.failures import ConversionError
from vision.convert.options import Options, Precision, profiles_for
from vision.convert.progress import Steps
from vision.convert.report import Report, compared, file_entry, libraries
from vision.convert.rounding import write_rounded
from vision.convert.running import Opened, open_file
from vision.convert.samples import Samples
from vision.convert.sources import LABELS, resolve
from vision.tensors import TensorSpec

MODEL, PLAN = "model.onnx", "model.plan"
LOW_AGREEMENT = 0.98
"""The share of equal first classes under which INT8 is warned of; good ones lose a percent."""
BATCH_TOLERANCE = 1e-2
"""Of the largest value: how far rows of one batch may be from the same rows alone."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of it: the version's folder, its report, and what to tell the operator."""

    folder: Path
    report: Report
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Made:
    """The files before they are judged."""

    folder: Path
    draft: Draft
    simplified: Path
    rounded: Path
    calibration: Samples | None
    held_out: Samples
    no_plan: str | None
    max_batch: int


def convert(options: Options, steps: Steps) -> Converted:
    """Convert a model and put it into the repository, as the next version.

    Raises `ConversionError`, `ConfigError` or `MissingLibrary`, each with one line; then nothing
    has changed. A plan that cannot be built here is no error: the ONNX file is there without it.
    """
    check(options)
    version = output.choose_version(options.output, options.version, options.force)
    try:
        with (
            output.staging(options.output) as staged,
            tempfile.TemporaryDirectory(prefix="sluice-convert-") as scratch,
        ):
            made = _make(options, staged, Path(scratch), steps)
            report = _judge(options, made, steps)
            steps.begin("write")
            report.write(staged)
            config = _config(made, options)
            notes = _existing(options, config)
            output.write_config(options.output, config, made.draft.labels, options.force)
            folder = output.place(staged, options.output, version, options.force)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ConversionError(
                f"no space left for {options.output} or temporary files"
            ) from error
        raise
    return Converted(folder, report, (*made.draft.notes, *notes))


def check(options: Options) -> None:
    """Refuse what cannot be, before anything is loaded."""
    if options.precision is Precision.INT8 and options.calibration is None:
        raise ConversionError(
            "--precision int8 needs --calibration: a folder of real images or an npz file "
            "(`random` only to try things out)"
        )
    if options.output.exists() and not options.output.is_dir():
        raise ConversionError(f"{options.output}: is not a folder")


def _make(options: Options, staged: Path, scratch: Path, steps: Steps) -> _Made:
    """Export, simplify, change the precision, build."""
    steps.begin("load and export")
    draft = resolve(options, scratch)
    max_batch = min(options.max_batch, draft.max_batch or options.max_batch)
    calibration, held_out = _samples(options, draft)
    profiles = (
        profiles_for(draft.inputs, max_batch, options.plan.profiles)
        if (options.plan.build is not False and planning.missing() is None)
        else []
    )
    steps.begin("simplify")
    simplified, model = scratch / "simplified.onnx", staged / MODEL
    graph.simplify(draft.file, simplified)
    if options.precision is Precision.FP32:
        shutil.copyfile(simplified, model)
    elif options.precision is Precision.FP16:
        steps.begin("cast to FP16")
        precision.to_fp16(simplified, model)
    else:
        steps.begin("calibrate and quantize", len(calibration))
        precision.to_int8(simplified, model, calibration, options.weight_bits, steps)
    steps.begin("build the plan")
    no_plan = planning.build(model, staged / PLAN, profiles, options.plan, steps)
    used = calibration if options.precision is Precision.INT8 else None
    rounded = scratch / "rounded.onnx"
    return _Made(staged, draft, simplified, rounded, used, held_out, no_plan, max_batch)


def _samples(options: Options, draft: Draft) -> tuple[Samples, Samples]:
    """What calibrates and what is held out; noise to compare on, where there is nothing else."""
    found = (
        samples.noise(draft.inputs, draft.config)
        if options.calibration is None
        else samples.read(options.calibration, draft.inputs, draft.config)
    )
    wanted = options.calibration_samples if options.precision is Precision.INT8 else 0
    if options.held_out is not None:
        calibration, _ = samples.split(found, wanted, share=1.0)
        others = samples.read(options.held_out, draft.inputs, draft.config)
        return calibration, samples.split(others, 0)[1]
    calibration, held_out = samples.split(found, wanted)
    if not held_out:
        held_out = samples.noise(draft.inputs, draft.config)
    return calibration, held_out


def _judge(options: Options, made: _Made, steps: Steps) -> Report:
    """Run source and result on the same samples."""
    draft, folder = made.draft, made.folder
    steps.begin("validate")
    report = Report(
        model=options.model,
        precision=options.precision.value,
        max_batch=made.max_batch,
        inputs=[_tensor(one).model_dump(mode="json") for one in draft.inputs],
        outputs=[_tensor(one).model_dump(mode="json") for one in draft.outputs],
        source_bytes=made.simplified.stat().st_size,
        libraries=libraries(),
    )
    files = [name for name in (MODEL, PLAN) if (folder / name).exists()]
    report.files = {name: file_entry(folder / name) for name in files}
    _fill(report, made, options)
    runs = {"onnx": open_file("onnx", folder / MODEL, "cpu")}
    report.validation = _compared(report, made, "onnx", runs["onnx"])
    agreement = report.validation["top1_agreement"]
    if options.precision is Precision.INT8 and (agreement or 1) < LOW_AGREEMENT:
        report.warnings.append(
            f"only {agreement:.1%} of the samples have the same first class as the source: give "
            "more samples that are like real ones, or --weight-bits 7 for CPUs without VNNI"
        )
    if options.precision is Precision.FP16 and write_rounded(folder / MODEL, made.rounded):
        report.rounded = _compared(report, made, "rounded", open_file("onnx", made.rounded, "cpu"))
    if made.no_plan is None:
        runs["plan"] = open_file("tensorrt", folder / PLAN, "cuda")
        report.plan["validation"] = _compared(report, made, "plan", runs["plan"])
    runs = {"source": open_file("onnx", made.simplified, "cpu"), **runs}
    report.latency = _timed(runs, made, steps)
    return report


def _compared(report: Report, made: _Made, name: str, opened: Opened) -> dict[str, Any]:
    """One file against the source; what is odd becomes a warning."""
    draft, held_out = made.draft, made.held_out
    post = draft.config.postprocessing
    is_classifier = isinstance(post, Classification)
    wanted = post.output if isinstance(post, Classification) else None
    classes = validation.classifying(draft.outputs, wanted, is_classifier)
    most = min(made.max_batch, opened.max_batch)
    at_once = min(most, validation.BATCH)
    found = validation.compare(draft.reference, opened.run, held_out, classes, at_once)
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


def _timed(runs: Mapping[str, Opened], made: _Made, steps: Steps) -> list[dict[str, Any]]:
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


def _fill(report: Report, made: _Made, options: Options) -> None:
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


def _config(made: _Made, options: Options) -> ModelConfig:
    """What the repository is to say of the model."""
    draft = made.draft
    config = draft.config
    post = config.postprocessing
    if isinstance(post, Classification) and draft.labels is not None and post.labels is None:
        post = post.model_copy(update={"labels": LABELS})
    batching = config.batching.model_dump()
    batching["max_batch"] = made.max_batch
    batching["preferred"] = [one for one in config.batching.preferred if one <= made.max_batch]
    return config.model_copy(
        update={
            "inputs": tuple(map(_tensor, draft.inputs)),
            "outputs": tuple(map(_tensor, draft.outputs)),
            "postprocessing": post,
            "batching": Batching.model_validate(batching),
            "sha256": {},  # Those of the source's files.
            "description": config.description
            if options.config is not None
            else f"{options.model} in {options.precision.upper()}",
        }
    )


def _existing(options: Options, config: ModelConfig) -> tuple[str, ...]:
    """What to say of a config.yaml that is there and stays."""
    file = config_file(options.output, None)
    if file is None or options.force:
        return ()
    there = read_file(file)
    parts = ("inputs", "outputs", "preprocessing", "postprocessing")
    other = [one for one in parts if getattr(there, one) != getattr(config, one)]
    if there.batching.max_batch > config.batching.max_batch:
        other.append("batching.max_batch")
    said = f"; it differs in {', '.join(other)} from what fits this version" if other else ""
    return (f"{file} was there and stays (--force replaces it){said}",)


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(
        name=spec.name,
        dtype=spec.dtype,
        shape=tuple(-1 if size is None else size for size in spec.shape),
    )
