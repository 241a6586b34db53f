"""Nothing enters beyond the limits, no place is ever lost, and refusals say when to come back."""

from __future__ import annotations

import asyncio
import math
from asyncio import Task, TaskGroup
from collections.abc import Callable, Coroutine
from functools import partial
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admit.gate import MAX_RETRY_AFTER_S, Gate
from gateway.admit.queue import Queue
from gateway.admit.ticket import Priority, Refusal
from gateway.errors import GatewayError

HIGH, NORMAL, LOW = Priority


class Spread(Random):
    """Always the least spread, so that computed values are exact."""

    def random(self) -> float:
        """No chance."""
        return 0.0


class Rooms:
    """What the endpoints would still take."""

    def __init__(self, free: int) -> None:
        self.free = free

    def __call__(self) -> int:
        """Return it."""
        return self.free


def gate_of(
    limit: int | None = 1, size: int = 9, timeout_s: float = 30.0, rooms: Rooms | None = None
) -> Gate:
    """A gate before an imaginary cluster."""
    return Gate("c", limit, Queue(size, timeout_s), rooms, Spread())


async def turns(count: int = 3) -> None:
    """Let every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


class Scene:
    """Named requests at one gate, and the order in which they were let in."""

    def __init__(self, gate: Gate, group: TaskGroup) -> None:
        self.gate = gate
        self.entered: list[str] = []
        self.errors: dict[str, GatewayError] = {}
        self._group = group

    async def ask(
        self,
        name: str,
        priority: Priority = NORMAL,
        *,
        deadline: float = inf,
        now: float = 0.0,
        weight: float = 1.0,
    ) -> Task[None]:
        """Start a request of tenant `name[0]` and let it come as far as it can."""

        def entry() -> Coroutine[Any, Any, None]:
            return self.gate.enter(priority, name[:1].encode(), deadline, now, weight)

        task = self._group.create_task(self.run(name, entry))
        await turns()
        return task

    async def run(self, name: str, entry: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Wait at the gate; note how it ends."""
        try:
            await entry()
        except GatewayError as error:
            self.errors[name] = error
        else:
            self.entered.append(name)


async def test_the_limit_holds() -> None:
    """Two places, two requests; a third only after one has left."""
    gate = gate_of(2)
    assert gate.try_enter()
    assert gate.try_enter()
    assert not gate.try_enter()
    gate.leave(0.0, 1.0)
    assert gate.try_enter()
    assert gate.inflight == 2


async def test_no_limit() -> None:
    """Without a cap nothing waits."""
    gate = gate_of(None)
    assert all(gate.try_enter() for _ in range(1000))


async def test_enter_takes_a_free_place() -> None:
    """Asking the long way needs no free place to be declined first."""
    gate = gate_of(1)
    await gate.enter(NORMAL, b"", inf, 0.0)
    assert gate.inflight == 1


async def test_waiting_in_turn() -> None:
    """A place that is given back goes to the next in line, which the counts show at once."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        for name in ("a1", "a2"):
            await scene.ask(name)
        assert (scene.entered, gate.waiting(NORMAL)) == ([], 2)
        gate.leave(0.0, 1.0)
        assert (gate.inflight, gate.waiting(NORMAL)) == (1, 1)
        await turns()
        assert scene.entered == ["a1"]
        gate.leave(1.0, 2.0)
        await turns()
        assert scene.entered == ["a1", "a2"]
        gate.leave(2.0, 3.0)
        assert gate.inflight == 0


async def test_nobody_overtakes() -> None:
    """A newcomer does not take the place that was just given to one that waited."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("a")
        await scene.ask("b")
        gate.leave(0.0, 1.0)
        assert not gate.try_enter()  # `a` has it, though its task has not run yet.
        await turns()
        assert not gate.try_enter()
        gate.leave(0.0, 1.0)
        await turns()
        assert scene.entered == ["a", "b"]


async def test_room_that_nobody_told_of_is_for_those_who_wait() -> None:
    """A newcomer that finds room before the next sweep does not take it past the queue."""
    rooms = Rooms(0)
    gate = gate_of(None, rooms=rooms)
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("a")
        rooms.free = 1
        assert not gate.try_enter()
        gate.sweep(0.1)
        await turns()
        assert scene.entered == ["a"]


