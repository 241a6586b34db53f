"""What is known of one replica: where it is, whether it is healthy, how busy we keep it.

Pure: callers pass outcomes and times; nothing here probes or counts metrics.

    unknown --first probe ok--> healthy --`fall` probes failed--> unhealthy --`rise` ok--> healthy
    unknown --probe failed--> unknown
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit


class Health(StrEnum):
    """What the active probes say."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """How many probes in a row change the verdict. HAProxy's defaults: rise 2, fall 3."""

    rise: int = 2
    fall: int = 3


class Endpoint:
    """One replica of a cluster."""

    __slots__ = ("_failed", "_ok", "_spec", "health", "id", "inflight", "models", "url", "weight")

    def __init__(self, url: str, weight: float = 1.0, spec: ProbeSpec | None = None) -> None:
        self.url = url
        parts = urlsplit(url)
        port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
        self.id = f"{parts.netloc}{port}{parts.path}".rstrip("/")
        """Its name in metrics and logs: host:port and the base path."""
        self.weight = weight
        self._spec = spec or ProbeSpec()
        self._ok = 0
        self._failed = 0
        self.health = Health.UNKNOWN
        self.inflight = 0
        """Requests of ours that it is working on."""
        self.models: tuple[str, ...] = ()
        """The model ids that it last said it serves."""

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.health}, {self.inflight} in flight>"

    def available(self) -> bool:
        """Say whether a request may be sent; asking claims nothing."""
        return self.health is Health.HEALTHY

    def probed(self, ok: bool) -> Health | None:
        """Apply one probe; return the new verdict if it changed."""
        if ok:
            self._ok += 1
            self._failed = 0
            # At start one good answer is enough: nobody is served by waiting for a second.
            needed = 1 if self.health is Health.UNKNOWN else self._spec.rise
            return self._enter(Health.HEALTHY) if self._ok >= needed else None
        self._ok = 0
        self._failed += 1
        if self.health is Health.HEALTHY and self._failed >= self._spec.fall:
            return self._enter(Health.UNHEALTHY)
        return None

    def _enter(self, health: Health) -> Health | None:
        if health is self.health:
            return None
        self.health = health
        return health
