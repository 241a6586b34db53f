"""How does each process take part: count, hand on, and divide as the leader says?

    every second: deltas of the arms ──> outbox ──> store
    every half:   documents ──> weights and epochs of the rules
    one of all:   `gateway.releases.leader`

While the store is down each process goes on with the weights that it has, and what it counts waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from random import Random
from sys import maxsize
from typing import Any, NamedTuple

from gateway.clock import Clock
from gateway.config.policy import Policy
from gateway.plan.match import Rule, Rules
from gateway.plan.rollout_state import Command, weights
from gateway.releases import experiment, leader
from gateway.releases.collect import Collector, owner_of, prefix_of
from gateway.releases.leader import Leader, experiment_of, key_of, state_of
from gateway.releases.mirrored import MIRRORS, Mirrored
from gateway.store.base import Document, Json, Store, StoreError
from gateway.store.lease import Candidate, Election
from gateway.store.resilient import Resilient, process_name
from gateway.telemetry.arms import ArmTallies

_LOG = logging.getLogger("sluice.releases")

COLLECT_S = 1.0
"""How often what was counted is handed on."""

CATCH_UP_S = 1.0
"""How long a process that starts waits for what the store knows."""

LEASE = "releases"


class Counted(NamedTuple):
    """What this process counts of its policies."""

    tallies: ArmTallies
    mirrored: Mirrored


class Member:
    """One process among those that share a store."""

    def __init__(
        self,
        store: Store,
        rules: Callable[[], Rules],
        counted: Counted,
        clock: Clock,
        rng: Random,
    ) -> None:
        """`rules` returns those in effect."""
        self.shared = Resilient(store, process_name(rng), clock, rng)
        self._rules = rules
        self._clock = clock
        self._mirrored = counted.mirrored
        self._collector = Collector(counted.tallies)
        self._leader = Leader(self.shared, rules, clock)
        candidate = Candidate(LEASE, self.shared.process, rng)
        self._election = Election(store, candidate, self._leader.lead, clock)
        self.shared.watch("policy/", self._apply)
        self.shared.report(lambda: {MIRRORS: counted.mirrored.snapshot()})

    @property
    def leads(self) -> bool:
        """Whether this process looks at the policies at the moment."""
        return self._election.leads

    async def catch_up(self) -> None:
        """Divide as the others do from the first request on; a store that is down delays little.

        Without it the first requests after each restart would go by the weights of the files.
        """
        if not self._rules().rules:
            return
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self.shared.poll()
        except Exception as error:  # `run` tries it again and again, and says what is wrong.
            _LOG.warning("policies begin with the weights of their files: %r", error)

    async def run(self) -> None:
        """Take part until cancelled; then hand on what is left.

        A defect here must not end the gateway: its requests need none of this.
        """
        try:
            while True:
                try:
                    await self._take_part()
                except Exception:  # The outermost edge of what goes on beside requests.
                    _LOG.exception("looking after the policies failed; it begins anew")
                await asyncio.sleep(COLLECT_S)
        finally:
            self.collect()
            await self.shared.finish()
            await self.shared.store.close()

    async def _take_part(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.shared.run())
            group.create_task(self._election.run())
            group.create_task(self._collect_forever())

    async def _collect_forever(self) -> None:
        while True:
            self.collect()
            await asyncio.sleep(COLLECT_S)

    def collect(self) -> None:
        """Hand on what was counted since the last time."""
        for sums in (self._collector.deltas(), self._mirrored.take()):
            if sums:
                self.shared.add(sums)

    def follow(self) -> None:
        """Bring rules that are new up to what is known of their policies."""
        rules = self._rules().rules
        self._mirrored.keep({name: rule.epoch for name, rule in rules.items()})
        for gone in {owner_of(name) for name in self.shared.outbox.names}.difference(rules):
            self._collector.forget(gone, maxsize)
            self.shared.forget(prefix_of(gone))
        for name in rules:
            self._apply(self.shared.document(key_of(name)))

    async def command(self, name: str, wanted: Command, by: str) -> Json:
        """Do what a person asks of a rollout; return its state.

        Raises `KeyError` if there is no such rollout, `RefusedError` if the command does not fit,
        and `StoreError`.
        """
        policy = self._policy(name)
        if policy.rollout is None:
            raise KeyError(name)
        state = await leader.command(self.shared, policy, wanted, by, self._clock)
        with suppress(StoreError):  # It is done; this process need not wait for its own round.
            await self.shared.poll()
        return state.as_json()

    def status(self) -> list[dict[str, Any]]:
        """Return what is known of each policy, in the order in which they are asked."""
        return [self._status(rule) for rule in self._rules().rules.values()]

    def _status(self, rule: Rule) -> dict[str, Any]:
        policy, document = rule.policy, self.shared.document(key_of(rule.policy.name))
        shares = zip(rule.splitter.names, rule.splitter.weights, strict=True)
        known = document.value if isinstance(document.value, dict) else {}
        return {
            "name": policy.name,
            "kind": policy.kind,
            "epoch": rule.epoch,
            "weights": dict(shares),
            **{key: known[key] for key in known if key != "kind"},
        }

    def _policy(self, name: str) -> Policy:
        return self._rules().rules[name].policy

    def _apply(self, document: Document) -> None:
        """Divide as a document says. One that cannot be read changes nothing."""
        rule = self._rules().rules.get(document.key.removeprefix("policy/"))
        if rule is None:
            return
        try:
            self._divide(rule, document)
        except Exception as error:  # Whatever it holds, it must end neither a reload nor the round.
            _LOG.error("policy %s: its state cannot be read: %r", rule.policy.name, error)

    def _divide(self, rule: Rule, document: Document) -> None:
        policy = rule.policy
        if policy.rollout is not None:
            state = state_of(document)
            epoch = 0 if state is None else state.epoch
            earlier = None if state is None else state.baseline_epoch
            self._enter(rule, epoch, epoch if earlier is None else earlier)
            rule.divide(weights(state, policy.rollout))
        elif policy.split is not None:
            trial = experiment_of(document)
            epoch = 0 if trial is None else experiment.begin(policy, trial).epoch
            self._enter(rule, epoch, epoch)
            rule.divide(experiment.weights(policy, trial) or _in_file(policy))

    def _enter(self, rule: Rule, epoch: int, oldest: int) -> None:
        """Count in this epoch from now on; what was over before the oldest asked for can go.

        There is no room for the numbers of all epochs: those of new ones would be dropped.
        """
        if epoch != rule.epoch:
            rule.epoch = epoch
            self.collect()
            policy = rule.policy.name
            for gone in self._collector.forget(policy, oldest - 1):
                self.shared.forget(prefix_of(policy, gone), everywhere=True)


def _in_file(policy: Policy) -> tuple[float, ...]:
    return tuple(getattr(arm, "weight", 1.0) for arm in policy.arms)
