"""How many processes are worth running here?

As many as cores may be used at once: what the scheduler lets this process run on, and no more than
the control group's quota of CPU time, which is how containers are limited. A core that the quota
gives only in part counts as none, unless it is the only one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def count_of(setting: int | str) -> int:
    """Return the number of processes that `server.workers` asks for."""
    if isinstance(setting, int):
        return setting
    return usable_cores(len(os.sched_getaffinity(0)), quota())


def usable_cores(schedulable: int, cores: float | None) -> int:
    """Return how many cores can be busy at once; `cores` is the quota, None for no limit. Pure."""
    return max(1, schedulable if cores is None else min(schedulable, int(cores)))


def quota(own: Path = OWN_CGROUP, root: Path = CGROUPS) -> float | None:
    """Return the CPU time per time that the control groups allow, in cores; None for no limit.

    Version 2 (`cpu.max` of the group and all above it) and version 1 (`cpu.cfs_quota_us`), see
    https://docs.kernel.org/admin-guide/cgroup-v2.html and sched-bwc.html.
    """
    found = [limit for limit in _limits(own, root) if limit is not None]
    return min(found, default=None)


def _limits(own: Path, root: Path) -> Iterator[float | None]:
    for place in _places(own, root):
        with suppress(OSError, ValueError):
            yield parse_max((place / "cpu.max").read_text())
        with suppress(OSError, ValueError):
            given = (place / "cpu.cfs_quota_us").read_text()
            yield parse_max(f"{given} {(place / 'cpu.cfs_period_us').read_text()}")


def _places(own: Path, root: Path) -> Iterator[Path]:
    """Yield the folders in which a limit of this process may stand."""
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = root / "cpu" if controllers else root
            group = base / path.lstrip("/")
            yield from (group, *(one for one in group.parents if one.is_relative_to(base)))


def parse_max(text: str) -> float | None:
    """Return what `quota period` says in cores; None for `max` or -1. Raises `ValueError`. Pure."""
    given, period = text.split()
    if given == "max" or int(given) < 0:
        return None
    return int(given) / int(period)
