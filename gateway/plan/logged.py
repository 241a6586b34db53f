"""What does a line of the access log tell of a request, for policies that are tried on it later?

Pure. Headers, users, keys and prompts are never logged, so whatever hangs on them cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gateway.model import Outcome, Usage
from gateway.telemetry.record import Record


class Line(msgspec.Struct, gc=False):
    """One finished request, as `gateway.telemetry.record.line_of` wrote it."""

    ts: float
    """When it ended, in seconds since the epoch."""
    request_id: str
    route: str
    model: str
    outcome: Outcome
    duration_ms: float
    stream: bool = False
    completion_tokens: int = 0
    ttft_ms: float | None = None
    policy: str = ""
    arm: str = ""

    def record(self) -> Record:
        """Return the record that it was made from, as far as it tells."""
        made = Record(self.route, self.request_id.encode(), "", self.ts - self.duration_ms / 1e3)
        made.ended_at = self.ts
        made.outcome = self.outcome
        if self.ttft_ms is not None:
            made.first_at = made.started_at + self.ttft_ms / 1e3
        made.usage = Usage(0, self.completion_tokens)
        return made


_DECODER = msgspec.json.Decoder(Line)


def read_lines(lines: Iterable[bytes]) -> Iterator[Line | None]:
    """Yield each line that is not blank; None for what is no line of an access log."""
    for text in lines:
        if not text.strip():
            continue
        try:
            yield _DECODER.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            yield None
