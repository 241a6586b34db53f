"""Which commands does `sluice` have, and with which options?

Only typer is imported here, and in the modules of the groups of commands. Each command imports its
own module when it runs, so that `--help` and `version` answer at once.
"""

# ruff: noqa: PLC0415 - imports inside the commands are this module's purpose, see above.
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli import policy, rollout
from vision.cli import build as build_vision

if TYPE_CHECKING:
    from gateway.cli.up import Behind

ConfigOption = typer.Option("-c", "--config", metavar="FILE", help="YAML configuration file.")
HostOption = typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")
PortOption = typer.Option("--port", min=0, max=65535, help="Port for clients; 0: any free one.")


def build() -> typer.Typer:
    """Return the command line, ready to be called."""
    app = typer.Typer(
        name="sluice",
        help="An OpenAI-compatible gateway for teams that run their own models.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        # A traceback of ours should look like any other, and never show local variables: keys.
        pretty_exceptions_enable=False,
    )
    for command in (serve, up, check, diff, schema, chat, version):
        app.command()(command)
    app.add_typer(policy.build())
    app.add_typer(rollout.build())
    app.add_typer(build_vision())
    return app


def serve(  # noqa: PLR0913, PLR0917 - an argument for each option
    config: Annotated[Path | None, ConfigOption] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option("--endpoint", metavar="URL", help="Engine to serve; repeat for more."),
    ] = None,
    host: Annotated[str | None, HostOption] = None,
    port: Annotated[int | None, PortOption] = None,
    balancer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="p2c (default), round_robin, …; only with --endpoint."),
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Access log: a file, - for standard output, or off."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N", help="Processes on the port, or auto. [default: 1]"),
    ] = None,
) -> None:
    """Run the gateway in front of engines that are already there.

    With --endpoint no file is needed: models are discovered from each engine's /v1/models, and
    engines that serve the same model share its load.

    Examples:

      sluice serve --endpoint http://gpu-1:8000 --endpoint http://gpu-2:8000

      sluice serve -c sluice.yaml --port 8080 --access-log off
    """
    from gateway.cli.serve import Overrides, run

    overrides = Overrides(host, port, balancer, access_log, workers)
    raise typer.Exit(run(config, endpoint or [], overrides))


def up(  # noqa: PLR0913, PLR0917 - an argument for each option
    engine: Annotated[
        Literal["sim", "vllm"], typer.Option(help="Simulated engines, or vLLM.")
    ] = "sim",
    model: Annotated[
        str | None,
        typer.Option(metavar="PATH_OR_ID", help="Folder or Hub id; vLLM needs one."),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Engines to start. [default: 3 sim, 1 vllm]"),
    ] = None,
    port: Annotated[int, PortOption] = 8000,
    host: Annotated[str, HostOption] = "127.0.0.1",
    vision: Annotated[
        bool | None,
        typer.Option(
            "--vision/--no-vision",
            help="Start the vision service, too. [default: if its libraries are installed]",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its model repository. [default: the shipped one]"),
    ] = None,
) -> None:
    """Start engines, the vision service and the gateway in front, and stop them together.

    Examples:

      sluice up

      sluice up --no-vision --replicas 2

      sluice up --engine vllm --model TinyLlama/TinyLlama-1.1B-Chat-v1.0 --replicas 2
    """
    if engine == "vllm" and not model:
        raise typer.BadParameter("--engine vllm needs --model with a folder or a Hub id")

    import asyncio

    import uvloop
    from rich.console import Console

    from gateway.app import run_endpoints
    from gateway.cli.up import UpOptions
    from gateway.cli.up import up as start

    count = replicas or (3 if engine == "sim" else 1)
    options = UpOptions(engine, model or "sim", count, host, port, vision, models)

    async def run_gateway(behind: Behind, host: str, port: int) -> None:
        await run_endpoints(behind.engines, host, port, vision=behind.vision)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        raise typer.Exit(runner.run(start(options, run_gateway, Console())))


def check(config: Annotated[Path, ConfigOption]) -> None:
    """Check a configuration file and show every mistake in it, with its place.

    Exits with 0 if the file can be used, with 1 if not. Nothing is started or contacted.

    Example:

      sluice check -c sluice.yaml
    """
    from gateway.cli.check import run

    raise typer.Exit(run(config))


def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The file that is in use.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The file that would replace it.")],
) -> None:
    """Show what would change if NEW took the place of OLD.

    `+` comes, `-` goes, `~` changes; what a reload cannot take over is marked "needs a restart".
    Exits with 0 if nothing changes, with 1 if something does, with 2 if a file cannot be used.

    Example:

      sluice diff sluice.yaml sluice.new.yaml
    """
    from gateway.cli.diff import run

    raise typer.Exit(run(old, new))


def schema(
    policies: Annotated[
        bool, typer.Option("--policies", help="Of policy files instead: policies/schema.json.")
    ] = False,
) -> None:
    """Print the JSON Schema of configuration files, for editors.

    Example:

      sluice schema > sluice.schema.json
    """
    from gateway.cli.check import print_schema

    print_schema(policies=policies)


def chat(
    url: Annotated[
        str, typer.Option(metavar="URL", help="Base URL of the API, /v1 included.")
    ] = "http://127.0.0.1:8000/v1",
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model; else the first that is served.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SLUICE_API_KEY",
            metavar="KEY",
            show_default=False,
            help="Key to send; better set in the environment than typed.",
        ),
    ] = None,
) -> None:
    """Talk to a model, and see how quickly it answers.

    Ctrl-C stops an answer; /new forgets the conversation; /exit or Ctrl-D ends. Input from a pipe
    works too: each line is one turn, answers go to standard output, all else to standard error.

    Examples:

      sluice chat --model llama-3-8b

      echo "What is a sluice?" | sluice chat
    """
    from gateway.cli.chat import run

    raise typer.Exit(run(url, model, api_key))


def version() -> None:
    """Print the version."""
    import platform

    from rich.console import Console

    from gateway import __version__

    Console(highlight=False).print(f"sluice {__version__} (Python {platform.python_version()})")
