"""Which options do several commands share?"""

from __future__ import annotations

from typing import Annotated

import typer

ADMIN = "http://127.0.0.1:9090"

Admin = Annotated[
    str,
    typer.Option(
        "--admin", envvar="SLUICE_ADMIN", metavar="URL", help="A gateway's admin listener."
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--admin-token",
        envvar="SLUICE_ADMIN_TOKEN",
        metavar="TOKEN",
        show_default=False,
        help="Its token, if it has one; better set in the environment than typed.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print what the gateway answers, as JSON.")]
