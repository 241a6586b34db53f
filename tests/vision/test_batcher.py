"""Batches start at once where waiting is no use, wait a little where it is, and mix no shapes."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vision.batcher import Batcher, Item
from vision.config import Batching

DELAY_S = 0.002


def batcher(
    instances: int = 1,
    max_batch: int = 8,
    *,
    preferred: tuple[int, ...] = (),
    queue: int = 16,
    shared: bool = True,
    run_s: float = 0.005,
) -> Batcher[Item]:
    """One whose runs take `run_s`, as far as it knows."""
    batching = Batching(
        max_batch=max_batch,
        max_delay_ms=DELAY_S * 1e3,
        preferred=preferred,
        queue=queue,
        timeout_ms=1000,
    )
    made: Batcher[Item] = Batcher(batching, instances, max_batch, shared=shared)
    made.execute_s = run_s
    return made


def offer(
    queue: Batcher[Item],
    now: float,
    *,
    rows: int = 1,
    key: str = "a",
    deadline: float = inf,
) -> Item:
    """Let a new item wait."""
    item = Item(key, rows, now, deadline)
    queue.offer(item, now)
    return item


def busy(queue: Batcher[Item], now: float = 0.0) -> None:
    """Have one instance run something."""
    offer(queue, now, key="busy")
    assert queue.take(now).rows == 1


def test_a_lone_item_starts_at_once() -> None:
    """Neither max_delay_ms nor a preferred size holds it back."""
    queue = batcher(preferred=(4, 8))
    item = offer(queue, 5.0)
    turn = queue.take(5.0)
    assert (list(turn.items), turn.rows, list(turn.expired)) == ([item], 1, [])
    assert (queue.waiting, queue.running, queue.executing) == (0, 1, 1)


def test_what_came_while_it_ran_is_the_next_batch() -> None:
    """In the order of arrival, up to max_batch; the rest after that."""
    queue = batcher(max_batch=3)
    busy(queue)
    items = [offer(queue, 0.001) for _ in range(5)]
    queue.finished(1, 0.005)
    turn = queue.take(0.005)
    assert (list(turn.items), turn.rows, turn.more) == (items[:3], 3, False)
    queue.finished(3, 0.005)
    assert list(queue.take(0.01).items) == items[3:]


def test_nothing_waits_nothing_starts() -> None:
    """And nobody has to look again."""
    turn = batcher().take(0.0)
    assert (list(turn.items), turn.rows, list(turn.expired), turn.ask_at) == ([], 0, [], inf)


def test_an_item_of_several_rows_travels_in_one_batch() -> None:
    """It does not fit behind five, and nobody overtakes it."""
    queue = batcher(max_batch=8)
    first, wide, last = (offer(queue, 0.0, rows=rows) for rows in (5, 4, 3))
    assert list(queue.take(0.0).items) == [first]
    queue.finished(5, 0.005)
    assert list(queue.take(0.0).items) == [wide, last]


def test_shapes_are_not_mixed_and_the_oldest_goes_first() -> None:
    """Also if a younger group is full."""
    queue = batcher(max_batch=2)
    busy(queue)
    old = offer(queue, 0.001, key="odd")
    young = [offer(queue, 0.002) for _ in range(2)]
    queue.finished(1, 0.005)
    assert list(queue.take(0.005).items) == [old]
    queue.finished(1, 0.005)
    assert list(queue.take(0.005).items) == young


def test_the_oldest_group_is_first_whatever_the_order_of_groups() -> None:
    """A group's first item may leave, and then the next one's age counts."""
    queue = batcher(queue=99)
    busy(queue)
    early = offer(queue, 0.001)
    other = offer(queue, 0.002, key="b")
    offer(queue, 0.003)
    assert queue.cancel(early)
    queue.finished(1, 0.005)
    assert list(queue.take(0.005).items) == [other]


def test_on_a_gpu_a_second_instance_waits_for_a_fuller_batch() -> None:
    """Until max_delay_ms is over, counted from the oldest item's arrival."""
    queue = batcher(instances=2)
    busy(queue)
    items = [offer(queue, 0.0), offer(queue, 0.001)]
    held = queue.take(0.001)
    assert (list(held.items), held.ask_at) == ([], DELAY_S)
    assert list(queue.take(DELAY_S).items) == items


