"""How does a conversion look on the terminal, and with which status does it end?

0: done, with or without a plan. 1: not done, one line says why. 2: wrong options. 130: interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from vision.convert.progress import Silent
from vision.errors import OperatorError


def run(
    values: dict[str, Any], inputs: Sequence[str], plan: dict[str, Any], profiles: Sequence[str]
) -> int:
    """Convert, showing the progress on standard error, and print the report's table."""
    err = Console(stderr=True, highlight=False)
    try:
        return _run(values, inputs, plan, profiles, err)
    except OperatorError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    except ImportError as error:
        err.print(
            f"[bold red]error:[/] {error.name} is not installed: "
            + escape("pip install 'sluice[vision-convert]'"),
            soft_wrap=True,
        )
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        text = escape(where + (error.strerror or str(error)))
        err.print(f"[bold red]error:[/] {text}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        err.print("interrupted; nothing was changed")
        return 130


def _run(
    values: dict[str, Any],
    inputs: Sequence[str],
    plan: dict[str, Any],
    profiles: Sequence[str],
    err: Console,
) -> int:
    from vision.convert import options as asked  # noqa: PLC0415 - numpy may be missing
    from vision.convert.pipeline import convert  # noqa: PLC0415

    try:
        values["precision"] = asked.Precision(values["precision"])
    except ValueError:
        names = ", ".join(asked.Precision)
        err.print(f"[bold red]error:[/] --precision {escape(values['precision'])}: one of {names}")
        return 2
    options = asked.Options(
        **values,
        inputs=tuple(map(asked.parse_input, inputs)),
        plan=asked.PlanOptions(**plan, profiles=tuple(map(asked.parse_profile, profiles))),
    )
    if err.is_terminal:
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=err,
        ) as progress:
            shown = Shown(progress)
            done = convert(options, shown)
            shown.end()
    else:
        done = convert(options, Said(err))
    out = Console(file=sys.stdout, highlight=False)
    out.print(f"[bold]{escape(str(done.folder))}[/]", soft_wrap=True)
    for one in tables(done.report):
        out.print(one)
    for warning in done.report.warnings:
        err.print(f"[bold yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    for note in done.notes:
        if note not in done.report.warnings:
            err.print(escape(note), soft_wrap=True)
    return 0


def tables(report: Any) -> list[Table]:
    """The report's figures, and its latencies in milliseconds."""
    from dataclasses import asdict  # noqa: PLC0415

    from vision.convert.report import milliseconds, rows  # noqa: PLC0415 - numpy may be missing

    figures = Table(show_header=False)
    for name, text in rows(asdict(report)):
        figures.add_row(escape(name), escape(text))
    found = [figures]
    if report.latency:
        times = Table("batch", *(f"{name}, ms" for name in report.latency[0] if name != "batch"))
        for line in report.latency:
            times.add_row(
                str(line["batch"]),
                *(milliseconds(line[name]) for name in line if name != "batch"),
            )
        found.append(times)
    return found


class Said(Silent):
    """A line for each step, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, title: str, total: int | None = None) -> None:
        """Name the step."""
        self._console.print(f"{title} …")


class Shown:
    """`vision.convert.progress.Steps` as bars: a step's own, and TensorRT's phases below it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._step: TaskID | None = None
        self._phases: dict[str, tuple[TaskID, int]] = {}

    def begin(self, title: str, total: int | None = None) -> None:
        """A step begins; the one before is over, and so are its phases."""
        self.end()
        self._step = self._progress.add_task(title, total=total)

    def advance(self, done: int) -> None:
        """So many parts are done."""
        if self._step is not None:
            self._progress.update(self._step, completed=done)

    def open(self, name: str, parent: str | None, total: int) -> None:
        """A phase begins; deeper ones stand further to the right."""
        depth = self._phases[parent][1] + 1 if parent in self._phases else 1
        task = self._progress.add_task("  " * depth + escape(name), total=total)
        self._phases[name] = (task, depth)

    def move(self, name: str, done: int) -> None:
        """So many parts of the phase are done."""
        if name in self._phases:
            self._progress.update(self._phases[name][0], completed=done)

    def close(self, name: str) -> None:
        """Phases leave the display with their end: TensorRT has hundreds."""
        if name in self._phases:
            self._progress.remove_task(self._phases.pop(name)[0])

    def end(self) -> None:
        """The present step is over."""
        for name in list(self._phases):
            self.close(name)
        if self._step is None:
            return
        task = self._progress.tasks[self._progress.task_ids.index(self._step)]
        total = task.total or 1
        self._progress.update(self._step, total=total, completed=total)
