"""A request's priority is read from its header, and a ticket is checked when it is made."""

from __future__ import annotations

from math import inf

import pytest

from gateway.admit.ticket import Priority, Ticket, read_priority


@pytest.mark.parametrize(
    ("value", "priority"),
    [
        (b"high", Priority.HIGH),
        (b"Normal", Priority.NORMAL),
        (b"LOW", Priority.LOW),
        (b"-1", Priority.HIGH),
        (b"-250", Priority.HIGH),
        (b"0", Priority.NORMAL),
        (b"-0", Priority.NORMAL),
        (b"1", Priority.LOW),
        (b"+7", Priority.LOW),
        (b"9" * 5000, Priority.LOW),
        (b"", Priority.NORMAL),
        (b"-", Priority.NORMAL),
        (b"--1", Priority.NORMAL),
        (b"u=3", Priority.NORMAL),
        ("٣".encode(), Priority.NORMAL),
    ],
)
def test_names_and_numbers(value: bytes, priority: Priority) -> None:
    """As in vLLM lower is sooner and 0 is usual; what is not understood is normal."""
    assert read_priority(value) is priority


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_is_above_zero(weight: float) -> None:
    """A tenant of no weight would never have its turn."""
    with pytest.raises(ValueError, match="weight"):
        Ticket(Priority.HIGH, b"", weight, inf, 0.0, None)


def test_a_ticket_keeps_what_it_was_given() -> None:
    """It has no number before a queue gives it one."""
    ticket = Ticket(Priority.LOW, b"t", 2.0, 9.0, 1.0, "wake")
    assert (ticket.priority, ticket.tenant, ticket.weight) == (Priority.LOW, b"t", 2.0)
    assert (ticket.deadline, ticket.since, ticket.wake, ticket.seq) == (9.0, 1.0, "wake", -1)
