"""Which configuration, clusters and table are in effect, and how do the next take their place?

A reload is prepared whole, then taken over in one turn of the event loop: no request sees half of
it. Requests under way keep the plan that they began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from random import Random

from gateway.clock import Clock
from gateway.config.diff import diff, diff_policies, effective
from gateway.config.policies import PolicyFile, by_name
from gateway.config.policy_conflicts import Known
from gateway.config.problems import ConfigError
from gateway.config.reloads import ReloadResult, Reloads
from gateway.config.spec import Config
from gateway.config.watch import FileSource, log_reload
from gateway.plan.classify import Classifier, load_classifier
from gateway.plan.compile import compile_table
from gateway.plan.match import Rules
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
        self.policies: Sequence[PolicyFile] = () if source is None else source.policies
        """Those in effect, in the order in which they are asked."""
        self.rules = _rules(self.policies, config)
        self.rules_changed: Callable[[], None] = _nothing
        """Told of new rules before the first request meets them."""
        self.classifiers = _classifiers(self.policies)
        self.reloads = Reloads(clock.wall())
        self.fleet = Fleet(config.clusters, clock.monotonic, rng)
        self.table: Table = self._compiled()
        self.watches = Watches(rng, clock.monotonic, self.recompile)
        self._clock = clock
        self._lock = asyncio.Lock()

    def recompile(self) -> None:
        """Swap in the table of what the endpoints list now."""
        before = self.table.plans.keys()
        self.table = self._compiled()
        if self.table.plans.keys() != before:
            _LOG.info("models: %s", ", ".join(sorted(self.table.plans)) or "none yet")

    def _compiled(self) -> Table:
        return compile_table(self.config, self.fleet.clusters, self.rules, self.classifiers)

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
        policies = self.source.policies
        changes = [
            *diff(self.config, new),
            *diff_policies(by_name(self.policies), by_name(policies)),
        ]
        taken = effective(self.config, new)
        classifiers = await asyncio.to_thread(_classifiers, policies)
        trusts = await asyncio.to_thread(self.fleet.prepare, taken.clusters)
        # From here on nothing can fail, and nothing else runs until all of it is done.
        self.config = taken
        self.policies = policies
        self.rules, self.classifiers = _rules(policies, taken), classifiers
        self.rules_changed()
        self.fleet.apply(taken.clusters, trusts)
        self.follow()
        logging.getLogger().setLevel(taken.logging.level.upper())
        return self.reloads.succeeded(changes, self._clock.wall())


def _nothing() -> None:
    pass


def _rules(policies: Sequence[PolicyFile], config: Config) -> Rules:
    return Rules([each.policy for each in policies], Known.of(config))


def _classifiers(policies: Sequence[PolicyFile]) -> Mapping[str, Classifier]:
    loaded = {}
    for each in policies:
        spec, file = each.policy.classifier, each.classifier_file
        if spec is not None and file is not None and each.policy.enabled:
            loaded[each.policy.name] = classifier = load_classifier(spec, file)
            if classifier.failure:
                why = classifier.failure
                _LOG.warning("policy %s goes to its default arm: %s", each.policy.name, why)
    return loaded
