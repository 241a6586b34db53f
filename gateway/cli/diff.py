"""What would a running gateway change if one configuration file took another's place?"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from gateway.config.diff import diff
from gateway.config.load import load
from gateway.config.problems import ConfigError
from gateway.config.spec import Config

SAME, DIFFERENT, INVALID = 0, 1, 2
"""Exit codes, as diff(1) has them."""


def run(old: Path, new: Path) -> int:
    """Print a line for each change, or every problem of both files; return the exit code."""
    console = Console(highlight=False)
    problems: list[str] = []
    configs: list[Config] = []
    for file in (old, new):
        try:
            configs.append(load(file))
        except ConfigError as error:
            problems.extend(str(problem) for problem in error.problems)
    if problems:
        _print(console, problems)
        return INVALID
    changes = [str(change) for change in diff(*configs)]
    _print(console, changes)
    return DIFFERENT if changes else SAME


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
