"""What are a model's classes called?

A text file, one class in each line, the first for index 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vision.errors import ConfigError

_MAX_BYTES: Final = 4 * 2**20  # ImageNet-21k's names have 0.5 MB.


def read_labels(path: Path) -> tuple[str, ...]:
    """Return the classes; white space around a name is dropped, and so are empty lines at the end.

    Raises `ConfigError` for a file that cannot be read, is not UTF-8, is empty, or has an empty
    line among the names, after which every index would mean another class.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: has more than {_MAX_BYTES} bytes")
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names:
        raise ConfigError(f"{path}: has no classes")
    if "" in names:
        raise ConfigError(f"{path}: line {names.index('') + 1} is empty")
    return names
