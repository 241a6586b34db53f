"""Do as many workers run as there should be, and does each know what the others know?

    started --socket answers--> answering --told what the others know, "go"--> listening
       ^                            │                                              │
       └────── Restarts' delay ─────┴──────────────────── ended <──────────────────┘

The parent serves no client. It starts workers, passes signals on, tells a new worker what operators
told the others (drains, registrations), ends one whose main loop is stuck, and answers for all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import httpx
import msgspec

from gateway.clock import Clock
from gateway.control.admin import STUCK_S
from gateway.errors import GatewayError
from gateway.workers import handover
from gateway.workers.inner import Question, ask
from gateway.workers.own import Standing
from gateway.workers.restarts import Restarts
from gateway.workers.roster import Member, Roster
from gateway.workers.seat import Seat, worker_socket

_LOG = logging.getLogger("sluice.workers")
T = TypeVar("T")

LOOK_S, WATCH_S = 0.05, 1.0
"""Between two looks at a worker that is not listening yet, and at one that is."""

END_S = 10.0
"""What a worker may take beyond the time in which it should have ended; then it is killed."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to run."""

    argv: Sequence[str]
    """Of one worker."""
    count: int
    folder: str
    port: int
    drain_s: float
    """How long a worker may take to end, its delay included."""


class Parent:
    """The process above the workers."""

    def __init__(self, job: Job, clock: Clock, rng: Random) -> None:
        self._job = job
        self._now = clock.monotonic
        members = [Member(number, Restarts(rng)) for number in range(job.count)]
        self.roster = Roster(members, job.folder)
        self._ending = asyncio.Event()
        self._unheard: set[int] = set()
        """Those who were ended before they could hear of it."""
        self._signals = 0
        self._code = 0
        self._all_up = asyncio.Event()

    async def run(self, announce: Callable[[], None]) -> int:
        """Keep the workers up until told to end; return the exit code.

        `announce` is called once, when all of them listen.
        """
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        try:
            async with asyncio.TaskGroup() as group:
                telling = group.create_task(self._announce(announce))
                keeping = [group.create_task(self._keep(one)) for one in self.roster.members]
                await asyncio.wait(keeping)
                telling.cancel()
        finally:
            self._send(signal.SIGKILL)  # Nobody is left, unless this was cancelled.
            for number in (*numbers, signal.SIGHUP):
                loop.remove_signal_handler(number)
        return self._code

    # The end.

    def end(self) -> None:
        """Start no worker any more, and expect the others to end by what they are told."""
        if not self._ending.is_set():
            self._ending.set()
            loop = asyncio.get_running_loop()
            loop.call_later(self._job.drain_s + END_S, self._send, signal.SIGKILL)
            for member in self.roster.members:
                if not member.answers:  # It has nothing to drain, and may not hear yet.
                    self._unheard.add(member.number)
                    _signal(member.process, signal.SIGTERM)

    def _signalled(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            asyncio.get_running_loop().call_later(END_S, self._send, signal.SIGKILL)
        answering = [one.process for one in self.roster.members if one.answers]
        self.end()
        for process in answering:
            _signal(process, number)

    def _hang_up(self) -> None:
        for member in self.roster.up():
            _signal(member.process, signal.SIGHUP)

    def _send(self, number: int) -> None:
        for member in self.roster.members:
            _signal(member.process, number)

    # One worker.

    async def _keep(self, member: Member) -> None:
        """Run one worker until the end of all."""
        while not self._ending.is_set():
            status = await self._live(member)
            if self._ending.is_set():
                self._note(status, member)
                return
            alone = not self.roster.up()
            wait_s = member.restarts.ended(self._now(), status, alone=alone)
            if wait_s is None:
                _LOG.error("worker %d ended (%s), as before: giving up", member.number, status)
                self._code = self._code or exit_code(status) or 1
                self._give_up()
                return
            _LOG.error("worker %d ended (%s); again in %.1f s", member.number, status, wait_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._ending.wait()

    def _give_up(self) -> None:
        self.end()
        self._send(signal.SIGTERM)

    def _note(self, status: int, member: Member) -> None:
        if status == -signal.SIGTERM and member.number in self._unheard:
            return  # It was ended before it could do anything.
        self._code = self._code or exit_code(status)

    async def _live(self, member: Member) -> int:
        """Start a worker and see it through; return how it ended."""
        seat = Seat(
            member.number,
            self._job.count,
            self._job.folder,
            self._job.port,
            await handover.generation(self.roster),
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._job.argv,
                stdin=PIPE,  # Its end tells the worker of ours.
                env={**os.environ, **seat.variable()},
                process_group=0,  # Ctrl-C in a terminal is for us to pass on.
            )
        except OSError as error:
            _LOG.error("worker %d cannot be started: %s", member.number, error)
            return 1
        member.process, member.since = process, self._now()
        if self._ending.is_set():
            self._unheard.add(member.number)
            _signal(process, signal.SIGTERM)
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(member, process))
                status = await process.wait()
                watching.cancel()
        finally:
            _signal(process, signal.SIGKILL)  # Only if we were cancelled is it still there.
            self.roster.gone(member)
            await process.wait()
        return status

    async def _watch(self, member: Member, process: Process) -> None:
        """Bring it to listening; then see that it goes on."""
        heard_at = self._now()
        while True:
            standing = await self._standing(member)
            now = self._now()
            if standing is not None:
                heard_at = now
                await self._advance(member, standing)
            late_s = now - heard_at if standing is None else standing.lag_s
            if member.listening and late_s >= STUCK_S:
                _LOG.error("worker %d is stuck: killed", member.number)
                _signal(process, signal.SIGKILL)
                return
            await asyncio.sleep(WATCH_S if member.listening else LOOK_S)

    async def _standing(self, member: Member) -> Standing | None:
        question = Question("GET", "/worker/standing")
        try:
            answer = await ask(worker_socket(self._job.folder, member.number), question)
            return msgspec.json.decode(answer.content, type=Standing)
        except (httpx.HTTPError, TimeoutError, msgspec.DecodeError):
            return None

    async def _advance(self, member: Member, standing: Standing) -> None:
        if not member.answers:
            async with self.roster.commands:
                # What operators say from now on is told to it, too; all before is handed over.
                member.answers = True
                with suppress(GatewayError):  # Nobody to take it from.
                    await handover.hand_over(self.roster, member.number)
            await self.roster.ask(Question("POST", "/worker/go"), {member.number})
        if standing.listening and not member.listening:
            member.listening = True
            member.restarts.up(self._now())
            if member.restarts.total:
                _LOG.info("worker %d is up again", member.number)
            if len(self.roster.up()) == self._job.count:
                self._all_up.set()

    async def _announce(self, announce: Callable[[], None]) -> None:
        await self._all_up.wait()
        announce()


def exit_code(status: int) -> int:
    """Return a process' status as a shell tells it: 128 and the signal's number for a signal."""
    return status if status >= 0 else 128 - status


def _signal(process: Process | None, number: int) -> None:
    if process is not None and process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
