"""What can go wrong with a conversion, and what does the operator read?

Every failure is one line; a long cause is in a file that the line names.
"""

from __future__ import annotations

import importlib
from typing import Any

from vision.errors import MissingLibrary, OperatorError

EXTRA = "vision-convert"


class ConversionFailed(OperatorError):
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
