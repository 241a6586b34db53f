"""Which devices, and how much of their memory, does each of several equal engines get?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# vLLM's own default is 0.92 for one engine (gpu_memory_utilization in `vllm serve --help=all`).
_SHAREABLE = 0.9


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of one engine, and the share of each device's memory that it may claim.

    No devices means that there are none to choose among; no share leaves vLLM's default.
    """

    devices: tuple[str, ...] = ()
    memory_share: float | None = None


def place(devices: Sequence[str], replicas: int) -> list[Placement]:
    """One placement per replica. Each gets its own device as long as they last; beyond that they
    share, since every vLLM would otherwise claim 92 % of the first device."""
    if not devices or replicas == 1:
        return [Placement()] * replicas
    sharers = [0] * len(devices)
    for replica in range(replicas):
        sharers[replica % len(devices)] += 1
    return [
        Placement((devices[slot],), None if sharers[slot] == 1 else _share(sharers[slot]))
        for slot in (replica % len(devices) for replica in range(replicas))
    ]


def _share(sharers: int) -> float:
    return int(_SHAREABLE / sharers * 100) / 100
