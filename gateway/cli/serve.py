"""Which configuration does `sluice serve` run with, given a file or endpoints and overrides?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console

from gateway.config.explain import complaints, words
from gateway.config.problems import ConfigError
from gateway.config.server import Server
from gateway.config.spec import Config
from gateway.config.watch import FileSource
from gateway.workers.cores import count_of
from gateway.workers.seat import Seat


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the command line says; None is silence."""

    host: str | None = None
    port: int | None = None
    balancer: str | None = None
    access_log: str | None = None
    workers: str | None = None


def run(file: Path | None, urls: Sequence[str], overrides: Overrides) -> int:
    """Serve until stopped; return the exit code. Raises `typer.BadParameter` for wrong usage."""
    if (file is None) is (not urls):
        raise typer.BadParameter("give either --config FILE or --endpoint URL (once or more)")
    if "" in (overrides.host, overrides.access_log):
        raise typer.BadParameter("--host and --access-log must not be empty")
    seat = Seat.given(os.environ)
    source = None if file is None else source_of(file, overrides, seat)
    try:
        config = from_urls(urls, overrides, seat) if source is None else source.load()
    except ConfigError as error:
        console = Console(stderr=True, highlight=False)
        for problem in error.problems:
            console.print(str(problem), markup=False, soft_wrap=True)
        return 1

    count = count_of(config.server.workers)
    if seat is None and count > 1:
        from gateway.workers.start import run_workers  # noqa: PLC0415 - as below

        return run_workers(config, arguments(file, urls, overrides), count)

    from gateway.app import serve  # noqa: PLC0415 - a mistake in the file need not wait for it

    return serve(config, source, seat)


def arguments(file: Path | None, urls: Sequence[str], overrides: Overrides) -> list[str]:
    """Return the arguments of `sluice` that say the same."""
    said = {
        "--config": None if file is None else str(file),
        "--host": overrides.host,
        "--port": overrides.port,
        "--workers": overrides.workers,
        "--balancer": overrides.balancer,
        "--access-log": overrides.access_log,
    }
    given = [(option, str(value)) for option, value in said.items() if value is not None]
    given += [("--endpoint", url) for url in urls]
    return ["serve", *(f"{option}={value}" for option, value in given)]


def source_of(file: Path, overrides: Overrides, seat: Seat | None = None) -> FileSource:
    """Return the file, over whose settings the command line wins at each reading.

    A worker takes its `seat`'s part of them.
    """
    if overrides.balancer is not None:
        raise typer.BadParameter("--balancer goes with --endpoint; the file names each cluster's")

    def over(config: Config) -> Config:
        return _seated(_overridden(config, overrides), seat)

    return FileSource(file, over)


def _seated(config: Config, seat: Seat | None) -> Config:
    return config if seat is None else seat.settle(config)


def _overridden(config: Config, overrides: Overrides) -> Config:
    server = {
        "host": overrides.host,
        "port": overrides.port,
        "workers": _workers(overrides.workers),
    }
    given = {key: value for key, value in server.items() if value is not None}
    config = config.model_copy(update={"server": config.server.model_copy(update=given)})
    if overrides.access_log is None:
        return config
    logging = config.logging.model_copy(update={"access": _access(overrides.access_log)})
    return config.model_copy(update={"logging": logging})


def from_urls(urls: Sequence[str], overrides: Overrides, seat: Seat | None = None) -> Config:
    """Build a configuration for endpoints alone. Raises `typer.BadParameter`."""
    try:
        config = Config.from_endpoints(
            urls,
            overrides.host,
            overrides.port,
            balancer=overrides.balancer,
            access=_access(overrides.access_log or "-"),
        )
        if overrides.workers is not None:
            server = config.server.model_copy(update={"workers": _workers(overrides.workers)})
            config = config.model_copy(update={"server": server})
        return _seated(config, seat)
    except ValidationError as error:
        raise typer.BadParameter("; ".join(map(_blame, complaints(error)))) from None


def _blame(details: ErrorDetails) -> str:
    match details["loc"]:
        case ("clusters", _, "endpoints", int(index), *_):
            option = f"--endpoint number {index + 1}"
        case ("clusters", _, "balancer"):
            option = "--balancer"
        case ("logging", *_):
            option = "--access-log"
        case (_, field):
            option = f"--{field}"
        case loc:
            raise AssertionError(loc)  # The command line can set nothing else.
    return f"{option} {words(details)}"


def _workers(text: str | None) -> int | str | None:
    """Return what `server.workers` would be. Raises `typer.BadParameter`."""
    if text is None:
        return None
    try:
        return Server(workers=text).workers  # type: ignore[arg-type]  # the field takes text, too
    except ValidationError as error:
        raise typer.BadParameter(f"--workers {words(complaints(error)[0])}") from None


def _access(text: str) -> str | None:
    return None if text == "off" else text
