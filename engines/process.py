"""How is one process started, heard, and ended together with all that it starts?

A child gets a session of its own, hence a process group that carries its pid: Ctrl-C at the
terminal does not reach it, and one signal reaches its whole family. Its end has two steps, since a
child may be survived by its own children:

    running ──child exits──► ended ──its group is empty, or was killed after 5 s──► gone
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

from engines.lines import LineSplitter

_ORPHANS_S: Final = 5.0  # What the family of a child may take to notice that it is gone.
_LAST_WORDS_S: Final = 1.0  # What may pass until the rest of a dead child's output is read.
_LOOK_S: Final = 0.05


class Child:
    """A process of ours; `watch` must run for as long as it lives."""

    def __init__(self, process: asyncio.subprocess.Process, output_fd: int) -> None:
        self._process = process
        self._output_fd = output_fd
        self._gone = asyncio.Event()
        self.ended = asyncio.Event()

    @classmethod
    async def spawn(cls, argv: Sequence[str], env: Mapping[str, str]) -> Self:
        """Start a process with exactly this environment; raises OSError if it cannot be run."""
        # A pipe of our own: with asyncio's, Process.wait() of Python 3.11 does not return before
        # the pipe is closed, and a surviving grandchild keeps it open.
        read_fd, write_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,  # The same pipe, which keeps the order of the two.
                start_new_session=True,
            )
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        return cls(process, read_fd)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int:
        """How it ended, as subprocess says it: the exit code, or minus the signal."""
        return self._process.returncode or 0

    async def watch(self, on_line: Callable[[str], None]) -> None:
        """Pass on each line that it writes; return when nobody of its family is left."""
        try:
            async with asyncio.TaskGroup() as watching:
                reader = watching.create_task(self._read(on_line))
                await self._process.wait()
                await asyncio.wait([reader], timeout=_LAST_WORDS_S)
                reader.cancel()
            self.ended.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ORPHANS_S):
                    await self._orphans()
        finally:
            self._kill()
            self._gone.set()
            self.ended.set()

    async def end(self, grace_s: float) -> bool:
        """SIGTERM to the child, which ends its family in order; after `grace_s` SIGKILL to all.

        Returns whether the grace was enough. A cancellation cuts it short and kills at once.
        """
        in_time = True
        try:
            async with asyncio.timeout(grace_s):
                if not self.ended.is_set():
                    with contextlib.suppress(ProcessLookupError):
                        self._process.send_signal(signal.SIGTERM)
                await self._gone.wait()
        except TimeoutError:
            in_time = False
        finally:
            self._kill()
        await self._gone.wait()
        return in_time

    async def _read(self, on_line: Callable[[str], None]) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream),
            os.fdopen(self._output_fd, "rb", buffering=0),
        )
        splitter = LineSplitter()
        try:
            while data := await stream.read(65_536):
                for line in splitter.feed(data):
                    on_line(line)
        finally:
            transport.close()
            for line in splitter.end():
                on_line(line)

    async def _orphans(self) -> None:
        """Return when the process group is empty."""
        while _signal_group(self.pid, 0):  # noqa: ASYNC110  no event tells of a grandchild's end
            await asyncio.sleep(_LOOK_S)

    def _kill(self) -> None:
        # Once the group was seen empty its number may go to a stranger.
        if not self._gone.is_set():
            _signal_group(self.pid, signal.SIGKILL)


def _signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if nobody is in it. Signal 0 only asks."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
