"""Events are found in any chunking of a stream, and only whole ones come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.relay.sse import MAX_EVENT_BYTES, EventSplitter, EventTooLargeError, payload, split

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"event: x", b": ping", b"id: 1", b"data", b"data: \xc3\xa4", b"\xff"]
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=3), max_size=5)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


def write(events: list[list[bytes]], end: bytes) -> bytes:
    return b"".join(b"".join(line + end for line in event) + end for event in events)


def chunks(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def ends_event(data: bytes) -> bool:
    """Whether the last line of `data` is an empty one, said without the module's patterns."""
    unified = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return unified.endswith(b"\n\n")


@given(EVENTS, ENDS, LINES, st.lists(st.integers(0, 300), max_size=12))
@example([[b"data: a"], [b"data:b"]], b"\r\n", b"data", [8, 9, 10, 11])
def test_any_chunking_emits_every_whole_event_and_nothing_else(
    events: list[list[bytes]], end: bytes, tail: bytes, cuts: list[int]
) -> None:
    """Nothing is lost, each emission ends where an event ends, the unfinished rest stays inside."""
    whole = write(events, end)
    splitter = EventSplitter()
    emitted = b""
    for piece in chunks(whole + tail, cuts):
        out = splitter.feed(piece)
        assert not out or ends_event(out)
        emitted += out
    assert emitted == whole
    assert splitter.pending


@given(st.text("d:\n\r ", max_size=40), st.lists(st.integers(0, 60), max_size=8))
def test_mixed_line_ends_are_never_cut_inside_a_line(text: str, cuts: list[int]) -> None:
    """However the line ends are mixed, what comes out is a prefix that ends at an empty line."""
    data = text.encode()
    splitter = EventSplitter()
    emitted = b""
    for piece in chunks(data, cuts):
        out = splitter.feed(piece)
        emitted += out
        assert not out or ends_event(emitted)
        assert data.startswith(emitted)
    assert splitter.pending is (emitted != data)


@given(EVENTS, ENDS)
def test_a_run_is_split_into_its_events(events: list[list[bytes]], end: bytes) -> None:
    """Each event comes with its own terminator, and together they are the run."""
    run = write(events, end)
    assert list(split(run)) == [write([event], end) for event in events]


def test_what_follows_the_last_event_is_not_lost() -> None:
    """A run that does not end with an event is returned to its end."""
    assert list(split(b"data: 1\n\ndata: 2")) == [b"data: 1\n\n", b"data: 2"]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: [DONE]\n\n", b"[DONE]"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: x\r\n\r\n", b"x"),
        (b"data: x\r\r", b"x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"event: e\ndata: a\n\n", b"a"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"data: [DONE]\r\n\n", b"[DONE]"),
        (b"data:\n\n", b""),
        (b": ping\n\n", None),
        (b"event: e\n\n", None),
        (b"\n\n", None),
    ],
)
def test_a_payload_is_the_data_lines(event: bytes, data: bytes | None) -> None:
    """The lines after `data:` without one leading space, joined by LF; None without such a line."""
    assert payload(event) == data


@pytest.mark.parametrize("size", [1 << 16, 1 << 20])
def test_an_event_that_never_ends_is_refused(size: int) -> None:
    """The held tail is bounded by the cap plus one read, whatever came before it."""
    splitter = EventSplitter()
    piece = b"x" * size
    assert splitter.feed(b"data: 1\n\n" + piece) == b"data: 1\n\n"
    for _ in range(MAX_EVENT_BYTES // size - 1):
        assert splitter.feed(piece) == b""
    with pytest.raises(EventTooLargeError):
        splitter.feed(piece)


def test_a_tail_over_the_cap_is_refused_after_an_event_too() -> None:
    """A read that ends one event and begins one over the cap is refused as well."""
    with pytest.raises(EventTooLargeError):
        EventSplitter().feed(b"data: 1\n\n" + b"x" * (MAX_EVENT_BYTES + 1))
