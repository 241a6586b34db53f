"""Splitting a program's output into lines."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engines.lines import LineSplitter


def split(*pieces: bytes) -> list[str]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + list(splitter.end())


@given(st.text(alphabet="aé😀 \r\n", max_size=60), st.lists(st.integers(0, 200), max_size=8))
def test_any_chunking_gives_the_same_lines(text, cuts):
    """Pieces may end within a character or between a carriage return and its newline."""
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    assert split(*pieces) == split(data)


def test_progress_bars_become_lines_and_blank_lines_vanish():
    """Each state of a bar is a line; an unfinished last line counts."""
    assert split(b"10%\r20%\r\n\n  \nlast") == ["10%", "20%", "last"]


def test_broken_utf8_is_replaced():
    """A program that writes bytes does not stop the log."""
    assert split(b"a\xffb\n\xc3") == ["a\ufffdb", "\ufffd"]


def test_a_line_without_end_is_cut():
    """64 Ki characters at most are held, and none is lost."""
    lines = split(*[b"x" * 50_000] * 4)

    assert [len(line) for line in lines[:-1]] == [65_536] * 3
    assert sum(map(len, lines)) == 200_000
