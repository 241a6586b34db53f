"""A failure is one line, with the whole text in a file and the extra that is missing."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from vision.convert.failures import ConversionError, first_line, library, told_in_a_line
from vision.errors import MissingLibrary


def test_missing_library_names_its_extra() -> None:
    with pytest.raises(
        MissingLibrary, match=r"^nowhere is not installed: .*sluice\[vision-convert\]"
    ):
        library("nowhere.at_all")


def test_what_a_library_lacks_is_named_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import its_own_need\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingLibrary, match=r"^half_installed \(which needs its_own_need\)"):
        library("half_installed")


def test_innermost_cause_is_the_reason_without_colours() -> None:
    error = RuntimeError("Failed. Next steps:\n- open an issue")
    error.__cause__ = ValueError("\n  \x1b[96mno operator\x1b[0m for x\nand so on")
    assert first_line(error) == "no operator for x"
    assert first_line(KeyError()) == "KeyError"


def test_any_error_becomes_a_line_that_says_where_the_rest_is() -> None:
    with pytest.raises(ConversionError) as caught, told_in_a_line("export failed"):
        raise RuntimeError("no such operator\n" + "advice\n" * 100)
    text = str(caught.value)
    found = re.fullmatch(r"export failed: no such operator \(the whole text is in (.*)\)", text)
    assert found is not None
    log = Path(found[1])
    assert log.read_text().endswith("advice\n" * 100 + "\n")


def test_our_own_errors_and_a_full_disk_pass_as_they_are() -> None:
    with pytest.raises(MissingLibrary), told_in_a_line("x"):
        raise MissingLibrary("said already")
    with pytest.raises(OSError, match="full"), told_in_a_line("x"):
        raise OSError(errno.ENOSPC, "full")
