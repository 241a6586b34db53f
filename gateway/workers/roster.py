"""Which workers are there now, and how does one ask all of them?"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import httpx
import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

from gateway.control.admin_models import EndpointList
from gateway.control.operations import EndpointState
from gateway.errors import GatewayError
from gateway.workers.inner import Question, ask_all
from gateway.workers.own import Seen
from gateway.workers.restarts import Restarts
from gateway.workers.samples import Totals, decoded
from gateway.workers.seat import worker_socket


@dataclass(slots=True)
class Member:
    """One worker, over all of its processes."""

    number: int
    restarts: Restarts
    process: Process | None = None
    answers: bool = False
    """Its socket is there."""
    listening: bool = False
    since: float = 0.0
    """When the process was started, in monotonic seconds."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker, for operators."""

    worker: int
    pid: int | None
    state: str
    """`up`, `starting`, or `ended` while it waits to be started again."""
    restarts: int
    uptime_s: float


class Roster:
    """The workers, as their parent knows them. Used in the parent's main loop only."""

    def __init__(self, members: Sequence[Member], folder: str) -> None:
        self.members = members
        self._folder = folder
        self._totals = Totals()
        self._scraping = asyncio.Lock()
        self.commands = asyncio.Lock()
        """Held while workers are told something, so that all of them hear it in one order."""

    def up(self) -> list[Member]:
        """Return those that take requests."""
        return [one for one in self.members if one.listening]

    def gone(self, member: Member) -> None:
        """Note that its process has ended; what it counted is kept."""
        member.process = None
        member.answers = member.listening = False
        self._totals.ended(member.number)

    async def ask(
        self, question: Question, numbers: Collection[int] | None = None
    ) -> dict[int, httpx.Response]:
        """Ask those of `numbers`, all if None, that have a socket; return who answered what."""
        return await ask_all(
            [
                (one.number, worker_socket(self._folder, one.number))
                for one in self.members
                if one.answers and (numbers is None or one.number in numbers)
            ],
            question,
        )

    async def tell(self, question: Question) -> dict[int, httpx.Response]:
        """Tell all of them; return their answers. Raises `GatewayError` 503 if one gives none."""
        answers = await self.ask(question)
        silent = [one.number for one in self.members if one.answers and one.number not in answers]
        if silent or not answers:
            names = ", ".join(map(str, silent))
            message = f"No answer from worker {names}; what the others were told holds there."
            if not silent:  # Nobody was told, as while all of them start.
                message = "No worker answers."
            raise GatewayError(503, "gateway_busy", message, retry=True, retry_after_s=1)
        return answers

    async def seen(self) -> list[Seen]:
        """Return what each worker that answers sees."""
        answers = await self.ask(Question("GET", "/worker/seen"))
        return [
            msgspec.json.decode(one.content, type=Seen)
            for one in answers.values()
            if one.status_code == 200
        ]

    async def endpoints(
        self, numbers: Collection[int] | None = None
    ) -> dict[int, list[EndpointState]]:
        """Return each worker's endpoints. Raises `GatewayError` 503 if nobody answers."""
        answers = await self.ask(Question("GET", "/admin/endpoints"), numbers)
        said = {
            number: [
                EndpointState(**{**body.model_dump(), "models": tuple(body.models)})
                for body in EndpointList.model_validate_json(one.content).endpoints
            ]
            for number, one in answers.items()
            if one.status_code == 200
        }
        if not said:
            message = "No worker answers."
            raise GatewayError(503, "gateway_busy", message, retry=True, retry_after_s=1)
        return said

    async def metrics(self) -> list[Metric]:
        """Return all metrics of all workers, and how many took part."""
        async with self._scraping:  # In turns, so that no older answer is taken for the newer.
            before = [one.process for one in self.members]
            answers = await self.ask(Question("GET", "/worker/metrics"))
            answered = {
                number
                for number, one in answers.items()
                # What came from a process that has ended since is in the totals as far as it goes.
                if one.status_code == 200 and self.members[number].process is before[number]
            }
            for number in answered:
                self._totals.take(number, decoded(answers[number].content))
        return [*self._totals.merged(answered), *self.about(len(answered))]

    def about(self, answered: int) -> list[Metric]:
        """Return the metrics about the workers themselves, of whom `answered` answered."""
        workers = GaugeMetricFamily("sluice_workers", "Workers that take requests.")
        workers.add_metric([], len(self.up()))
        missing = GaugeMetricFamily(
            "sluice_workers_missing", "Workers whose gauges are not in these metrics."
        )
        missing.add_metric([], len(self.members) - answered)
        restarts = CounterMetricFamily("sluice_worker_restarts", "Workers started again.")
        restarts.add_metric([], sum(one.restarts.total for one in self.members))
        return [workers, missing, restarts]

    def states(self, now: float) -> list[WorkerState]:
        """Return each worker's state; `now` in monotonic seconds."""
        return [
            WorkerState(
                one.number,
                None if one.process is None else one.process.pid,
                "up" if one.listening else "ended" if one.process is None else "starting",
                one.restarts.total,
                0.0 if one.process is None else round(now - one.since, 3),
            )
            for one in self.members
        ]


def exposition(metrics: list[Metric]) -> bytes:
    """Return metrics in Prometheus' text format."""
    return generate_latest(_Collected(metrics))


class _Collected(CollectorRegistry):
    """What was collected elsewhere."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__(auto_describe=False)
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield it."""
        yield from self._metrics
