"""What can go wrong with a conversion, and what does the operator read?

Every failure is one line; a long cause is in a file that the line names.
"""

from __future__ import annotations

import errno
import importlib
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vision.errors import MissingLibrary, OperatorError

EXTRA = "vision-convert"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class ConversionError(OperatorError):
    """The model cannot be converted as asked; the message says why, in a line."""


def library(name: str, extra: str = EXTRA) -> Any:
    """Import a library that only the converter needs.

    Raises `MissingLibrary` with the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            package = f"{package} (which needs {error.name})"
        raise MissingLibrary(
            f"{package} is not installed: pip install 'sluice[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of what a library says, or the error's type if it says nothing.

    Of the innermost cause: exporters wrap the reason in advice, in colours.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [_COLOUR.sub("", line).strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


@contextmanager
def told_in_a_line(what: str, *, keep: bool = True) -> Iterator[None]:
    """Turn whatever a library raises inside into a `ConversionError` of one line.

    With `keep` the whole text goes to a file in the temporary folder, which the line names:
    exporters say in hundreds of lines which operator they do not know. Our own errors and a full
    disk pass, the latter as what it is.
    """
    try:
        yield
    except OperatorError:
        raise
    except Exception as error:  # Libraries raise what they like; the operator gets one line.
        if isinstance(error, OSError) and error.errno in _OUT_OF_SPACE:
            raise
        where = f" ({_keep(error)})" if keep else ""
        raise ConversionError(f"{what}: {first_line(error)}{where}") from error


def _keep(error: BaseException) -> str:
    """Write the traceback to a file of its own and say where it is."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="sluice-convert-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.writelines(traceback.format_exception(error))
    except OSError as refused:
        return f"the whole text could not be kept: {refused.strerror}"
    return f"the whole text is in {Path(file.name)}"
