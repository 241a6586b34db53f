"""Tenants of a class share by weight, whatever each of them has waiting."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.admit.fair import IDLE_TENANTS, FairQueue
from gateway.admit.ticket import Priority, Ticket

Waiting = Ticket[None]
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0, 10.0])


class Line:
    """A FairQueue that numbers what comes, as the queue does."""

    def __init__(self) -> None:
        self.fair: FairQueue[None] = FairQueue()
        self.seq = 0

    def push(self, tenant: str, weight: float = 1.0) -> Waiting:
        """Let one request of `tenant` wait."""
        ticket: Waiting = Ticket(Priority.NORMAL, tenant.encode(), weight, inf, 0.0, None)
        self.seq += 1
        ticket.seq = self.seq
        self.fair.push(ticket)
        return ticket

    def pop(self, count: int = 1) -> str:
        """Take `count` out; return the first letters of their tenants."""
        return "".join(self.fair.pop().tenant.decode()[0] for _ in range(count))


@given(
    weights=st.lists(WEIGHTS, min_size=2, max_size=6),
    ahead=st.lists(st.integers(0, 5), max_size=60),
)
def test_shares_differ_by_one_request_each(weights: list[float], ahead: list[int]) -> None:
    """While two tenants both wait, |W1/w1 - W2/w2| <= 1/w1 + 1/w2 over any stretch (SFQ)."""
    line = Line()
    names = [chr(97 + n) for n in range(len(weights))]
    for index in ahead:  # Any history first: it must not give anyone a right to more.
        line.push(names[index % len(names)], weights[index % len(names)])
    line.pop(len(ahead) // 2)
    for _ in range(400):
        for name, weight in zip(names, weights, strict=True):
            line.push(name, weight)
    served = [0] * len(names)
    for _ in range(200):
        served[names.index(line.pop())] += 1
        for one, w1 in enumerate(weights):
            for other, w2 in enumerate(weights):
                gap = abs(served[one] / w1 - served[other] / w2)
                assert gap <= 1 / w1 + 1 / w2 + 1e-9


def test_a_flood_does_not_delay_a_quiet_tenant() -> None:
    """One request behind another tenant's hundred is served second, not last."""
    line = Line()
    for _ in range(100):
        line.push("flood")
    assert line.pop(2) == "ff"
    line.push("quiet")
    assert line.pop(3) == "qff"


def test_what_leaves_costs_nothing() -> None:
    """A tenant is charged for what is served, not for what it had waiting and took back."""
    line = Line()
    line.push("a")
    gone = [line.push("b") for _ in range(50)]
    line.push("a")
    for ticket in gone:
        assert line.fair.remove(ticket)
        assert not line.fair.remove(ticket)
    assert line.pop() == "a"
    line.push("b")
    assert line.pop(2) == "ba"


def test_a_tenant_that_left_and_comes_back_has_no_credit_from_before() -> None:
    """Its place in the heap is from when it waited first; what it would have got is not owed."""
    line = Line()
    line.push("x")
    gone = line.push("b")
    for _ in range(20):
        line.push("a")
    line.fair.remove(gone)  # Its entry stays in the heap until it comes to the top.
    assert line.pop(1) == "x"
    line.push("b")
    line.push("b")
    line.push("b")
    assert line.pop(6) == "baabab"  # Turn by turn, not its three at once.


def test_a_later_weight_counts() -> None:
    """A tenant's weight may change from one request to the next."""
    line = Line()
    for _ in range(30):
        line.push("a", 1.0)
    for _ in range(30):
        line.push("b", 1.0)
    line.push("b", 3.0)
    assert line.fair.ahead(b"c", 4.0) == 2
    assert line.pop(20).count("b") == 10


