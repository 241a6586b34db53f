"""What was wanted of one row of the fault table, what was measured, and at which scale?"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a row beside the wanted one."""

    name: str
    wanted: str
    measured: str
    ok: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.measured}, wanted {self.wanted}"


class NotHereError(Exception):
    """This machine lacks what a row needs."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of the table's time and crowd a run spends."""

    slack_s: float
    """What a busy machine may add to a time that is promised exactly."""
    noise_s: float
    """What its other tenants may add to a latency."""
    connect_s: float
    first_token_s: float
    idle_s: float
    slow_start_s: float
    head_timeout_s: float
    """Of the gateway's own slow-loris guard; the body's is the same."""
    keep_alive_connections: int
    keep_alive_rounds: int
    slow_readers: int
    slow_stream_mib: int
    """Size of a slow reader's stream; the kernel's buffers take about 8 MiB of it."""
    loris: int
    """Connections of each kind of slow client."""
    soak_s: float
    stream_s: float
    """How long the streams are that outlast a SIGTERM."""
    flap_s: float


CI = Scale(
    slack_s=4.0,
    noise_s=2.0,
    connect_s=0.5,
    first_token_s=4,
    idle_s=4,
    slow_start_s=6,
    head_timeout_s=3,
    keep_alive_connections=60,
    keep_alive_rounds=2,
    slow_readers=100,
    slow_stream_mib=16,
    loris=100,
    soak_s=8,
    stream_s=14,
    flap_s=15,
)
"""Short timers; every bound that follows from one is stated with it.

The slack is for machines that two others share and that hold any process up for a second or two.
What it hides, the unit tests see on their own clock, and `make faults FULL=1`, which has little."""

FULL = Scale(
    slack_s=0.25,
    noise_s=0.0,
    connect_s=2,
    first_token_s=60,
    idle_s=30,
    slow_start_s=30,
    head_timeout_s=15,
    keep_alive_connections=100,
    keep_alive_rounds=10,
    slow_readers=1000,
    slow_stream_mib=1,
    loris=100,
    soak_s=1200,
    stream_s=20,
    flap_s=60,
)
"""The table's own numbers. The slack is the grain of the gateway's timers, swept every 0.25 s."""

Measure = Callable[[Path, Scale], Awaitable[list[Figure]]]
"""Measures one row; the folder is for files of its own."""


def most(name: str, wanted: float, measured: float, unit: str = "", slack: float = 0.0) -> Figure:
    """A figure that must not be more than the wanted one, plus the slack."""
    ok = measured <= wanted + slack
    return Figure(name, f"≤ {wanted:g}{unit}", f"{measured:.3g}{unit}", ok)


def none(name: str, found: Sequence[object], of: int) -> Figure:
    """A figure that must be 0; the first few that were found are shown."""
    shown = "; ".join(str(one) for one in found[:3])
    return Figure(name, "0", f"{len(found)} of {of}" + (f" ({shown})" if shown else ""), not found)


def holds(name: str, wanted: str, measured: object, *, ok: bool) -> Figure:
    """A figure that is a fact rather than a number."""
    return Figure(name, wanted, str(measured), ok)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that so many of the values do not exceed; NaN for none."""
    if not values:
        return math.nan
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]