async def test_the_urgent_go_first() -> None:
    """The class decides, not the arrival."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("low", LOW)
        await scene.ask("normal", NORMAL)
        await scene.ask("high", HIGH)
        for _ in range(3):
            gate.leave(0.0, 1.0)
            await turns()
        assert scene.entered == ["high", "normal", "low"]


async def test_tenants_share() -> None:
    """The weight counts: two of the heavier tenant for each of the other."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        for number in range(4):
            await scene.ask(f"a{number}")
        for number in range(4):
            await scene.ask(f"b{number}", weight=2.0)
        for _ in range(8):
            gate.leave(0.0, 1.0)
            await turns()
        assert "".join(name[0] for name in scene.entered) == "abbabbaa"


async def test_a_client_that_leaves_while_it_waits() -> None:
    """Its place in the queue is free, and those behind it move up."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        first = await scene.ask("a")
        await scene.ask("b")
        first.cancel()
        await turns()
        assert gate.waiting(NORMAL) == 1
        gate.leave(0.0, 1.0)
        await turns()
        assert scene.entered == ["b"]
        assert gate.inflight == 1


async def test_a_client_that_leaves_in_the_turn_of_its_grant() -> None:
    """The place that it was just given goes on to the next."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        first = await scene.ask("a")
        await scene.ask("b")
        gate.leave(0.0, 1.0)
        first.cancel()
        await turns()
        assert scene.entered == ["b"]
        gate.leave(0.0, 1.0)
        assert gate.inflight == 0
        assert gate.try_enter()


async def test_a_grant_in_the_turn_in_which_the_client_leaves() -> None:
    """One that is about to hear of its cancellation is passed over."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        first = await scene.ask("a")
        await scene.ask("b")
        first.cancel()
        gate.leave(0.0, 1.0)
        await turns()
        assert scene.entered == ["b"]
        assert (gate.inflight, gate.waiting(NORMAL)) == (1, 0)


async def test_a_client_that_leaves_in_the_turn_of_its_refusal() -> None:
    """Nothing was given, so nothing is given back."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        first = await scene.ask("a")
        gate.sweep(30.0)
        first.cancel()
        await turns()
        assert first.cancelled()
        assert (gate.inflight, gate.waiting(NORMAL)) == (1, 0)


async def test_a_refusal_in_the_turn_in_which_the_client_leaves() -> None:
    """A request that is cancelled already is not told anything more."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        first = await scene.ask("a")
        first.cancel()
        gate.sweep(30.0)
        await turns()
        assert first.cancelled()
        assert (gate.inflight, gate.waiting(NORMAL)) == (1, 0)


async def test_endpoints_without_room() -> None:
    """What the cluster would allow still waits while each endpoint is at its own limit."""
    rooms = Rooms(1)
    gate = gate_of(None, rooms=rooms)
    assert gate.try_enter()
    rooms.free = 0
    assert not gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("a")
        gate.poke()
        await turns()
        assert scene.entered == []
        rooms.free = 1
        gate.poke()
        await turns()
        assert scene.entered == ["a"]


async def test_a_place_promised_is_not_given_twice() -> None:
    """Until the one that was woken has picked its endpoint, that endpoint still shows room."""
    rooms = Rooms(0)
    gate = gate_of(None, rooms=rooms)
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        for name in ("a", "b"):
            await scene.ask(name)
        rooms.free = 1
        gate.poke()
        gate.poke()
        rooms.free = 2
        assert gate.waiting(NORMAL) == 1
        gate.poke()
        assert not gate.try_enter()
        rooms.free = 3
        assert gate.try_enter()
        await turns()
        assert scene.entered == ["a", "b"]


async def test_a_new_limit_lets_more_in() -> None:
    """A reload takes effect on those that wait; a smaller limit ends nothing."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        for name in ("a", "b", "c"):
            await scene.ask(name)
        gate.limit(3, 1, 5.0)
        await turns()
        assert scene.entered == ["a", "b"]
        gate.limit(1, 1, 5.0)
        assert gate.inflight == 3
        await scene.ask("c2")
        assert scene.errors["c2"].code == "overloaded"
        gate.sweep(5.0)
        await turns()
        assert set(scene.errors) == {"c", "c2"}
        gate.limit(None, 1, 5.0)
        assert gate.try_enter()


async def refused(gate: Gate, priority: Priority = NORMAL, deadline: float = inf) -> GatewayError:
    """Ask at time 100 for what is refused at once."""
    with pytest.raises(GatewayError) as caught:
        await gate.enter(priority, b"t", deadline, 100.0)
    return caught.value


