"""What may the operators' routes see and do, and how do they reach the loop in which it happens?

Only interfaces and values, as in `gateway.control.view`. The routes run in a thread of their own;
everything of `Operations` is called in the main loop, through `MainLoop`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One replica, with everything that decides whether it is picked."""

    id: str
    cluster: str
    url: str
    state: str
    """`healthy`, or the first reason for which it is not tried."""
    health: str
    breaker: str
    ejected: bool
    draining: bool
    ramp: float
    """Share of its fair share that slow start gives it."""
    weight: float
    inflight: int
    max_inflight: int | None
    load: float
    """Requests in flight, and what its own metrics say beyond them."""
    first_token_ms: float | None
    """Peak-EWMA of streams; None if none was observed."""
    whole_ms: float | None
    models: tuple[str, ...]
    expires_in_s: float | None
    """For registered ones: when they go unless they renew."""


@dataclass(frozen=True, slots=True)
class Registration:
    """An endpoint that wants to join a cluster, or to stay."""

    cluster: str
    url: str
    weight: float
    max_inflight: int | None
    ttl_s: float


@dataclass(frozen=True, slots=True)
class ConfigState:
    """The configuration in effect."""

    generation: int
    file: str | None
    loaded_at: float
    """Seconds since the epoch."""
    problems: tuple[str, ...]
    """Why the last attempt to replace it failed; empty if it did not."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of a reload."""

    result: str
    generation: int
    changes: tuple[str, ...]
    problems: tuple[str, ...]
    """Not empty: nothing was taken over."""


class Operations(Protocol):
    """The running gateway, to be steered. Call it in the main loop only."""

    def endpoints(self) -> Sequence[EndpointState]:
        """Return every endpoint of every cluster."""

    def set_draining(self, cluster: str, endpoint: str, draining: bool) -> None:
        """Send an endpoint no further requests, or do so again."""

    def register(self, registration: Registration) -> str:
        """Let an endpoint join or stay; return its id. Raises `GatewayError` 400, 404 or 409."""

    def remove(self, cluster: str, endpoint: str) -> None:
        """End a registration. Raises `GatewayError` 404 or 409."""

    def drain(self) -> None:
        """Begin the end of the process, as SIGTERM does."""

    async def reload(self) -> Reloaded:
        """Take over the configuration file as it is now. Never raises."""

    def config(self) -> ConfigState:
        """Return which configuration is in effect."""

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the exposition of all metrics and its content type."""


class MainLoop(Protocol):
    """The way into the main event loop from another thread."""

    async def read(self, work: Callable[[], T]) -> T:
        """Return what `work` returns there. Raises what it raises, or `GatewayError` 503."""

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `work` there, with more patience."""


class Alive(Protocol):
    """Whether the main loop runs; may be asked in any thread."""

    def lag_s(self) -> float:
        """Return how late the main loop is now, in seconds."""
