"""Who may use the operators' routes?

Pure but for the ASGI call. With a token, whoever knows it. Without one the listener is on loopback,
and two things of a browser on the same machine must still be kept out: pages of other sites, which
may send requests to 127.0.0.1, and names that were rebound to 127.0.0.1 while the page was open.
The first show themselves in Origin, the second in Host.
"""

from __future__ import annotations

import ipaddress
from hmac import compare_digest
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.control.chat_socket import may_connect
from gateway.errors import GatewayError

OPEN = frozenset({"/livez"})
"""A liveness probe has no secret."""


class Guard:
    """Lets requests of operators through; raises `GatewayError` 401 or 403 for others."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the head of an HTTP request; a WebSocket finds no route here."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            self._check(Headers(scope=scope))
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        if not may_connect(headers, ()):
            raise GatewayError(403, "origin_not_allowed", "Pages of other sites may not ask here.")
        if self._token is None:
            if not is_local_name(headers.get("host", "")):
                message = "Without a token the host must be an address or localhost."
                raise GatewayError(403, "host_not_allowed", message)
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        # In constant time: how many characters were right must not show.
        if scheme.lower() != "bearer" or not compare_digest(given.strip().encode(), self._token):
            message = "This route needs `Authorization: Bearer` with the admin token."
            raise GatewayError(401, "invalid_admin_token", message)


def is_local_name(authority: str) -> bool:
    """Whether a Host field names an address or localhost: names that nobody can rebind."""
    try:
        name = urlsplit(f"//{authority}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return authority.partition(":")[0].lower() == "localhost"
    return True