async def test_a_full_queue_refuses_with_the_time_until_it_has_drained() -> None:
    """Two places held 4 s each drain at 0.5 a second: 5 that wait and itself take 12 s."""
    gate = gate_of(2, size=5)
    gate.try_enter()
    gate.try_enter()
    gate.leave(94.0, 98.0)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        tasks = [await scene.ask("t", now=98.0) for _ in range(5)]
        error = await refused(gate)
        assert (error.status, error.code, error.retry) == (503, "overloaded", True)
        assert error.retry_after_s == 12
        assert "full" in error.message
        assert gate.refused[Refusal.FULL] == 1
        for task in tasks:
            task.cancel()


@pytest.mark.parametrize(("held_s", "expected"), [(0.01, 1), (9.5, 19), (500.0, MAX_RETRY_AFTER_S)])
async def test_retry_after_has_bounds(held_s: float, expected: int) -> None:
    """At least a second, since the field has whole ones; at most what clients obey."""
    gate = gate_of(1, size=1, timeout_s=1000.0)
    gate.try_enter()
    gate.leave(100.0 - held_s, 100.0)
    gate.try_enter()
    async with TaskGroup() as group:
        task = await Scene(gate, group).ask("t", now=100.0)
        assert (await refused(gate)).retry_after_s == expected
        task.cancel()


async def test_retry_after_is_spread() -> None:
    """Those refused in one moment are not all told the same; none is told less than computed."""
    gate = Gate("c", 1, Queue(0, 30.0), None, Random(7))
    gate.try_enter()
    gate.leave(80.0, 100.0)
    gate.try_enter()
    told = [(await refused(gate)).retry_after_s or 0 for _ in range(200)]
    assert min(told) >= 20
    assert max(told) <= 30
    assert len(set(told)) > 5


async def test_a_deadline_that_cannot_be_met_is_refused_now() -> None:
    """One ahead, four seconds a request: a deadline in three is hopeless, in five not."""
    gate = gate_of(1)
    gate.try_enter()
    gate.leave(96.0, 100.0)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        tasks = [await scene.ask("t", now=100.0)]
        error = await refused(gate, deadline=103.0)
        assert "deadline" in error.message
        assert gate.refused[Refusal.DEADLINE] == 1
        tasks.append(await scene.ask("t", now=100.0, deadline=105.0))
        assert gate.waiting(NORMAL) == 2
        for task in tasks:
            task.cancel()


async def test_a_backlog_beyond_the_time_out_is_refused_now() -> None:
    """Not after 30 s of waiting in vain."""
    gate = gate_of(1)
    gate.try_enter()
    gate.leave(80.0, 100.0)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        tasks = [await scene.ask("t", now=100.0) for _ in range(2)]
        error = await refused(gate)
        assert "in time" in error.message
        assert gate.refused[Refusal.BACKLOG] == 1
        for task in tasks:
            task.cancel()


async def test_waiting_ends_with_the_time_out() -> None:
    """503 with what is known by then: nothing ended in 30 s, so come back in 30."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("a")
        gate.sweep(29.9)
        await turns()
        assert scene.errors == {}
        gate.sweep(30.0)
        await turns()
        assert "too long" in scene.errors["a"].message
        assert scene.errors["a"].retry_after_s == 30
        assert gate.refused[Refusal.TIMEOUT] == 1
        assert gate.inflight == 1
        gate.sweep(31.0)
        assert gate.refused[Refusal.TIMEOUT] == 1


async def test_sweeping_wakes_what_a_missed_poke_left() -> None:
    """Room that nobody told of is found within one sweep."""
    rooms = Rooms(0)
    gate = gate_of(None, rooms=rooms)
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("a")
        rooms.free = 5
        gate.sweep(1.0)
        await turns()
        assert scene.entered == ["a"]


async def test_the_urgent_displace_when_the_queue_is_full() -> None:
    """The one that has to go hears so at once, as a refusal."""
    gate = gate_of(1, size=1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        await scene.ask("low", LOW)
        high = await scene.ask("high", HIGH)
        assert "precedence" in scene.errors["low"].message
        assert gate.refused[Refusal.DISPLACED] == 1
        assert (gate.waiting(LOW), gate.waiting(HIGH)) == (0, 1)
        high.cancel()


async def test_newcomers_do_not_hide_a_stall() -> None:
    """Full at 100 s and nothing ends: 20 s later the rate is 1 in 20 s, whoever came since."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        tasks = [await scene.ask("t", now=now) for now in (100.0, 110.0, 119.0)]
        assert gate.drain_rate(120.0) == pytest.approx(0.05)
        for task in tasks:
            task.cancel()


