"""An endpoint is judged by what it did, not by its clients' haste nor by the gateway's defects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.dispatch.blame import blame, is_out_of_patience
from gateway.model import Outcome
from gateway.proxy import Proxy
from tests.support.engine import response
from tests.support.failover import failover

STARTED, MOST_S = 100.0, 600.0


def attempts(
    *, by: float = STARTED + MOST_S, now: float = STARTED, status: int | None = 200, error: str = ""
) -> Any:
    """Return what is looked at of a request that came at 100 s and may take 600 s."""
    spec = SimpleNamespace(timeouts=SimpleNamespace(total_s=MOST_S))
    return SimpleNamespace(
        by=by,
        record=SimpleNamespace(started_at=STARTED, error=error),
        shown=None if status is None else SimpleNamespace(status=status),
        plan=SimpleNamespace(pool=SimpleNamespace(owner=SimpleNamespace(spec=spec))),
        shared=SimpleNamespace(monotonic=lambda: now),
    )


@pytest.mark.parametrize("outcome", [Outcome.RETRYABLE, Outcome.FAILURE, Outcome.CANCELLED])
def test_the_requests_outcome_is_the_endpoints(outcome: Outcome) -> None:
    """Unless there is a reason."""
    assert blame(attempts(), outcome) is outcome
    assert blame(attempts(status=None), outcome) is outcome
    assert blame(attempts(status=502, error="upstream_error"), outcome) is outcome


@pytest.mark.parametrize("status", [400, 499])
def test_a_refusal_is_one_however_it_ended(status: int) -> None:
    """Its client may have been promised a stream, or its connection may have been cut."""
    assert blame(attempts(status=status), Outcome.FAILURE) is Outcome.REJECTED


def test_a_defect_of_the_gateways_says_nothing_of_the_endpoint() -> None:
    """It is as if the client had left."""
    assert blame(attempts(error="internal_error"), Outcome.FAILURE) is Outcome.CANCELLED


@pytest.mark.parametrize(
    ("by_s", "after_s", "own"),
    [(5.0, 5.0, True), (5.0, 4.9, False), (MOST_S, MOST_S, False), (MOST_S - 1, MOST_S, True)],
)
def test_only_the_clients_own_time_is_its_haste(by_s: float, after_s: float, own: bool) -> None:
    """What the configuration gives is what an endpoint is held to."""
    late = attempts(by=STARTED + by_s, now=STARTED + after_s)
    assert is_out_of_patience(late) is own
    assert blame(late, Outcome.FAILURE) is (Outcome.CANCELLED if own else Outcome.FAILURE)


async def test_a_defect_closes_no_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five failures in a row would open its breaker."""

    def conclude(*_: object) -> None:
        raise ZeroDivisionError

    async with failover([[response()]]) as rig:
        with monkeypatch.context() as patch:
            patch.setattr(Proxy, "_commit", conclude)
            for _ in range(5):
                assert (await rig.post()).code == "internal_error"
        assert rig.gateway.clusters["pool"].endpoints[0].state(rig.clock.now) == "healthy"
        assert (await rig.post()).status == 200
