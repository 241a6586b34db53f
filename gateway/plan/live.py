"""Which configuration, clusters and table are in effect, and how do the next take their place?

A reload is prepared whole, then taken over in one turn of the event loop: no request sees half of
it. Requests under way keep the plan that they began with.
"""

from __future__ import annotations

import asyncio
import logging
from random import Random

from gateway.clock import Clock
from gateway.config.diff import diff, effective
from gateway.config.problems import ConfigError
from gateway.config.reloads import ReloadResult, Reloads
from gateway.config.spec import Config
from gateway.config.watch import FileSource, log_reload
from gateway.plan.compile import compile_table
from gateway.plan.table import Table
from gateway.upstream.fleet import Fleet, Term
from gateway.upstream.watches import Watches

_LOG = logging.getLogger("sluice")


class Live:
    """What a gateway serves by at the moment."""

    def __init__(
        self, config: Config, source: FileSource | None, clock: Clock, rng: Random
    ) -> None:
        """`source` is where `config` came from; None if there is no file to read again.

        Raises `OSError` for a CA bundle that cannot be used.
        """
        self.config = config
        """What is in effect; its `server` is what the process was started with."""
        self.source = source
        self.reloads = Reloads(clock.wall())
        self.fleet = Fleet(config.clusters, clock.monotonic, rng)
        self.table: Table = compile_table(config, self.fleet.clusters)
        self.watches = Watches(rng, clock.monotonic, self.recompile)
        self._clock = clock
        self._lock = asyncio.Lock()

    def recompile(self) -> None:
        """Swap in the table of what the endpoints list now."""
        before = self.table.plans.keys()
        self.table = compile_table(self.config, self.fleet.clusters)
        if self.table.plans.keys() != before:
            _LOG.info("models: %s", ", ".join(sorted(self.table.plans)) or "none yet")

    def follow(self) -> None:
        """Bring what depends on the clusters in line with them."""
        self.watches.follow(self.fleet.clusters.values(), self.config.discovery)
        self.recompile()

    def refresh(self) -> None:
        """Let endpoints come and go as their sources say; cheap when nothing has changed."""
        changed = self.fleet.refresh(self._clock.monotonic())
        for cluster in changed:
            _LOG.info("cluster %s has %d endpoints", cluster.name, len(cluster.endpoints))
        if changed:
            self.follow()

    def register(self, cluster: str, url: str, term: Term) -> str:
        """Let an endpoint join a cluster, or stay; return its id. Raises as `Fleet.register`."""
        endpoint = self.fleet.register(cluster, url, term)
        self.refresh()
        return endpoint

    def renew(self, cluster: str, endpoint: str) -> None:
        """Let a registered endpoint stay for its term again. Raises as `Fleet.renew`."""
        self.fleet.renew(cluster, endpoint)

    def remove(self, cluster: str, endpoint: str) -> None:
        """Let a registered endpoint go. Raises as `Fleet.remove`."""
        self.fleet.remove(cluster, endpoint)
        self.refresh()

    async def reload(self) -> ReloadResult:
        """Read the configuration file again, and take over all that it says or nothing of it.

        Never raises. What needs a restart is among the changes, and stays as it is.
        """
        async with self._lock:
            try:
                result = await self._take_over()
            except ConfigError as error:
                result = self.reloads.failed([str(problem) for problem in error.problems])
            except OSError as error:
                result = self.reloads.failed([str(error)])
            except Exception:  # A task's edge: whoever asked must hear, and the gateway goes on.
                _LOG.exception("the reload failed")
                result = self.reloads.failed(["internal error; the log has more"])
        log_reload(result)
        return result

    async def _take_over(self) -> ReloadResult:
        if self.source is None:
            raise OSError("there is no configuration file to read again")
        new = await asyncio.to_thread(self.source.load)
        changes = diff(self.config, new)
        taken = effective(self.config, new)
        trusts = await asyncio.to_thread(self.fleet.prepare, taken.clusters)
        # From here on nothing can fail, and nothing else runs until all of it is done.
        self.config = taken
        self.fleet.apply(taken.clusters, trusts)
        self.follow()
        logging.getLogger().setLevel(taken.logging.level.upper())
        return self.reloads.succeeded(changes, self._clock.wall())
