"""Which devices, and how much of their memory, does each of several equal engines get?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# vLLM's own default is 0.92 for one engine (gpu_memory_utilization in `vllm serve --help=all`).
_SHAREABLE = 0.9


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of one engine, and the share of each device's memory that it may claim.

    No devices leaves the choice to vLLM, no share its default.
    """

    devices: tuple[str, ...] = ()
    memory_share: float | None = None


def place(devices: Sequence[str], replicas: int) -> list[Placement]:
    """One placement per replica. Each gets its own device as long as they last; beyond that they
    share, since every vLLM would otherwise claim 92 % of the first device. Without devices that are
    known they share what vLLM finds: the memory of the machine, or a GPU of another make."""
    if replicas == 1:
        return [Placement()]
    if not devices:
        return [Placement(memory_share=_share(replicas))] * replicas
    slots = [replica % len(devices) for replica in range(replicas)]
    sharers = [slots.count(slot) for slot in slots]
    return [
        Placement((devices[slot],), None if count == 1 else _share(count))
        for slot, count in zip(slots, sharers, strict=True)
    ]


def _share(sharers: int) -> float:
    return int(_SHAREABLE / sharers * 100) / 100
