"""When is each token of each sequence due?

A model of continuous batching in virtual time. At most `max_num_seqs` sequences run; the others
wait, first come, first served. A sequence's first token is due after the prefill, its others at the
inter-token latency:

    load        = 1 + (load_factor - 1) * (running - 1) / (max_num_seqs - 1)
    first token = (first_token_s + uncached prompt tokens * prefill_token_s) * load
    next token  = inter_token_s * load

(the shape of llm-d-inference-sim's `time-factor-under-load`). A token is due a latency after the
one before it was *due*, not after it was sent, so a late caller catches up and the pace does not
drift. With `inter_token_s` of 0 all tokens are due with the first.

    submit ──► WAITING ──► RUNNING ──► DONE
                  └── finish (client gone) ──┘

The scheduler holds no clock: callers bring `now_s` and ask `next_due_s` when to come back.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence as AbstractSequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from engines.sim.prefix_cache import PrefixCache

UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Timing:
    """Latencies of the simulated engine on an idle machine, and how load stretches them."""

    first_token_s: float = 0.020
    inter_token_s: float = 0.005
    prefill_token_s: float = 0.0
    load_factor: float = 1.0
    """How many times slower a full batch is than a single sequence."""
    first_token_deviation_s: float = 0.0
    inter_token_deviation_s: float = 0.0
    """Standard deviations of normal jitter, which is cut to 30 % of the mean."""


class Stage(StrEnum):
    """Where a sequence is in its life."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Sequence:
    """One sequence on its way through the engine; times are seconds of the caller's clock."""

    tokens: AbstractSequence[int]
    stage: Stage = Stage.WAITING
    arrived_s: float = 0.0
    started_s: float = 0.0
    cached_tokens: int = 0
    created_tokens: int = 0
    generated: int = 0
    """Tokens sent so far, kept by the owner for the cache's usage."""


class Release(NamedTuple):
    """A sequence may emit `tokens` more tokens; `first` says whether its prefill has just ended."""

    sequence: Sequence
    tokens: int
    first: bool


class QueueFullError(Exception):
    """The waiting queue is at its limit; the request was not taken."""


@dataclass(slots=True)
class Limits:
    """How much the engine takes on."""

    max_num_seqs: int = 256
    max_queued: int | None = None
    block_tokens: int = 16
    blocks: int = 8192


@dataclass(slots=True)
class Scheduler:
    """The running batch, the waiting queue and the prefix cache. Each step costs O(log running)."""

    timing: Timing
    limits: Limits
    cache: PrefixCache | None
    rng: random.Random
    running: set[Sequence] = field(default_factory=set)
    waiting: deque[Sequence] = field(default_factory=deque)
    _due: list[tuple[float, int, Sequence, bool]] = field(default_factory=list)
    _order: int = 0

    def check_room(self, count: int) -> None:
        """Raise QueueFullError unless `count` more sequences may be submitted."""
        limit = self.limits.max_queued
        room = self.limits.max_num_seqs - len(self.running)
        if limit is not None and len(self.waiting) + max(count - room, 0) > limit:
            raise QueueFullError

    def submit(self, sequence: Sequence, now_s: float) -> None:
        """Queue a sequence and start it if there is room."""
        sequence.arrived_s = now_s
        self.waiting.append(sequence)
        self._fill(now_s)

    def finish(self, sequence: Sequence, now_s: float) -> None:
        """Take a sequence out, wherever it is, and let the next one start. Finishing twice does
        nothing.
        """
        if sequence.stage is Stage.DONE:
            return
        if sequence.stage is Stage.WAITING:
            self.waiting.remove(sequence)
        else:
            self.running.remove(sequence)
        sequence.stage = Stage.DONE
        self._fill(now_s)

    def advance(self, now_s: float) -> list[Release]:
        """Return what has become due by `now_s`."""
        released: list[Release] = []
        while self._due and self._due[0][0] <= now_s:
            due_s, _, sequence, first = heapq.heappop(self._due)
            if sequence.stage is not Stage.RUNNING:
                continue
            if self.timing.inter_token_s == 0:
                released.append(Release(sequence, UNLIMITED, first))
                continue
            released.append(Release(sequence, 1, first))
            self._push(due_s + self._inter_token_s(), sequence, first=False)
        return released

    def next_due_s(self) -> float | None:
        """Return when to call `advance` next; None while nothing runs."""
        return self._due[0][0] if self._due else None

    def kv_usage(self) -> float:
        """Return the share of cache blocks that running sequences hold, 0 to 1. Costs
        O(running).
        """
        size = self.limits.block_tokens
        held = sum(-(-(len(seq.tokens) + seq.generated) // size) for seq in self.running)
        return min(held / self.limits.blocks, 1.0)

    def _fill(self, now_s: float) -> None:
        while self.waiting and len(self.running) < self.limits.max_num_seqs:
            sequence = self.waiting.popleft()
            sequence.stage = Stage.RUNNING
            sequence.started_s = now_s
            self.running.add(sequence)
            if self.cache is not None:
                use = self.cache.use(sequence.tokens)
                sequence.cached_tokens = use.cached_tokens
                sequence.created_tokens = use.created_tokens
            self._push(now_s + self._first_token_s(sequence), sequence, first=True)

    def _push(self, due_s: float, sequence: Sequence, *, first: bool) -> None:
        self._order += 1
        heapq.heappush(self._due, (due_s, self._order, sequence, first))

    def _load(self) -> float:
        most = self.limits.max_num_seqs
        share = (len(self.running) - 1) / (most - 1) if most > 1 else 0.0
        return 1.0 + (self.timing.load_factor - 1.0) * share

    def _first_token_s(self, sequence: Sequence) -> float:
        timing = self.timing
        uncached = len(sequence.tokens) - sequence.cached_tokens
        mean_s = timing.first_token_s + uncached * timing.prefill_token_s
        return self._jittered(mean_s * self._load(), timing.first_token_deviation_s)

    def _inter_token_s(self) -> float:
        timing = self.timing
        return self._jittered(timing.inter_token_s * self._load(), timing.inter_token_deviation_s)

    def _jittered(self, mean_s: float, deviation_s: float) -> float:
        if deviation_s == 0:
            return mean_s
        return min(max(self.rng.gauss(mean_s, deviation_s), 0.7 * mean_s), 1.3 * mean_s)
