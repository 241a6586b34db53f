"""The fault table of the reliability goals, row by row, at the scale of a few minutes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.faults.figure import CI, NotHereError
from tests.integration.faults.rows import ROWS

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("key", ROWS)
async def test_row(key: str, tmp_path: Path) -> None:
    """Every figure of the row is as wanted; the report shows those that are not."""
    try:
        figures = await ROWS[key].measure(tmp_path, CI)
    except NotHereError as lack:
        pytest.skip(str(lack))

    assert figures
    missed = [str(figure) for figure in figures if not figure.ok]
    assert not missed, "\n".join(missed)
