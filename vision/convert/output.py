"""How does a version get into the repository, whole or not at all?

models/digits/.convert-x1y2/     written first; the service overlooks the name
models/digits/labels.txt         if there is no config.yaml yet, or with --force
models/digits/config.yaml        the same; before the version, which needs it
models/digits/3/                 one rename
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from vision.config import ModelConfig
from vision.configs import FILE_NAME
from vision.convert.failures import ConversionError

_THERE = frozenset({errno.EEXIST, errno.ENOTEMPTY})


def choose_version(folder: Path, wanted: int | None, force: bool) -> int:
    """The wanted version, else the next one. Raises `ConversionError` if it is there already."""
    taken = (
        [int(one.name) for one in folder.iterdir() if one.name.isdigit()] if folder.is_dir() else []
    )
    if wanted is None:
        return max(taken, default=0) + 1
    if wanted in taken and not force:
        raise ConversionError(f"{folder / str(wanted)} is already there: --force replaces it")
    return wanted


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder to write the version in, beside where it will be; gone at the end."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=".convert-", dir=folder))
    except OSError as error:
        raise ConversionError(f"{folder}: cannot be written to: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if made:
            with suppress(OSError):  # It is not empty if all went well.
                folder.rmdir()


def place(staged: Path, folder: Path, version: int, force: bool) -> Path:
    """Move the version to its place. With `force` one that is there makes room for it.

    Raises `ConversionError` if somebody else has written it meanwhile.
    """
    target = folder / str(version)
    staged.chmod(0o755)  # Temporary folders are their owner's only.
    if force and target.exists():
        old = Path(tempfile.mkdtemp(prefix=".convert-", dir=folder))
        target.rename(old / target.name)
        staged.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        return target
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno in _THERE:
            raise ConversionError(f"{target} is already there") from error
        raise
    return target


def write_config(
    folder: Path, config: ModelConfig, labels: Sequence[str] | None, force: bool
) -> bool:
    """Write config.yaml and the labels that it names; False if there is one, which then stays."""
    target = folder / FILE_NAME
    if target.exists() and not force:
        return False
    post = config.postprocessing
    named = getattr(post, "labels", None)
    if labels is not None and named is not None:
        _write(folder / named, "".join(f"{label}\n" for label in labels))
    _write(target, to_yaml(config))
    return True


def to_yaml(config: ModelConfig) -> str:
    """A configuration as a file, without what is the default anyway."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    post = values.get("postprocessing")
    if post is not None:  # `kind` is what tells the sections apart, and a default in one of them.
        values["postprocessing"] = {"kind": config.postprocessing.kind, **post}
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return text


def _write(target: Path, text: str) -> None:
    """Replace the file as a whole: the service may be reading it."""
    number, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    with os.fdopen(number, "w", encoding="utf-8") as stream:
        stream.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(target)
