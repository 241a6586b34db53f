"""What does the gateway make of every fault of the table? Prints the measured beside the wanted.

    python -m scripts.faults [--full] [ROW ...]

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
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.integration.faults.figure import CI, FULL, Figure, NotHereError, Scale, holds
from tests.integration.faults.rows import ROWS, TESTED, Row


def measured(row: Row, scale: Scale) -> list[Figure]:
    """Measure one row; a row that breaks down is a missed figure, too."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return asyncio.run(_measure(row, Path(folder), scale))
        except NotHereError as lack:
            return [holds("not measured", "-", str(lack), ok=True)]
        except Exception as error:  # The other rows are worth their time all the same.
            last = str(error).strip().rpartition("\n")[2][-200:]
            why = f"{type(error).__name__}: {last}"
            return [holds("broke down", "a figure", why, ok=False)]


async def _measure(row: Row, folder: Path, scale: Scale) -> list[Figure]:
    return await row.measure(folder, scale)


def tested(path: str, wanted: str) -> list[Figure]:
    """Run the tests of one file."""
    if not Path(path).exists():
        return [holds("tests", wanted, f"there is no {path}", ok=False)]
    argv = [sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "integration", path]
    run = subprocess.run(argv, capture_output=True, text=True, check=False)  # noqa: S603  our own words
    said = run.stdout.strip().rpartition("\n")[2].strip("= ")
    return [holds("tests", wanted, said, ok=run.returncode == 0)]


def main(arguments: list[str]) -> int:
    """Measure the chosen rows, print them, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m scripts.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, help="numbers of rows; all by default")
    parser.add_argument("--full", action="store_true", help="the table's own times and crowds")
    chosen = parser.parse_args(arguments)
    scale = FULL if chosen.full else CI
    console = Console()
    console.width = max(console.width, 160)  # A file has no width, and the figures need one.
    table = Table("row", "fault", "figure", "wanted", "measured", "")
    missed = 0
    for number in sorted(chosen.rows or {*ROWS, *TESTED}):
        since = time.monotonic()
        named: list[tuple[str, list[Figure]]] = []
        if number in ROWS:
            named.append((ROWS[number].fault, measured(ROWS[number], scale)))
        if number in TESTED:
            fault, wanted, path = TESTED[number]
            named.append((fault, tested(path, wanted)))
        for fault, figures in named:
            for figure in figures:
                mark = "[green]ok[/]" if figure.ok else "[bold red]MISSED[/]"
                table.add_row(str(number), fault, figure.name, figure.wanted, figure.measured, mark)
                missed += not figure.ok
            table.add_section()
        console.print(f"row {number}: {time.monotonic() - since:.0f} s", highlight=False)
    console.print(table, highlight=False)
    console.print("every figure is as wanted" if not missed else f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
