"""Which policies do these files hold, in which order, or else everything that is wrong with them?

Order: a policy's `order`, then its file's name. A mistake in one file does not hide those of the
others; but only when every file is right in itself are they compared with each other.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.conflicts import Loc, nearest
from gateway.config.explain import complaints, position_of, words
from gateway.config.load import read
from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known, policy_conflicts
from gateway.config.problems import ConfigError, Problem, key_path
from gateway.config.schemas import keys_at, schema_of
from gateway.config.tree import Position, Tree, read_tree


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """One policy and where it came from."""

    file: str
    policy: Policy
    tree: Tree = field(repr=False, compare=False)
    """Where in the file everything stands."""

    @property
    def classifier_file(self) -> Path | None:
        """The classifier's file, as a path from the policy's folder; None for other kinds."""
        spec = self.policy.classifier
        return None if spec is None else Path(self.file).parent / spec.file

    def problem(self, loc: Loc, message: str) -> Problem:
        """Return a problem with the value at `loc`."""
        position = position_of(self.tree, loc)
        return Problem(self.file, position.line, position.column, key_path(loc), message)


def find_files(patterns: Iterable[str]) -> list[Path]:
    """Return the files that patterns such as `policies/*.yaml` name, each once, sorted.

    A name without wildcards is returned as it is, so that one that does not exist is noticed.
    """
    found = {
        Path(name)
        for pattern in patterns
        for name in (glob.glob(pattern) if _has_wildcards(pattern) else [pattern])  # noqa: PTH207 - Path.glob takes no absolute pattern
    }
    return sorted(found, key=str)


def _has_wildcards(pattern: str) -> bool:
    """Whether it is to be searched for. With a NUL, at which a search fails, it is a name."""
    return glob.has_magic(pattern) and "\0" not in pattern


def load_policies(
    files: Iterable[Path], known: Known, environ: Mapping[str, str] | None = None
) -> Sequence[PolicyFile]:
    """Read policy files and return them in the order in which policies are asked.

    `environ` replaces the process's environment. Raises `ConfigError` with every problem.
    """
    environment = os.environ if environ is None else environ
    loaded: list[PolicyFile] = []
    problems: list[Problem] = []
    for path in files:
        try:
            loaded.append(parse_policy(_text(read(path), str(path)), str(path), environment))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return arrange(loaded, known)


def arrange(loaded: Iterable[PolicyFile], known: Known) -> Sequence[PolicyFile]:
    """Return policies in the order in which they are asked.

    Pure. Raises `ConfigError` if they contradict each other or the configuration.
    """
    ordered = sorted(loaded, key=lambda each: (each.policy.order, each.file, each.policy.name))
    found = policy_conflicts([each.policy for each in ordered], known)
    if found:
        raise ConfigError(ordered[index].problem(loc, text) for index, loc, text in found)
    return tuple(ordered)


def parse_policy(text: str, file: str, environ: Mapping[str, str]) -> PolicyFile:
    """Make a policy of YAML text; `file` is its name in problems.

    Pure. What only a look at other policies shows is not found here. Raises `ConfigError`.
    """
    if all(line.lstrip()[:1] in ("", "#") for line in text.splitlines()):
        raise ConfigError([Problem(file, 1, 1, "", "is empty; it needs at least `name:`")])
    tree = read_tree(text, file, environ)
    try:
        policy = Policy.model_validate(tree.value)
    except ValidationError as error:
        # `from None`: the chained text would be pydantic's, and longer than the answer.
        raise ConfigError([*tree.problems, *_explain(error, tree, file)]) from None
    if tree.problems:
        raise ConfigError(tree.problems)
    return PolicyFile(file, policy, tree)


def by_name(loaded: Iterable[PolicyFile]) -> Mapping[str, Policy]:
    """Return the policies by their names, in the same order."""
    return {each.policy.name: each.policy for each in loaded}


def missing_files(loaded: Iterable[PolicyFile]) -> list[Problem]:
    """Return a problem for each classifier whose file cannot be read.

    Not an error of `load_policies`: requests then go to the default arm.
    """
    return [
        each.problem(
            ("classifier", "file"), f'names "{path}", which is no file; the default arm is used'
        )
        for each in loaded
        if (path := each.classifier_file) is not None and not path.is_file()
    ]


def empty_patterns(patterns: Iterable[str]) -> list[str]:
    """Return the patterns that no file matches, which is no error: files may come later."""
    return [each for each in patterns if not find_files([each])]


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of a policy file, as JSON values."""
    return schema_of(Policy, "Sluice policy")


def policy_schema_text() -> str:
    """Return the content of `policies/schema.json`."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


def _text(data: bytes, file: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - before.rfind(b"\n")
        line = before.count(b"\n") + 1
        raise ConfigError([Problem(file, line, column, "", "is not UTF-8 text")]) from error


def _explain(error: ValidationError, tree: Tree, file: str) -> Iterator[Problem]:
    for details in complaints(error):
        loc, position = _place(details, tree)
        if not any(loc[: len(broken)] == broken for broken in tree.broken):
            message = _message(details, loc)
            yield Problem(file, position.line, position.column, key_path(loc), message)


def _place(details: ErrorDetails, tree: Tree) -> tuple[Loc, Position]:
    """Return which value is meant, and the place to mend: a key's own, or its mapping's."""
    loc = details["loc"]
    at, key = loc, details["type"] in ("missing", "extra_forbidden")
    if details["type"] == "missing":
        at = loc[:-1]
    elif loc and loc[-1] == "[key]":
        at = loc = loc[:-1]
        key = True
    found = tree.keys.get(at) if key else None
    return loc, found or position_of(tree, at)


def _message(details: ErrorDetails, loc: Loc) -> str:
    if details["type"] != "extra_forbidden":
        return words(details)
    known = keys_at(Policy, loc[:-1])
    hint = nearest(str(loc[-1]), known) or f" (known here: {', '.join(known)})"
    return f"is not a known key{hint}"
