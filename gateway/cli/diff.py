"""What would a running gateway change if one configuration file took another's place?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from gateway.config.diff import diff, diff_policies
from gateway.config.policies import by_name
from gateway.config.policy import Policy
from gateway.config.problems import ConfigError
from gateway.config.spec import Config
from gateway.config.watch import FileSource

SAME, DIFFERENT, INVALID = 0, 1, 2
"""Exit codes, as diff(1) has them."""


def run(old: Path, new: Path) -> int:
    """Print a line for each change, or every problem of both files; return the exit code."""
    console = Console(highlight=False)
    problems: list[str] = []
    read: list[tuple[Config, Mapping[str, Policy]]] = []
    for file in (old, new):
        source = FileSource(file)
        try:
            read.append((source.load(), by_name(source.policies)))
        except ConfigError as error:
            problems.extend(str(problem) for problem in error.problems)
    if problems:
        _print(console, problems)
        return INVALID
    (config, policies), (other, others) = read
    changes = [str(each) for each in (*diff(config, other), *diff_policies(policies, others))]
    _print(console, changes)
    return DIFFERENT if changes else SAME


def _print(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
