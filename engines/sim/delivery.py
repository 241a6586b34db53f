"""How does a whole answer go out when it is to go wrong?"""

from __future__ import annotations

import msgspec

from engines.sim import errors
from engines.sim.errors import ApiError
from engines.sim.exchange import Exchange
from engines.sim.faults import Break, Faults

_GARBAGE = b"\x16\x03\x01 this is not HTTP \x00\xff\r\n\r\n"


def send_error(exchange: Exchange, error: ApiError) -> None:
    """Send an error's status and body."""
    exchange.leading.extend(error.headers)
    exchange.send(error.status, msgspec.json.encode(error.body))


def send_instead(exchange: Exchange, faults: Faults) -> bool:
    """Send what replaces the whole answer, if anything does; return whether it did."""
    exchange.big_header = faults.big_header
    if faults.reset:
        exchange.reset()
    elif faults.garbage_head:
        exchange.raw(_GARBAGE)
        exchange.cut()
    elif faults.status is not None:
        send_error(exchange, errors.of_status(faults.status))
    elif faults.error_200:
        exchange.send(200, msgspec.json.encode(errors.internal().body))
    else:
        return False
    return True


def send_whole(exchange: Exchange, body: bytes, broken: Break | None) -> None:
    """Send a JSON body, broken in its middle as `broken` says."""
    head = exchange.head(200, b"content-length: %d\r\n" % len(body), "application/json")
    half = body[: len(body) // 2]
    match broken:
        case Break.CUT | Break.HALF:
            exchange.raw(head + half)
            exchange.cut()
        case Break.RESET:
            exchange.raw(head + half)
            exchange.reset()
        case Break.STALL:
            exchange.raw(head + half)
        case Break.MALFORMED:
            exchange.send(200, half)
        case Break.BAD_CHUNK:
            chunked = b"transfer-encoding: chunked\r\n"
            exchange.raw(exchange.head(200, chunked, "application/json") + b"not-hex\r\n" + half)
            exchange.cut()
        case Break.ERROR:
            send_error(exchange, errors.internal())
        case Break.ABORT | None:
            exchange.send(200, body)


def break_stream(exchange: Exchange, broken: Break, event: bytes) -> None:
    """End a stream in a broken way; `event` is the one that would have come next.

    Not for the breaks that go through the answer's own shape: MALFORMED, ERROR and ABORT.
    """
    match broken:
        case Break.CUT:
            exchange.cut()
        case Break.RESET:
            exchange.reset()
        case Break.HALF:
            # The chunk announces the whole event, so the message is visibly unfinished.
            exchange.raw(b"%x\r\n%b" % (len(event), event[: len(event) // 2]))
            exchange.cut()
        case Break.BAD_CHUNK:
            exchange.raw(b"not-hex\r\n%b\r\n" % event)
            exchange.cut()
        case _:
            pass  # STALL: nothing more, until the client leaves
