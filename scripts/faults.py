"""What does the gateway make of every fault of the table? Prints the measured beside the wanted.

    python -m scripts.faults [--full] [--markdown FILE] [ROW ...]

Without `--full` timers and crowds are scaled to a few minutes, as the tests in
tests/integration/faults have them; with it they are the table's own, and it takes about an hour.
Ends with 1 if a figure was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.integration.faults.figure import CI, FULL, Figure, NotHereError, Scale, holds
from tests.integration.faults.rows import ROWS, TESTED, Row, Tested


@dataclass(frozen=True, slots=True)
class Result:
    """What one fault came to."""

    row: str
    fault: str
    figures: Sequence[Figure]


def measured(key: str, row: Row, scale: Scale) -> Result:
    """Measure one row; a row that breaks down is a missed figure, too."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = asyncio.run(_measure(row, Path(folder), scale))
        except NotHereError as lack:
            figures = [holds("not measured", "-", str(lack), ok=True)]
        except Exception as error:  # The other rows are worth their time all the same.
            last = str(error).strip().rpartition("\n")[2][-200:]
            why = f"{type(error).__name__}: {last}"
            figures = [holds("broke down", "a figure", why, ok=False)]
    return Result(key, row.fault, figures)


async def _measure(row: Row, folder: Path, scale: Scale) -> list[Figure]:
    return await row.measure(folder, scale)


def tested(tests: Tested) -> Result:
    """Run the tests of one file."""
    argv = [sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "integration", tests.path]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603  our own words
    said = run.stdout.strip().rpartition("\n")[2].strip("= ")
    said = said.rpartition(" in ")[0] or said  # How long it took says nothing of the fault.
    figure = holds("tests", tests.wanted, said, ok=run.returncode == 0)
    return Result(tests.row, tests.fault, [figure])


def markdown(results: Sequence[Result]) -> str:
    """Return the results as a table for the documentation."""
    lines = ["| row | fault | figure | wanted | measured |", "|---|---|---|---|---|"]
    for result in results:
        row, fault = result.row, result.fault
        for figure in result.figures:
            cells = (row, fault, figure.name, figure.wanted, figure.measured)
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
            row = fault = ""  # Told once.
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Measure the chosen rows, print them, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"all by default: {' '.join(ROWS)}")
    parser.add_argument("--full", action="store_true", help="the table's own times and crowds")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.rows) - set(ROWS):
        parser.error(f"no such row: {' '.join(sorted(unknown))}")
    scale = FULL if chosen.full else CI
    console = Console()
    console.width = max(console.width, 160)  # A file has no width, and the figures need one.
    results: list[Result] = []
    keys = [key for key in ROWS if key in chosen.rows or not chosen.rows]
    for key in keys:
        since = time.monotonic()
        results.append(measured(key, ROWS[key], scale))
        console.print(f"row {key}: {time.monotonic() - since:.0f} s", highlight=False)
    for one in [one for one in TESTED if one.row in keys]:
        since = time.monotonic()
        results.append(tested(one))
        console.print(f"{one.path}: {time.monotonic() - since:.0f} s", highlight=False)
    results.sort(key=lambda result: keys.index(result.row))
    missed = _show(console, results)
    if chosen.markdown is not None:
        chosen.markdown.write_text(markdown(results))
    return 1 if missed else 0


def _show(console: Console, results: Sequence[Result]) -> int:
    """Print the table; return how many figures were missed."""
    table = Table("row", "fault", "figure", "wanted", "measured", "")
    missed = 0
    for result in results:
        for figure in result.figures:
            mark = "[green]ok[/]" if figure.ok else "[bold red]MISSED[/]"
            cells = (result.row, result.fault, figure.name, figure.wanted, figure.measured)
            table.add_row(*cells, mark)
            missed += not figure.ok
        table.add_section()
    console.print(table, highlight=False)
    console.print("every figure is as wanted" if not missed else f"{missed} missed")
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
