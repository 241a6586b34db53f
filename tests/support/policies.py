"""The real gateway with policy files, between scripted engines and raw clients."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.app import Gateway
from gateway.config.watch import FileSource
from tests.support.control import ManualClock
from tests.support.engine import Engine, Script
from tests.support.failover import SETTLED_S, Failover
from tests.support.rig import _protocol, eventually


@dataclass
class Steered(Failover):
    """A running gateway whose clusters are `a`, `b`, … with the models of the same names."""

    folder: Path = Path()

    def served(self) -> list[int]:
        """Return how many requests each cluster's engine has had."""
        return self.asked

    def write(self, policies: Mapping[str, Mapping[str, Any]]) -> None:
        """Put these policies in place of those before; a reload takes them over."""
        for file in self.folder.glob("policies/*.yaml"):
            file.unlink()
        write_policies(self.folder, policies)


def write_policies(folder: Path, policies: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a file for each policy, by its name."""
    (folder / "policies").mkdir(exist_ok=True)
    for name, policy in policies.items():
        (folder / "policies" / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **policy}))


@asynccontextmanager
async def steered(
    folder: Path,
    policies: Mapping[str, Mapping[str, Any]],
    *engines: Sequence[Script],
    cluster: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
) -> AsyncIterator[Steered]:
    """Run a gateway with one engine for each list of scripts, each in a cluster of its own.

    `cluster` is laid over the configuration of each, `server` over that of the gateway. Afterwards
    nothing may be held.
    """
    clock = ManualClock()
    names = "abcdefgh"[: len(engines)]
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(Engine(*scripts)) for scripts in engines]
        config: dict[str, Any] = {
            "server": {
                "host": "127.0.0.1",
                "port": 0,
                "drain_s": 1,
                "admin": None,
                "watch": False,
                **(server or {}),
            },
            "clusters": {
                name: {
                    "endpoints": [{"url": engine.url}],
                    "health": {"interval_s": 3600, "metrics_path": None},
                    "slow_start_s": 0,
                    **(cluster or {}),
                }
                for name, engine in zip(names, started, strict=True)
            },
            "models": {name: {"cluster": name} for name in names},
            "logging": {"access": None},
            "policies": [str(folder / "policies" / "*.yaml")],
        }
        (folder / "sluice.yaml").write_text(yaml.safe_dump(config))
        write_policies(folder, policies)
        source = FileSource(folder / "sluice.yaml")
        gateway = Gateway(source.load(), clock, source)
        for owner in gateway.clusters.values():
            for endpoint in owner.endpoints:
                endpoint.probed(True, clock.now - SETTLED_S)
        running = Steered(gateway, clock, started, [], folder=folder)
        async with _protocol(gateway) as running.port:
            yield running
            await eventually(lambda: running.inflight == 0)
