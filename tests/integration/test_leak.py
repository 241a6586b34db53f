"""The leak bench, short: nothing is left over by clients that leave early."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.leak import measure

pytestmark = pytest.mark.integration


async def test_10_000_requests_leave_nothing_behind() -> None:
    """No request in flight, no task, no file descriptor, no upstream socket; RSS within bounds."""
    said = []
    for _ in range(3):  # What leaks does so each time; a probe under way is seen once.
        out = io.StringIO()
        try:
            code = await measure(10_000, 10, Console(file=out, width=120))
        except SystemExit as refused:  # Its gateway has the defaults: it sheds when held up.
            code = str(refused)
        said.append(f"{code}\n{out.getvalue()}")
        if code == 0:
            assert "10,000 requests in" in said[-1]
            return
    pytest.fail("\n".join(said))
