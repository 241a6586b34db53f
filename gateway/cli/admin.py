"""How does a command talk to a gateway's admin listener?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT_S = 70.0
"""The listener itself gives up on the gateway's main loop after 60 s at the most."""


class AdminError(Exception):
    """The gateway cannot be asked, or refuses; the message is for the person."""


@dataclass(frozen=True, slots=True)
class AdminClient:
    """Asks one listener."""

    url: str
    token: str | None = field(default=None, repr=False)
    transport: httpx.BaseTransport | None = None

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | bytes | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the JSON of the answer. Raises `AdminError`."""
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        content: dict[str, Any] = {}
        if isinstance(body, bytes):
            headers["content-type"] = "application/json"
            content["content"] = body
        elif body is not None:
            content["json"] = body
        try:
            with httpx.Client(
                base_url=self.url, timeout=TIMEOUT_S, transport=self.transport, trust_env=False
            ) as client:
                answer = client.request(method, path, headers=headers, params=query, **content)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            reason = str(error) or type(error).__name__
            hint = "; --admin or SLUICE_ADMIN says where the admin listener is"
            raise AdminError(f"no answer from {self.url}: {reason}{hint}") from error
        return _read(answer)


def _read(answer: httpx.Response) -> Any:
    try:
        value = answer.json()
    except ValueError:
        value = None
    if answer.is_success and value is not None:
        return value
    error = value.get("error") if isinstance(value, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    if said is None:
        raise AdminError(f"this is no admin listener of a gateway (HTTP {answer.status_code})")
    hint = (
        "; it comes from --admin-token or SLUICE_ADMIN_TOKEN" if answer.status_code == 401 else ""
    )
    raise AdminError(f"{said} (HTTP {answer.status_code}){hint}")
