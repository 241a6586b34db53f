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
from dataclasses import dataclass
from pathlib import Path, PurePath

from vision.config import Batching, Classification, Detection, ModelConfig, Versions
from vision.configs import config_file, read_file
from vision.convert import fit, graph, output, planning, precision, samples
from vision.convert.draft import Draft
from vision.convert.failures import ConversionError
from vision.convert.judging import MODEL, PLAN, Made, judge, tensor
from vision.convert.options import Options, Precision, profiles_for
from vision.convert.progress import Steps
from vision.convert.report import Report
from vision.convert.samples import Samples
from vision.convert.sources import LABELS, resolve
from vision.listing import NAME


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of it: the version's folder, its report, and what to tell the operator."""

    folder: Path
    report: Report
    notes: tuple[str, ...]


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
            report = judge(options, made, steps)
            steps.begin("write")
            report.write(staged)
            config = _config(made, options, version)
            notes = _notes(made, options, config, version)
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
    if NAME.fullmatch(options.output.resolve().name) is None:
        raise ConversionError(
            f"{options.output}: is not a model's name for the service: {NAME.pattern}"
        )
    if model := next(options.output.glob(f"*/[0-9]*/{MODEL}"), None):
        raise ConversionError(
            f"{options.output}: is a repository, with {model.parent.parent.name} in it; --output "
            f"is the folder of one model, such as {options.output / 'NAME'}"
        )


def _make(options: Options, staged: Path, scratch: Path, steps: Steps) -> Made:
    """Export, simplify, change the precision, build."""
    steps.begin("load and export")
    draft = resolve(options, scratch)
    planned = options.plan.build is not False and planning.missing() is None
    fit.check(draft, planned)
    if options.precision is not Precision.FP32 and precision.zero_points(draft.file)[0]:
        raise ConversionError(
            f"{options.model} is quantized already; {options.precision.upper()} is made of the "
            "model in FP32"
        )
    max_batch = min(options.max_batch, draft.max_batch or options.max_batch)
    calibration, held_out = _samples(options, draft)
    profiles = profiles_for(draft.inputs, max_batch, options.plan.profiles) if planned else []
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
    return Made(staged, draft, simplified, rounded, used, held_out, no_plan, max_batch)


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
        others = samples.read(options.held_out, draft.inputs, draft.config, "--held-out")
        return calibration, samples.split(others, 0)[1]
    calibration, held_out = samples.split(found, wanted)
    if not held_out:
        held_out = samples.noise(draft.inputs, draft.config)
    return calibration, held_out


def _config(made: Made, options: Options, version: int) -> ModelConfig:
    """What the repository is to say of the model."""
    draft = made.draft
    config = draft.config
    post = config.postprocessing
    if isinstance(post, (Classification, Detection)) and draft.labels is not None:
        plain = post.labels is not None and PurePath(post.labels).name == post.labels
        post = post.model_copy(update={"labels": post.labels if plain else LABELS})
    batching = config.batching.model_dump()
    batching["max_batch"] = made.max_batch
    preferred = {one for one in config.batching.preferred if one <= made.max_batch}
    if made.no_plan is None and not preferred:
        # Each gets a CUDA graph, and batches in between run as the next one.
        preferred = {made.max_batch // part for part in (4, 2, 1)} - {0, 1}
    batching["preferred"] = sorted(preferred)
    return config.model_copy(
        update={
            "inputs": tuple(map(tensor, draft.inputs)),
            "outputs": tuple(map(tensor, draft.outputs)),
            "postprocessing": post,
            "batching": Batching.model_validate(batching),
            "sha256": {},  # Those of the source's files.
            "versions": config.versions if _serves(config, version) else Versions(),
            # They lie beside the source's configuration.
            "warmup": config.warmup.model_copy(update={"samples": ()}),
            "description": config.description
            if options.config is not None
            else f"{options.model} in {options.precision.upper()}",
        }
    )


def _serves(config: ModelConfig, version: int) -> bool:
    """Whether a configuration lets the version that is made serve; another folder's may not."""
    return config.versions.policy != "specific" or version in config.versions.versions


def _notes(made: Made, options: Options, config: ModelConfig, version: int) -> tuple[str, ...]:
    """What to say of the new config.yaml, or of the one that is there and stays."""
    file = config_file(options.output, None)
    if file is None or options.force:
        return fit.notes(made.draft, config)
    there = read_file(file)
    parts = ("inputs", "outputs", "preprocessing", "postprocessing")
    other = [one for one in parts if getattr(there, one) != getattr(config, one)]
    if there.batching.max_batch > config.batching.max_batch:
        other.append("batching.max_batch")
    if made.no_plan is not None and "onnx" not in there.runtimes:
        other.append("runtimes")
    if not _serves(there, version):
        other.append("versions")
    said = f"; it differs in {', '.join(other)} from what fits this version" if other else ""
    return (f"{file} was there and stays (--force replaces it){said}",)
