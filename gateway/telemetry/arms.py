"""What has each arm of a policy done so far?

One event loop writes, without locks; sums only grow, and merge by addition with those of other
processes. A request is counted when it has ended, for the arm and the epoch that it began in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from gateway.model import Outcome
from gateway.stats.groups import Groups
from gateway.stats.sums import Rate, Sums, Values

if TYPE_CHECKING:
    from gateway.telemetry.record import Record

_SUCCESS, _CANCELLED, _REJECTED = Outcome.SUCCESS, Outcome.CANCELLED, Outcome.REJECTED


class ArmKey(NamedTuple):
    """Whose numbers they are."""

    policy: str
    epoch: int
    """Grows with each step of a rollout, so that arms are compared over the same time."""
    arm: str


class ArmTally:
    """The numbers of one arm in one epoch.

    What the client did or asked for wrongly says nothing of the arm: requests that were refused
    (4xx) count nowhere, and those whose client left in `cancel_rate` only. Times and lengths are
    those of successes; failures are slow or fast for reasons of their own.
    """

    __slots__ = (
        "abort_rate",
        "cancel_rate",
        "error_rate",
        "feedback",
        "groups",
        "inter_token",
        "latency",
        "output_tokens",
        "success_rate",
        "tokens_per_s",
        "truncation_rate",
        "ttft",
    )

    def __init__(self) -> None:
        self.success_rate = Rate()
        self.error_rate = Rate()
        self.abort_rate = Rate()
        """Answers that an engine gave up by itself, also those that another one completed."""
        self.truncation_rate = Rate()
        """Answers that broke off, also those that were resumed."""
        self.cancel_rate = Rate()
        self.ttft = Values()
        self.inter_token = Values()
        """The mean gap between tokens of each stream, in seconds."""
        self.latency = Values()
        self.tokens_per_s = Values()
        self.output_tokens = Values()
        self.feedback = Values()
        self.groups: dict[str, Groups] = {}
        """By metric: the same numbers by groups of keys, where keys stick to their arm."""

    def observe(self, record: Record) -> None:
        """Count a request that has ended. About 1.5 µs."""
        outcome = record.outcome
        if outcome is _REJECTED:
            return
        left = outcome is _CANCELLED
        self.cancel_rate.add(left)
        if record.group >= 0:
            self._group(record)
        if left:
            return
        good = outcome is _SUCCESS
        self.success_rate.add(good)
        self.error_rate.add(not good)
        self.abort_rate.add(record.aborted)
        self.truncation_rate.add(record.cut)
        if not good:
            return
        whole_s = record.ended_at - record.started_at
        self.latency.add(whole_s)
        tokens = record.usage.completion_tokens if record.usage is not None else 0
        if tokens:
            self.output_tokens.add(tokens)
            if whole_s > 0:
                self.tokens_per_s.add(tokens / whole_s)
        if record.first_at:
            self.ttft.add(record.first_at - record.started_at)
            if tokens > 1:
                self.inter_token.add((record.ended_at - record.first_at) / (tokens - 1))

    def _group(self, record: Record) -> None:
        for name, value_of in _VALUES.items():
            value = value_of(record)
            if value is not None:
                groups = self.groups.get(name)
                if groups is None:
                    groups = self.groups[name] = Groups()
                groups.add(record.group, value)

    def sums(self) -> Mapping[str, Sums]:
        """Return the numbers by metric."""
        return {name: getattr(self, name) for name in _METRICS}


_METRICS = tuple(name for name in ArmTally.__slots__ if name != "groups")


def _cancelled(record: Record) -> float | None:
    return float(record.outcome is _CANCELLED)


def _succeeded(record: Record) -> float | None:
    return None if record.outcome is _CANCELLED else float(record.outcome is _SUCCESS)


def _failed(record: Record) -> float | None:
    return None if record.outcome is _CANCELLED else float(record.outcome is not _SUCCESS)


def _latency(record: Record) -> float | None:
    return record.ended_at - record.started_at if record.outcome is _SUCCESS else None


def _ttft(record: Record) -> float | None:
    if record.outcome is not _SUCCESS or not record.first_at:
        return None
    return record.first_at - record.started_at


def _output_tokens(record: Record) -> float | None:
    if record.outcome is not _SUCCESS or record.usage is None:
        return None
    return record.usage.completion_tokens or None


_VALUES: Mapping[str, Callable[[Record], float | None]] = {
    "cancel_rate": _cancelled,
    "success_rate": _succeeded,
    "error_rate": _failed,
    "latency": _latency,
    "ttft": _ttft,
    "output_tokens": _output_tokens,
}
"""What is kept by groups, too: 1.5 µs a request. The others are compared as if each request were
a sample of its own."""


class ArmTallies:
    """The numbers of every arm that this process has sent a request to."""

    __slots__ = ("_tallies",)

    def __init__(self) -> None:
        self._tallies: dict[ArmKey, ArmTally] = {}

    def of(self, policy: str, epoch: int, arm: str) -> ArmTally:
        """Return the numbers of an arm; those that are new begin at zero. 0.2 µs."""
        key = ArmKey(policy, epoch, arm)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = ArmTally()
        return found

    def items(self) -> Iterator[tuple[ArmKey, ArmTally]]:
        """Return all of them."""
        return iter(list(self._tallies.items()))

    def forget(self, policy: str, before: int) -> None:
        """Drop the epochs of a policy that are over and pushed."""
        for key in [key for key in self._tallies if key.policy == policy and key.epoch < before]:
            del self._tallies[key]
