"""The access log takes every line at once and never makes a request wait for a disk."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
from pathlib import Path
from typing import Any

import pytest

from gateway.telemetry import logs
from gateway.telemetry.logs import AccessLog


def line_of(record: int) -> str:
    return f"line {record}\n"


def test_lines_are_written_in_order_and_to_the_end(tmp_path: Path) -> None:
    """Closing writes what is left; an existing file is appended to."""
    path = tmp_path / "access.log"
    path.write_text("before\n")
    log = AccessLog(str(path), line_of)
    for record in range(1000):
        log.write(record)
    log.close()
    assert path.read_text() == "before\n" + "".join(map(line_of, range(1000)))
    assert log.dropped == 0


@pytest.mark.parametrize("count", [3, 3000])
def test_a_full_disk_drops_lines_and_counts_them(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither writing nor closing fails; it is said once."""
    log = AccessLog("/dev/full", line_of, interval_s=0.001)
    for record in range(count):
        log.write(record)
    log.close()
    assert log.dropped == count
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_what_comes_after_a_full_disk_stands_on_lines_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it became full half a line may stand; no other is lost with it."""

    class Filling(io.FileIO):
        room = 10_005  # In the midst of a line.

        def write(self, data: Any) -> int:
            if not self.room:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = memoryview(data)[: self.room]
            Filling.room -= len(part)
            return super().write(part)

    path = tmp_path / "access.log"
    disk = Filling(path, "ab")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_: disk)
        log = AccessLog(str(path), line_of, interval_s=3600)
    for first, last in ((0, 2000), (2000, 2003), (2003, 4000)):
        for record in range(first, last):
            log.write(record)
        if first:
            Filling.room = 10**9
        log._flush()
    log.close()
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [f"line {record}\n".encode() for record in range(2000, 4000)]
    assert lines[-2000:] == whole
    assert log.dropped == 2000


def test_a_pipe_that_nobody_reads_does_not_keep_the_gateway(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end waits a little for the last lines, and then goes without them."""
    monkeypatch.setattr(logs, "CLOSE_S", 0.05)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    log = AccessLog(f"/dev/fd/{writer}", line_of, interval_s=0.001)
    for record in range(1000):
        log.write(record)
    select.select([reader], [], [])  # The thread has begun to write, more than there is room for.
    log.write(1000)
    log.close()
    assert "cannot be written any more" in caplog.text
    os.close(reader)  # Lets the thread go.
    os.close(writer)
    log._thread.join()
    log._file.close()


def test_a_pipe_that_takes_no_more_drops_lines() -> None:
    """It may be shared with a program that does not want to wait, and takes what it can."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    log = AccessLog(f"/dev/fd/{writer}", line_of, interval_s=3600)
    log._file.close()
    log._file = os.fdopen(writer, "wb", 0)  # Opening it by its name made it wait again.
    for record in range(20_000):
        log.write(record)
    log.close()
    assert log.dropped == 20_000
    os.close(reader)


def test_a_slow_disk_costs_lines_not_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the cap, lines are dropped and counted."""
    monkeypatch.setattr(logs, "MAX_PENDING", 10)
    log = AccessLog(str(tmp_path / "access.log"), line_of, interval_s=3600)
    for record in range(25):
        log.write(record)
    log.close()
    assert log.dropped == 15
    assert (tmp_path / "access.log").read_text() == "".join(map(line_of, range(10)))


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    """Not something that a running gateway finds out."""
    with pytest.raises(OSError, match=r"Cannot open the access log /.*access\.log: No such file"):
        AccessLog(str(tmp_path / "no" / "access.log"), line_of)


def test_standard_output_stays_open(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """`-` writes there and closing leaves it to others."""
    log = AccessLog("-", line_of)
    log.write(1)
    log.close()
    print("after", flush=True)  # noqa: T201  that it still can is the point
    assert capfdbinary.readouterr().out == b"line 1\nafter\n"
