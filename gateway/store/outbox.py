"""Which sums has the store yet to hear from this process?

Pure. Each batch takes the process' part of the sums from one number of a row to a later one, and
says so; the store takes it only if it stands at the first, and answers where it stands. So a batch
may be sent any number of times, may arrive late, and still counts once. A store that answers with
less than it had has lost something, and is sent what lies between:

    open --batch()--> outgoing --heard(its seq)--> journal
                         │ ^
                         └─┘ heard(less): made anew, from there

What can be made anew: everything, for a store that is empty, and what the journal reaches back to,
for one that went back some seconds or minutes (a crash of Redis with `appendfsync everysec`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import isfinite

from gateway.store.base import Batch, Sums

MAX_FIELDS = 200_000
"""Numbers that a process keeps; new ones beyond that are dropped and counted. About 30 MB."""

JOURNAL_FIELDS = 50_000
"""Numbers that the journal holds: with 100 that change each second, eight minutes of them."""

_Own = dict[str, dict[str, float]]


class Outbox:
    """What one process has counted since it started, and how much of it the store holds."""

    __slots__ = (
        "_fields",
        "_held",
        "_journal",
        "_journal_fields",
        "_max_fields",
        "_max_journal_fields",
        "_open",
        "_outgoing",
        "_seq",
        "_total",
        "dropped",
        "losses",
        "missing",
    )

    def __init__(
        self, max_fields: int = MAX_FIELDS, max_journal_fields: int = JOURNAL_FIELDS
    ) -> None:
        self._max_fields = max_fields
        self._max_journal_fields = max_journal_fields
        self._total: _Own = {}
        self._fields = 0
        self._open: _Own = {}
        self._journal: deque[tuple[int, Sums]] = deque()
        self._journal_fields = 0
        self._outgoing: Batch | None = None
        self._seq = 0
        self._held = 0
        self.dropped = 0
        """Numbers that were not taken because there were too many."""
        self.losses = 0
        """How often the store came back with less than it had."""
        self.missing = 0
        """Batches that it lost and that the journal did not reach back to: these are gone."""

    def add(self, sums: Sums) -> None:
        """Count in. Raises `ValueError` for what is not a finite number; then nothing is."""
        for fields in sums.values():
            if not all(map(isfinite, fields.values())):
                raise ValueError("a sum must be finite: the store could never take it back")
        for name, fields in sums.items():
            for field, number in fields.items():
                self._add(name, field, number)

    @property
    def names(self) -> Iterable[str]:
        """The names of all sums that are kept."""
        return self._total.keys()

    def drop(self, prefix: str) -> None:
        """Forget the names that begin so: nobody asks for them any more.

        They stay where the store has them; a loss does not bring them back.
        """
        for sums in (self._total, self._open):
            for name in [name for name in sums if name.startswith(prefix)]:
                del sums[name]
        self._fields = _count(self._total)
        self._journal = deque((seq, _without(prefix, sums)) for seq, sums in self._journal)
        self._journal_fields = sum(_count(sums) for _, sums in self._journal)
        if self._outgoing is not None:
            batch = self._outgoing
            self._outgoing = Batch(batch.after, batch.seq, _without(prefix, batch.sums))

    @property
    def waiting(self) -> bool:
        """Whether there is something that the store is not known to hold."""
        return bool(self._open) or (self._outgoing is not None and bool(self._outgoing.sums))

    def batch(self) -> Batch:
        """Return what to push now: the same until the store was heard, then what came since.

        It may be empty: pushing it still finds out whether the store has lost something.
        """
        if self._outgoing is None:
            self._close()
            self._outgoing = self._since(self._held)
        return self._outgoing

    def heard(self, held: int) -> bool:
        """Take the store's answer to the last batch; return whether it has lost something.

        Raises `ValueError` for what no store can hold: another process uses the same name.
        """
        if held > self._seq:
            raise ValueError(f"the store stands at {held}, this process at {self._seq}")
        if held == self._seq:
            self._held = held
            self._outgoing = None
            self._trim()
            return False
        lost = held < self._held
        if lost:
            self.losses += 1
            self.missing += max(0, self._reach() - held) if held else 0
        self._held = held
        self._close()
        self._outgoing = self._since(held)
        return lost

    def _add(self, name: str, field: str, number: float) -> None:
        total = self._total.setdefault(name, {})
        if field not in total:
            if self._fields >= self._max_fields:
                self.dropped += 1
                if not total:
                    del self._total[name]
                return
            self._fields += 1
        total[field] = total.get(field, 0.0) + number
        fields = self._open.setdefault(name, {})
        fields[field] = fields.get(field, 0.0) + number

    def _close(self) -> None:
        """Give what is open its number. An empty one gets one too, if nothing was pushed yet."""
        if self._open or self._seq == 0:
            self._seq += 1
            self._journal.append((self._seq, self._open))
            self._journal_fields += _count(self._open)
            self._open = {}

    def _since(self, held: int) -> Batch:
        """Return the batch from there to the last number."""
        if held == 0:
            return Batch(0, self._seq, {name: dict(sums) for name, sums in self._total.items()})
        return Batch(held, self._seq, _merged(sums for seq, sums in self._journal if seq > held))

    def _reach(self) -> int:
        """Return the number that the journal begins after."""
        return self._journal[0][0] - 1 if self._journal else self._seq

    def _trim(self) -> None:
        while self._journal and self._journal_fields > self._max_journal_fields:
            _, sums = self._journal.popleft()
            self._journal_fields -= _count(sums)


def _count(sums: Sums) -> int:
    return sum(map(len, sums.values()))


def _without(prefix: str, sums: Sums) -> Sums:
    return {name: fields for name, fields in sums.items() if not name.startswith(prefix)}


def _merged(parts: Iterable[Sums]) -> Sums:
    together: _Own = {}
    for sums in parts:
        for name, fields in sums.items():
            held = together.setdefault(name, {})
            for field, number in fields.items():
                held[field] = held.get(field, 0.0) + number
    return together
