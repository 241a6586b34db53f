"""Which JSON do the operators' routes take and give?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from gateway.control.operations import ConfigState, EndpointState, Registration


class EndpointBody(BaseModel):
    """One endpoint as it stands now."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="Host, port and base path: its name in logs and metrics.")
    cluster: str = Field(description="The cluster that it belongs to.")
    url: str = Field(description="Where it is.")
    state: str = Field(description="`healthy`, or the first reason for which it is not tried.")
    health: str = Field(description="What the probes say: unknown, healthy or unhealthy.")
    breaker: str = Field(description="closed, open or half_open.")
    ejected: bool = Field(description="Whether it is out of the pool as an outlier.")
    draining: bool = Field(description="Whether an operator took it out.")
    ramp: float = Field(description="Slow start: share of its fair share, 0.1 to 1.")
    weight: float = Field(description="Share of requests relative to its peers.")
    inflight: int = Field(description="Requests that it works on for this gateway.")
    max_inflight: int | None = Field(description="Most of them at once; null for no limit.")
    load: float = Field(description="In flight, and what its own metrics say beyond that.")
    first_token_ms: float | None = Field(description="Peak-EWMA of time to first token.")
    whole_ms: float | None = Field(description="Peak-EWMA of whole answers' durations.")
    models: list[str] = Field(description="The models that it last listed.")
    expires_in_s: float | None = Field(description="When it goes unless it renews; else null.")

    @classmethod
    def of(cls, state: EndpointState) -> Self:
        """Return the body for `state`."""
        return cls.model_validate(state)


class EndpointList(BaseModel):
    """All endpoints."""

    endpoints: list[EndpointBody] = Field(description="In the order of the configuration.")


class RegistrationBody(BaseModel):
    """An endpoint that joins a cluster with `registration: true`, or renews."""

    model_config = ConfigDict(extra="forbid")

    cluster: str = Field(description="The cluster to join.")
    url: str = Field(description="Where it is: scheme, host, port, perhaps a base path.")
    weight: float = Field(default=1.0, description="Share of requests relative to its peers.")
    max_inflight: int | None = Field(default=None, description="Most requests at once.")
    ttl_s: float = Field(
        default=30.0, description="Seconds after which it goes unless it registers again."
    )

    def value(self) -> Registration:
        """Return it as the gateway's own value."""
        return Registration(self.cluster, self.url, self.weight, self.max_inflight, self.ttl_s)


class ReloadBody(BaseModel):
    """What a reload did."""

    model_config = ConfigDict(from_attributes=True)

    result: str = Field(description="applied, or unchanged.")
    generation: int = Field(description="The number of the configuration in effect.")
    changes: list[str] = Field(description="What the file says otherwise than before.")


class ConfigBody(BaseModel):
    """Which configuration is in effect."""

    generation: int = Field(description="Its number; 1 is what the process started with.")
    file: str | None = Field(description="Where it came from; null for the command line.")
    loaded_at: datetime = Field(description="When it was taken over.")
    last_error: list[str] = Field(description="Why the last reload failed; empty if it did not.")

    @classmethod
    def of(cls, state: ConfigState) -> Self:
        """Return the body for `state`."""
        return cls(
            generation=state.generation,
            file=state.file,
            loaded_at=datetime.fromtimestamp(state.loaded_at, UTC),
            last_error=list(state.problems),
        )


class StatusBody(BaseModel):
    """That it was done."""

    status: str = Field(description="What holds from now on.")


class Alive(BaseModel):
    """Whether the main loop runs."""

    status: str = Field(description="alive, or stuck.")
    event_loop_lag_s: float = Field(description="How late the main loop is now, in seconds.")