def test_a_full_batch_is_not_held() -> None:
    """The item that fills it is when to ask."""
    queue = batcher(instances=2, max_batch=2)
    busy(queue)
    first, second = Item("a", 1, 0.0), Item("a", 1, 0.0)
    assert queue.offer(first, 0.0)
    assert queue.take(0.0).ask_at == DELAY_S
    assert queue.offer(second, 0.0)
    assert list(queue.take(0.0).items) == [first, second]


def test_the_smallest_preferred_size_is_full_enough() -> None:
    """Two of (2, 8) start while another instance runs."""
    queue = batcher(instances=2, preferred=(8, 2))
    busy(queue)
    offer(queue, 0.0)
    assert not queue.take(0.0).items
    offer(queue, 0.0)
    assert queue.take(0.0).rows == 2


def test_nothing_is_held_once_no_instance_runs() -> None:
    """The one that has just finished takes what the other one held."""
    queue = batcher(instances=2)
    busy(queue)
    item = offer(queue, 0.0)
    assert not queue.take(0.0).items
    queue.finished(1, 0.005)
    assert list(queue.take(0.0001).items) == [item]


def test_instances_that_share_no_device_hold_nothing() -> None:
    """On a CPU a second thread takes the second item at once."""
    queue = batcher(instances=2, shared=False)
    busy(queue)
    item = offer(queue, 0.0)
    assert list(queue.take(0.0).items) == [item]


def test_nothing_is_held_before_a_run_has_been_timed() -> None:
    """For then nobody knows whether a deadline allows it."""
    queue = batcher(instances=2, run_s=0.0)
    busy(queue)
    offer(queue, 0.0)
    assert queue.take(0.0).rows == 1


def test_a_deadline_ends_holding_in_time_for_the_run() -> None:
    """6 ms from now less a run of 5 ms."""
    queue = batcher(instances=2)
    busy(queue)
    offer(queue, 0.0)
    assert queue.take(0.0).ask_at == DELAY_S
    urgent = Item("a", 1, 0.0, deadline=0.006)
    assert queue.offer(urgent, 0.0)
    assert queue.take(0.0).ask_at == pytest.approx(0.001)
    assert urgent in queue.take(0.0011).items


def test_another_group_that_may_start_is_not_held_up_by_one_that_is_held() -> None:
    """The held one's time still counts for when to ask again."""
    queue = batcher(instances=2, max_batch=2)
    busy(queue)
    held = offer(queue, 0.0, key="held")
    full = [offer(queue, 0.001) for _ in range(2)]
    assert list(queue.take(0.001).items) == full
    assert held.group is not None


def test_the_time_of_the_first_of_held_groups_is_when_to_ask() -> None:
    """Whatever their order."""
    queue = batcher(instances=2)
    busy(queue)
    offer(queue, 0.0005)
    offer(queue, 0.001, key="b")
    assert queue.take(0.001).ask_at == pytest.approx(0.0025)


def test_instances_are_asked_once_for_each_reason() -> None:
    """One that has been told to ask takes all that comes until it does."""
    queue = batcher(instances=2, shared=False)
    assert [queue.offer(Item("a", 1, 0.0), 0.0) for _ in range(3)] == [True, False, False]
    assert queue.take(0.0).rows == 3
    assert queue.offer(Item("a", 1, 0.0), 0.0)
    assert queue.take(0.0).rows == 1
    assert not queue.offer(Item("a", 1, 0.0), 0.0), "nobody is free"