async def test_the_rate_is_there_for_metrics() -> None:
    """Places under way ÷ time held, also while nobody waits."""
    gate = gate_of(4)
    for _ in range(4):
        gate.try_enter()
    gate.leave(0.0, 2.0)
    gate.try_enter()
    assert gate.drain_rate(1000.0) == pytest.approx(2.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "ask", "ask", "leave", "leave", "cancel", "sweep", "turn", "limit"]
        ),
        st.integers(0, 30),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(steps=STEPS)
def test_no_place_is_lost(steps: list[tuple[str, int]]) -> None:
    """After any mix of arrivals, cancellations and ends, all places are free again."""
    with asyncio.Runner() as runner:
        runner.run(_mix(steps))


async def _mix(steps: list[tuple[str, int]]) -> None:
    gate, limit, now = gate_of(3, size=5, timeout_s=8.0), 3, 0.0
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        tasks: list[Task[None]] = []
        held = 0  # Of those that entered, how many have left.
        for step, number in steps:
            match step:
                case "ask":
                    asked = (Priority(number % 3), b"%d" % (number % 4), inf, now)
                    entry = partial(gate.enter, *asked)
                    tasks.append(group.create_task(scene.run("x", entry)))
                case "leave" if held < len(scene.entered):
                    held += 1
                    gate.leave(now - 1.0, now)
                case "cancel" if tasks:
                    tasks[number % len(tasks)].cancel()
                case "sweep":
                    now += number / 8
                    gate.sweep(now)
                case "limit":
                    limit = max(limit, 1 + number % 5)
                    gate.limit(1 + number % 5, 5, 8.0)
                case _:
                    await turns(1)
            assert gate.inflight <= limit
            assert sum(map(gate.waiting, Priority)) <= 5
        while held < len(scene.entered) or not all(task.done() for task in tasks):
            if held < len(scene.entered):
                held += 1
                gate.leave(now - 1.0, now)
            await turns(1)
    assert (gate.inflight, gate._claimed, gate._queue.count) == (0, 0, 0)
    assert gate.try_enter()


async def test_many_tasks_and_cancellations() -> None:
    """Two thousand clients, a third of which leave at random moments: no more than eight at once,
    and nothing is left over."""
    gate, rng = gate_of(8, size=3000), Random(5)
    inside = most = served = 0

    async def request() -> None:
        nonlocal inside, most, served
        if not gate.try_enter():
            await gate.enter(Priority(rng.randrange(3)), b"%d" % rng.randrange(20), inf, 0.0)
        inside += 1
        most = max(most, inside)
        try:
            await turns(rng.randrange(1, 5))
            served += 1
        finally:
            inside -= 1
            gate.leave(0.0, 0.001)

    async with TaskGroup() as group:
        tasks = [group.create_task(request()) for _ in range(2000)]
        leaving = rng.sample(tasks, 700)
        for task in leaving:
            await turns(rng.randrange(2))
            task.cancel()
    assert most == 8
    assert served == sum(not task.cancelled() for task in tasks)
    assert served >= 1300
    assert (gate.inflight, gate._claimed, gate._queue.count) == (0, 0, 0)
    assert not math.isnan(gate.drain_rate(0.001))


async def test_at_the_end_all_that_wait_are_told_so() -> None:
    """Also in the turn in which a client leaves. What was let in stays; none was too much."""
    gate = gate_of(1)
    gate.try_enter()
    async with TaskGroup() as group:
        scene = Scene(gate, group)
        leaving = await scene.ask("a")
        await scene.ask("b")
        leaving.cancel()
        gate.end()
        await turns()
        assert list(scene.errors) == ["b"]
        assert scene.errors["b"].message == "The gateway is shutting down."
    assert (gate.inflight, gate.waiting(NORMAL), any(gate.refused.values())) == (1, 0, False)
    gate.leave(0.0, 1.0)
    assert gate.try_enter()


async def test_who_finds_no_room_past_the_gate_is_told_as_if_it_had_to_wait() -> None:
    """The only place is held for 9 s: so long, or a multiple of it where others wait."""
    gate = gate_of(1)
    gate.try_enter()
    gate.leave(91.0, 100.0)
    gate.try_enter()
    assert gate.retry_after_s(100.0) == 9
    async with TaskGroup() as group:
        task = await Scene(gate, group).ask("t", now=100.0)
        assert gate.retry_after_s(100.0) == 18
        task.cancel()
