"""What does a configuration file say, or else everything that is wrong with it?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from gateway.config.conflicts import Loc
from gateway.config.explain import explain, position_of
from gateway.config.problems import ConfigError, Problem, key_path
from gateway.config.spec import Config
from gateway.config.tree import Lines, Tree, read_tree

MAX_FILE_BYTES = 1024 * 1024
"""A thousand clusters fit; a log file named by mistake does not."""


def load(file: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read a YAML file, and look whether the files that it names can be read.

    `environ` replaces the process's environment. Relative paths inside the file count from the
    working directory. Raises `ConfigError`.
    """
    return interpret(read(Path(file)), str(file), environ)


def interpret(data: bytes, name: str, environ: Mapping[str, str] | None = None) -> Config:
    """Make a configuration of what a file called `name` holds; as `load`, but for the reading."""
    text = _decode(data, name)
    config, tree = _parse(text, name, os.environ if environ is None else environ)
    problems = []
    for loc, path in _named_files(config):
        reason = _unreadable(Path(path))
        if reason:
            at = position_of(tree, loc)
            message = f'names the file "{path}", which cannot be read: {reason}'
            problems.append(Problem(name, at.line, at.column, key_path(loc), message))
    if problems:
        raise ConfigError(problems)
    return config


def parse(text: str, file: str, environ: Mapping[str, str]) -> Config:
    """Make a configuration of YAML text; `file` is its name in problems.

    Pure: the files that it names are not looked at. Raises `ConfigError`.
    """
    return _parse(text, file, environ)[0]


def _parse(text: str, file: str, environ: Mapping[str, str]) -> tuple[Config, Tree]:
    tree = read_tree(text, file, environ)
    try:
        config = Config.model_validate(tree.value)
    except ValidationError as error:
        # `from None`: the chained text would be pydantic's, and longer than the answer.
        raise ConfigError([*tree.problems, *explain(error, tree, file)]) from None
    if tree.problems:
        raise ConfigError(tree.problems)
    return config, tree


def read(path: Path) -> bytes:
    """Return what a file holds. Raises `ConfigError` for one that cannot be read, or is huge."""
    name = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name.
        message = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError([Problem(name, 0, 0, "", message)]) from error
    if len(data) > MAX_FILE_BYTES:
        message = f"is larger than {MAX_FILE_BYTES} bytes; is it a configuration file?"
        raise ConfigError([Problem(name, 0, 0, "", message)])
    return data


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8-sig")
        at = Lines(f"{before}?").position(len(before))
        raise ConfigError([Problem(name, at.line, at.column, "", "is not UTF-8 text")]) from error


def _named_files(config: Config) -> Iterator[tuple[Loc, str]]:
    if config.server.tls is not None:
        yield ("server", "tls", "cert_file"), config.server.tls.cert_file
        yield ("server", "tls", "key_file"), config.server.tls.key_file
    for name, cluster in config.clusters.items():
        if cluster.tls.ca_file is not None:
            yield ("clusters", name, "tls", "ca_file"), cluster.tls.ca_file


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb"):
            return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name.
        return error.strerror if isinstance(error, OSError) else str(error)
