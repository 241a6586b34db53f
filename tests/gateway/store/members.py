"""What several real processes over one store do; each store of several processes runs these."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gateway.store.base import Store
from tests.support.process import PATIENCE_S, ROOT

TAKEOVER_S = 4.0
"""Longer than a busy machine holds up a process that is to hold on to its lease."""
SLACK_S = 3.0
"""What a busy machine may add to a time that is measured between processes."""


class Member:
    """One running `member.py` and what it has said."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self.child = child
        self._said: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def wait_for(self, key: str, after: int = 0) -> dict[str, Any]:
        """Return the first that it says, from the `after`-th on, that has the key."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self._said[after:] if key in one), None)

        with self._news:
            assert self._news.wait_for(lambda: found() is not None, PATIENCE_S), self._said
            said = found()
        assert said is not None
        return said

    def heard(self) -> int:
        """Return how much it has said so far."""
        with self._news:
            return len(self._said)

    def has_said(self, key: str) -> bool:
        with self._news:
            return any(key in one for one in self._said)

    def poke(self) -> None:
        """Send a line."""
        assert self.child.stdin is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._news:
                self._said.append(json.loads(line))
                self._news.notify_all()


@contextmanager
def member(what: str, address: str, name: str, number: float) -> Iterator[Member]:
    """Run a member until the block is left; it is killed then, if it still runs."""
    argv = [sys.executable, "-m", "tests.gateway.store.member", what, address, name, str(number)]
    with subprocess.Popen(
        argv, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        running = Member(child)
        try:
            yield running
        finally:
            running.end()


async def four_processes_push(address: str, store: Store, count: int) -> None:
    """The totals are exact, however many pushes were sent twice."""
    with (
        member("push", address, "p0", count) as p0,
        member("push", address, "p1", count) as p1,
        member("push", address, "p2", count) as p2,
        member("push", address, "p3", count) as p3,
    ):
        for one in (p0, p1, p2, p3):
            one.wait_for("pushed")
            assert one.child.wait(PATIENCE_S) == 0
    buckets = {str(number): 4.0 * len(range(number, count, 7)) for number in range(7)}
    assert await store.totals("") == {"n": {"": 4.0 * count}, "h": buckets}


def a_killed_leader_is_replaced(address: str) -> float:
    """Another leads in time, with a higher token. Returns the seconds that it took."""
    with member("lead", address, "a", TAKEOVER_S) as first:
        led = first.wait_for("leads")
        with member("lead", address, "b", TAKEOVER_S) as second:
            time.sleep(TAKEOVER_S / 2)  # It has asked by now, and was refused.
            assert not second.has_said("leads")
            killed = time.monotonic()
            first.signal(signal.SIGKILL)
            leads = second.wait_for("leads")
    assert leads["token"] > led["token"]
    took: float = leads["at"] - killed
    assert took < TAKEOVER_S + SLACK_S
    return took


def a_leader_that_ends_is_replaced_at_once(address: str) -> None:
    """It gives the lease back: nobody waits for it to run out."""
    with (
        member("lead", address, "a", 600.0) as first,
    ):
        first.wait_for("leads")
        with member("lead", address, "b", TAKEOVER_S) as second:
            first.signal(signal.SIGINT)
            second.wait_for("leads")


async def a_stopped_leader_is_fenced(address: str, store: Store) -> None:
    """While it was stopped another led; its next write is refused, and it knows."""
    with member("hold", address, "a", TAKEOVER_S) as first:
        assert first.wait_for("holds")["token"] is not None
        first.poke()
        first.wait_for("wrote")
        first.signal(signal.SIGSTOP)
        with member("lead", address, "b", TAKEOVER_S) as second:
            second.wait_for("wrote")
            first.poke()
            first.signal(signal.SIGCONT)
            first.wait_for("fenced")
    assert (await store.get("rollout/x")).value["by"] == "b"


def a_stopped_candidate_stands_again(address: str) -> None:
    """With the whole election in it: stopped while it leads, it never writes with its old token."""
    with (
        member("lead", address, "a", TAKEOVER_S) as first,
    ):
        old = first.wait_for("leads")["token"]
        with member("lead", address, "b", TAKEOVER_S) as second:
            first.signal(signal.SIGSTOP)
            taken = second.wait_for("leads")["token"]
            heard = first.heard()
            first.signal(signal.SIGCONT)
            second.signal(signal.SIGKILL)
            again = first.wait_for("leads", after=heard)["token"]
    assert old < taken < again
