"""Bodies, deadlines and names of requests."""

from random import Random
from typing import Any

import pytest

from vision.api import exchange
from vision.errors import BadInput, QueueFull, TooLarge

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"


def source(*messages: dict[str, Any]) -> Any:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    return receive


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("fields", "trace"),
    [
        ({b"traceparent": b"00-" + TRACE + b"-00f067aa0ba902b7-01"}, TRACE.decode()),
        ({b"traceparent": b"00-" + TRACE + b"-00f067aa0ba902b7-01", b"x-request-id": b"a"}, None),
        (
            {b"traceparent": b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", b"x-request-id": b"a"},
            "a",
        ),
        ({b"traceparent": b"nonsense", b"x-request-id": b"a"}, "a"),
        ({b"x-request-id": b"a" * 128}, "a" * 128),
    ],
)
def test_a_trace_is_called_as_the_client_says(
    fields: dict[bytes, bytes], trace: str | None
) -> None:
    assert exchange.trace_id_of(fields, Random(1)) == (trace or TRACE.decode())


@pytest.mark.parametrize("fields", [{}, {b"x-request-id": b"a" * 129}, {b"x-request-id": b"\xff"}])
def test_else_it_gets_a_new_name(fields: dict[bytes, bytes]) -> None:
    """Also where the client's cannot be echoed."""
    rng = Random(1)
    first, second = exchange.trace_id_of(fields, rng), exchange.trace_id_of(fields, rng)
    assert first != second
    assert len(first) == 32
    assert exchange.request_id_of(fields, first) == first.encode()
    assert exchange.request_id_of({b"x-request-id": b"mine"}, first) == b"mine"


@pytest.mark.parametrize(
    ("value", "deadline"), [(b"1500", 11.5), (b"0", 10.0), (b"999999999", None)]
)
def test_a_deadline_is_in_ms_from_now(value: bytes, deadline: float | None) -> None:
    assert exchange.deadline_of({b"x-request-timeout-ms": value}, 10.0) == deadline
    assert exchange.deadline_of({}, 10.0) is None


@pytest.mark.parametrize("value", [b"", b"-1", b"1.5", b"x", b"1" * 13, "٣".encode()])
def test_deadlines_that_are_none(value: bytes) -> None:
    with pytest.raises(BadInput):
        exchange.deadline_of({b"x-request-timeout-ms": value}, 10.0)


async def test_a_body_in_one_part_or_many() -> None:
    assert await exchange.read_body(source({"type": "http.request", "body": b"ab"}), {}, 2) == b"ab"
    parts = source(part(b"a"), part(b""), part(b"b", more=False))
    assert await exchange.read_body(parts, {}, 2) == b"ab"


@pytest.mark.parametrize(
    "parts",
    [[part(b"abc", more=False)], [part(b"ab"), part(b"c")], [part(b"abc"), part(b"")]],
)
async def test_a_body_over_the_cap_is_not_read_on(parts: list[Any]) -> None:
    with pytest.raises(TooLarge):
        await exchange.read_body(source(*parts), {}, 2)
    with pytest.raises(TooLarge):
        async for _ in exchange.body_parts(source(*parts), {}, 2):
            pass


async def test_a_length_over_the_cap_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        await exchange.read_body(source(), {b"content-length": b"3"}, 2)
    with pytest.raises(TooLarge):
        async for _ in exchange.body_parts(source(), {b"content-length": b"3"}, 2):
            pass


async def test_a_client_that_goes_amid_its_body() -> None:
    with pytest.raises(exchange.ClientGone):
        await exchange.read_body(source(part(b"a"), {"type": "http.disconnect"}), {}, 9)
    with pytest.raises(exchange.ClientGone):
        await exchange.read_body(source({"type": "http.disconnect"}), {}, 9)


def test_what_an_error_says_in_fields() -> None:
    assert exchange.error_fields(QueueFull("x", retry_after_s=2)) == [(b"retry-after", b"2")]
    assert exchange.error_fields(TooLarge("x")) == [(b"connection", b"close")]
    assert exchange.error_fields(BadInput("x")) == []
