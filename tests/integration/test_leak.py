"""The leak bench, short: nothing is left over by clients that leave early."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.leak import measure

pytestmark = pytest.mark.integration


async def test_10_000_requests_leave_nothing_behind() -> None:
    """No request in flight, no task, no file descriptor, no upstream socket; RSS within bounds."""
    out = io.StringIO()

    code = await measure(10_000, 10, Console(file=out, width=120))

    assert code == 0, out.getvalue()
    assert "10,000 requests in" in out.getvalue()
