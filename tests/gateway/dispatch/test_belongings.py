"""What belongs to one request is not touched for another: connections, bodies, blame, time."""

from __future__ import annotations

from tests.support.engine import (
    DONE,
    Script,
    Then,
    Turn,
    finish,
    stream,
    token,
)
from tests.support.failover import failover
from tests.support.raw import post
from tests.support.rig import STREAM

WHOLE = stream(token("a"), finish(), DONE)
GREEDY = {**STREAM, "temperature": 0}
ENDED_EARLY: Script = [*stream(token("a"), whole=False), Then.YIELD, b"0\r\n\r\n"]
"""A clean end of the response without an end of the answer: the connection is kept alive."""


async def test_a_client_that_leaves_while_its_stream_is_resumed_cuts_nobody_elses() -> None:
    """The connection of its first reply carries another client's request by then."""
    first, second = Turn(), Turn()
    async with (
        failover([ENDED_EARLY, [second, *WHOLE]], [[first, *WHOLE]]) as rig,
        rig.client() as leaving,
        rig.client() as staying,
    ):
        leaving.send(post(GREEDY))
        await rig.engines[1].wait_requests(1)  # It is being resumed there.
        rig.gateway.clusters["pool"].endpoints[1].drain()
        staying.send(post(STREAM))
        other = await rig.engines[0].wait_requests(2)
        assert other.connection == rig.engines[0].requests[0].connection
        leaving.leave()
        await rig.engines[1].requests[0].abandoned()
        second.go.set()
        answer = await staying.answer()
        assert answer.body == token("a") + finish() + DONE
