"""What does the one process that leads do for the policies?

Once a second, for each of them:

    store: everybody's sums ──> evidence ──> machine ──> store: state and weights, audit events
                                                           │
                                     every process polls ──┘ and divides by the new weights

Writes carry the leader's fence, so that one that was stopped and comes back changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from gateway.clock import Clock
from gateway.config.policy import Policy
from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import Arms, Evidence
from gateway.plan.gates import Watch
from gateway.plan.match import Rules
from gateway.plan.rollout import advance, obey, waiting
from gateway.plan.rollout_state import (
    Command,
    Phase,
    RefusedError,
    RolloutState,
    initial,
    read,
)
from gateway.releases import experiment, trail
from gateway.releases.collect import ByArm, by_arm, groups_by_arm, prefix_of
from gateway.releases.experiment import Experiment
from gateway.releases.trail import Trail
from gateway.store.base import Document, Fence, FencedError, StoreError
from gateway.store.resilient import Resilient

_LOG = logging.getLogger("sluice.releases")

LOOK_S = 1.0
"""Between two looks. With the sums' way to the store (1 s) and the weights' way back (0.5 s), a
verdict takes effect within 2 s in every process."""

TRIES = 5
"""How often a command is tried anew when the leader has written in between."""

UNJUDGED = "the analysis, which needs numpy and scipy: pip install 'sluice[policies]'"
"""What a policy waits for where the extra is not installed."""

Json = dict[str, Any]


def key_of(policy: str) -> str:
    """Return the key of a policy's document."""
    return f"policy/{policy}"


