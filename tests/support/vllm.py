"""Real vLLM engines for tests: started side by side, and the processes that they consist of."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from engines.launch import Launch, http_url
from engines.locate import free_port
from engines.supervisor import Engine, Supervisor


@contextmanager
def running(*launches: Launch) -> Iterator[list[Engine]]:
    """Run engines in an event loop of its own thread, since every test has its own loop.

    They are started at the same time: a start is one core's work for half a minute.
    """
    engines: list[Engine] = []
    started = threading.Event()
    leave: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failure: list[BaseException] = []

    async def serve() -> None:
        leaving = asyncio.Event()
        leave.append((asyncio.get_running_loop(), leaving))
        async with Supervisor(Console(width=200)) as fleet:
            engines.extend(await asyncio.gather(*[fleet.start(launch) for launch in launches]))
            started.set()
            await leaving.wait()

    def thread() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    runner = threading.Thread(target=thread, name=launches[0].name)
    runner.start()
    started.wait()
    if failure:
        runner.join()
        raise failure[0]
    try:
        yield engines
    finally:
        loop, leaving = leave[0]
        loop.call_soon_threadsafe(leaving.set)
        runner.join()


def moved(launch: Launch, name: str) -> Launch:
    """Return the same launch under another name, at another port."""
    port = free_port("127.0.0.1")
    argv = list(launch.argv)
    argv[argv.index("--port") + 1] = str(port)
    return replace(launch, name=name, argv=tuple(argv), url=http_url("127.0.0.1", port))


def session(leader: int) -> set[int]:
    """Return the living processes of a session; zombies, which only wait for init, do not count."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == leader and state != "Z":
            found.add(int(stat.parent.name))
    return found
