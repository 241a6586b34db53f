"""Label files, and the ones that would name classes wrongly."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision.errors import ConfigError
from vision.labels import read_labels


def write(folder: Path, data: bytes) -> Path:
    file = folder / "labels.txt"
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    "data", [b"cat\nlarge dog\n", b"cat\r\nlarge dog\r\n\r\n", b"\xef\xbb\xbfcat \nlarge dog"]
)
def test_each_line_is_a_class(tmp_path: Path, data: bytes) -> None:
    assert read_labels(write(tmp_path, data)) == ("cat", "large dog")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no classes"),
        (b"\n \n", "no classes"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"\ncat\n", "line 1 is empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"a\n" * 2_200_000, "bytes"),
    ],
)
def test_a_file_that_would_misname_classes_is_refused(
    tmp_path: Path, data: bytes, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_labels(write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        read_labels(tmp_path / "gone.txt")
