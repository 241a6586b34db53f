"""Which commands does `sluice policy` have, and with which options?

Light: only typer is imported before a command runs.
"""

# ruff: noqa: PLC0415 - imports inside the commands are this module's purpose, see above.
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ADMIN, Admin, Json, Token

ConfigFile = Annotated[
    Path, typer.Option("-c", "--config", metavar="FILE", help="YAML configuration file.")
]


def build() -> typer.Typer:
    """Return the commands."""
    app = typer.Typer(
        name="policy",
        help="See what policies do, why, and what they would do.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    for command in (status, explain, report, replay, audit):
        app.command()(command)
    return app


def status(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One policy, with all its figures.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
    as_json: Json = False,
    admin: Admin = ADMIN,
    admin_token: Token = None,
) -> None:
    """Show every policy with its arms, or one with all that is known of it.

    Examples:

      sluice policy status

      sluice policy status new-engine --watch
    """
    from gateway.cli.policy_status import show

    raise typer.Exit(show(admin, admin_token, name, watch=watch, as_json=as_json))


def report(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The policy with the mirror.")],
    as_json: Json = False,
    admin: Admin = ADMIN,
    admin_token: Token = None,
) -> None:
    """Show how like the live answers a mirror's copies were, and the worst cases.

    Example:

      sluice policy report shadow-of-the-next
    """
    from gateway.cli.policy_status import mirror

    raise typer.Exit(mirror(admin, admin_token, name, as_json=as_json))


def audit(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Of one policy only.")] = None,
    count: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="How many.")] = 20,
    as_json: Json = False,
    admin: Admin = ADMIN,
    admin_token: Token = None,
) -> None:
    """Show what has happened to policies, by whom and why.

    Example:

      sluice policy audit new-engine
    """
    from gateway.cli.policy_status import history

    raise typer.Exit(history(admin, admin_token, name, count, as_json=as_json))


def explain(  # noqa: PLR0913, PLR0917 - an argument for each option
    body: Annotated[
        str, typer.Option("--body", metavar="FILE", help="The request's JSON body; - for stdin.")
    ],
    config: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config",
            metavar="FILE",
            help="Explain by this file, without a gateway: endpoints are not asked.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME:VALUE", help="A header; repeat for more."),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where the request is sent. [default: /v1/chat/completions, or /v1/predict for a "
            "vision model]",
        ),
    ] = None,
    as_json: Json = False,
    admin: Admin = ADMIN,
    admin_token: Token = None,
) -> None:
    """Say where a request would go and why; nothing is sent.

    Examples:

      sluice policy explain --body request.json --header x-session-id:42

      sluice policy explain -c sluice.yaml --body request.json
    """
    from gateway.cli.policy_explain import Question, by_file, by_gateway

    question = Question(body, tuple(header or ()), path, as_json)
    if config is not None:
        raise typer.Exit(by_file(config, question))
    raise typer.Exit(by_gateway(admin, admin_token, question))


def replay(
    config: ConfigFile,
    log: Annotated[
        list[Path], typer.Option("--log", metavar="FILE", help="An access log; repeat for more.")
    ],
    rollout: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Also try this policy's rollout on the log."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="With --rollout: take this model's requests for the baseline's."
        ),
    ] = None,
    canary: Annotated[
        str | None, typer.Option(metavar="MODEL", help="And this one's for the canary's.")
    ] = None,
) -> None:
    """Say where the requests of an access log would have gone under a file's policies.

    The log holds no headers, users and prompts: what hangs on them is shown as such. With
    --rollout its gates look at the requests that the policy has divided, or at those of two models.

    Examples:

      sluice policy replay -c sluice.yaml --log access.log

      sluice policy replay -c sluice.yaml --log access.log --rollout new --baseline v1 --canary v2
    """
    if (baseline is None) is not (canary is None):
        raise typer.BadParameter("--baseline and --canary go together")
    if baseline is not None and rollout is None:
        raise typer.BadParameter("--baseline and --canary go with --rollout")

    from gateway.cli.policy_replay import run

    pair = None if baseline is None or canary is None else (baseline, canary)
    raise typer.Exit(run(config, log, rollout, pair))
