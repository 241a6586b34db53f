"""The shortcut takes exactly the reads that are whole chunks of whole plain events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.flow import Flow
from gateway.relay.transcript import Transcript
from gateway.telemetry.metrics import Histogram
from tests.support.control import ManualClock
from tests.support.engine import DONE, chunk, event, finish, token

MARK = b'"finish_reason":null'


class Run:
    """A flow with everything around it in reach."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.kept = Transcript()
        self.gaps = Histogram((0.1, 1.0))
        self.clock = ManualClock(100.0)
        self.flow = Flow(self.written.append, MARK, self.gaps, self.clock.monotonic, self.kept)
        self.flow.last_at = 99.5


PLAIN = token("hi")


@pytest.mark.parametrize(
    "read",
    [
        chunk(PLAIN),
        chunk(PLAIN + token("there")),
        chunk(event({"choices": [{"text": '\n\n "finish_reason":null', "finish_reason": None}]})),
    ],
)
def test_a_whole_chunk_of_plain_events_goes_out_as_it_came(read: bytes) -> None:
    """The bytes are untouched; content that imitates the mark or a terminator does not count."""
    run = Run()
    assert run.flow.take(read)
    assert run.written == [read]
    assert run.flow.tokens == read.count(b"\n\n")


@pytest.mark.parametrize(
    "read",
    [
        b"",
        chunk(PLAIN)[:-1],
        chunk(PLAIN)[1:],
        chunk(PLAIN) + b"\r\n",
        chunk(PLAIN) + chunk(PLAIN),
        chunk(PLAIN[:-1]),
        chunk(PLAIN[:-2]),
        chunk(finish()),
        chunk(PLAIN + finish()),
        chunk(DONE),
        chunk(PLAIN + DONE),
        chunk(b": ping\n\n"),
        b"0" + chunk(PLAIN),
        b"%X;a=b\r\n%b\r\n" % (len(PLAIN), PLAIN),
        b"0\r\n\r\n",
        chunk(token("x" * 5000)),
    ],
)
def test_every_other_read_is_left_to_the_parser(read: bytes) -> None:
    """Anything but one `%x` chunk of plain events is refused and leaves no trace."""
    run = Run()
    assert not run.flow.take(read)
    assert run.written == []
    assert (run.flow.tokens, run.gaps.counts, run.flow.last_at) == (0, [0, 0, 0], 99.5)


@given(st.integers(1, 6000), st.binary(max_size=8))
def test_a_taken_read_is_one_chunk(size: int, noise: bytes) -> None:
    """Whatever is taken de-chunks to its own events, over all sizes and around them."""
    data = event(b'{"pad":"%b","choices":[{%b}]}' % (b"x" * size, MARK))
    for read in (chunk(data), chunk(data) + noise, noise + chunk(data)):
        run = Run()
        if run.flow.take(read):
            line, _, rest = read.partition(b"\r\n")
            assert (int(line, 16), rest) == (len(rest) - 2, data + b"\r\n")
            assert run.written == [read]


@given(st.integers(1, 4000))
def test_common_sizes_are_taken(size: int) -> None:
    """The shortcut does not miss what it is for: each chunk of up to 4 KiB."""
    data = event(b'{"pad":"%b","choices":[{%b}]}' % (b"x" * size, MARK))
    assert Run().flow.take(chunk(data)) is (len(chunk(data)) <= 4096)


def test_gaps_are_counted_like_everywhere_else() -> None:
    """Each read adds the seconds since the last one to the histogram's bucket and sum."""
    run = Run()
    expected = Histogram((0.1, 1.0))
    for step_s, gap_s in ((0.0, 0.5), (0.0625, 0.0625), (3.0, 3.0)):
        run.clock.now += step_s
        assert run.flow.take(chunk(PLAIN))
        expected.observe(gap_s)
    assert (run.gaps.counts, run.gaps.sum) == (expected.counts, expected.sum)
    assert run.flow.last_at == run.clock.now
