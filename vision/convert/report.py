"""What is written down of a conversion, for programs and for people?"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vision.convert.validation import Comparison

JSON, TABLE = "report.json", "REPORT.md"
_LIBRARIES = ("onnx", "onnxruntime", "torch", "transformers", "tensorrt")


@dataclass(slots=True)
class Report:
    """One conversion; `write` puts it beside the model. Times are milliseconds.

    `validation` is what the service's runtime gives on this CPU, `rounded` what an FP16 file gives
    where FP16 is computed in (see `vision.convert.rounding`).
    """

    model: str
    precision: str
    max_batch: int
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    source_bytes: int
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    validation: dict[str, Any] = field(default_factory=dict)
    rounded: dict[str, Any] | None = None
    latency: list[dict[str, Any]] = field(default_factory=list)
    zero_points: dict[str, int] | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    libraries: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write report.json and REPORT.md."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / JSON).write_text(text, encoding="utf-8")
        (folder / TABLE).write_text(table(asdict(self)), encoding="utf-8")


def compared(
    found: Comparison, origin: str, random: bool, batch_error: float | None
) -> dict[str, Any]:
    """The section `validation`; shares are of the samples, errors absolute."""
    return {
        "from": origin,
        "random": random,
        "samples": found.samples,
        "errors": {
            name: {"max": one.most, "mean": one.mean, "largest_value": one.largest}
            for name, one in found.errors.items()
        },
        "batch_error": batch_error,
        "top1_agreement": found.share(found.agreeing),
        "accuracy": None
        if found.right_converted is None
        else {
            "source": found.share(found.right_source),
            "converted": found.share(found.right_converted),
        },
    }


def file_entry(file: Path) -> dict[str, Any]:
    """Size and hash of a file that was made."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def libraries() -> dict[str, str]:
    """Versions of what took part, as far as it is installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(report: Mapping[str, Any]) -> str:
    """A report.json as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def rows(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a report says, as pairs of a name and a figure in words."""
    yield "source", f"{report['model']}, {_size(report['source_bytes'])}"
    for name, entry in report["files"].items():
        yield name, _size(entry["bytes"])
    if (used := report["calibration"]) is not None:
        yield "calibrated with", f"{used['samples']} samples of {used['from']}"
    if (points := report["zero_points"]) is not None:
        yield "zero points", f"{points['count']}, of which {points['other_than_0']} are not 0"
    validation = report["validation"]
    yield "compared on", f"{validation['samples']} samples of {validation['from']}"
    yield from _figures(validation, "")
    if (rounded := report["rounded"]) is not None:
        yield from _figures(rounded, ", rounded to FP16 after each node")
    plan = report["plan"]
    yield "plan", "built" if plan.get("built") else f"not built: {plan.get('reason')}"


def _figures(section: Mapping[str, Any], how: str) -> Iterator[tuple[str, str]]:
    for name, error in section["errors"].items():
        most, mean, largest = (f"{error[key]:.3g}" for key in ("max", "mean", "largest_value"))
        yield f"error of {name}{how}", f"max {most}, mean {mean} (largest value {largest})"
    if (agreement := section["top1_agreement"]) is not None:
        yield f"same first class{how}", f"{agreement:.2%}"
    if (accuracy := section["accuracy"]) is not None:
        text = f"{accuracy['converted']:.2%} (source {accuracy['source']:.2%})"
        yield f"accuracy{how}", text


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {report['model']} in {report['precision'].upper()}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, text in rows(report):
        yield f"| {name} | {text} |"
    yield ""
    columns = [key for key in report["latency"][0] if key != "batch"] if report["latency"] else []
    if columns:
        yield "One call, on one thread of this CPU; a plan on this GPU."
        yield ""
        yield f"| batch | {' | '.join(f'{one}, ms' for one in columns)} |"
        yield "|--:|" + "--:|" * len(columns)
        for line in report["latency"]:
            figures = " | ".join(milliseconds(line.get(one)) for one in columns)
            yield f"| {line['batch']} | {figures} |"
        yield ""
    for warning in report["warnings"]:
        yield f"> **Warning:** {warning}"
        yield ""
    yield "Made with " + ", ".join(f"{k} {v}" for k, v in report["libraries"].items()) + "."


def milliseconds(value: float | None) -> str:
    """A latency as tables have it; nothing for a batch that was not run."""
    return "" if value is None else f"{value:.3f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
