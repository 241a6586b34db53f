"""Scripted workers on real sockets, and the parent's roster of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import httpx
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gateway.control.admin import build_admin
from gateway.workers.inner import Question, serve_inside
from gateway.workers.own import Standing, own_routes
from gateway.workers.restarts import Restarts
from gateway.workers.roster import Member, Roster
from gateway.workers.seat import worker_socket
from tests.gateway.control.test_admin import FakeOperations, Heart, Here
from tests.support.control import PATIENCE_S, FakeView


class Numbers:
    """What one worker counts."""

    def __init__(self) -> None:
        self.asked = 1.0
        self.inflight = 1.0

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        return [
            CounterMetricFamily("sluice_asked", "Times.", value=self.asked),
            GaugeMetricFamily("sluice_inflight", "Now.", value=self.inflight),
        ]


@dataclass
class Hand:
    """One worker."""

    operations: FakeOperations = field(default_factory=FakeOperations)
    view: FakeView = field(default_factory=FakeView)
    main: Here = field(default_factory=Here)
    numbers: Numbers = field(default_factory=Numbers)
    went: int = 0

    def go(self) -> None:
        self.went += 1


class PatientRoster(Roster):
    """One that waits for whoever has a socket: a busy machine is no silent worker."""

    async def ask(
        self, question: Question, numbers: Collection[int] | None = None
    ) -> dict[int, httpx.Response]:
        limit_s = max(PATIENCE_S, question.limit_s)
        return await super().ask(replace(question, limit_s=limit_s), numbers)


@dataclass
class Crew:
    """All of them."""

    roster: Roster
    hands: list[Hand]
    folder: str


@asynccontextmanager
async def crew(folder: Path, count: int = 2, absent: int = 0) -> AsyncIterator[Crew]:
    """Serve `count` workers; the last `absent` of them have no socket, and nobody knows yet."""
    members = [Member(number, Restarts(Random(1))) for number in range(count)]
    hands = [Hand() for _ in members]
    roster = PatientRoster(members, str(folder))
    async with AsyncExitStack() as stack:
        for member, hand in zip(members, hands, strict=True):
            member.answers = member.listening = True
            if member.number >= count - absent:
                continue
            registry = CollectorRegistry(auto_describe=False)
            registry.register(hand.numbers)
            app = build_admin(hand.operations, hand.main, Heart())
            app.include_router(
                own_routes(hand.view, registry, hand.main, lambda: Standing(True, 0.25), hand.go)
            )
            app.openapi()  # Routes are built when first needed; threads must not build at once.
            await stack.enter_async_context(
                serve_inside(app, worker_socket(str(folder), member.number))
            )
        yield Crew(roster, hands, str(folder))
