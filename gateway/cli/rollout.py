"""Which commands does `sluice rollout` have?

Light: only typer is imported before a command runs.
"""

# ruff: noqa: PLC0415 - imports inside the commands are this module's purpose, see above.
from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import ADMIN, Admin, Token

Name = Annotated[str, typer.Argument(metavar="NAME", help="The policy with the rollout.")]


def build() -> typer.Typer:
    """Return the commands."""
    app = typer.Typer(
        name="rollout",
        help="Steer a rollout: let a new version in by steps, or take it back.",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    for command in (start, pause, resume, promote, abort):
        app.command()(command)
    return app


def start(name: Name, admin: Admin = ADMIN, admin_token: Token = None) -> None:
    """Begin a rollout that waits for it, or begin anew after its end.

    Example:

      sluice rollout start new-engine
    """
    _command("start", name, admin, admin_token)


def pause(name: Name, admin: Admin = ADMIN, admin_token: Token = None) -> None:
    """Stay at the present weight; gates go on guarding.

    Example:

      sluice rollout pause new-engine
    """
    _command("pause", name, admin, admin_token)


def resume(name: Name, admin: Admin = ADMIN, admin_token: Token = None) -> None:
    """Go on after a pause; after one by a failed gate, repeat the step with new figures.

    Example:

      sluice rollout resume new-engine
    """
    _command("resume", name, admin, admin_token)


def promote(name: Name, admin: Admin = ADMIN, admin_token: Token = None) -> None:
    """Give the canary everything at once, whatever the gates say.

    Example:

      sluice rollout promote new-engine
    """
    _command("promote", name, admin, admin_token)


def abort(name: Name, admin: Admin = ADMIN, admin_token: Token = None) -> None:
    """Give the baseline everything at once.

    Example:

      sluice rollout abort new-engine
    """
    _command("abort", name, admin, admin_token)


def _command(action: str, name: str, admin: str, token: str | None) -> None:
    from gateway.cli.policy_status import steer

    raise typer.Exit(steer(admin, token, name, action))
