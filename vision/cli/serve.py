"""Which service do the options of `sluice vision serve` ask for?"""

# ruff: noqa: PLC0415 - without the extra `vision` this module still has to say what is missing.

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import warnings
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from vision.addresses import AddressRules
    from vision.app import Settings

_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command's options, as typed."""

    repository: Path | None
    host: str
    port: int
    grpc_port: str | None
    control: str
    load: tuple[str, ...]
    poll_s: float
    memory_budget_mb: int | None
    device: str | None
    max_body_mb: int
    max_image_mb: int
    max_items: int
    fetch: bool
    fetch_allow_host: tuple[str, ...]
    fetch_allow_cidr: tuple[str, ...]
    fetch_port: tuple[int, ...]
    drain_delay_s: float
    drain_s: float
    access_log: bool
    ready_line: bool


def run(options: Options) -> int:
    """Serve until stopped; return the exit code. Raises `typer.BadParameter` for wrong usage."""
    try:
        import uvloop

        from vision import app
        from vision.errors import OperatorError
    except ModuleNotFoundError as error:
        said = f"{error.name} is missing: pip install 'sluice[vision]'"
        sys.stderr.write(f"sluice vision serve: {said}\n")
        return 1

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel("WARNING")  # It would log the URLs that clients send.
    logging.getLogger("python_multipart").setLevel("ERROR")  # A line for each form that is broken.

    warnings.filterwarnings("ignore", module=r"PIL\.")  # In the words of the files that come.

    def ready(address: app.Address) -> None:
        logging.getLogger("sluice.vision").info(
            "ready on %s:%d, gRPC %s", address.host, address.port, address.grpc_port or "off"
        )
        if options.ready_line:
            line = {
                "host": address.host,
                "port": address.port,
                "grpc_port": address.grpc_port,
                "pid": os.getpid(),
            }
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(app.run(settings_of(options), ready))
    except (OSError, OperatorError) as error:
        sys.stderr.write(f"sluice vision serve: {error}\n")
        return 1
    return 0


def settings_of(options: Options) -> Settings:
    """Return what the service is built from; raises `typer.BadParameter` for wrong usage."""
    from vision.api.predict import Limits
    from vision.app import Settings
    from vision.fetch import FetchSettings
    from vision.repository import Control, RepositorySettings

    if options.load and options.control != "explicit":
        raise typer.BadParameter("--load goes with --control explicit")
    if options.device is not None and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", options.device):
        raise typer.BadParameter("--device is auto, cpu, cuda or cuda:N")
    budget = options.memory_budget_mb
    return Settings(
        folder=folder_of(options.repository),
        repository=RepositorySettings(
            control=Control(options.control),
            poll_s=options.poll_s,
            memory_budget_bytes=None if budget is None else budget * _MIB,
            load=options.load,
        ),
        fetch=FetchSettings(
            enabled=options.fetch,
            rules=rules_of(options),
            max_bytes=options.max_image_mb * _MIB,
        ),
        limits=Limits(options.max_body_mb * _MIB, options.max_items, options.max_image_mb * _MIB),
        host=options.host,
        port=options.port,
        grpc_port=grpc_port_of(options.grpc_port, options.port),
        device=options.device,
        drain_delay_s=options.drain_delay_s,
        drain_s=options.drain_s,
        access_log=options.access_log,
    )


def rules_of(options: Options) -> AddressRules:
    """Return which URLs are fetched; raises `typer.BadParameter`."""
    from vision.addresses import AddressRules

    hosts, ports = options.fetch_allow_host, options.fetch_port
    if not options.fetch and (hosts or ports or options.fetch_allow_cidr):
        raise typer.BadParameter("--fetch-allow-host, -cidr and --fetch-port go with --fetch")
    try:
        networks = tuple(ip_network(text) for text in options.fetch_allow_cidr)
    except ValueError as error:
        raise typer.BadParameter(f"--fetch-allow-cidr: {error}") from None
    return AddressRules(hosts, networks, frozenset({80, 443, *ports}))


def folder_of(given: Path | None) -> Path:
    """Return the repository: the given one, else ./models, else the one that ships."""
    from vision.app import SHIPPED

    if given is not None:
        return given
    here = Path("models")
    return here if here.is_dir() else SHIPPED


def grpc_port_of(text: str | None, port: int) -> int | None:
    """Return the port, None for none; raises `typer.BadParameter`."""
    if text is None:
        return port + 1 if 0 < port < 65535 else None
    if text == "none":
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise typer.BadParameter("--grpc-port is a number from 0 to 65535, or none")
    return int(text)
