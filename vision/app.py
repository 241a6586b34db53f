"""How is the vision service put together, and how does it start and end?

    bind ──► list the repository ──► listen ──► load … ──► ready ──SIGTERM──► leaving ──delay──►
    closing: what is under way ends, nothing new ──► models closed ──► ended

While it loads it listens already, and says 503 at `/health`; so it does when it is leaving. The
only place that constructs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import importlib.metadata
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import uvicorn
from starlette.types import ASGIApp

from vision.api.access import AccessLog
from vision.api.departures import Departures
from vision.api.grpc import Methods, make_server
from vision.api.http import Http
from vision.api.predict import Limits
from vision.api.view import Life, View
from vision.decoding import Decoder
from vision.fetch import Fetcher, FetchSettings
from vision.images import ImageLimits
from vision.lane import LaneObserver
from vision.loads import Event
from vision.model import Model, OffLoop, load
from vision.repository import LoadModel, Repository, RepositorySettings
from vision.service import Service
from vision.telemetry import Standing, Telemetry
from vision.versions import Found, State

_LOG = logging.getLogger("sluice.vision")

SHIPPED = Path(__file__).parent / "models"
"""The models that come with the program."""

BACKLOG = 4096
"""Connections that may wait while the loop is busy; the kernel's own cap is net.core.somaxconn."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    folder: Path = SHIPPED
    repository: RepositorySettings = field(default_factory=RepositorySettings)
    fetch: FetchSettings = field(default_factory=FetchSettings)
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8001
    grpc_port: int | None = None
    """0: any free one; None: no gRPC."""
    device: str | None = None
    """Instead of what the models' configurations say."""
    decode_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    drain_delay_s: float = 0.0
    """How long it says 503 at `/health` before the listener closes."""
    drain_s: float = 30.0
    """How long requests under way may take then."""
    access_log: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """Where it listens."""

    host: str
    port: int
    grpc_port: int | None


Ready = Callable[[Address], None]
"""Told once the models of the start are loaded."""


def end_by(number: int) -> None:
    """End this process at once, as the signal would by itself.

    There is no gentler way: the threads that load or run a model cannot be stopped, and Python
    waits for them.
    """
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


async def run(settings: Settings, ready: Ready, at_once: Callable[[int], None] = end_by) -> None:
    """Serve until SIGTERM or SIGINT; `at_once` is called with a second one.

    It is called with the first one, too, if a model is being loaded when requests have ended.
    Raises `OSError` if it cannot listen, `OperatorError` if the repository cannot be read.
    """
    life = Life()
    with bind(settings.host, settings.port) as listener:
        fetcher = Fetcher(settings.fetch)
        decoder = Decoder(
            ImageLimits(max_bytes=settings.limits.image_bytes), fetcher, settings.decode_threads
        )
        telemetry = Telemetry(lambda: standings(repository))
        repository = _repository(settings, telemetry)
        service = Service(repository, decoder, telemetry)
        try:
            await repository.start()
            view = View(repository, life, importlib.metadata.version("sluice"))
            hosting = Hosting(settings, life, service, view, telemetry)
            await hosting.run(listener, repository.up, ready, at_once)
            if repository.loading:
                _LOG.info("ends without the models that are being loaded")
                hosting.at_once()
        finally:
            await repository.close()
            service.close()
            decoder.close()


class Hosting:
    """The servers: HTTP and gRPC on one event loop."""

    def __init__(
        self,
        settings: Settings,
        life: Life,
        service: Service,
        view: View,
        telemetry: Telemetry,
    ) -> None:
        self._settings = settings
        self._life = life
        self._departures = Departures()
        self._closing = asyncio.Event()
        self.at_once: Callable[[], None] = lambda: None
        """What a second signal does, once there has been the first."""
        app: ASGIApp = Http(service, view, telemetry, settings.limits, self._departures)
        self._http = _HttpServer(AccessLog(app) if settings.access_log else app, settings.drain_s)
        self._grpc: grpc.aio.Server | None = None
        if settings.grpc_port is not None:
            self._grpc = make_server(Methods(service, view), settings.limits.body_bytes)

    async def run(
        self,
        listener: socket.socket,
        up: Callable[[], Awaitable[None]],
        ready: Ready,
        at_once: Callable[[int], None],
    ) -> None:
        """Serve until a signal, then let what is under way end; a second one goes to `at_once`."""
        host, port = listener.getsockname()[:2]
        grpc_port = await self._start_grpc()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave, partial(at_once, number))
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._departures.run()),
                group.create_task(self._announce(Address(host, port, grpc_port), up, ready)),
            ]
            stopping = group.create_task(self._stop_grpc())
            await self._http.serve(sockets=[listener])
            await stopping
            for task in beside:
                task.cancel()

    def _leave(self, at_once: Callable[[], None]) -> None:
        """Begin to go away; a second signal does not wait for what is loaded or under way."""
        if self._life.draining:
            at_once()
            return
        self._life.draining = True
        self.at_once = at_once
        asyncio.get_running_loop().call_later(self._settings.drain_delay_s, self._close)

    def _close(self) -> None:
        self._http.should_exit = True
        self._closing.set()

    async def _stop_grpc(self) -> None:
        """Refuse new calls when the HTTP listener closes, too, and wait for those under way."""
        await self._closing.wait()
        if self._grpc is not None:
            await self._grpc.stop(self._settings.drain_s)

    async def _announce(
        self, address: Address, up: Callable[[], Awaitable[None]], ready: Ready
    ) -> None:
        await up()
        await self._http.listening.wait()
        # What is there now stays: the collector need not look at it again and again, and what a
        # request makes is mostly gone with it. Saves 5 µs a request.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        ready(address)

    async def _start_grpc(self) -> int | None:
        """Start the gRPC server, return its port. Raises `OSError`."""
        if self._grpc is None:
            return None
        host, port = self._settings.host, self._settings.grpc_port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._grpc.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise OSError(f"Cannot listen on {address} for gRPC.")
        await self._grpc.start()
        return bound


class _HttpServer(uvicorn.Server):
    """uvicorn's server; signals are left to the program, and it tells when it listens."""

    def __init__(self, app: ASGIApp, drain_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,  # Nobody here asks for the client's address.
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=max(1, round(drain_s)),
            )
        )
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn's own raises the signal again, which would end us first."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self.listening.set()


def bind(host: str, port: int) -> socket.socket:
    """Open the listening socket, IPv4 or IPv6 as `host` says. Raises `OSError` naming both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    return listener


def standings(repository: Repository) -> Iterable[Standing]:
    """Yield what metrics tell of each version."""
    for entry in repository.index():
        if entry.version is not None:
            ready = entry.state is State.READY
            yield Standing(entry.name, str(entry.version), ready, entry.memory_bytes, entry.load_s)


def _repository(settings: Settings, telemetry: Telemetry) -> Repository:
    def happened(event: Event) -> None:
        telemetry.happened(event.model, event.kind)

    return Repository(
        settings.folder,
        settings.repository,
        telemetry.series,
        on_event=happened,
        load=load if settings.device is None else _on_device(settings.device),
    )


def _on_device(device: str) -> LoadModel:
    """Return a load that puts every model on this device, whatever its configuration says."""

    async def load_there(
        name: str, found: Found, observer: LaneObserver, off_loop: OffLoop
    ) -> Model:
        instances = found.config.instances.model_copy(update={"device": device})
        config = found.config.model_copy(update={"instances": instances})
        return await load(name, dataclasses.replace(found, config=config), observer, off_loop)

    return load_there