def test_what_is_left_over_is_for_another_free_instance() -> None:
    """The answer says so, and offers do not say it again."""
    queue = batcher(instances=2, max_batch=2)
    for _ in range(3):
        offer(queue, 0.0)
    assert queue.take(0.0).more
    assert not queue.offer(Item("b", 1, 0.0), 0.0)
    assert queue.take(0.0).ask_at == DELAY_S


def test_a_batch_is_cut_to_a_preferred_size_if_the_rest_can_wait() -> None:
    """Five rows, a run of 1 ms: four go, and the fifth goes next, within 2 ms."""
    queue = batcher(preferred=(2, 4), run_s=0.001)
    items = [offer(queue, 0.0) for _ in range(5)]
    assert list(queue.take(0.0).items) == items[:4]
    queue.finished(4, 0.001)
    assert list(queue.take(0.001).items) == items[4:]


@pytest.mark.parametrize("run_s", [0.005, 0.0])
def test_a_batch_is_not_cut_if_the_rest_would_wait_too_long(run_s: float) -> None:
    """A run takes longer than max_delay_ms, or nobody knows how long it takes."""
    queue = batcher(preferred=(2, 4), run_s=run_s)
    for _ in range(5):
        offer(queue, 0.0)
    assert queue.take(0.0).rows == 5


def test_a_batch_is_cut_if_another_instance_takes_the_rest() -> None:
    """Whatever a run takes."""
    queue = batcher(instances=2, preferred=(4,), run_s=1.0)
    for _ in range(5):
        offer(queue, 0.0)
    assert (queue.take(0.0).rows, queue.waiting) == (4, 1)


def test_a_batch_is_not_cut_if_somebody_in_the_rest_is_in_a_hurry() -> None:
    """Its deadline leaves no time for two runs."""
    queue = batcher(preferred=(4,), run_s=0.001)
    for _ in range(4):
        offer(queue, 0.0)
    offer(queue, 0.0, deadline=0.0019)
    assert queue.take(0.0).rows == 5


def test_preferred_sizes_that_the_file_does_not_allow_are_none() -> None:
    """The model's file allows 2, its configuration 8."""
    queue: Batcher[Item] = Batcher(Batching(max_batch=8, preferred=(8,)), 1, 2, shared=True)
    for _ in range(3):
        offer(queue, 0.0)
    assert queue.take(0.0).rows == 2


def test_expired_items_are_handed_back_not_run() -> None:
    """By their own deadline, or by the time in the queue."""
    queue = batcher()
    busy(queue)
    slow = offer(queue, 0.0)
    hurried = offer(queue, 0.5, deadline=0.7)
    fine = offer(queue, 0.5, deadline=9.0)
    assert queue.next_expiry == 0.7
    queue.finished(1, 0.005)
    turn = queue.take(1.0)
    assert (list(turn.items), set(turn.expired)) == ([fine], {slow, hurried})
    assert queue.waiting == 0


def test_expiry_without_a_turn() -> None:
    """For a queue whose instances all hang."""
    queue = batcher()
    busy(queue)
    hurried, patient = offer(queue, 0.0, deadline=0.2), offer(queue, 0.0)
    assert queue.expire(0.1) == ()
    assert queue.expire(0.2) == [hurried]
    assert queue.next_expiry == 1.0
    assert queue.items() == [patient]
    assert queue.expire(1.0) == [patient]
    assert queue.next_expiry == inf


def test_cancelling_takes_an_item_out_once() -> None:
    """One that runs is not there any more."""
    queue = batcher()
    gone, stays = offer(queue, 0.0, rows=3), offer(queue, 0.0)
    assert queue.cancel(gone)
    assert not queue.cancel(gone)
    assert list(queue.take(0.0).items) == [stays]
    assert not queue.cancel(stays)


def test_room_is_counted_in_rows() -> None:
    """While no instance is free; what a free one can take does not wait."""
    queue = batcher(max_batch=4, queue=6)
    offer(queue, 0.0, rows=4)
    assert queue.room(6)
    assert not queue.room(7)
    assert queue.take(0.0).rows == 4
    offer(queue, 0.0, rows=3)
    assert queue.room(3)
    assert not queue.room(4)