class Leader:
    """The looks of one process, for as long as it leads."""

    def __init__(
        self,
        shared: Resilient,
        rules: Callable[[], Rules],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._shared = shared
        self._store = shared.store
        self._rules = rules
        self._clock = clock
        self._sleep = sleep
        self._watches: dict[str, Watch] = {}
        self._trail = Trail(shared.store)
        self._since = -math.inf
        self._told = False

    async def lead(self, fence: Fence) -> None:
        """Look again and again. Raises `FencedError` or `StoreError`."""
        self.begin()
        while True:
            await self.look(fence)
            await self._sleep(LOOK_S)

    def begin(self) -> None:
        """Begin a term: others may have led, and what was seen then is not known here."""
        self._watches.clear()
        self._trail.forget()
        self._since = self._clock.monotonic()

    @property
    def _lacks(self) -> bool:
        """Whether the store's sums may lack a process' part.

        One that lost them has lost the lease, too. So a term begins with a push of this process:
        it finds out, even if another has brought the documents back already.
        """
        return self._shared.refilling or self._shared.pushed_at < self._since

    async def look(self, fence: Fence) -> None:
        """Look at every policy once; not while sums may be missing, what they hide would pass."""
        for rule in list(self._rules().rules.values()):
            policy = rule.policy
            try:
                if policy.rollout is not None:
                    await self._rollout(policy, fence)
                elif policy.split is not None:
                    await self._split(policy, fence)
            except (FencedError, StoreError):
                raise
            except ModuleNotFoundError as error:
                if not self._told:
                    self._told = True
                    _LOG.error("%s: policies are not analysed; install sluice[policies]", error)
                await self._unjudged(policy, fence)
            except Exception:  # Of one policy, whatever it is: the gates of the others go on.
                _LOG.exception("policy %s could not be looked at", policy.name)

    async def _rollout(self, policy: Policy, fence: Fence) -> None:
        rollout = policy.rollout
        assert rollout is not None  # noqa: S101  the caller looked
        document = await self._shared.fetch(key_of(policy.name))
        await self._trail.catch_up(document, fence)
        if self._lacks:
            return
        now = self._clock.wall()
        state = state_of(document)
        if state is None:
            state = _unheard_of(rollout, document, now)
        if state.phase is Phase.PENDING and rollout.gates:
            # Raises without scipy: no canary begins that nobody could send back.
            await _load_analysis()
        under_way = state.phase in {Phase.PROGRESSING, Phase.PAUSED}
        evidence = await self._evidence(policy, state) if under_way else None
        after, events = advance(state, rollout, evidence, now)
        value = {
            "kind": "rollout",
            "state": after.as_json(),
            "readings": [each.as_json() for each in evidence.readings] if evidence else [],
            "requests": evidence.requests if evidence else None,
            "waiting": waiting(after, rollout, evidence),
        }
        entries = [trail.entry(policy.name, event) for event in events]
        await self._put(document, value, entries, fence)

    async def _put(
        self, document: Document, value: Json, entries: list[Json], fence: Fence
    ) -> None:
        """Write what was found, unless somebody else has written meanwhile."""
        value[trail.FIELD] = trail.following(document, entries)
        version = await self._store.put(document.key, value, document.version, fence)
        if version is not None:
            await self._trail.written(document, version, entries, fence)

    async def _evidence(self, policy: Policy, state: RolloutState) -> Evidence | None:
        rollout = policy.rollout
        assert rollout is not None  # noqa: S101  as above
        now = await self._sums(policy, state.epoch)
        baseline = now
        if state.earlier:
            if state.baseline_epoch is None:
                baseline = {}
            else:
                baseline = await self._sums(policy, state.baseline_epoch)
        arms = Arms(now.get("canary", {}), baseline.get("baseline", {}), earlier=state.earlier)
        watch = self._watches.setdefault(policy.name, Watch())
        return await asyncio.to_thread(watch.look, rollout, state.epoch, state.window, arms)

    async def _split(self, policy: Policy, fence: Fence) -> None:
        document = await self._shared.fetch(key_of(policy.name))
        await self._trail.catch_up(document, fence)
        if self._lacks:
            return
        before = experiment_of(document)
        state = experiment.begin(policy, before)
        totals = await self._store.totals(prefix_of(policy.name, state.epoch))
        arms, groups = by_arm(totals), groups_by_arm(totals)
        after = await asyncio.to_thread(experiment.look, policy, state, arms, groups)
        verdict = experiment.verdict(policy, after)
        if after == before and document.value["verdict"] == verdict:
            return
        value = {"kind": "split", "state": after.as_json(), "verdict": verdict}
        entries: list[Json] = []
        if after.winner is not None and state.winner is None:
            event = {
                "policy": policy.name,
                "kind": "promoted",
                "at": self._clock.wall(),
                "words": verdict,
                "comparisons": after.comparisons,
            }
            mark = f"{policy.name}/{after.fingerprint}/{after.epoch}"
            entries.append({"id": mark, "event": event})
        await self._put(document, value, entries, fence)

    async def _unjudged(self, policy: Policy, fence: Fence) -> None:
        """Let the policy's state say that nobody can look at it."""
        document = await self._shared.fetch(key_of(policy.name))
        kept = document.value if isinstance(document.value, dict) else {}
        if policy.rollout is not None:
            state = state_of(document)
            state = state or _unheard_of(policy.rollout, document, self._clock.wall())
            said = {"kind": "rollout", "state": state.as_json(), "waiting": [UNJUDGED]}
            known = kept.get("waiting") == said["waiting"]
        else:
            begun = experiment.begin(policy, before := experiment_of(document))
            said = {"kind": "split", "state": begun.as_json(), "verdict": f"waits for {UNJUDGED}"}
            known = begun == before and kept["verdict"] == said["verdict"]
        if not known:
            await self._store.put(document.key, {**kept, **said}, document.version, fence)

    async def _sums(self, policy: Policy, epoch: int) -> ByArm:
        return by_arm(await self._store.totals(prefix_of(policy.name, epoch)))


async def command(
    shared: Resilient, policy: Policy, wanted: Command, by: str, clock: Clock
) -> RolloutState:
    """Do what a person asks of a rollout, from whichever process; return its new state.

    Raises `RefusedError` if it does not fit, or nobody could judge what it begins, `StoreError`,
    and `TimeoutError` if the leader wrote in between each time.
    """
    rollout = policy.rollout
    assert rollout is not None  # noqa: S101  the caller looked
    if wanted in {Command.START, Command.RESUME} and rollout.gates:
        try:
            await _load_analysis()
        except ModuleNotFoundError:
            raise RefusedError(f"cannot {wanted}: it needs {UNJUDGED}") from None
    for _ in range(TRIES):
        document = await shared.fetch(key_of(policy.name))
        now = clock.wall()
        state = state_of(document) or _unheard_of(rollout, document, now)
        after, events = obey(state, rollout, wanted, by, now)
        kept = document.value if isinstance(document.value, dict) else {}
        entries = [trail.entry(policy.name, event) for event in events]
        value = {**kept, "kind": "rollout", "state": after.as_json()}
        value[trail.FIELD] = trail.following(document, entries)
        if await shared.store.put(document.key, value, document.version) is not None:
            with suppress(StoreError):  # It is done, and stands where the leader finds it.
                await trail.tell(shared.store, entries, None)
            return after
    raise TimeoutError(f"rollout {policy.name} is changing all the time")


async def _load_analysis() -> None:
    """Load what gates are judged with. Raises `ModuleNotFoundError` without numpy and scipy."""
    await asyncio.to_thread(import_module, "gateway.stats.bounds")


def state_of(document: Document) -> RolloutState | None:
    """Return the rollout's state that a document holds; None if there is none.

    Raises `ValueError` for what is no state.
    """
    value = document.value
    if not isinstance(value, Mapping) or value.get("kind") != "rollout":
        return None
    return read(value.get("state"))


def experiment_of(document: Document) -> Experiment | None:
    """Return the experiment that a document holds; None if there is none.

    A rollout of the same name counts as another experiment: its epochs are used up.
    """
    value = document.value
    if not isinstance(value, Mapping):
        return None
    if value.get("kind") != "split":
        return Experiment("", _last_epoch(document))
    return Experiment.of(value["state"])


def _unheard_of(rollout: Rollout, document: Document, now: float) -> RolloutState:
    """Return the state of a rollout that begins; what had its name has used up epochs."""
    epoch = _last_epoch(document)
    return replace(initial(rollout, now), epoch=epoch, baseline_epoch=epoch)


def _last_epoch(document: Document) -> int:
    """Return the epoch that a document of any kind is in: the store keeps the sums of all."""
    state = document.value.get("state") if isinstance(document.value, Mapping) else None
    return int(state.get("epoch", 0)) if isinstance(state, Mapping) else 0
