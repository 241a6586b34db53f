"""How does one generating request go from its first due token to the last byte of its answer?

The job owns the request's sequences. The scheduler says when tokens are due; the job makes them
when the client's socket takes them, so a slow reader costs no memory (it keeps its place in the
batch, where a real vLLM would finish and buffer). All of it runs in callbacks: no task per request.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from engines.sim.api.model import Generate, Tally
from engines.sim.exchange import Exchange
from engines.sim.faults import Break, Faults
from engines.sim.generation import Finish, Generation, Piece
from engines.sim.output import Output
from engines.sim.scheduler import Sequence
from engines.sim.tokenizer import EOS_ID

_BATCH_TOKENS = 64
"""Tokens made in one go before other connections get their turn."""
_ABORTED = Piece(EOS_ID, "", Finish.ABORT, None)


@dataclass(slots=True, eq=False)
class Strand:
    """One sequence of a job."""

    job: Job
    choice: int
    leads: bool
    """Whether it is its prompt's first choice: usage counts a prompt once."""
    generation: Generation
    sequence: Sequence
    due_tokens: int = 0
    last_made_s: float = 0.0
    ended: bool = False


class Host(Protocol):
    """The engine, as a job sees it."""

    def enter(self, job: Job) -> None:
        """Hand the job's sequences to the scheduler."""

    def made(self, strand: Strand) -> None:
        """Count a token that was made."""

    def leave(self, strand: Strand, reason: str) -> None:
        """Take a sequence out of the scheduler and count why it ended."""

    def done(self, job: Job) -> None:
        """Forget the job."""


class Job:
    """One generating request under way."""

    __slots__ = (
        "_break_at",
        "_exchange",
        "_faults",
        "_host",
        "_loop",
        "_made",
        "_open",
        "_output",
        "_stalled",
        "_timer",
        "strands",
        "tally",
    )

    def __init__(
        self, host: Host, exchange: Exchange, request: Generate, tally: Tally, faults: Faults
    ) -> None:
        self._host = host
        self._exchange = exchange
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._output: Output | None = None
        self._made = 0
        self._stalled = False
        self._break_at = faults.after_tokens if faults.broken else -1
        self.tally = tally
        self.strands = tuple(
            Strand(
                self,
                choice,
                choice % request.sampling.n == 0,
                request.generation(choice),
                Sequence(request.prompt_of(choice).tokens),
            )
            for choice in range(request.choices)
        )
        self._open = len(self.strands)

    def start(self, output: Output) -> None:
        """Begin the answer and hand the sequences to the engine, after an injected delay if any."""
        self._output = output
        self._exchange.on_gone = self.abort
        self._exchange.on_writable = self._drain
        output.begin()
        if self._faults.delay_first_s > 0:
            self._timer = self._loop.call_later(self._faults.delay_first_s, self._enter)
        else:
            self._enter()

    def _enter(self) -> None:
        self._timer = None
        self._host.enter(self)

    def release(self, strand: Strand, tokens: int) -> None:
        """Note that tokens are due, and make them if the client reads."""
        strand.due_tokens += tokens
        if self._timer is None:
            self._drain()

    def abort(self) -> None:
        """Stop: the client has left, or an injected fault has closed its connection."""
        self._leave_all("abort")

    def fail(self) -> None:
        """Stop: the engine is dying. Streams get the in-band error, others a 500."""
        self._leave_all("error")
        if self._output is not None and not self._stalled:
            self._output.fail()

    def _leave_all(self, reason: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for strand in self.strands:
            self._end(strand, reason)
        self._host.done(self)

    def _end(self, strand: Strand, reason: str) -> None:
        if not strand.ended:
            strand.ended = True
            self._open -= 1
            self._host.leave(strand, reason)

    def _drain(self) -> None:
        """Make due tokens while the client reads; a batch at most, then others get their turn."""
        self._timer = None
        output = self._output
        if output is None or self._open == 0 or self._stalled:
            return
        left = _BATCH_TOKENS
        for strand in self.strands:
            while strand.due_tokens > 0 and left and not strand.ended:
                if self._exchange.paused:
                    output.flush()
                    return
                if not self._step(strand, output):
                    return
                left -= 1
        if self._open == 0:
            self._host.done(self)
            output.complete()
            return
        output.flush()
        if not left:
            self._timer = self._loop.call_soon(self._drain)

    def _step(self, strand: Strand, output: Output) -> bool:
        """Make one token; return False if a fault has ended or stalled the answer instead."""
        if self._made == self._break_at and not self._break(strand, output):
            return False
        piece = strand.generation.step()
        strand.due_tokens -= 1
        self._made += 1
        self.tally.completion_tokens += 1
        self._host.made(strand)
        output.add(strand.choice, piece)
        if piece.finish is not None:
            self._end(strand, piece.finish)
        return True

    def _break(self, strand: Strand, output: Output) -> bool:
        """Let the injected fault happen; return whether the answer goes on."""
        self._break_at = -1
        match self._faults.broken:
            case None | Break.MALFORMED:
                output.spoil()
                return True
            case Break.ERROR:
                self.fail()
                return False
            case Break.ABORT:
                self._abort_in_band(output)
                return False
            case broken:
                if not output.breaks(broken, strand.choice, strand.generation.step()):
                    return True
                if broken is Break.STALL:
                    self._stalled = True
                else:
                    self.abort()
                return False

    def _abort_in_band(self, output: Output) -> None:
        for strand in self.strands:
            if not strand.ended:
                output.add(strand.choice, _ABORTED)
                self._end(strand, Finish.ABORT)
        self._host.done(self)
        output.complete()
