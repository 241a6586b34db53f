"""`sluice vision convert` as an operator runs it: options, table, one line for each failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from vision.cli.convert import convert
from vision.cli.converting import Shown
from vision.convert import pipeline, validation
from vision.errors import MissingLibrary

HELD_OUT = str(Path(__file__).parents[2] / "data" / "digits-held-out.npz")


@pytest.fixture(autouse=True)
def hasty_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "TIMED_S", 0)


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it; tests of plans put a fake in its place."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)


def run(*arguments: object) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(convert)
    return CliRunner().invoke(app, [str(one) for one in arguments])


def test_conversion_prints_the_folder_and_the_report(tmp_path: Path) -> None:
    done = run(
        "--model", "digits", "--precision", "int8", "--weight-bits", 7, "--calibration", HELD_OUT,
        "--calibration-samples", 50, "--max-batch", 2, "--output", tmp_path / "d",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "d" / "1")
    for words in ("calibrated with", "50 samples", "zero points", "0 are not 0", "batch"):
        assert words in done.stdout
    assert "TensorRT is not installed" in done.stdout.replace("\n", " ")


def test_warnings_and_notes_are_on_standard_error(tmp_path: Path) -> None:
    arguments = ("--model", "digits", "--no-plan", "--output", tmp_path / "d")
    assert "warning: compared on random data" in run(*arguments).stderr
    again = run(*arguments)
    assert "config.yaml was there and stays" in again.stderr
    assert again.stdout.splitlines()[0].endswith("/2")


def test_steps_are_lines_in_a_log_and_bars_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--model", "digits", "--no-plan", "--output", tmp_path / "d", "--max-batch", 2)
    assert "load and export …\nsimplify …\n" in run(*arguments).stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run(*arguments).stderr
    assert "measure latency" in shown
    assert "2/2" in shown
    assert "write" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("--model", "nope"), 1, "error: no model is called nope: "),
        (("--model", "digits", "--precision", "int8"), 1, "error: --precision int8 needs"),
        (("--model", "digits", "--precision", "int4"), 2, "error: --precision int4: one of fp32"),
        (("--model", "digits", "--calibration", "."), 1, "error: --calibration .: no images in"),
        (("--model", "digits", "--profile", "x"), 1, "error: --profile x: has to be"),
        (("--model", "digits", "--input", "x"), 1, "error: --input x: has to be"),
        (("--model", "digits", "--plan"), 1, "error: no plan can be built here: TensorRT is not"),
        (("--model", "gone.onnx"), 1, "error: gone.onnx: no such file"),
        (("--model", "digits", "--config", "gone.yaml"), 1, "error: gone.yaml: cannot be read"),
    ],
)
def test_each_failure_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, "--output", "out")
    assert done.exit_code == status
    said = [one for one in done.stderr.splitlines() if one.strip()]
    assert said[-1].startswith(line)
    assert sum(one.startswith("error:") for one in said) == 1
    assert "Traceback" not in done.output
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (
            MissingLibrary("torch is not installed: pip install 'sluice[vision-convert]'"),
            1,
            "[vision-",
        ),
        (
            ModuleNotFoundError("no", name="numpy"),
            1,
            "error: numpy is not installed: pip install 's",
        ),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was changed"),
    ],
)
def test_what_the_machine_refuses_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int, line: str
) -> None:
    def refuse(*_: object) -> None:
        raise raised

    monkeypatch.setattr(pipeline, "convert", refuse)
    done = run("--model", "digits", "--output", tmp_path / "d")
    assert done.exit_code == status
    assert line in done.stderr


def test_options_reach_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def note(options: object, steps: object) -> None:
        asked.append(options)
        raise MissingLibrary("enough")

    monkeypatch.setattr(pipeline, "convert", note)
    run(
        "--model", "m:f", "--output", tmp_path, "--precision", "fp16", "--max-batch", 8,
        "--held-out", "h", "--version", 4, "--force", "--repository", "r", "--input", "a:3x2",
        "--opt-level", 5, "--workspace-mb", 2, "--timing-cache", "c", "--no-plan",
        "--profile", "a:1x3x2,2x3x2,8x3x2", "--profile", "a:1x3x2",
    )  # fmt: skip
    (options,) = asked
    assert (options.model, options.precision, options.max_batch) == ("m:f", "fp16", 8)
    assert (options.held_out, options.version, options.force) == ("h", 4, True)
    assert options.inputs[0].shape == (3, 2)
    plan = options.plan
    assert (plan.build, plan.level, plan.workspace_bytes) == (False, 5, 2 * 2**20)
    assert plan.timing_cache == Path("c")
    assert [one.most for one in plan.profiles] == [(8, 3, 2), (1, 3, 2)]


def test_phases_of_a_build_are_bars_under_their_step_and_leave_with_their_end() -> None:
    progress = Progress(console=Console(quiet=True))
    shown = Shown(progress)
    shown.begin("build the plan")
    shown.open("Building", None, 2)
    shown.open("Tactics [x]", "Building", 3)
    shown.move("Tactics [x]", 2)
    assert [(one.description, one.completed) for one in progress.tasks] == [
        ("build the plan", 0),
        ("  Building", 0),
        ("    Tactics \\[x]", 2),
    ]
    shown.close("Tactics [x]")
    shown.move("Tactics [x]", 3)
    shown.begin("validate", 4)
    shown.advance(1)
    assert [(one.description, one.completed, one.total) for one in progress.tasks] == [
        ("build the plan", 1, 1),
        ("validate", 1, 4),
    ]


def test_help_loads_neither_numpy_nor_onnx() -> None:
    code = (
        "import sys; from vision.cli.convert import convert; "
        "print(sorted({'numpy', 'onnx', 'onnxruntime', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
