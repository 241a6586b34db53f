"""A line of the access log is read back as the request that it tells of."""

from __future__ import annotations

import pytest

from gateway.model import Outcome, Usage
from gateway.plan.logged import read_lines
from gateway.telemetry.arms import ArmTally
from gateway.telemetry.record import Record, line_of


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_written_is_read_back(stream: bool) -> None:
    """An arm's numbers come out the same as from the request itself."""
    record = Record("chat", b"r-1", "::1", 100.0)
    record.model, record.policy, record.arm = 'a "model"', "p", "b"
    record.outcome, record.status, record.ended_at, record.wall_at = (
        Outcome.SUCCESS,
        200,
        102.5,
        9e8,
    )
    record.usage, record.stream = Usage(7, 11, exact=True), stream
    record.first_at = 100.5 if stream else 0.0
    (line,) = read_lines([line_of(record).encode()])
    assert line is not None
    assert (line.ts, line.model, line.policy, line.arm) == (9e8, 'a "model"', "p", "b")
    one, other = ArmTally(), ArmTally()
    one.observe(record)
    other.observe(line.record())
    for metric, sums in one.sums().items():
        read = other.sums()[metric]
        assert read.n == sums.n, metric
        assert read.mean == pytest.approx(sums.mean, rel=1e-5), metric


def test_what_is_no_line_is_told_apart() -> None:
    """Blank lines are none at all."""
    lines = [b"\n", b"{}\n", b"not json\n", b"\xff\n", b'{"ts":"x"}', b"[]"]
    assert list(read_lines(lines)) == [None] * 5
