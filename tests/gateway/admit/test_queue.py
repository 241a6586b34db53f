"""Classes in their order, none starved; a bound; and no waiting in vain."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.admit.queue import PASSED_OVER, Queue
from gateway.admit.ticket import Priority, Refusal, Ticket

HIGH, NORMAL, LOW = Priority
FAST = 1e9


def ticket(
    priority: Priority = NORMAL,
    tenant: bytes = b"",
    *,
    deadline: float = inf,
    since: float = 0.0,
    weight: float = 1.0,
) -> Ticket[None]:
    """One that is not in a queue yet."""
    return Ticket(priority, tenant, weight, deadline, since, None)


def filled(size: int, *tickets: Ticket[None]) -> Queue[None]:
    """A queue in which `tickets` wait."""
    queue: Queue[None] = Queue(size, 30.0)
    for each in tickets:
        assert queue.push(each) is None
    return queue


def test_the_more_urgent_class_goes_first() -> None:
    """Whatever the order of arrival."""
    queue = filled(9, *(ticket(priority) for priority in (LOW, NORMAL, HIGH, LOW, NORMAL, HIGH)))
    assert [queue.pop().priority for _ in range(6)] == [HIGH, HIGH, NORMAL, NORMAL, LOW, LOW]
    with pytest.raises(IndexError):
        queue.pop()


def test_tenants_share_inside_a_class() -> None:
    """The second tenant's one request does not wait for the first one's four."""
    queue = filled(9, *(ticket(tenant=b"a") for _ in range(4)), ticket(tenant=b"b"))
    assert [queue.pop().tenant for _ in range(5)] == [b"a", b"b", b"a", b"a", b"a"]


def test_a_lower_class_gets_the_eighth_grant() -> None:
    """Under a flood of high requests, one of eight grants is for those below."""
    queue = filled(500, *(ticket(HIGH) for _ in range(100)), *(ticket(LOW) for _ in range(20)))
    grants = [queue.pop().priority for _ in range(80)]
    assert grants == ([HIGH] * PASSED_OVER + [LOW]) * 10


def test_among_lower_classes_the_one_that_waited_longest() -> None:
    """So low requests are not starved by normal ones either."""
    queue = filled(500, ticket(LOW), *(ticket(NORMAL) for _ in range(3)), ticket(LOW))
    for _ in range(100):
        queue.push(ticket(HIGH))
    grants = [queue.pop().priority for _ in range(40)]
    assert [grant for grant in grants if grant is not HIGH] == [LOW, NORMAL, NORMAL, NORMAL, LOW]


def test_passing_over_is_counted_in_succession() -> None:
    """A moment in which no lower class waited begins the count anew."""
    queue = filled(500, ticket(LOW), *(ticket(HIGH) for _ in range(50)))
    low = ticket(LOW)
    queue.push(low)
    for _ in range(PASSED_OVER):
        assert queue.pop().priority is HIGH
    assert queue.pop().priority is LOW
    for _ in range(PASSED_OVER - 1):
        assert queue.pop().priority is HIGH
    queue.remove(low)
    assert queue.pop().priority is HIGH
    queue.push(ticket(LOW))
    assert [queue.pop().priority for _ in range(8)] == [HIGH] * PASSED_OVER + [LOW]


def test_a_full_queue_refuses() -> None:
    """A newcomer of equal class and tenant does not get in."""
    queue = filled(2, ticket(), ticket())
    last = ticket()
    assert queue.push(last) is last
    assert not queue.remove(last)
    assert len(queue) == 2


def test_no_queue_at_all() -> None:
    """Size 0: nobody waits, however urgent."""
    queue = filled(0)
    urgent = ticket(HIGH)
    assert queue.push(urgent) is urgent


def test_a_newcomer_takes_the_place_of_the_newest_of_the_lowest_class() -> None:
    """First low, then normal, and never one of its own class."""
    old_low, new_low, normal = ticket(LOW), ticket(LOW), ticket(NORMAL)
    queue = filled(3, old_low, new_low, normal)
    assert queue.push(ticket(HIGH)) is new_low
    assert queue.push(ticket(HIGH)) is old_low
    assert queue.push(ticket(HIGH)) is normal
    last = ticket(HIGH)
    assert queue.push(last) is last
    assert queue.waiting(HIGH) == len(queue) == 3


def test_a_lower_newcomer_displaces_nobody_above() -> None:
    """A full queue of normal requests stays as it is."""
    queue = filled(2, ticket(NORMAL), ticket(NORMAL))
    low = ticket(LOW)
    assert queue.push(low) is low


def test_who_fills_the_queue_does_not_keep_others_out() -> None:
    """Another tenant of the class takes the newest place of the one that crowds it."""
    crowd = [ticket(tenant=b"crowd") for _ in range(4)]
    queue = filled(4, *crowd)
    assert queue.push(ticket(tenant=b"a")) is crowd[3]
    assert queue.push(ticket(tenant=b"a")) is crowd[2]
    third = ticket(tenant=b"a")  # Two and two: its share.
    assert queue.push(third) is third


def test_hopeless_by_deadline() -> None:
    """Ten ahead at two a second take five seconds: a deadline within those is refused now."""
    queue = filled(99, *(ticket(HIGH) for _ in range(4)), *(ticket() for _ in range(6)))
    assert queue.hopeless(ticket(deadline=104.9), 2.0, 100.0) is Refusal.DEADLINE
    assert queue.hopeless(ticket(deadline=105.1), 2.0, 100.0) is None
    assert queue.hopeless(ticket(HIGH, deadline=102.1), 2.0, 100.0) is None
    assert queue.hopeless(ticket(LOW, deadline=104.9), 2.0, 100.0) is Refusal.DEADLINE
    assert queue.hopeless(ticket(tenant=b"new", deadline=102.6), 2.0, 100.0) is None


def test_hopeless_by_backlog() -> None:
    """So many ahead that the time-out comes first: refused now, not in 30 s."""
    queue = filled(99, *(ticket() for _ in range(10)))
    assert queue.hopeless(ticket(), 0.3, 0.0) is Refusal.BACKLOG
    assert queue.hopeless(ticket(), 0.4, 0.0) is None


def test_expiry_by_time_out() -> None:
    """Who has waited for the whole time-out goes, and only they."""
    old, young = ticket(since=0.0), ticket(since=0.1)
    queue = filled(9, old, young)
    assert queue.expire(FAST, 29.99) == []
    assert queue.expire(FAST, 30.0) == [(old, Refusal.TIMEOUT)]
    assert len(queue) == 1
    assert queue.pop() is young


def test_expiry_by_deadline() -> None:
    """The first in line may hope until its deadline; those behind not so long."""
    first, second, third = (ticket(deadline=10.0) for _ in range(3))
    patient = ticket(LOW)
    queue = filled(9, first, second, third, patient)
    assert queue.expire(1.0, 7.9) == []
    assert queue.expire(1.0, 8.1) == [(third, Refusal.DEADLINE)]
    assert queue.expire(1.0, 9.5) == [(second, Refusal.DEADLINE)]
    assert queue.expire(1.0, 10.0) == [(first, Refusal.DEADLINE)]
    assert queue.pop() is patient


def test_those_above_count_for_expiry() -> None:
    """A class waits for the ones above it."""
    mine = ticket(LOW, deadline=10.0)
    queue = filled(9, mine, ticket(HIGH), ticket(NORMAL))
    assert queue.expire(1.0, 8.1) == [(mine, Refusal.DEADLINE)]


class Conservation(RuleBasedStateMachine):
    """Each request that waits goes once; the bounds hold in every sequence of events."""

    SIZE = 6

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[None] = Queue(self.SIZE, 30.0)
        self.model: list[Ticket[None]] = []
        self.passed = 0
        self.now = 0.0

    @rule(
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from([b"a", b"b", b"c"]),
        weight=st.sampled_from([0.5, 1.0, 4.0]),
        patience=st.sampled_from([5.0, 20.0, inf]),
    )
    def push(self, priority: Priority, tenant: bytes, weight: float, patience: float) -> None:
        """Only a full queue turns anyone away, and never for someone less urgent."""
        new = ticket(priority, tenant, weight=weight, since=self.now, deadline=self.now + patience)
        full = len(self.model) == self.SIZE
        victim = self.queue.push(new)
        assert (victim is not None) == full
        self.model.append(new)
        if victim is not None:
            assert victim.priority >= priority
            assert victim.priority == max(each.priority for each in self.model)
            self.model.remove(victim)

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        """Order inside a tenant; the urgent class; no class passed over for ever."""
        classes = {each.priority for each in self.model}
        got = self.queue.pop()
        assert got is next(
            each
            for each in self.model
            if each.priority is got.priority and each.tenant == got.tenant
        )
        self.model.remove(got)
        if got.priority is min(classes) and len(classes) > 1:
            self.passed += 1
            assert self.passed <= PASSED_OVER
        else:
            assert got.priority is min(classes) or self.passed == PASSED_OVER
            self.passed = 0

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client goes."""
        gone = data.draw(st.sampled_from(self.model))
        assert self.queue.remove(gone)
        assert not self.queue.remove(gone)
        self.model.remove(gone)

    @rule(seconds=st.sampled_from([0.5, 4.0, 12.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; at a high rate just those go whose time has come."""
        self.now += seconds
        due = {
            id(each)
            for each in self.model
            if self.now >= each.deadline or self.now - each.since >= 30.0
        }
        gone = self.queue.expire(1e12, self.now)
        assert {id(each) for each, _ in gone} == due
        self.model = [each for each in self.model if id(each) not in due]

    @invariant()
    def agrees(self) -> None:
        """The counts are those of the plain list."""
        assert len(self.queue) == self.queue.count == len(self.model) <= self.SIZE
        for priority in Priority:
            assert self.queue.waiting(priority) == sum(
                each.priority is priority for each in self.model
            )


TestConservation = Conservation.TestCase
