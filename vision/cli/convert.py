"""What does `sluice vision convert` take, and what does it print?"""

# ruff: noqa: PLC0415 - imports inside the command are this module's purpose, see below.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_HERE = "[default: if TensorRT and a GPU are here]"


def convert(  # noqa: PLR0913, PLR0917 - an argument for each option
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A model of the repository or one that ships (`digits`); `hf:ID` or `hf:FOLDER`; "
            "a path that ends in `.onnx`; or `package.module:function`, whose code is run: it "
            "returns a torch module, or one and an example of its inputs.",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The model's folder, such as models/resnet50.")
    ],
    precision: Annotated[
        str, typer.Option(metavar="fp32|fp16|int8", help="In what it computes.")
    ] = "fp32",
    max_batch: Annotated[int, typer.Option(min=1, help="Most rows of a batch.")] = 32,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE.npz|random",
            help="Real samples: images in a folder, or an npz file. INT8 is calibrated with some "
            "of them, and every precision is compared on the others.",
        ),
    ] = None,
    calibration_samples: Annotated[
        int, typer.Option(min=1, help="How many of them calibrate INT8, at most.")
    ] = 200,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE.npz",
            help="Other samples to compare on. [default: those that calibration leaves over]",
        ),
    ] = None,
    weight_bits: Annotated[
        int,
        typer.Option(min=7, max=8, help="Of INT8 weights; 7 is exact on CPUs without VNNI, too."),
    ] = 8,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="The version to write. [default: the newest one there plus 1]"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace that version, and config.yaml.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A config.yaml that says how images are fed, instead of a draft."
        ),
    ] = None,
    repository: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where models are looked for by name.")
    ] = Path("models"),
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SIZES[:TYPE]",
            help="An input of `module:function`, as `image:3x224x224` or `ids:?:INT64`; repeat.",
        ),
    ] = None,
    plan: Annotated[
        bool | None,
        typer.Option("--plan/--no-plan", help=f"Build a TensorRT plan. {_HERE}"),
    ] = None,
    opt_level: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="How long TensorRT searches. [default: TensorRT's, 3]"),
    ] = None,
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Scratch memory of its kernels. [default: all]")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What it measured; read and written.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT:MIN,OPT,MAX",
            help="Shapes to tune for, as `image:1x3x224x224,8x3x224x224,32x3x224x224`; repeat for "
            "other inputs and more profiles. [default: batches of 1 to --max-batch]",
        ),
    ] = None,
) -> None:
    """Convert a model for the vision service: ONNX in FP32, FP16 or INT8, and a TensorRT plan.

    The result is the next version in the output's folder, with report.json and REPORT.md beside
    it: errors against the source, sizes, latency. Everything but the plan works without a GPU.

    Example:

      sluice vision convert --model hf:microsoft/resnet-50 --precision int8 \\
        --calibration photos/ --output models/resnet50
    """
    # Converting loads numpy, onnx and maybe torch: the help must not.
    from vision.cli.converting import run

    raise typer.Exit(
        run(
            {
                "model": model,
                "output": output,
                "precision": precision,
                "max_batch": max_batch,
                "calibration": calibration,
                "calibration_samples": calibration_samples,
                "held_out": held_out,
                "weight_bits": weight_bits,
                "version": version,
                "force": force,
                "config": config,
                "repository": repository,
            },
            input or [],
            {
                "build": plan,
                "level": opt_level,
                "workspace_bytes": None if workspace_mb is None else workspace_mb * 2**20,
                "timing_cache": timing_cache,
            },
            profile or [],
        )
    )
