"""How do engines and a gateway in front of them come up together, with one command, and go down?

    engines start ──all ready──► gateway runs ──it ended, or an engine died──► everything is stopped

The vision service is one more of them. While the gateway runs, SIGINT and SIGTERM are its own
affair: its handlers drain it. Before and after that one signal stops the engines in order, and one
more kills them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engines import locate, vision, vllm
from engines.launch import Launch
from engines.placement import Placement, place
from engines.spec import SpecError, parse_spec
from engines.supervisor import Death, Engine, EngineFailed, Supervisor
from engines.vllm import is_path
from gateway.cli.announce import announce
from gateway.model import Kind


@dataclass(frozen=True, slots=True)
class Behind:
    """What the gateway stands in front of: URLs."""

    engines: tuple[str, ...]
    vision: tuple[str, ...] = ()


RunGateway = Callable[[Behind, str, int], Awaitable[None]]
T = TypeVar("T")

_ECHO_S = 0.05


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What to bring up. `model` is a Hub id or a folder for vLLM, any name for the simulation."""

    engine: Literal["sim", "vllm"]
    model: str
    replicas: int = 1
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one.
    vision: bool | None = None  # None: if its libraries are there.
    models: Path | None = None  # The vision service's repository; None: the shipped one.


class _Signals:
    """Counts SIGINT and SIGTERM; cancels the task that made it when they are more than allowed."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._allowed = 1
        self._count = 0
        self.came = asyncio.Event()
        self.hurried = False

    def allow(self, count: int) -> None:
        """Start counting anew; the next one after `count` cancels."""
        self._allowed, self._count = count, 0

    def __call__(self) -> None:
        self._count += 1
        self.came.set()
        if self._count > self._allowed and self._task is not None:
            self.hurried = True
            self._task.cancel()

    def listen(self) -> None:
        """Hear signals, also again after somebody else has put his handlers over these."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Listen within the block."""
        loop = asyncio.get_running_loop()
        self.listen()
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def up(options: UpOptions, run_gateway: RunGateway, console: Console) -> int:
    """Run engines and gateway until a signal comes or one of them ends; return the exit code.

    `run_gateway(behind, host, port)` must return when it has been told to stop by SIGINT or
    SIGTERM, and raise OSError if it cannot listen. 0 if it returned; 1 if something failed or died,
    with the reason on the console; 130 if a signal came before the engines were ready, or more of
    them than an orderly end takes. No process is left over.
    """
    if options.port == 0:
        options = replace(options, port=locate.free_port(options.host))
    signals = _Signals()
    with signals.heard():
        try:
            return await _up(options, run_gateway, console, signals)
        except (SpecError, locate.VllmMissing) as error:
            return _failed(f"cannot start {options.engine}: {error}", (), console)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or not signals.hurried:
                raise
            while task.uncancel():
                pass
            return 130


async def _up(
    options: UpOptions, run_gateway: RunGateway, console: Console, signals: _Signals
) -> int:
    try:
        seeing = plan_vision(options, os.environ, console)
    except SpecError as error:
        return _failed(f"cannot start the vision service: {error}", (), console)
    launches = [*plan_launches(options, os.environ), *seeing]
    async with Supervisor(console) as fleet:
        started = await _first(_start_all(fleet, launches, console), signals.came.wait())
        if isinstance(started, EngineFailed):
            return _failed(str(started), started.last_lines, console)
        if not isinstance(started, list):
            console.print("Stopped before the engines were ready.")
            return 130
        urls = tuple(engine.url for engine in started)
        edge = len(urls) - len(seeing)
        behind = Behind(urls[:edge], urls[edge:])
        # Twice: an impatient user's second signal makes the gateway drop what it drains.
        signals.allow(2)
        ended = await _first(_serve(options, behind, run_gateway, console), fleet.first_death())
        # The gateway's handlers are gone, and ours may be gone with them.
        signals.listen()
        # uvicorn raises the signals that it caught once more when it ends; they are not new ones.
        await asyncio.sleep(_ECHO_S)
        signals.allow(0)
        if isinstance(ended, Death):
            return _failed(str(ended), ended.last_lines, console)
        if isinstance(ended, OSError):
            return _failed(f"the gateway cannot listen: {ended}", (), console)
        return 0


