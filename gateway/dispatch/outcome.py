"""What did an attempt come to? One classifier; everybody reads its verdict.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from gateway.errors import (
    GatewayError,
    overloaded,
    upstream_error,
    upstream_overloaded,
    upstream_timeout,
)
from gateway.model import Outcome
from gateway.relay.reply import Reply
from gateway.relay.watch import Failure, failure_of
from gateway.wire.types import UpstreamError

_SUCCESS = Outcome.SUCCESS  # To reach it through its class takes 0.1 µs in Python 3.11.


class Cause(StrEnum):
    """Why an attempt gave no answer to show."""

    UNREACHABLE = "unreachable"  # No connection: not a byte was sent.
    DEAF = "deaf"  # The same, after a timer ran out: the network swallows what is sent there.
    SCARCE = "scarce"  # The same, for want of descriptors or ports of the gateway's own.
    LOST = "lost"  # The connection broke, or its end came too soon.
    SILENT = "silent"  # A timer ran out.
    BROKEN = "broken"  # An error status, an error in the stream, or not what HTTP or SSE allow.
    REFUSED = "refused"  # The gateway's own credentials, or a redirect.
    LEAVING = "leaving"  # The engine is shutting down or asleep, and says so.
    UNREADY = "unready"  # 503: the endpoint does not have this model loaded now, and says so.
    OVERLOADED = "overloaded"  # 503, or an error in the stream that means it.
    LIMITED = "limited"  # 429.
    TOO_LONG = "too_long"  # 400: the prompt does not fit into this model's context.


UNSENT = frozenset({Cause.UNREACHABLE, Cause.DEAF, Cause.SCARCE})
"""Not a byte of the request has left."""

MOVED = frozenset({Cause.UNREACHABLE, Cause.DEAF, Cause.LOST, Cause.LEAVING, Cause.UNREADY})
"""The endpoint is gone, or has not begun: trying another moves its load there and adds none."""

_NOT_AT_FAULT = frozenset(
    {Cause.SCARCE, Cause.UNREADY, Cause.OVERLOADED, Cause.LIMITED, Cause.TOO_LONG}
)


SCARCE_S = 1
"""Retry-After where the gateway has no descriptor left: streams end all the time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with an attempt."""

    cause: Cause
    error: GatewayError | None = None
    """What the client is told if nothing better comes; None if the engine's own answer is shown."""

    @property
    def outcome(self) -> Outcome:
        """How the endpoint did, as breaker and balancer see it, before the client saw a byte."""
        return Outcome.REJECTED if self.cause in _NOT_AT_FAULT else Outcome.RETRYABLE


# vLLM's words after SIGTERM, while /health still answers 200, those of a sleeping engine, and those
# of a gateway that is one of our endpoints and is being ended (`errors.shutting_down`).
_LEAVING = ("cannot schedule new futures", "engine is sleeping", "is shutting down")
_UNREADY = re.compile(rb'"code"\s*:\s*"model_not_ready"')  # The vision service's.
_QUOTED = ("The engine failed: The engine failed: ", "The engine failed: The engine answered ")


def judge(reply: Reply, *, own_credentials: bool) -> Verdict | None:
    """Return what is wrong with a reply at its commit point, or None if it may be shown.

    An engine's own 4xx is an answer. Not so 401 and 403 when the gateway authenticates itself
    (`own_credentials`): then the refusal is not about this client. A verdict without an error
    says that the answer may be shown, but another endpoint or model might give a better one.
    """
    if reply.failure is not None:
        return verdict_of(reply.failure, reply.lost_by)
    if reply.status < 300:
        return None
    if reply.status >= 500:
        return _failed(reply)
    if reply.status < 400:
        message = f"The engine answered with a redirect ({reply.status})."
        return Verdict(Cause.REFUSED, upstream_error(message))
    return _refused(reply, own_credentials=own_credentials)


def verdict_of(failure: Failure | UpstreamError, lost_by: UpstreamError | None = None) -> Verdict:
    """Return what a broken answer amounts to; `lost_by` is how the connection broke, if it did."""
    if isinstance(failure, UpstreamError):
        # Only dialling raises: with a reply, its failure tells.
        if failure.ours:
            return Verdict(Cause.SCARCE, overloaded(str(failure), SCARCE_S))
        cause = Cause.DEAF if failure.timeout else Cause.UNREACHABLE
        return Verdict(cause, error_of(failure))
    error = error_of(failure)
    if failure.timeout:
        return Verdict(Cause.SILENT, error)
    if _is_leaving(failure.message):
        return Verdict(Cause.LEAVING, error)
    if failure.overloaded:
        return Verdict(Cause.OVERLOADED, error)
    return Verdict(Cause.BROKEN if lost_by is None else Cause.LOST, error)


def error_of(failure: Failure | UpstreamError) -> GatewayError:
    """Return what the client is told of a failed answer."""
    if isinstance(failure, UpstreamError):
        failure = Failure(str(failure), timeout=failure.timeout)
    if failure.timeout:
        return upstream_timeout(failure.message)
    if failure.overloaded:
        return upstream_overloaded(failure.message)
    return upstream_error(failure.message)


def _refused(reply: Reply, *, own_credentials: bool) -> Verdict | None:
    status = reply.status
    if status in {401, 403} and own_credentials:
        error = upstream_error("The engine refused the gateway's credentials.")
        return Verdict(Cause.REFUSED, error)
    if status == 429:
        return Verdict(Cause.LIMITED)
    if status in {400, 413} and _is_too_long(reply.body):
        return Verdict(Cause.TOO_LONG)
    return None


def _failed(reply: Reply) -> Verdict:
    failure = failure_of(reply.body)
    detail = f" {failure.message[:300]}" if failure else ""
    message = f"The engine answered {reply.status}.{detail}"
    if _is_leaving(detail):
        return Verdict(Cause.LEAVING, upstream_error(message))
    if reply.status == 503:
        if _UNREADY.search(reply.body) is not None:
            return Verdict(Cause.UNREADY, upstream_overloaded(message))
        return Verdict(Cause.OVERLOADED, upstream_overloaded(message))
    if reply.status == 504:
        return Verdict(Cause.SILENT, upstream_timeout(message))
    return Verdict(Cause.BROKEN, upstream_error(message))


def _is_leaving(message: str) -> bool:
    # What such a gateway says of an engine behind it says nothing of itself: it has others.
    if any(words in message for words in _QUOTED):
        return False
    return any(words in message for words in _LEAVING)


def _is_too_long(body: bytes) -> bool:
    # OpenAI's code; vLLM's param, and its words.
    return (
        b'"context_length_exceeded"' in body
        or b'"input_tokens"' in body
        or b"maximum context length" in body
    )


def outcome_of(status: int, failed: GatewayError | None, *, committed: bool) -> Outcome:
    """Name how a request ended that its client stayed for."""
    if failed is not None:
        if failed.status < 500:
            return Outcome.REJECTED
        return Outcome.FAILURE if committed else Outcome.RETRYABLE
    return _SUCCESS if status < 400 else Outcome.REJECTED
