"""Whatever gets lost, late or doubled on the way to the store, its sums come out exact."""

from __future__ import annotations

import copy
from collections.abc import Coroutine
from math import inf, nan
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.store.base import Batch
from gateway.store.memory import MemoryStore
from gateway.store.outbox import Outbox
from tests.support.control import ManualClock

NAMES = st.sampled_from(["a", "b", "h"])
FIELDS = st.sampled_from(["", "0.1", "0.2"])


def at_once(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits, as the memory store's."""
    try:
        call.send(None)
    except StopIteration as result:
        return result.value
    raise AssertionError("it waited")


class Crossing(RuleBasedStateMachine):
    """Two processes, a store that crashes, and a network that keeps, drops and repeats."""

    @initialize()
    def begin(self) -> None:
        self.store = MemoryStore(ManualClock())
        self.boxes = {"p": Outbox(), "q": Outbox()}
        self.under_way: list[tuple[str, Batch]] = []
        self.backup = copy.deepcopy(self.store)
        self.expected: dict[str, dict[str, float]] = {}

    def push(self, process: str, batch: Batch) -> int:
        held = at_once(self.store.push(process, batch))
        assert isinstance(held, int)
        return held

    @rule(process=st.sampled_from("pq"), name=NAMES, field=FIELDS, number=st.integers(-5, 100))
    def count(self, process: str, name: str, field: str, number: int) -> None:
        self.boxes[process].add({name: {field: number}})
        fields = self.expected.setdefault(name, {})
        fields[field] = fields.get(field, 0) + number

    @rule(process=st.sampled_from("pq"))
    def pushed_and_answered(self, process: str) -> None:
        box = self.boxes[process]
        box.heard(self.push(process, box.batch()))

    @rule(process=st.sampled_from("pq"))
    def pushed_but_the_answer_was_lost(self, process: str) -> None:
        self.push(process, self.boxes[process].batch())

    @rule(process=st.sampled_from("pq"))
    def sent_but_stuck_on_the_way(self, process: str) -> None:
        self.under_way.append((process, self.boxes[process].batch()))

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def one_arrives_late(self, data: st.DataObject) -> None:
        """And it stays on the way: it may arrive again."""
        self.push(*data.draw(st.sampled_from(self.under_way)))

    @rule()
    def saved(self) -> None:
        self.backup = copy.deepcopy(self.store)

    @rule()
    def crashed_and_went_back(self) -> None:
        self.store = copy.deepcopy(self.backup)

    @rule()
    def crashed_and_lost_all(self) -> None:
        self.store = MemoryStore(ManualClock())

    def teardown(self) -> None:
        for process, box in self.boxes.items():
            for _ in range(3):  # A loss to find, what is outgoing, what is open.
                box.heard(self.push(process, box.batch()))
            assert not box.waiting
            assert box.missing == 0
        found = at_once(self.store.totals(""))
        assert found == {
            name: {field: float(number) for field, number in fields.items()}
            for name, fields in self.expected.items()
        }


TestCrossing = Crossing.TestCase
TestCrossing.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


def test_a_batch_stays_the_same_until_the_store_was_heard() -> None:
    """What comes meanwhile goes with the next one."""
    box = Outbox()
    box.add({"n": {"": 1}})
    first = box.batch()
    box.add({"n": {"": 10}})
    assert box.batch() is first
    assert first == Batch(0, 1, {"n": {"": 1}})
    assert not box.heard(1)
    assert box.batch() == Batch(1, 2, {"n": {"": 10}})
    assert box.losses == 0


def test_the_first_batch_may_be_empty() -> None:
    """The store hears of the process; later empty ones only ask."""
    box = Outbox()
    assert not box.waiting
    assert box.batch() == Batch(0, 1, {})
    assert not box.waiting
    box.heard(1)
    assert box.batch() == Batch(1, 1, {})
    box.add({"n": {"": 1}})
    assert box.waiting
    assert box.batch() == Batch(1, 1, {})
    box.heard(1)
    assert box.batch() == Batch(1, 2, {"n": {"": 1}})


def test_an_empty_store_is_sent_everything() -> None:
    """In one batch, from the start to now."""
    box = Outbox()
    for number in (1, 2):
        box.add({"n": {"": number}})
        box.batch()
        box.heard(number)
    box.add({"n": {"": 4}, "m": {"": 1}})
    box.batch()
    assert box.heard(0)
    assert box.batch() == Batch(0, 3, {"n": {"": 7.0}, "m": {"": 1.0}})
    assert box.losses == 1
    assert box.missing == 0
    assert not box.heard(3)


def test_a_store_that_went_back_is_sent_what_it_lost() -> None:
    """From where it stands."""
    box = Outbox()
    for number in range(1, 6):
        box.add({"n": {"": 10**number}})
        box.batch()
        box.heard(number)
    box.batch()
    assert box.heard(3)
    assert box.batch() == Batch(3, 5, {"n": {"": 110_000.0}})


def test_the_journal_is_bounded() -> None:
    """What lies before it is gone when the store goes back further, and is counted; a store
    that is empty is still sent everything."""
    box = Outbox(max_journal_fields=2)
    for number in range(1, 6):
        box.add({"n": {"": 10**number}})
        box.batch()
        box.heard(number)
    box.batch()
    assert box.heard(2)
    assert box.missing == 1
    assert box.batch() == Batch(2, 5, {"n": {"": 110_000.0}})
    assert box.heard(0)
    assert box.missing == 1
    assert box.batch().sums == {"n": {"": 111_110.0}}


def test_a_batch_larger_than_the_journal_still_arrives() -> None:
    """It is let go of only when the store has it; then a loss of it is counted."""
    box = Outbox(max_journal_fields=1)
    box.add({"n": {"": 1}})
    box.batch()
    box.heard(1)
    box.add({"h": {"1": 1, "2": 1, "3": 1}})
    assert box.batch() == Batch(1, 2, {"h": {"1": 1, "2": 1, "3": 1}})
    box.heard(2)
    box.batch()
    assert box.heard(1)
    assert box.missing == 1


def test_numbers_are_bounded() -> None:
    """New ones are dropped and counted when there are too many; known ones count on."""
    box = Outbox(max_fields=2)
    box.add({"h": {"1": 1, "2": 1, "3": 1}})
    box.add({"n": {"": 1}, "h": {"1": 1}})
    assert box.dropped == 2
    assert box.batch().sums == {"h": {"1": 2, "2": 1}}


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_only_finite_numbers_count(number: float) -> None:
    """Nothing of what comes with one is taken."""
    box = Outbox()
    with pytest.raises(ValueError, match="finite"):
        box.add({"a": {"": 1}, "b": {"": number}})
    assert not box.waiting


def test_dropped_names_do_not_come_back() -> None:
    """Neither from the journal, nor from the totals, nor from what is under way."""
    box = Outbox(max_fields=4)
    box.add({"x/n": {"": 1}, "y": {"": 1}})
    box.batch()
    box.heard(1)
    box.add({"x/n": {"": 2}, "y": {"": 2}})
    box.batch()
    box.add({"x/n": {"": 4}, "y": {"": 4}, "x/h": {"1": 1}})
    box.drop("x/")
    assert box.batch() == Batch(1, 2, {"y": {"": 2}})
    box.heard(1)
    assert box.batch() == Batch(1, 3, {"y": {"": 6.0}})
    box.heard(0)
    assert box.batch() == Batch(0, 3, {"y": {"": 7.0}})
    box.heard(3)
    box.drop("y")
    box.add({"a": {"1": 1, "2": 1, "3": 1, "4": 1}})
    assert box.dropped == 0


def test_a_name_that_two_processes_use_is_a_defect() -> None:
    """The store stands at what this process never sent."""
    box = Outbox()
    box.batch()
    with pytest.raises(ValueError, match="stands at 2"):
        box.heard(2)
