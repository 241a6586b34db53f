"""How do the tokens of a job reach its client: as a stream, or as one body?"""

from __future__ import annotations

from typing import Protocol

from engines.sim import delivery, errors
from engines.sim.api.model import DONE, Shape, Tally
from engines.sim.exchange import Exchange
from engines.sim.faults import Break, Faults
from engines.sim.generation import Piece

_NOT_JSON = b'data: {"id": "malformed", "choices": [{"index": 0, "delta": {"con\n\n'


class Output(Protocol):
    """Where a job's tokens go."""

    def begin(self) -> None:
        """The request has been accepted."""

    def add(self, choice: int, piece: Piece) -> None:
        """Take one token."""

    def flush(self) -> None:
        """Send what was added."""

    def complete(self) -> None:
        """All choices have ended: send the rest."""

    def fail(self) -> None:
        """The engine is dying: end the answer as vLLM does."""

    def spoil(self) -> None:
        """Send something malformed and go on."""

    def breaks(self, broken: Break, choice: int, piece: Piece) -> bool:
        """Break the connection before `piece`; return False when the break has to wait for the
        end.
        """


class StreamOutput:
    """Sends each token as one SSE event, batches of events as one write."""

    __slots__ = ("_events", "_exchange", "_faults", "_opened", "_shape", "_tally")

    def __init__(self, exchange: Exchange, shape: Shape, tally: Tally, faults: Faults) -> None:
        self._exchange = exchange
        self._shape = shape
        self._tally = tally
        self._faults = faults
        self._opened = False
        self._events: list[bytes] = []

    def begin(self) -> None:
        """Send the head at once, long before the first token."""
        self._exchange.start_stream()

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self._events.extend(self._shape.opening(self._tally))

    def add(self, choice: int, piece: Piece) -> None:
        """Buffer the token's event, the opening ones before the first."""
        self._open()
        event = self._shape.event(choice, piece, self._tally)
        if event:
            self._events.append(event)

    def flush(self) -> None:
        """Write the buffered events."""
        if self._events:
            events, self._events = self._events, []
            self._exchange.write(events)

    def complete(self) -> None:
        """Send the closing events and end the message."""
        closing = self._shape.closing(self._tally)
        if self._faults.no_done:
            closing = [event for event in closing if event != DONE]
        events, self._events = self._events, []
        self._exchange.end_stream(events + closing)

    def fail(self) -> None:
        """Send the in-band error; the message ends properly all the same."""
        events, self._events = self._events, []
        self._exchange.end_stream(events + self._shape.failure())

    def spoil(self) -> None:
        """Send an event that is not JSON."""
        self._open()
        self._events.append(_NOT_JSON)

    def breaks(self, broken: Break, choice: int, piece: Piece) -> bool:
        """Send what precedes `piece`, then break."""
        self._open()
        event = self._shape.event(choice, piece, self._tally)
        self.flush()
        delivery.break_stream(self._exchange, broken, event)
        return True


class WholeOutput:
    """Keeps the tokens and sends one JSON body at the end."""

    __slots__ = ("_choices", "_exchange", "_faults", "_shape", "_tally")

    def __init__(
        self, exchange: Exchange, shape: Shape, tally: Tally, faults: Faults, choices: int
    ) -> None:
        self._exchange = exchange
        self._shape = shape
        self._tally = tally
        self._faults = faults
        self._choices: list[list[Piece]] = [[] for _ in range(choices)]

    def begin(self) -> None:
        """Nothing yet: the status comes with the body."""

    def add(self, choice: int, piece: Piece) -> None:
        """Keep the token."""
        self._choices[choice].append(piece)

    def flush(self) -> None:
        """Nothing before the end."""

    def complete(self) -> None:
        """Send the body, broken where the faults say so and the answer was long enough for it."""
        body = self._shape.whole(self._choices, self._tally)
        made = sum(map(len, self._choices))
        broken = self._faults.broken if made >= self._faults.after_tokens else None
        delivery.send_whole(self._exchange, body, broken)

    def fail(self) -> None:
        """Send a 500."""
        delivery.send_error(self._exchange, errors.internal())

    def spoil(self) -> None:
        """Nothing yet: the body is spoilt at the end."""

    def breaks(self, broken: Break, choice: int, piece: Piece) -> bool:
        """Nothing yet: the body is broken at the end."""
        return False
