"""How is an operator told what is wrong with a configuration file?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config.conflicts import Loc

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend; never holds a secret."""

    file: str
    line: int
    """From 1; 0 if the file as a whole is at fault, because it cannot be read for example."""
    column: int
    """From 1, in characters; 0 along with line 0."""
    key: str
    """Path of the key such as `clusters.llama.endpoints[0].url`; empty for the whole file."""
    message: str
    """Words that follow the key."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        words = f"{self.key} {self.message}" if self.key else self.message
        return visible(f"{where}: {words}")


class ConfigError(Exception):
    """A configuration that cannot be used, with everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def visible(text: str) -> str:
    """Escape what cannot be printed.

    Names come from the file: none of them may move the cursor of whoever reads the message.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def key_path(loc: Loc) -> str:
    """Write a location as an operator would: dots between keys, brackets around the rest."""
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _BARE.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text
