"""Which commands does `sluice vision` have, and with which options?

Only typer is imported here. Each command imports its own module when it runs, so that `--help`
answers at once, and without the extra `vision`.
"""

# ruff: noqa: PLC0415 - imports inside the commands are this module's purpose, see above.
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vision.cli.convert import convert as _convert


def build() -> typer.Typer:
    """Return the group of commands, ready to be called or mounted."""
    app = typer.Typer(
        name="vision",
        help="The vision service: models of images behind `/v1/predict`.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_group)
    # Not by their names here: `vision.cli.serve` and `.convert` are modules.
    app.command("serve")(_serve)
    app.command("convert")(_convert)
    return app


def _group() -> None:
    """The vision service: models of images behind `/v1/predict`."""


def _serve(  # noqa: PLR0913, PLR0917 - an argument for each option
    repository: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Model repository. [default: ./models if it is there, else the shipped models]",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on. There are no keys here: let only the gateway reach it.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for HTTP; 0: any free one.")
    ] = 8001,
    grpc_port: Annotated[
        str | None,
        typer.Option(
            metavar="PORT",
            help="Port for gRPC; 0: any free one; none: no gRPC. [default: that for HTTP and 1; "
            "none with --port 0]",
        ),
    ] = None,
    control: Annotated[
        Literal["poll", "explicit", "none"],
        typer.Option(
            help="Who loads models after the start: the folder as it changes; the repository's "
            "API, which anybody who reaches the port may then call; or nobody."
        ),
    ] = "poll",
    load: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL",
            help="With explicit control: load it at the start; repeat for more, * for all.",
        ),
    ] = None,
    poll_s: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")
    ] = 5.0,
    memory_budget_mb: Annotated[
        int | None,
        typer.Option(min=1, metavar="MIB", help="For all models together; idle ones make room."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="auto, cpu or cuda[:N], instead of what the models say."
        ),
    ] = None,
    max_body_mb: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest request body.")
    ] = 32,
    max_image_mb: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Largest file of an image, sent or fetched.")
    ] = 20,
    max_items: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most items of a request.")
    ] = 64,
    fetch: Annotated[
        bool, typer.Option("--fetch/--no-fetch", help="Fetch images that clients name by URL.")
    ] = True,
    fetch_allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Fetch from this host only, .example.com for all below it; repeat for more.",
        ),
    ] = None,
    fetch_allow_cidr: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CIDR",
            help="Fetch from these addresses although they are not public, such as 10.1.0.0/16; "
            "repeat for more.",
        ),
    ] = None,
    fetch_port: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=65535, metavar="PORT", help="Fetch from this port beside 80 and 443."
        ),
    ] = None,
    drain_delay_s: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="On SIGTERM: serve on, and say 503 at /health, so long."
        ),
    ] = 0.0,
    drain_s: Annotated[
        float,
        typer.Option(min=1, metavar="SECONDS", help="Then: what running requests may take."),
    ] = 30.0,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write one JSON line a request to standard error.")
    ] = False,
    ready_line: Annotated[
        bool,
        typer.Option("--ready-line", help="Print one JSON line, host and ports, when ready."),
    ] = False,
) -> None:
    """Serve a model repository.

    Examples:

      sluice vision serve --repository models

      sluice vision serve --repository models --control explicit --load digits
    """
    from vision.cli.serve import Options, run

    options = Options(
        repository=repository,
        host=host,
        port=port,
        grpc_port=grpc_port,
        control=control,
        load=tuple(load or ()),
        poll_s=poll_s,
        memory_budget_mb=memory_budget_mb,
        device=device,
        max_body_mb=max_body_mb,
        max_image_mb=max_image_mb,
        max_items=max_items,
        fetch=fetch,
        fetch_allow_host=tuple(fetch_allow_host or ()),
        fetch_allow_cidr=tuple(fetch_allow_cidr or ()),
        fetch_port=tuple(fetch_port or ()),
        drain_delay_s=drain_delay_s,
        drain_s=drain_s,
        access_log=access_log,
        ready_line=ready_line,
    )
    raise typer.Exit(run(options))
