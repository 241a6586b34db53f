"""Are the engines that we started up, and if not, why?

    async with Supervisor(console) as fleet:
        engine = await fleet.start(launch)      # ready, or EngineFailed
        ...
        death = await fleet.first_death()       # one that nobody asked for

Leaving the block ends all of them and everything that they started, also when it is left by an
exception or is cancelled. Nothing is restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import httpx
from rich.console import Console
from rich.text import Text

from engines.causes import ending, explain
from engines.launch import Launch, http_url
from engines.process import Child

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue")
# A death of vLLM is explained by its engine core, and reported after that by every process above it
# with a traceback of its own: some 150 lines on a bad day.
_LINES_KEPT: Final = 400
_LINES_SHOWN: Final = 15


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, and how often to look."""

    ready_s: float = 1800.0  # Half an hour: the first start of a large model downloads it.
    poll_s: float = 0.25
    # vLLM needs up to 8 s to end its engine core after SIGTERM; `docker stop` gives 10.
    grace_s: float = 15.0
    # Nobody's request is in an engine that is not ready, and vLLM, while it compiles, is deaf.
    unready_grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Death:
    """An engine that ended though nobody asked it to."""

    name: str
    status: int  # As subprocess gives it: the exit code, or minus the signal.
    reason: str
    last_lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ended ({ending(self.status)}): {self.reason}"


class EngineFailed(Exception):  # noqa: N818  reads as the event it is: `except EngineFailed`
    """An engine did not get ready; the message says why in one plain sentence."""

    def __init__(self, name: str, reason: str, last_lines: tuple[str, ...] = ()) -> None:
        super().__init__(f"{name} did not start: {reason}")
        self.name = name
        self.reason = reason
        self.last_lines = last_lines


@dataclass(frozen=True, slots=True)
class Engine:
    """A process that has answered 200 at `/health`."""

    name: str
    url: str
    pid: int


@dataclass(slots=True, eq=False)
class _Member:
    """A child and what is known of it."""

    launch: Launch
    child: Child
    colour: str
    url: str | None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES_KEPT))
    stopping: bool = False

    def death(self) -> Death:
        lines = tuple(self.lines)
        reason = explain(lines, self.child.status)
        return Death(self.launch.name, self.child.status, reason, lines[-_LINES_SHOWN:])


class Supervisor:
    """Starts engines, passes on what they say, and ends them with the block that it opens."""

    def __init__(self, console: Console, patience: Patience = Patience()) -> None:
        self._console = console
        self._patience = patience
        self._members: list[_Member] = []
        self._deaths: asyncio.Queue[Death] = asyncio.Queue()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.stop()
        finally:
            # Not told of `error`, which would come out wrapped into an exception group: the group's
            # own tasks end with their processes, so there is nothing to cancel.
            await self._tasks.__aexit__(None, None, None)

    async def start(
        self, launch: Launch, progress: Callable[[float], None] = lambda _: None
    ) -> Engine:
        """Start a process and wait until it is ready.

        `progress` is called at every look with the seconds waited so far. Raises `EngineFailed` if
        the command is missing, the process dies, or `ready_s` passes; no process is left then.
        """
        member = await self._spawn(launch)
        try:
            url = await self._until_ready(member, progress)
        except BaseException:
            await self._end(member, self._patience.unready_grace_s)
            raise
        return Engine(launch.name, url, member.child.pid)

    async def first_death(self) -> Death:
        """Wait for an engine that was ready to end without having been asked to."""
        return await self._deaths.get()

    async def stop(self) -> None:
        """End every engine, all at the same time."""
        async with asyncio.TaskGroup() as endings:
            for member in self._members:
                endings.create_task(self._end(member, self._patience.grace_s))

    async def _spawn(self, launch: Launch) -> _Member:
        try:
            child = await Child.spawn(launch.argv, launch.env)
        except OSError as error:
            why = error.strerror or str(error)
            raise EngineFailed(launch.name, f"cannot run {launch.argv[0]}: {why}") from error
        colour = _COLOURS[len(self._members) % len(_COLOURS)]
        member = _Member(launch, child, colour, launch.url)
        self._members.append(member)
        self._tasks.create_task(child.watch(lambda line: self._take(member, line)))
        return member

    def _take(self, member: _Member, line: str) -> None:
        if member.url is None and (url := _ready_url(line)) is not None:
            member.url = url
            return
        member.lines.append(line)
        prefix = Text(f"{member.launch.name} | ", style=member.colour)
        self._console.print(prefix + Text.from_ansi(line), soft_wrap=True, highlight=False)

    async def _until_ready(self, member: _Member, progress: Callable[[float], None]) -> str:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        # trust_env=False: a proxy from the environment must not answer for a process next door.
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            while (waited_s := loop.time() - started_s) < self._patience.ready_s:
                progress(waited_s)
                if member.url is not None and await _healthy(client, member.url):
                    self._tasks.create_task(self._report(member))
                    return member.url
                if await _within(self._patience.poll_s, member.child.ended):
                    death = member.death()
                    why = f"{death.reason} ({ending(death.status)})"
                    raise EngineFailed(death.name, why, death.last_lines)
        last_lines = tuple(member.lines)[-_LINES_SHOWN:]
        why = f"it was not ready after {self._patience.ready_s:g} s"
        raise EngineFailed(member.launch.name, why, last_lines)

    async def _report(self, member: _Member) -> None:
        await member.child.ended.wait()
        if not member.stopping:
            self._deaths.put_nowait(member.death())

    async def _end(self, member: _Member, grace_s: float) -> None:
        member.stopping = True
        if not await member.child.end(grace_s):
            name = member.launch.name
            self._console.print(f"{name} did not end within {grace_s:g} s: killed", highlight=False)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Wait for an event for so long; say whether it came."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()


def _ready_url(line: str) -> str | None:
    """The address in a ready line, `{"host": …, "port": …}`; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
        return http_url(str(said["host"]), int(said["port"]))
    except (ValueError, KeyError, TypeError):
        return None


async def _healthy(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/health")).status_code == 200
    except httpx.HTTPError:
        return False
