"""The parent over scripted processes: start, watch, start again, end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from gateway.clock import SystemClock
from gateway.control.operations import Registration
from gateway.workers import handover
from gateway.workers import parent as module
from gateway.workers.parent import Job, Parent, exit_code
from tests.gateway.control.test_admin import state
from tests.gateway.workers.crew import crew
from tests.support.rig import eventually

PATIENCE_S = 30.0

WORKER = """
import http.server, json, os, signal, socketserver, sys
seat = json.loads(os.environ["SLUICE_WORKER"])
lag = float(sys.argv[1]) if not os.path.exists(seat["folder"] + "/again") else 0.0
open(seat["folder"] + "/again", "w").close()

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps({"listening": True, "lag_s": lag}).encode()
        known = self.path == "/worker/standing"
        self.send_response(200 if known else 404)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    do_POST = do_GET
    def log_message(self, *args): pass
    def address_string(self): return ""

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGHUP, lambda *_: open(seat["folder"] + "/hup", "w").close())
signal.signal(signal.SIGINT, lambda *_: os._exit(7))
path = f"{seat['folder']}/{seat['number']}.sock"
if os.path.exists(path): os.unlink(path)
socketserver.ThreadingUnixStreamServer(path, Answer).serve_forever()
"""


def parent(folder: Path, code: str, *arguments: str, count: int = 2) -> Parent:
    argv = (sys.executable, "-S", "-c", code, *arguments)
    return Parent(Job(argv, count, str(folder), 1, 1.0), SystemClock(), Random(1))


async def until_up(one: Parent, pids: set[int | None]) -> None:
    """Wait until all workers listen, each in a process that is none of `pids`."""

    def up() -> bool:
        states = one.roster.states(0.0)
        return all(each.state == "up" and each.pid not in pids for each in states)

    await eventually(up, PATIENCE_S)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 7)], ids=["SIGTERM", "SIGINT"]
)
async def test_signals_are_passed_on_and_the_exit_code_is_the_workers(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    one = parent(tmp_path, WORKER, "0.1")
    heard: list[str] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run(lambda: heard.append("all up")))
        await until_up(one, set())
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually((tmp_path / "hup").exists, PATIENCE_S)
        os.kill(os.getpid(), number)
    assert running.result() == code
    assert (tmp_path / "hup").exists()  # Which is the others' to read: the parent has no file.
    assert heard == ["all up"]
    assert [each.state for each in one.roster.states(0.0)] == ["ended", "ended"]


async def test_a_killed_worker_and_a_stuck_one_are_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is stuck from the beginning, the others are well; then one is killed."""
    monkeypatch.setattr(module, "WATCH_S", 0.02)
    one = parent(tmp_path, WORKER, "31.0", count=1)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run(lambda: None))
        await eventually(lambda: one.roster.members[0].restarts.total == 1, PATIENCE_S)
        await until_up(one, set())
        (before,) = one.roster.states(0.0)
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        await until_up(one, {before.pid})
        assert one.roster.states(0.0)[0].restarts == 2
        one.end()
        one._send(signal.SIGTERM)
    assert running.result() == 0


async def test_a_worker_that_ends_at_once_ends_all_with_its_code(tmp_path: Path) -> None:
    one = parent(tmp_path, "import sys; sys.exit(3)")
    async with asyncio.timeout(PATIENCE_S):
        assert await one.run(lambda: None) == 3


async def test_a_program_that_is_not_there_ends_it(tmp_path: Path) -> None:
    one = Parent(Job(("/nowhere",), 2, str(tmp_path), 1, 1.0), SystemClock(), Random(1))
    assert await one.run(lambda: None) == 1


async def test_a_signal_before_workers_are_up_ends_them_and_is_no_failure(tmp_path: Path) -> None:
    one = parent(tmp_path, "import time; time.sleep(60)")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run(lambda: None))
        members = one.roster.members
        await eventually(lambda: all(each.process is not None for each in members), PATIENCE_S)
        os.kill(os.getpid(), signal.SIGHUP)  # For those that are up: the others will read anyway.
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert running.result() == 0


RETURNING = (
    """
import json, os, time
seat = json.loads(os.environ["SLUICE_WORKER"])
mark = f"{seat['folder']}/begun{seat['number']}"
if os.path.exists(mark): time.sleep(60)
open(mark, "w").close()
"""
    + WORKER
)
"""Its second process never comes so far as to hear signals."""


async def test_a_worker_that_is_being_started_again_does_not_spoil_the_end(tmp_path: Path) -> None:
    """That an earlier process of it was up is no reason to expect an orderly end of this one."""
    one = parent(tmp_path, RETURNING, "0.1")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(one.run(lambda: None))
        await until_up(one, set())
        before = one.roster.states(0.0)[0].pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: one.roster.states(0.0)[0].pid not in {before, None}, PATIENCE_S)
        os.kill(os.getpid(), signal.SIGTERM)
    assert running.result() == 0


async def test_cancelled_it_leaves_no_process(tmp_path: Path) -> None:
    one = parent(tmp_path, WORKER, "0.1")
    running = asyncio.ensure_future(one.run(lambda: None))
    await until_up(one, set())
    pids = [each.pid for each in one.roster.states(0.0)]
    assert None not in pids
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not any(map(_exists, pids))


def _exists(pid: int | None) -> bool:
    """Whether there is such a process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def test_a_signal_s_exit_code_is_a_shell_s() -> None:
    assert (exit_code(0), exit_code(3), exit_code(-9)) == (0, 3, 137)


async def test_a_new_worker_is_told_what_the_others_know(tmp_path: Path) -> None:
    """And begins with their configuration's number."""
    async with crew(tmp_path) as one:
        first, new = (hand.operations for hand in one.hands)
        first.pool = [state("a:1", draining=True), state("r:1", expires_in_s=20.0, weight=2.0)]
        one.roster.members[1].listening = False
        await handover.hand_over(one.roster, 1)
        assert new.told == [Registration("c", "http://r:1", 2.0, None, 20.0)]
        assert new.pool[0].draining
        assert await handover.generation(one.roster) == 3


async def test_what_a_new_worker_does_not_take_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may have read a newer file, without that endpoint."""
    async with crew(tmp_path) as one:
        one.hands[0].operations.pool = [state("gone:1", draining=True)]
        one.roster.members[1].listening = False
        await handover.hand_over(one.roster, 1)
    assert "worker 1 did not take /admin/endpoints/gone%3A1/drain?cluster=c" in caplog.text
