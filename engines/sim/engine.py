"""Who turns the scheduler's virtual time into real time, and counts what happens?"""

from __future__ import annotations

import asyncio
import math
import random

from engines.sim import errors
from engines.sim.job import Job, Strand
from engines.sim.metrics import Counters
from engines.sim.prefix_cache import PrefixCache
from engines.sim.scheduler import QueueFullError, Scheduler, Sequence
from engines.sim.settings import Settings


class Engine:
    """The batch of one simulated engine, driven by a single timer of the event loop."""

    __slots__ = (
        "_idle",
        "_jobs",
        "_loop",
        "_pumping",
        "_strands",
        "_timer",
        "_timer_at_s",
        "counters",
        "scheduler",
    )

    def __init__(self, settings: Settings, rng: random.Random) -> None:
        limits = settings.limits
        cache = PrefixCache(limits.blocks, limits.block_tokens) if settings.prefix_caching else None
        self.scheduler = Scheduler(settings.timing, limits, cache, rng)
        self.counters = Counters(settings.served.max_model_len)
        self._loop = asyncio.get_running_loop()
        self._strands: dict[Sequence, Strand] = {}
        self._jobs: set[Job] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0
        self._pumping = False
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    @property
    def load(self) -> int:
        """How many generating requests are under way."""
        return len(self._jobs)

    def check_room(self, sequences: int) -> None:
        """Raise ApiError 503 if the waiting queue cannot take so many sequences more."""
        try:
            self.scheduler.check_room(sequences)
        except QueueFullError as error:
            self.counters.rejections += 1
            raise errors.busy() from error

    def add(self, job: Job) -> None:
        """Know a job from now on, so that a shutdown reaches it."""
        self._jobs.add(job)
        self._idle.clear()

    def enter(self, job: Job) -> None:
        """Submit the job's sequences; tokens that are due at once are made at once."""
        now_s = self._loop.time()
        for strand in job.strands:
            self._strands[strand.sequence] = strand
        for strand in job.strands:
            self.scheduler.submit(strand.sequence, now_s)
        self._pump()

    def made(self, strand: Strand) -> None:
        """Count one token and its latency."""
        now_s = self._loop.time()
        counters, sequence = self.counters, strand.sequence
        counters.generation_tokens += 1
        if sequence.generated:
            counters.inter_token.observe(now_s - strand.last_made_s)
        else:
            counters.first_token.observe(now_s - sequence.arrived_s)
            counters.queue.observe(sequence.started_s - sequence.arrived_s)
            counters.prefill.observe(now_s - sequence.started_s)
        strand.last_made_s = now_s
        sequence.generated += 1

    def leave(self, strand: Strand, reason: str) -> None:
        """Free the sequence's place; the next waiting one may take it."""
        sequence = strand.sequence
        if self._strands.pop(sequence, None) is None:
            return  # an injected delay had not let it in yet
        now_s = self._loop.time()
        self.scheduler.finish(sequence, now_s)
        elapsed_s = now_s - sequence.arrived_s
        self.counters.finish(reason, sequence.generated, len(sequence.tokens), elapsed_s)
        self._arm()

    def done(self, job: Job) -> None:
        """Forget a job that has ended."""
        self._jobs.discard(job)
        if not self._jobs:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no job is under way."""
        await self._idle.wait()

    def fail_all(self) -> None:
        """End every job as when vLLM's engine process dies."""
        for job in list(self._jobs):
            job.fail()

    def _pump(self) -> None:
        """Let the jobs make what is due, then sleep until the next token is."""
        self._pumping = True
        try:
            while released := self.scheduler.advance(self._loop.time()):
                for sequence, tokens, first in released:
                    strand = self._strands.get(sequence)
                    if strand is None:
                        continue  # ended by an earlier release of this round
                    if first:
                        self._begin(strand)
                    strand.job.release(strand, tokens)
        finally:
            self._pumping = False
        self._arm()

    def _begin(self, strand: Strand) -> None:
        sequence, tally = strand.sequence, strand.job.tally
        self.counters.prompt_tokens += len(sequence.tokens)
        self.counters.cached_tokens += sequence.cached_tokens
        if self.scheduler.cache is not None and strand.leads:
            tally.cached_tokens = (tally.cached_tokens or 0) + sequence.cached_tokens
            tally.created_tokens += sequence.created_tokens

    def _arm(self) -> None:
        due_s = self.scheduler.next_due_s()
        if self._pumping or due_s is None:
            return
        if self._timer is not None:
            if self._timer_at_s <= due_s:
                return
            self._timer.cancel()
        # libuv counts whole milliseconds and rounds to the nearest: without rounding up, a timer
        # that fires early would spin. The tokens of that millisecond then come in one go.
        delay_s = max(due_s - self._loop.time(), 0.0)
        self._timer = self._loop.call_later(math.ceil(delay_s * 1000) / 1000, self._on_timer)
        # Kept here because uvloop's handle does not know its time when that has already passed.
        self._timer_at_s = due_s

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()
