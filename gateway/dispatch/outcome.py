"""What did an attempt come to? One classifier; everybody reads its verdict.

Pure.
"""

from __future__ import annotations

from gateway.errors import GatewayError, upstream_error, upstream_overloaded, upstream_timeout
from gateway.model import Outcome
from gateway.relay.reply import Reply
from gateway.relay.watch import Failure, failure_of
from gateway.wire.types import UpstreamError


def judge(reply: Reply, *, own_credentials: bool) -> GatewayError | None:
    """Return the error that a reply amounts to at its commit point, or None if it may be shown.

    An engine's own 4xx is an answer. Not so 401 and 403 when the gateway authenticates itself
    (`own_credentials`): then the refusal is not about this client.
    """
    if reply.failure is not None:
        return error_of(reply.failure)
    if reply.status >= 500:
        message = _message_of(reply)
        if reply.status == 503:
            return upstream_overloaded(message)
        return upstream_error(message)
    if reply.status in {401, 403} and own_credentials:
        return upstream_error("The engine refused the gateway's credentials.")
    if 300 <= reply.status < 400:
        return upstream_error(f"The engine answered with a redirect ({reply.status}).")
    return None


def error_of(failure: Failure | UpstreamError) -> GatewayError:
    """Return what the client is told of a failed answer."""
    if isinstance(failure, UpstreamError):
        failure = Failure(str(failure), timeout=failure.timeout)
    if failure.timeout:
        return upstream_timeout(failure.message)
    if failure.overloaded:
        return upstream_overloaded(failure.message)
    return upstream_error(failure.message)


def _message_of(reply: Reply) -> str:
    failure = failure_of(reply.body)
    detail = f" {failure.message[:300]}" if failure else ""
    return f"The engine answered {reply.status}.{detail}"


def outcome_of(status: int, failed: GatewayError | None, *, committed: bool) -> Outcome:
    """Name how a request ended that its client stayed for."""
    if failed is not None:
        if failed.status < 500:
            return Outcome.REJECTED
        return Outcome.FAILURE if committed else Outcome.RETRYABLE
    return Outcome.SUCCESS if status < 400 else Outcome.REJECTED
