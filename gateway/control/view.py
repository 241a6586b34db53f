"""What may the control routes see of the gateway, and how do they send a request through it?

Only these interfaces: the routes never hold a pool, a snapshot or a socket, so that the data path
can change its shape without them, and they can be tested without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

Headers = list[tuple[bytes, bytes]]
"""Header fields in order; names in lower case."""


@dataclass(frozen=True, slots=True)
class ModelView:
    """One name that clients may put into `model`."""

    id: str
    created: int
    """Seconds since the epoch, as OpenAI's schema has it."""
    owned_by: str
    metadata: Mapping[str, object]
    """The engine's own entry in its `/v1/models`: `max_model_len`, `root` and whatever else."""
    kind: str | None = None
    """`llm` or `vision`; None while nobody has said."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """One replica, as it stands now."""

    id: str
    cluster: str
    url: str
    healthy: bool
    inflight: int
    models: tuple[str, ...]
    """Ids of the `ModelView`s that it serves."""


class GatewayView(Protocol):
    """The running gateway, to be read and not to be changed."""

    @property
    def draining(self) -> bool:
        """Whether new requests are refused because the process is going away."""

    @property
    def version(self) -> str:
        """The gateway's own version."""

    @property
    def generation(self) -> int:
        """The number of the configuration in effect, from 1; each reload that changes it adds 1."""

    async def closing(self) -> None:
        """Return when connections that are idle should end; perhaps never."""

    def models(self) -> Sequence[ModelView]:
        """Return every configured or discovered model, served at the moment or not."""

    def endpoints(self) -> Sequence[EndpointView]:
        """Return every endpoint of every cluster."""

    def uptime_s(self) -> float:
        """Seconds since the gateway began to serve."""

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the exposition of all metrics and its content type."""


class CutError(Exception):
    """The data path gave an answer up in its middle, and had no way left to say so in-band."""


@dataclass(slots=True)
class Answer:
    """What the data path answers, errors included: the head, and the body as it arrives."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]
    """Pieces of any size. Raises `CutError` when the answer ends before its end."""


class Ask(Protocol):
    """Sends one POST through the data path in process, treated exactly as a client's."""

    def __call__(
        self, path: str, headers: Headers, body: bytes, client: str
    ) -> AbstractAsyncContextManager[Answer]:
        """Enter to send and wait for the answer's head; leave to be done with it.

        Leaving before the body has ended cancels the upstream request, as a client's going does.
        `headers` carry no Host and no framing. `client` is the address of who asks: the access
        log has it, and without credentials it is the tenant. What goes wrong upstream is an
        `Answer` as well.
        """
