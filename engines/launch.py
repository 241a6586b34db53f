"""What must be known to start a process that serves HTTP?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that, once it is ready, answers 200 at `<url>/health`.

    `env` is the whole environment, not an addition; it stays out of the repr, for it holds keys.
    Without a `url` the process chooses its own port and prints one JSON line `{"host", "port"}`
    when it listens.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    url: str | None = None


def http_url(host: str, port: int) -> str:
    """The address under which a process on this machine reaches a server bound to `host`."""
    loopback = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104  only compared
    reachable = loopback.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
