"""A familiar head means what the full parse of the same bytes means."""

from __future__ import annotations

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.wire.familiar import FamiliarHead
from gateway.wire.guard import Headers

CHANGING = frozenset({b"date"})
NAMES = st.sampled_from([b"Host", b"content-length", b"Content-Length", b"date", b"x-a", b"DATE"])
VALUES = st.sampled_from([b"1", b"22", b"now: then", b"", b"a b", b"007", b"1x"])
LINES = st.tuples(NAMES, st.sampled_from([b": ", b":", b":  "]), VALUES).map(b"".join)


class Parsed:
    """What httptools makes of a message: its fields, and where its body begins and ends."""

    def __init__(self, data: bytes, parser: type) -> None:
        self.headers: Headers = []
        self.body = b""
        self.whole = False
        try:
            parser(self).feed_data(data)
        except httptools.HttpParserError:
            self.whole = False
            self.broken = True
        else:
            self.broken = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


def kept(headers: Headers) -> Headers:
    """Leave out what may differ between two heads of one kind."""
    return [pair for pair in headers if pair[0] not in {b"content-length", b"date"}]


def head(lines: list[bytes]) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines]) + b"\r\n\r\n"


@given(st.lists(LINES, max_size=4), st.lists(LINES, max_size=4), st.binary(max_size=30))
@example([b"content-length: 2"], [b"content-length: 3"], b"abc")
@example([b"date: a", b"content-length: 2"], [b"date: bb", b"content-length: 1"], b"abc")
@example([b"content-length: 2", b"Host: a"], [b"content-length: 2\r\nx: y", b"Host: a"], b"ab")
def test_a_match_says_what_the_parser_says(
    first: list[bytes], second: list[bytes], body: bytes
) -> None:
    """Same fields but for the holes, same declared length, same beginning of the body."""
    known, data = head(first), head(second) + body
    learnt = Parsed(known + b"x" * 30, httptools.HttpResponseParser)
    if learnt.broken and not learnt.whole:
        return  # Only heads that the parser has accepted are learnt.
    familiar: FamiliarHead[str] = FamiliarHead()
    familiar.learn(known, "known", CHANGING)
    found = familiar.match(data)
    if found is None:
        return
    length, at = found
    parsed = Parsed(data[: at + length], httptools.HttpResponseParser)
    assert not parsed.broken
    assert kept(parsed.headers) == kept(learnt.headers)
    assert [int(value) for name, value in parsed.headers if name == b"content-length"] == [length]
    assert parsed.body == data[at : at + length]
    assert parsed.whole is (len(data) - at >= length)


@given(st.integers(0, 999_999_999), st.text("abc: ,", max_size=10), st.binary(max_size=9))
def test_the_same_head_with_another_length_and_date_is_familiar(
    length: int, date: str, body: bytes
) -> None:
    """Which is what it is for."""
    familiar: FamiliarHead[str] = FamiliarHead()
    familiar.learn(head([b"date: now", b"content-length: 5", b"x-a: b"]), "known", CHANGING)
    text = head([b"date: " + date.encode(), b"content-length: %d" % length, b"x-a: b"])
    assert familiar.match(text + body) == (length, len(text))
    assert familiar.value == "known"


def test_every_other_head_is_not() -> None:
    """One byte more, less or different, an incomplete head, a length that is none."""
    familiar: FamiliarHead[str] = FamiliarHead()
    known = head([b"content-length: 5", b"x-a: b"])
    familiar.learn(known, "known")
    for at in range(len(known)):
        assert familiar.match(known[:at]) is None
        changed = known[:at] + b"~" + known[at + 1 :]
        assert familiar.match(changed) is None
    for length in (b"", b"-1", b"+1", b" 1", b"1 ", b"0x1", b"1_0", b"\xb2", b"1" * 10, b"1, 1"):
        assert familiar.match(head([b"content-length: " + length, b"x-a: b"])) is None


def test_heads_without_exactly_one_plain_length_are_not_learnt() -> None:
    """Their framing is for the parser to decide, each time."""
    for lines in (
        [],
        [b"content-length: 1", b"content-length: 1"],
        [b"content-length:1"],
        [b"content-length: 1", b"Content-Length: 1"],
        [b"transfer-encoding: chunked"],
    ):
        familiar: FamiliarHead[str] = FamiliarHead()
        familiar.learn(head(lines), "known")
        assert familiar.match(head(lines)) is None
        assert familiar.value is None


def test_a_client_that_never_repeats_itself_is_not_learnt_from_for_ever() -> None:
    """After some heads without a match the last one stays; matches renew the credit."""
    familiar: FamiliarHead[int] = FamiliarHead()

    def one(number: int) -> bytes:
        return head([b"x-a: %d" % number, b"content-length: 1"])

    for number in range(50):
        familiar.learn(one(number), number)
    stuck = familiar.value
    assert stuck is not None
    assert stuck < 49
    assert familiar.match(one(stuck)) is not None
    familiar.learn(one(99), 99)
    assert familiar.value == 99
