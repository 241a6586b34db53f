"""Whole lines on an output that is shared."""

from __future__ import annotations

import fcntl
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from gateway.workers.output import InTurns, take_turns


def test_blocks_that_do_not_fit_into_a_pipe_stay_whole(tmp_path: Path) -> None:
    """Two writers, one slow reader: each block of 300 KB arrives in one piece."""
    reading, writing = os.pipe()
    size = 300_000

    def write(letter: bytes) -> None:
        with io.BufferedWriter(InTurns(writing, str(tmp_path / "lock"))) as out:
            for _ in range(3):
                out.write(letter * size)
                out.flush()

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for one in writers:
        one.start()
    got = b""
    while len(got) < 6 * size:
        got += os.read(reading, 65536)
    for one in writers:
        one.join()
    os.close(reading)
    os.close(writing)
    blocks = [got[start : start + size] for start in range(0, len(got), size)]
    assert all(len(set(block)) == 1 for block in blocks)


def test_the_lock_is_given_back_when_nobody_reads(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lock = str(tmp_path / "lock")
    out = InTurns(writing, lock)
    with pytest.raises(BrokenPipeError):
        out.write(b"x")
    other = os.open(lock, os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    out.close()
    out.close()
    os.close(writing)


def test_standard_output_takes_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with open(1, "w", closefd=False) as real:
        monkeypatch.setattr(sys, "stdout", real)
        take_turns(str(tmp_path / "lock"))
        sys.stdout.write("a line\n")
        sys.stdout.close()
    assert capfd.readouterr().out == "a line\n"
