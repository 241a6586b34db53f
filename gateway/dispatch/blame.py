"""Was it the endpoint's fault that a request was no success?

Not so where the client was in haste or asked for what cannot be, or where the gateway has a defect:
else one client, or one defect, could take every endpoint from all the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model import Outcome

if TYPE_CHECKING:
    from gateway.dispatch.attempts import Attempts


def blame(attempts: Attempts, outcome: Outcome) -> Outcome:
    """Return how the endpoint did that a request ended with; `outcome` is the request's own."""
    shown = attempts.shown
    if shown is not None and 400 <= shown.status < 500:
        return Outcome.REJECTED  # Even where a comment had promised a stream.
    if attempts.record.error == "internal_error" or is_out_of_patience(attempts):
        return Outcome.CANCELLED
    return outcome


def is_out_of_patience(attempts: Attempts) -> bool:
    """Say whether the time is up that the client gave, and not what the configuration gives."""
    most_s = attempts.plan.pool.owner.spec.timeouts.total_s
    own = attempts.by < attempts.record.started_at + most_s
    return own and attempts.shared.monotonic() >= attempts.by
