"""A process that shares a store with others, for the tests that kill and stop such processes.

    python -m tests.gateway.store.member push ADDRESS NAME COUNT
    python -m tests.gateway.store.member lead ADDRESS NAME TAKEOVER_S
    python -m tests.gateway.store.member hold ADDRESS NAME TTL_S

It says what happens in lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random
from typing import Any

from gateway.clock import SystemClock
from gateway.store.base import Fence, FencedError, Store, StoreError
from gateway.store.connect import store_at
from gateway.store.lease import Candidate, Election
from gateway.store.outbox import Outbox

LEASE = "rollouts"
DOCUMENT = "rollout/x"
CLOCK = SystemClock()


def say(**said: Any) -> None:
    sys.stdout.write(json.dumps({**said, "at": CLOCK.monotonic()}) + "\n")
    sys.stdout.flush()


async def push(store: Store, name: str, count: str) -> None:
    """Count one at a time, and push each twice or more."""
    outbox, rng = Outbox(), Random(name)
    for number in range(int(count)):
        outbox.add({"n": {"": 1}, "h": {str(number % 7): 1}})
        while outbox.waiting:
            batch = outbox.batch()
            try:
                held = await store.push(name, batch)
                if rng.random() < 0.2:  # As if the answer had been lost.
                    continue
                outbox.heard(held)
            except StoreError as error:
                say(error=str(error))
    say(pushed=name)


async def lead(store: Store, name: str, takeover_s: str) -> None:
    """Stand for election for ever; who leads writes without a pause."""

    async def serve(fence: Fence) -> None:
        say(leads=name, token=fence.token)
        wrote = False
        try:
            while True:
                seen = await store.get(DOCUMENT)
                value = {"by": name, "token": fence.token}
                done = await store.put(DOCUMENT, value, seen.version, fence)
                if done is not None and not wrote:
                    wrote = True
                    say(wrote=name)
                await asyncio.sleep(0.01)
        except FencedError:
            say(fenced=name, token=fence.token)
            raise

    candidate = Candidate(LEASE, name, Random(name), float(takeover_s))
    await Election(store, candidate, serve, CLOCK).run()


async def hold(store: Store, name: str, ttl_s: str) -> None:
    """Take the lease once; write with it whenever a line is read, as one that never looks."""
    token = await store.acquire(LEASE, name, float(ttl_s))
    say(holds=name, token=token)
    assert token is not None
    while await asyncio.to_thread(sys.stdin.readline):
        try:
            seen = await store.get(DOCUMENT)
            await store.put(DOCUMENT, {"by": name}, seen.version, Fence(LEASE, token))
            say(wrote=name)
        except FencedError:
            say(fenced=name)


async def main(what: str, address: str, name: str, number: str) -> None:
    store = store_at(address, CLOCK)
    try:
        await {"push": push, "lead": lead, "hold": hold}[what](store, name, number)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