def test_estimates_of_what_is_ahead() -> None:
    """A newcomer waits for its share of the others, not for all of them."""
    line = Line()
    assert line.fair.ahead(b"a", 1.0) == 0
    for _ in range(10):
        line.push("a")
    assert line.fair.ahead(b"a", 1.0) == 10
    assert line.fair.ahead(b"b", 1.0) == 1
    line.push("b")
    assert line.fair.ahead(b"b", 1.0) == 3  # a, b's own, a
    assert line.fair.ahead(b"b", 2.0) == 2
    positions = [ahead for ahead, ticket in line.fair.positions() if ticket.tenant == b"a"]
    assert positions == [1, 3, 5, 7, 9, 11, 11, 11, 11, 11]


def test_estimates_are_near_the_truth() -> None:
    """For three tenants of different weights each estimate is within one turn of each tenant."""
    line = Line()
    for _ in range(8):
        for name, weight in (("a", 1.0), ("b", 2.0), ("c", 4.0)):
            line.push(name, weight)
    estimates = {ticket.seq: ahead for ahead, ticket in line.fair.positions()}
    for position in range(14):  # While all three wait.
        assert abs(estimates[line.fair.pop().seq] - position) <= 3


def test_who_crowds_a_full_queue() -> None:
    """The tenant with most for its weight, seen from one that has less; its newest has to go."""
    line = Line()
    assert line.fair.crowding(b"a", 1.0) is None
    for _ in range(6):
        line.push("a", 1.0)
    newest = line.push("a", 1.0)
    for _ in range(8):
        line.push("b", 4.0)
    assert line.fair.crowding(b"c", 1.0) is newest
    assert line.fair.crowding(b"b", 4.0) is newest
    assert line.fair.crowding(b"a", 1.0) is None


def test_equal_tenants_do_not_push_each_other_out() -> None:
    """Where each has one, a further tenant has no better claim than they."""
    line = Line()
    for name in "abcd":
        line.push(name)
    assert line.fair.crowding(b"e", 1.0) is None


def test_memory_of_tenants_is_bounded() -> None:
    """A busy queue that ever new tenants pass through does not remember them all."""
    line = Line()
    line.push("z")
    for number in range(5 * IDLE_TENANTS):
        line.push(f"t{number}")
        line.pop()
    assert len(line.fair._flows) <= IDLE_TENANTS + 3
    assert len(line.fair) == 1


def test_an_empty_queue_forgets_all_debts() -> None:
    """A new busy period begins with equal tenants."""
    line = Line()
    for _ in range(5):
        line.push("a")
    line.pop(5)
    line.push("b")
    line.push("a")
    line.push("b")
    line.push("a")
    assert line.pop(4) == "baba"


def test_nothing_to_pop() -> None:
    """An empty queue says so."""
    with pytest.raises(IndexError):
        Line().pop()


class Conservation(RuleBasedStateMachine):
    """What was pushed is popped or removed, exactly once, in order inside each tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line()
        self.model: list[Waiting] = []
        self.weights: dict[bytes, float] = {}

    @rule(tenant=st.sampled_from("abcd"), weight=WEIGHTS)
    def push(self, tenant: str, weight: float) -> None:
        """One more waits."""
        self.model.append(self.line.push(tenant, weight))
        self.weights[tenant.encode()] = weight

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        """The oldest of some tenant goes."""
        ticket = self.line.fair.pop()
        mine = [other for other in self.model if other.tenant == ticket.tenant]
        assert mine[0] is ticket
        self.model.remove(ticket)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Any may leave."""
        ticket = data.draw(st.sampled_from(self.model))
        assert self.line.fair.remove(ticket)
        self.model.remove(ticket)

    @invariant()
    def agrees(self) -> None:
        """Counts, ends and sums are those of the plain list."""
        fair = self.line.fair
        assert len(fair) == len(self.model)
        assert sorted(ticket.seq for _, ticket in fair.positions()) == [
            ticket.seq for ticket in self.model
        ]
        tenants = {ticket.tenant for ticket in self.model}
        assert fair._active == len(tenants)
        assert fair._weight == sum(self.weights[tenant] for tenant in tenants)
        if self.model:
            assert fair.oldest() is self.model[0]
            assert fair.newest() is self.model[-1]
            assert len(fair._heap) >= len(tenants)


TestConservation = Conservation.TestCase