def plan_launches(options: UpOptions, env: Mapping[str, str]) -> list[Launch]:
    """The processes to start, each at a port of its own.

    Raises `SpecError` for options that cannot work, `VllmMissing` if there is no vLLM.
    """
    if options.engine == "sim":
        return [_sim_launch(options.model, index, env) for index in range(options.replicas)]
    command = locate.vllm_command(env)
    placements = place(locate.devices(env), options.replicas)
    return [
        _vllm_launch(options.model, index, placement, command, env)
        for index, placement in enumerate(placements)
    ]


def plan_vision(options: UpOptions, env: Mapping[str, str], console: Console) -> list[Launch]:
    """The vision service, or nothing where it is not wanted or not installed; then a line says so.

    Raises `SpecError` if it was asked for and cannot be.
    """
    if options.vision is False:
        return []
    missing = vision.missing()
    if not missing:
        return [vision.launch(options.models or vision.shipped(), env)]
    why = f"{', '.join(missing)} not installed; to look at images, too: {vision.INSTALL}"
    if options.vision or options.models is not None:
        raise SpecError([why])
    console.print(f"No vision service: {why}", markup=False, highlight=False, soft_wrap=True)
    return []


def _sim_launch(model: str, index: int, env: Mapping[str, str]) -> Launch:
    argv = (sys.executable, "-m", "engines.sim", "--port", "0", "--ready-line", "--model", model)
    return Launch(f"sim-{index}", argv, {**env, "PYTHONUNBUFFERED": "1"})


def _vllm_launch(
    model: str, index: int, placement: Placement, command: tuple[str, ...], env: Mapping[str, str]
) -> Launch:
    folder = Path(model).expanduser()
    local = folder.is_dir()
    if not local and is_path(model):
        raise SpecError([f"model: there is no folder {folder}"])
    values: dict[str, object] = {
        "model": str(folder.resolve()) if local else model,
        # Clients name a model; where its folder lies is nobody's business.
        "served_model_name": (folder.resolve().name,) if local else (),
        "port": locate.free_port("127.0.0.1"),
    }
    if placement.devices:
        values["env"] = {"CUDA_VISIBLE_DEVICES": ",".join(placement.devices)}
    if placement.memory_share is not None:
        values["gpu_memory_utilization"] = placement.memory_share
    return vllm.launch(parse_spec(values), name=f"vllm-{index}", base_env=env, command=command)


async def _start_all(
    fleet: Supervisor, launches: list[Launch], console: Console
) -> list[Engine] | EngineFailed:
    """Start every engine at the same time; the first that fails ends the others."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    failure: EngineFailed | None = None
    with Progress(*columns, console=console, transient=True) as progress:

        async def start(launch: Launch) -> Engine:
            row = progress.add_task(f"starting {launch.name}", total=None)
            engine = await fleet.start(launch)
            progress.update(row, description=f"{launch.name} is ready", total=1, completed=1)
            return engine

        try:
            async with asyncio.TaskGroup() as starting:
                tasks = [starting.create_task(start(launch)) for launch in launches]
        except* EngineFailed as group:
            failure = next(error for error in _leaves(group) if isinstance(error, EngineFailed))
    return failure or [task.result() for task in tasks]


async def _serve(
    options: UpOptions, behind: Behind, run_gateway: RunGateway, console: Console
) -> OSError | None:
    """Run the gateway, and say where it is as soon as it answers."""
    urls = {Kind.LLM: behind.engines, Kind.VISION: behind.vision}
    async with asyncio.TaskGroup() as group:
        announcing = group.create_task(announce(options.host, options.port, urls, console))
        try:
            await run_gateway(behind, options.host, options.port)
        except OSError as error:
            return error
        finally:
            announcing.cancel()
    return None


async def _first(*rivals: Coroutine[Any, Any, T]) -> T:
    """Run all of them until one has ended, cancel the others, and return what the one returned."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(rival) for rival in rivals]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return next(task for task in tasks if task in done).result()


def _leaves(group: BaseExceptionGroup[EngineFailed]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _failed(reason: str, last_lines: tuple[str, ...], console: Console) -> int:
    """Say why, after an engine's last lines, which its peers' may have pushed out of sight."""
    if last_lines:
        console.print("\n[bold]Its last lines:[/]", highlight=False)
    for line in last_lines:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    console.print("[bold red]Stopped:[/]", highlight=False, end=" ")
    console.print(reason, markup=False, highlight=False, soft_wrap=True)
    return 1
