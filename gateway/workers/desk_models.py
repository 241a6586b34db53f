"""Which JSON do the operators' routes give where there are several workers?

What one process gives, and beside it what each worker says.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from gateway.control.admin_models import ConfigBody, EndpointBody, ReloadBody
from gateway.workers.roster import WorkerState


class Part(BaseModel):
    """One endpoint as one worker sees it."""

    model_config = ConfigDict(from_attributes=True)

    worker: int
    state: str
    breaker: str
    inflight: int


class SharedEndpoint(EndpointBody):
    """One endpoint, over all workers: the worst state, the sum of what is in flight."""

    workers: list[Part] = Field(description="What each worker says.")


class SharedEndpoints(BaseModel):
    """All endpoints."""

    endpoints: list[SharedEndpoint]


class WorkerReload(BaseModel):
    """What a reload did in one worker."""

    worker: int
    result: str
    generation: int


class SharedReload(ReloadBody):
    """What a reload did. Limits among the changes are a worker's part of them."""

    workers: list[WorkerReload]


class WorkerConfig(BaseModel):
    """What one worker has in effect."""

    worker: int
    generation: int


class SharedConfig(ConfigBody):
    """The newest configuration that a worker has in effect."""

    workers: list[WorkerConfig]


class WorkerBody(BaseModel):
    """One worker."""

    model_config = ConfigDict(from_attributes=True)

    worker: int
    pid: int | None
    state: str
    restarts: int
    uptime_s: float

    @classmethod
    def of(cls, state: WorkerState) -> WorkerBody:
        """Return the body for `state`."""
        return cls.model_validate(state)
