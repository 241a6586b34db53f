"""What is written down about one request, once, when it has ended?"""

from __future__ import annotations

from gateway.clock import Clock
from gateway.model import Outcome, Usage
from gateway.telemetry.logs import AccessLine, AccessLog
from gateway.telemetry.metrics import Metrics, Series


class Record:
    """The running notes of one request."""

    __slots__ = (
        "client",
        "endpoint",
        "error",
        "first_at",
        "model",
        "outcome",
        "request_id",
        "route",
        "series",
        "started_at",
        "status",
        "stream",
        "usage",
    )

    def __init__(self, route: str, request_id: str, client: str, started_at: float) -> None:
        self.route = route
        self.request_id = request_id
        self.client = client
        self.started_at = started_at
        """Monotonic seconds."""
        self.model = ""
        self.series: Series | None = None
        self.endpoint = ""
        self.status = 0
        self.outcome = Outcome.CANCELLED  # Until something says otherwise, the client has left.
        self.error = ""
        self.stream = False
        self.first_at = 0.0
        self.usage: Usage | None = None


class Recorder:
    """Turns finished records into metrics and a log line."""

    def __init__(self, metrics: Metrics, log: AccessLog | None, clock: Clock) -> None:
        self.metrics = metrics
        self._log = log
        self._monotonic = clock.monotonic
        self._wall = clock.wall

    def finish(self, record: Record) -> None:
        """Publish a record; about 2 µs."""
        duration_s = self._monotonic() - record.started_at
        series = record.series or self.metrics.series("unknown", record.route)
        series.outcomes[record.outcome] += 1
        series.duration.observe(duration_s)
        first_s = record.first_at - record.started_at if record.first_at else None
        if first_s is not None:
            series.first_token.observe(first_s)
        usage = record.usage
        if usage is not None:
            series.prompt_tokens += usage.prompt_tokens
            series.completion_tokens += usage.completion_tokens
        if self._log is not None:
            self._log.write(
                AccessLine(
                    ts=round(self._wall(), 3),
                    request_id=record.request_id,
                    route=record.route,
                    model=record.model,
                    status=record.status,
                    outcome=record.outcome,
                    duration_ms=round(duration_s * 1e3, 3),
                    endpoint=record.endpoint,
                    client=record.client,
                    stream=record.stream,
                    ttft_ms=None if first_s is None else round(first_s * 1e3, 3),
                    prompt_tokens=usage.prompt_tokens if usage else 0,
                    completion_tokens=usage.completion_tokens if usage else 0,
                    error=record.error,
                )
            )
