"""What would a rollout have done to this traffic? Simulated, with sums instead of requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from gateway.config.policy_rollout import Rollout
from gateway.plan.evidence import Arms
from gateway.plan.gates import Watch
from gateway.plan.rollout import advance
from gateway.plan.rollout_state import Event, Phase, RolloutState, initial
from gateway.stats.sums import BUCKETS_PER_OCTAVE, SMALLEST, Rate, Sums, Values

RATES = ("error_rate", "abort_rate", "truncation_rate", "cancel_rate")
TIMES = ("ttft", "latency")


@dataclass(frozen=True)
class Engine:
    """How one version behaves: shares of requests, and factors on lognormal times of 1 s."""

    error_rate: float = 0.002
    abort_rate: float = 0.001
    truncation_rate: float = 0.001
    cancel_rate: float = 0.01
    ttft: float = 1.0
    latency: float = 1.0


GOOD = Engine()
BAD: Mapping[str, Engine] = {
    "errors": replace(GOOD, error_rate=0.1),
    "slow first token": replace(GOOD, ttft=3.0),
    "truncations": replace(GOOD, truncation_rate=0.1),
    "aborts": replace(GOOD, abort_rate=0.1),
}
SIGMA = 0.5
"""Of the logarithm of times: their p95 is 2.3 times the median."""


@dataclass
class Traffic:
    """A service under a rollout: `per_look` requests between two looks, `look_s` apart."""

    rollout: Rollout
    rng: np.random.Generator
    per_look: int = 1000
    look_s: float = 10.0
    now: float = 1_000_000.0
    watch: Watch = field(default_factory=Watch)
    events: list[Event] = field(default_factory=list)
    state: RolloutState = field(init=False)
    sums: dict[tuple[int, str], dict[str, Sums]] = field(default_factory=dict)
    canary_requests: int = 0

    def __post_init__(self) -> None:
        self.state = initial(self.rollout, self.now)

    @property
    def arms(self) -> Arms:
        """The sums as a controller would read them."""
        state = self.state
        baseline = {} if state.baseline_epoch is None else self._of(state.baseline_epoch, "b")
        return Arms(self._of(state.epoch, "c"), baseline, state.earlier)

    def look(self, canary: Engine = GOOD, baseline: Engine = GOOD) -> None:
        """Let requests pass by the present weights, then look once."""
        self.now += self.look_s
        to_canary = int(self.rng.binomial(self.per_look, self.state.weight / 100))
        self.canary_requests += to_canary
        self._serve("c", canary, to_canary)
        self._serve("b", baseline, self.per_look - to_canary)
        state = self.state
        evidence = self.watch.look(self.rollout, state.epoch, state.window, self.arms)
        self.state, events = advance(state, self.rollout, evidence, self.now)
        self.events.extend(events)

    def enter(self, step: int) -> None:
        """Begin with this step, as if those before it had passed."""
        weight = self.rollout.stages[step].weight
        self.state = replace(
            self.state,
            phase=Phase.PROGRESSING,
            step=step,
            weight=weight,
            epoch=1,
            baseline_epoch=1 if weight < 100 else 0,
        )

    def until_end(
        self, canary: Engine = GOOD, baseline: Engine = GOOD, looks: int = 10_000
    ) -> None:
        """Go on until the rollout has ended, at most so many looks."""
        for _ in range(looks):
            if self.state.phase.final:
                return
            self.look(canary, baseline)

    def _of(self, epoch: int, arm: str) -> dict[str, Sums]:
        return self.sums.get((epoch, arm), {})

    def _serve(self, arm: str, engine: Engine, count: int) -> None:
        if not count:
            return
        before = self._of(self.state.epoch, arm)
        now: dict[str, Sums] = {}
        for name in RATES:
            old = before.get(name, Rate())
            assert isinstance(old, Rate)
            hits = int(self.rng.binomial(count, getattr(engine, name)))
            now[name] = Rate(old.n + count, old.hits + hits)
        for name in TIMES:
            times = self.rng.lognormal(0.0, SIGMA, count) * getattr(engine, name)
            values = _values(times)
            values.merge(before.get(name, Values()))  # type: ignore[arg-type]  # times are Values
            now[name] = values
        self.sums[self.state.epoch, arm] = now


def _values(times: npt.NDArray[np.float64]) -> Values:
    """Return what adding them one by one would give, sooner."""
    found = np.floor(np.log2(times / SMALLEST) * BUCKETS_PER_OCTAVE).astype(int) + 1
    buckets, counts = np.unique(found, return_counts=True)
    by_bucket = dict(zip(buckets.tolist(), counts.tolist(), strict=True))
    return Values(len(times), float(times.sum()), float((times**2).sum()), by_bucket)
