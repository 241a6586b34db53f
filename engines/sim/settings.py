"""How is one simulated engine set up?"""

from __future__ import annotations

from dataclasses import dataclass, field

from engines.sim.api.model import Served
from engines.sim.faults import NONE, Faults
from engines.sim.scheduler import Limits, Timing


@dataclass(frozen=True, slots=True)
class FaultSettings:
    """Which requests get faults that their clients did not ask for, and whether clients may ask."""

    always: Faults = NONE
    rate_percent: float = 0.0
    types: tuple[Faults, ...] = ()
    allow_headers: bool = False
    """Whether the header `x-sim-fault` is obeyed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the command line decides."""

    served: Served
    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose."""
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
    prefix_caching: bool = True
    api_key: str | None = field(default=None, repr=False)
    faults: FaultSettings = field(default_factory=FaultSettings)
    startup_s: float = 0.0
    """How long the port stays closed, as while vLLM loads a model."""
    shutdown_timeout_s: float = 0.0
    """How long requests in flight may still take after SIGTERM."""
    keep_alive_s: float = 5.0
    """When an idle connection is closed; 5 s is vLLM's default."""
    request_id_headers: bool = False
    lenient: bool = False
    """Whether to overlook what a mock server would (`engines.sim.lenient`)."""