def test_an_item_wider_than_the_queue_may_be_the_only_one() -> None:
    """Or it could never be served."""
    queue = batcher(queue=1)
    busy(queue)
    assert queue.room(8)
    offer(queue, 0.0, rows=8)
    assert not queue.room(1)


def test_draining_is_estimated_in_full_batches() -> None:
    """9 rows are two batches of 8, on two instances, each in 5 ms at first."""
    queue = batcher(instances=2, run_s=0.0)
    busy(queue)
    queue.finished(1, 0.005)
    offer(queue, 0.0, rows=8)
    offer(queue, 0.0)
    assert queue.drain_s() == pytest.approx(0.005)
    queue.finished(0, 0.010)
    assert queue.execute_s == pytest.approx(0.006)


def test_a_dead_instance_is_counted_no_more() -> None:
    """Nor what it ran; whoever is free is told anew."""
    queue = batcher(instances=2)
    offer(queue, 0.0)
    queue.lose(0)
    assert queue.offer(Item("a", 1, 0.0), 0.0)
    assert queue.take(0.0).rows == 2
    queue.lose(2)
    assert (queue.instances, queue.executing, queue.running) == (0, 0, 0)
    offer(queue, 0.0)
    assert queue.drain_s() >= 0.0


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, each item is taken, refused or cancelled exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = batcher(instances=2, max_batch=8, preferred=(2, 4), queue=30)
        self.waiting: dict[Item, None] = {}
        self.runs: list[int] = []

    @rule(
        rows=st.integers(1, 8),
        key=st.sampled_from("aaab"),
        patience=st.sampled_from([inf, inf, 0.003, 0.05]),
    )
    def arrive(self, rows: int, key: str, patience: float) -> None:
        """An item comes, and waits if there is room."""
        if self.queue.room(rows):
            item = offer(self.queue, self.now, rows=rows, key=key, deadline=self.now + patience)
            self.waiting[item] = None
        else:
            assert sum(item.rows for item in self.waiting) + rows > 30

    @rule(by=st.sampled_from([0.0001, 0.001, 0.002, 0.5]))
    def wait(self, by: float) -> None:
        """Time passes."""
        self.now += by

    @precondition(lambda self: len(self.runs) < 2)
    @rule()
    def ask(self) -> None:
        """A free instance asks."""
        executing = len(self.runs)
        turn = self.queue.take(self.now)
        for item in turn.expired:
            assert self.queue.expires(item) <= self.now
            del self.waiting[item]
        before = dict(self.waiting)
        for item in turn.items:
            assert self.queue.expires(item) > self.now
            del self.waiting[item]
        assert turn.rows == sum(item.rows for item in turn.items) <= 8
        if turn.items:
            self.runs.append(turn.rows)
            key = turn.items[0].key
            same = [item for item in before if item.key == key]
            assert list(turn.items) == same[: len(turn.items)], "one shape, first in, first out"
            assert turn.more == bool(self.waiting and len(self.runs) < 2)
        else:
            assert not self.waiting or executing, "a lone item is never held"
            for item in self.waiting:
                assert self.now < item.since + DELAY_S, "none is held for longer"
                assert turn.ask_at <= item.since + DELAY_S

    @precondition(lambda self: self.runs)
    @rule(run_s=st.sampled_from([0.0001, 0.001, 0.01]))
    def finish(self, run_s: float) -> None:
        """A run ends."""
        self.queue.finished(self.runs.pop(), run_s)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client leaves."""
        item = data.draw(st.sampled_from(list(self.waiting)))
        assert self.queue.cancel(item)
        del self.waiting[item]

    @rule()
    def look(self) -> None:
        """Those whose time is over are refused, and nobody else."""
        late = {item for item in self.waiting if self.queue.expires(item) <= self.now}
        assert set(self.queue.expire(self.now)) == late
        for item in late:
            del self.waiting[item]

    @invariant()
    def counts_agree(self) -> None:
        """Rows and runs are counted, and no expiry is overslept."""
        assert set(self.queue.items()) == set(self.waiting)
        assert self.queue.waiting == sum(item.rows for item in self.waiting)
        assert self.queue.running == sum(self.runs)
        assert self.queue.executing == len(self.runs)
        soonest = min((self.queue.expires(item) for item in self.waiting), default=inf)
        assert self.queue.next_expiry <= soonest

    def teardown(self) -> None:
        """In the end everybody is served or refused."""
        while self.runs:
            self.queue.finished(self.runs.pop(), 0.001)
        while self.waiting:
            self.ask()
            if self.runs:  # Else their time was over.
                self.finish(0.001)


TestAnyOrder = AnyOrder.TestCase


class Asking(RuleBasedStateMachine):
    """Instances that ask only when they are told to, or when they were told to ask again.

    Nobody is forgotten: as long as one of them is free, no item waits for longer than max_delay_ms.
    """

    FREE, TOLD, RUNS = range(3)

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.queue = batcher(instances=3, max_batch=4, preferred=(2,), queue=40)
        self.states = [self.FREE] * 3
        self.ask_at = [inf] * 3
        self.rows = [0] * 3
        self.items: dict[Item, None] = {}

    def tell(self) -> None:
        """Tell one of those that are free."""
        if self.FREE in self.states:
            self.states[self.states.index(self.FREE)] = self.TOLD

    @rule(rows=st.integers(1, 4), key=st.sampled_from("ab"), tight=st.booleans())
    def arrive(self, rows: int, key: str, tight: bool) -> None:
        """An item comes."""
        if self.queue.room(rows):
            item = Item(key, rows, self.now, self.now + 0.0055 if tight else inf)
            self.items[item] = None
            if self.queue.offer(item, self.now):
                self.tell()

    @precondition(lambda self: self.TOLD in self.states)
    @rule()
    def ask(self) -> None:
        """One that was told asks."""
        self.asks(self.states.index(self.TOLD))

    def asks(self, index: int) -> None:
        """It runs what it gets, or is free until the time that it is told."""
        turn = self.queue.take(self.now)
        for item in (*turn.expired, *turn.items):
            del self.items[item]
        self.states[index] = self.RUNS if turn.items else self.FREE
        self.ask_at[index] = turn.ask_at
        self.rows[index] = turn.rows
        if turn.more:
            self.tell()

    @precondition(lambda self: self.RUNS in self.states)
    @rule(run_s=st.sampled_from([0.0005, 0.005]))
    def finish(self, run_s: float) -> None:
        """A run ends, and its instance asks."""
        index = self.states.index(self.RUNS)
        self.queue.finished(self.rows[index], run_s)
        self.asks(index)

    @precondition(lambda self: len(self.items) > 1)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client leaves."""
        item = data.draw(st.sampled_from(list(self.items)))
        assert self.queue.cancel(item)
        del self.items[item]

    @precondition(lambda self: self.RUNS in self.states and len(self.states) > 1)
    @rule()
    def die(self) -> None:
        """An instance dies while it runs; the lane tells another one."""
        index = self.states.index(self.RUNS)
        self.queue.lose(self.rows[index])
        for each in (self.states, self.ask_at, self.rows):
            del each[index]
        self.tell()

    @rule(by=st.sampled_from([0.0005, 0.002]))
    def wait(self, by: float) -> None:
        """Time passes, and those whose time has come ask."""
        while self.TOLD in self.states:
            self.ask()
        end = self.now + by
        while True:
            timers = [
                (at, index)
                for index, at in enumerate(self.ask_at)
                if self.states[index] == self.FREE and at <= end
            ]
            if not timers:
                break
            self.now, index = min(timers)
            self.asks(index)
            while self.TOLD in self.states:
                self.ask()
        self.now = end
        if self.FREE in self.states:
            for item in self.items:
                assert self.now < item.since + DELAY_S


TestAsking = Asking.TestCase
