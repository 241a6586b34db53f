"""Which arm of a policy does this score belong to?

People say afterwards what an answer was worth. Requests that a policy has divided are remembered
by their ids, the newest `MOST` of them, so that a score finds its arm; of others nothing is kept.
One event loop uses it.
"""

from __future__ import annotations

import json
import logging
import re
from collections import OrderedDict
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from gateway.telemetry.arms import ArmTally

if TYPE_CHECKING:
    from gateway.telemetry.record import Record

_LOG = logging.getLogger("sluice.feedback")

MOST = 50_000
"""Requests that are remembered, at about 0.4 KB each. At 10 a second that is an hour and a half."""

MAX_SCORE = 100.0
"""Scores lie between minus and plus this: thumbs, stars and percent fit, and one absurd number
cannot decide an experiment."""

_FRESH = 256
"""Requests that are noted in one go, as `gateway.telemetry.arms` counts them."""

_TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


class Given(StrEnum):
    """What became of a score."""

    COUNTED = "counted"
    REPEATED = "repeated"
    """The request had one already; the first counts."""
    HANDED_ON = "handed_on"
    """Not known in this process; the one that served the request will count it."""
    UNKNOWN = "unknown"


Owner: TypeAlias = tuple[str, str, ArmTally]
"""Whose request it was: policy, arm, and the arm's numbers."""


class Remembered:
    """The requests of this process that may be scored."""

    __slots__ = ("_fresh", "_known", "_most", "_traces")

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        # In the order of their coming; None where there was a score. A plain dict would have to
        # look for its first entry behind those that have gone.
        self._known: OrderedDict[bytes, Owner | None] = OrderedDict()
        self._traces: OrderedDict[bytes, bytes] = OrderedDict()
        self._fresh: list[tuple[Record, bytes]] = []

    def __len__(self) -> int:
        self._settle()
        return len(self._known)

    def remember(self, record: Record, traceparent: bytes = b"") -> None:
        """Note a request that a policy has divided: its record names policy, arm and tally.

        Of several requests with one id, or of one trace, the last is meant. 0.1 µs now, and 0.5 in
        one go with others.
        """
        fresh = self._fresh
        fresh.append((record, traceparent))
        if len(fresh) >= _FRESH:
            self._settle()

    def _settle(self) -> None:
        fresh, self._fresh = self._fresh, []
        known = self._known
        for record, traceparent in fresh:
            assert record.tally is not None  # noqa: S101  a policy has divided it
            request_id = record.request_id
            if request_id in known:
                known.move_to_end(request_id)
            known[request_id] = (record.policy, record.arm, record.tally)
            if traceparent:
                match = _TRACE.fullmatch(traceparent)
                if match is not None:
                    self._trace(match[1], request_id)
        for old in (known, self._traces):
            while len(old) > self._most:
                old.popitem(last=False)

    def _trace(self, trace_id: bytes, request_id: bytes) -> None:
        traces = self._traces
        if trace_id in traces:
            traces.move_to_end(trace_id)
        traces[trace_id] = request_id

    def give(self, name: str, score: float, label: str = "") -> Given:
        """Count a score for the request with this id, or the last one of the trace with this id.

        The label is logged with it. ValueError for a score beyond `MAX_SCORE`.
        """
        if not -MAX_SCORE <= score <= MAX_SCORE:
            raise ValueError(f"a score lies between {-MAX_SCORE:g} and {MAX_SCORE:g}")
        self._settle()
        asked = name.encode("utf-8", "surrogatepass")
        request_id = self._traces.get(asked, asked)
        if request_id not in self._known:
            return Given.UNKNOWN
        owner = self._known[request_id]
        if owner is None:
            return Given.REPEATED
        self._known[request_id] = None
        policy, arm, tally = owner
        tally.feedback.add(score)
        said = f" label={json.dumps(label)}" if label else ""
        _LOG.info("%s/%s: request %s: %g%s", policy, arm, name, score, said)
        return Given.COUNTED
