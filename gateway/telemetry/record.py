"""What is written down about one request, once, when it has ended?"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

from gateway.clock import Clock
from gateway.model import Outcome, Usage
from gateway.telemetry.arms import ArmTallies, ArmTally
from gateway.telemetry.feedback import Remembered
from gateway.telemetry.logs import AccessLog
from gateway.telemetry.metrics import UNKNOWN_MODEL, Metrics, Series

_CANCELLED = Outcome.CANCELLED  # To reach it through its class takes 0.1 µs in Python 3.11.
_NO_USAGE = Usage()


class Record:
    """The running notes of one request."""

    __slots__ = (
        "aborted",
        "arm",
        "attempts",
        "client",
        "cluster",
        "counted",
        "cut",
        "ended_at",
        "endpoint",
        "error",
        "first_at",
        "generation",
        "group",
        "model",
        "outcome",
        "policy",
        "queued_s",
        "request_id",
        "resumes",
        "route",
        "series",
        "started_at",
        "status",
        "stream",
        "tally",
        "told",
        "usage",
        "wall_at",
    )

    def __init__(self, route: str, request_id: bytes, client: str, started_at: float) -> None:
        self.route = route
        self.request_id = request_id
        self.client = client
        self.started_at = started_at
        """Monotonic seconds, as `first_at` and `ended_at`."""
        self.generation = 1
        """The configuration that it came in under."""
        self.first_at = 0.0
        self.ended_at = 0.0
        self.wall_at = 0.0
        """Seconds since the epoch at the end."""
        self.model = ""
        self.policy = ""
        """The policy that said where it goes; empty if none did."""
        self.arm = ""
        self.tally: ArmTally | None = None
        """Where the arm's numbers are kept."""
        self.group = -1
        """A hash of the key that holds it to its arm; -1 where none does."""
        self.told: Callable[[Record], None] | None = None
        """Who else is to hear that the request has ended."""
        self.aborted = False
        """Whether an engine gave the answer up, be it resumed or not."""
        self.cut = False
        """Whether the answer broke off, be it resumed or not."""
        self.counted: Outcome | None = None
        """What it is for its arm, where that is not the outcome: what the model's own endpoints
        came to before a fallback answered, nothing where the gateway was ended."""
        self.series: Series | None = None
        self.cluster = ""
        self.endpoint = ""
        """Who was asked last; empty if it never came to that."""
        self.attempts = 0
        """How often endpoints were asked, resumes included."""
        self.resumes = 0
        """How often the stream went on elsewhere."""
        self.queued_s = 0.0
        """How long it waited for a place."""
        self.status = 499
        """What the client saw; 499 if it left first."""
        self.outcome = _CANCELLED
        """Until something says otherwise, the client has left."""
        self.error = ""
        self.stream = False
        self.usage: Usage | None = None

    @property
    def way(self) -> str:
        """Where it went, in short: `policy=new; arm=canary; cluster=llama; endpoint=gpu-1:8000`."""
        steered = f"policy={self.policy}; arm={self.arm}; " if self.policy else ""
        return f"{steered}cluster={self.cluster}; endpoint={self.endpoint}"

    def broke(self, *, cut: bool) -> None:
        """Note that an answer came to no good end: it broke off, or the engine gave it up."""
        self.cut = self.cut or cut
        self.aborted = self.aborted or not cut


class Recorder:
    """Turns finished records into metrics and a log line."""

    def __init__(self, metrics: Metrics, log: AccessLog[Record] | None, clock: Clock) -> None:
        self.metrics = metrics
        self.generation = 1
        """The number of the configuration in effect."""
        self.tallies = ArmTallies()
        """What each arm of a policy has done."""
        self.remembered = Remembered()
        """The requests that may be scored."""
        self._log = log
        self._monotonic = clock.monotonic
        self._wall = clock.wall

    def finish(self, record: Record) -> None:
        """Publish a record; about 1.5 µs, most of it for the log line."""
        record.ended_at = now = self._monotonic()
        series = record.series or self.metrics.series(UNKNOWN_MODEL, record.route)
        series.outcomes[record.outcome] += 1
        series.duration.observe(now - record.started_at)
        if record.first_at:
            series.first_token.observe(record.first_at - record.started_at)
        usage = record.usage
        if usage is not None:
            series.prompt_tokens += usage.prompt_tokens
            series.completion_tokens += usage.completion_tokens
        if record.tally is not None:
            self.tallies.note(record)
        if self._log is not None:
            record.wall_at = self._wall()
            self._log.write(record)
        if record.told is not None:
            record.told(record)


_quoted = functools.lru_cache(maxsize=1024)(json.dumps)
"""Models, endpoints and clients repeat; a JSON string of each is made once."""


def line_of(record: Record) -> str:
    """Return the access-log line of a finished record: one JSON object, times in milliseconds.

    Keys, prompts and answers are never part of it. `ttft_ms` is there for streams that brought
    an event, `attempts` and `resumes` where there was more than the usual one and none,
    `queued_ms` where the request had to wait for a place, `error` where the answer was one of the
    gateway's errors. Formatted by hand because an encoder's object for it would cost 1 µs a request
    more.
    """
    usage = record.usage or _NO_USAGE
    line = (
        f'{{"ts":{record.wall_at:.3f},"request_id":"{record.request_id.decode()}",'
        f'"route":"{record.route}","model":{_quoted(record.model)},"status":{record.status},'
        f'"outcome":"{record.outcome}",'
        f'"duration_ms":{(record.ended_at - record.started_at) * 1e3:.3f},'
        f'"endpoint":{_quoted(record.endpoint)},"client":{_quoted(record.client)},'
        f'"stream":{"true" if record.stream else "false"},'
        f'"prompt_tokens":{usage.prompt_tokens},"completion_tokens":{usage.completion_tokens},'
        f'"generation":{record.generation}'
    )
    if record.first_at:
        line += f',"ttft_ms":{(record.first_at - record.started_at) * 1e3:.3f}'
    if record.attempts > 1:
        line += f',"attempts":{record.attempts}'
    if record.resumes:
        line += f',"resumes":{record.resumes}'
    if record.queued_s:
        line += f',"queued_ms":{record.queued_s * 1e3:.3f}'
    if record.policy:
        line += f',"policy":"{record.policy}","arm":"{record.arm}"'
    if record.error:
        line += f',"error":{_quoted(record.error)}'
    return line + "}\n"
