"""Nothing of a response is shown before it is known to be one; then every read goes straight on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from gateway.model import Usage
from gateway.plan.table import renamer
from gateway.relay.reply import HOLD_BYTES, Rename, Reply
from gateway.relay.sse import MAX_EVENT_BYTES
from gateway.relay.watch import ChatWatcher, Failure
from gateway.telemetry.metrics import Histogram
from gateway.wire.guard import ResponseHead, read_response_head
from gateway.wire.types import Source, UpstreamError
from tests.support.control import ManualClock
from tests.support.engine import DONE, chunk, event, finish, token, usage

EVENTS = read_response_head(200, [(b"content-type", b"text/event-stream")])
ERROR = event({"error": {"message": "boom", "code": 500}})


def plain(length: int | None, status: int = 200) -> ResponseHead:
    fields = [(b"content-type", b"application/json")]
    if length is not None:
        fields.append((b"content-length", b"%d" % length))
    return read_response_head(status, fields)


@dataclass
class FakeSource:
    """The engine's side: what it was told."""

    take: Callable[[bytes], bool] | None = None
    closed: bool = False
    until: float = 0.0

    def pause(self) -> None:
        raise AssertionError("nobody is slow here")

    resume = pause

    def create_future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def shorten(self, take: Callable[[bytes], bool] | None) -> None:
        self.take = take

    def limit(self, until: float) -> None:
        self.until = until

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeDown:
    """The client's side: what was sent."""

    raw: bool = True
    started: bool = False
    sent: list[object] = field(default_factory=list)
    sources: list[Source | None] = field(default_factory=list)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.sent.append(("respond", status, body))

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        self.started = True
        self.sent.append(("start", status, length))

    def attach(self, source: Source) -> None:
        self.sources.append(source)

    def detach(self) -> None:
        self.sources.append(None)

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def raw_writer(self) -> Callable[[bytes], None] | None:
        return self.sent.append if self.raw else None

    def finish(self, data: bytes = b"") -> None:
        self.sent.append(("finish", data))

    def abort(self) -> None:
        raise AssertionError("a reply never cuts the client itself")


@dataclass
class Run:
    """One reply between its two sides."""

    reply: Reply
    source: FakeSource
    down: FakeDown
    clock: ManualClock
    gaps: Histogram

    def commit(self) -> None:
        self.reply.splice(self.down, b"")


def run(
    head: ResponseHead, *, rename: Rename | None = None, raw: bool = True, strip: bool = False
) -> Run:
    clock, gaps, source = ManualClock(), Histogram((1.0,)), FakeSource()
    reply = Reply(lambda: ChatWatcher(1, strip_usage=strip), rename, gaps, clock.monotonic)
    reply.begin(source)
    reply.head(head)
    return Run(reply, source, FakeDown(raw), clock, gaps)


# Before the commit point.


def test_a_whole_answer_goes_out_in_one() -> None:
    """It is ready when its last byte is there, not before, and is answered as a whole."""
    one = run(plain(4))
    one.reply.data(b"ab", last=False)
    assert not one.reply.ready
    one.reply.data(b"cd", last=True)
    assert one.reply.ready
    one.commit()
    assert one.down.sent == [("respond", 200, b"abcd")]


def test_a_large_answer_is_let_through_once_enough_is_held() -> None:
    """Past the hold it is committed with its declared length and flows."""
    one = run(plain(HOLD_BYTES + 3))
    one.reply.data(b"x" * HOLD_BYTES, last=False)
    assert not one.reply.ready
    one.reply.data(b"y", last=False)
    assert one.reply.ready
    one.commit()
    one.reply.data(b"z", last=False)
    one.reply.data(b"!", last=True)
    assert one.down.sent[0] == ("start", 200, HOLD_BYTES + 3)
    assert one.down.sent[2:] == [b"z", ("finish", b"!")]
    assert one.reply.ended


def test_a_stream_commits_with_its_first_event_that_says_something() -> None:
    """Half an event and a comment are no answer yet; the first token is."""
    one = run(EVENTS)
    one.reply.data(b": ping\n\n" + token("a")[:9], last=False)
    assert not one.reply.ready
    assert one.reply.first_at == 0.0
    one.clock.now += 2.0
    one.reply.data(token("a")[9:], last=False)
    assert one.reply.ready
    assert one.reply.first_at == one.clock.now
    one.commit()
    assert one.down.sent == [("start", 200, None), token("a")]


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (ERROR, Failure("The engine failed: boom")),
        (token("a") + ERROR, Failure("The engine failed: boom")),
        (finish("abort"), Failure("The engine aborted the answer.")),
        (b"data: {\n\n", Failure("The engine sent an event that is not JSON.")),
    ],
)
def test_a_stream_that_fails_at_once_is_a_failure_and_hung_up_on(
    body: bytes, failure: Failure
) -> None:
    """Before the commit it can still become a status; the engine is not listened to further."""
    one = run(EVENTS)
    one.reply.data(body, last=False)
    assert one.reply.ready
    assert one.reply.failure == failure
    assert one.source.closed


@pytest.mark.parametrize("head", [EVENTS, plain(HOLD_BYTES + 9)])
def test_what_breaks_between_ready_and_shown_shows_what_it_had(head: ResponseHead) -> None:
    """And is not ended: another stream may follow, or the client has to be told."""
    one = run(head)
    body = token("a") if head is EVENTS else b"x" * (HOLD_BYTES + 1)
    one.reply.data(body, last=False)
    assert one.reply.ready
    one.reply.lost(UpstreamError("reset"))
    one.commit()
    assert one.down.sent == [("start", 200, head.length), body]
    assert one.reply.failure is not None


@pytest.mark.parametrize("body", [b"", b": ping\n\n", DONE, token("a"), token("a")[:9], usage()])
def test_a_stream_that_ends_before_its_answer_is_a_failure(body: bytes) -> None:
    """A clean end of bytes is no success by itself."""
    one = run(EVENTS)
    one.reply.data(body, last=True)
    assert one.reply.ended
    assert one.reply.failure is not None


def test_a_forgotten_end_mark_is_added() -> None:
    """An answer with its finish reason is complete, also where the connection broke after it."""
    for broken in (False, True):
        one = run(EVENTS)
        one.reply.data(token("a") + finish(), last=False)
        one.commit()
        if broken:
            one.reply.lost(UpstreamError("gone"))
        else:
            one.reply.data(b"", last=True)
        assert one.down.sent[-1] == ("finish", DONE)
        assert one.reply.failure is None


@pytest.mark.parametrize("timeout", [True, False])
def test_a_broken_connection_is_the_failure(timeout: bool) -> None:
    """Its kind is kept, and how it broke can be asked for."""
    one, error = run(plain(9)), UpstreamError("gone", timeout=timeout, stale=not timeout)
    one.reply.data(b"ab", last=False)
    one.reply.lost(error)
    assert one.reply.failure == Failure("gone", timeout=timeout, cut=True)
    assert one.reply.lost_by is error


def test_an_error_inside_a_200_is_a_failure() -> None:
    """A whole JSON answer is looked at before anybody sees it."""
    one = run(plain(None))
    one.reply.data(b'{"error":{"message":"boom"}}', last=True)
    assert one.reply.failure == Failure("The engine failed: boom")


def test_an_engines_own_error_is_not_judged_here() -> None:
    """A 4xx body passes as it is."""
    one = run(plain(None, 404))
    one.reply.data(b'{"error":{"message":"boom"}}', last=True)
    assert one.reply.failure is None


# After it.


def test_a_failure_after_the_commit_shows_what_came_before_and_nothing_after() -> None:
    """Whole events from before the error are sent; the engine is hung up on."""
    one = run(EVENTS)
    one.reply.data(token("a"), last=False)
    one.commit()
    one.reply.data(token("b") + ERROR + token("c"), last=False)
    assert one.down.sent[1:] == [token("a"), token("b")]
    assert one.source.closed
    assert one.reply.failure == Failure("The engine failed: boom")


async def test_whoever_waits_is_told_once() -> None:
    """The commit point, and later the end, wake the waiting coroutine."""
    one = run(EVENTS)
    ready = one.reply.news()
    one.reply.data(token("a"), last=False)
    assert ready.done()
    one.commit()
    ended = one.reply.news()
    one.reply.data(token("b"), last=False)
    assert not ended.done()
    one.reply.data(finish() + DONE, last=True)
    assert ended.done()
    one.reply.data(b"", last=True)


def test_an_endless_event_fails_and_is_not_kept_on_reading() -> None:
    """The tail is bounded, and the engine cannot go on filling it."""
    one = run(EVENTS)
    one.reply.data(token("a"), last=False)
    one.commit()
    one.reply.data(b"data: " + b"x" * MAX_EVENT_BYTES, last=False)
    assert one.reply.failure == Failure("The engine sent an event that does not end.")
    assert one.source.closed


def test_giving_up_closes_the_source() -> None:
    """The engine sees its client leave."""
    one = run(EVENTS)
    one.reply.cancel()
    assert one.source.closed
    assert one.reply.ended


# The shortcut.


def test_the_shortcut_is_offered_only_between_events() -> None:
    """While an event is incomplete, or after the end mark, every read is parsed."""
    one = run(EVENTS)
    one.reply.data(token("a"), last=False)
    one.commit()
    assert one.source.take is not None
    one.reply.data(token("b")[:5], last=False)
    assert one.source.take is None
    one.reply.data(token("b")[5:], last=False)
    assert one.source.take is not None
    one.reply.data(finish() + DONE, last=False)
    assert one.source.take is None


def test_no_shortcut_where_bytes_must_be_changed_or_framed_anew() -> None:
    """Renamed streams, and clients without chunked coding, go the long way."""
    for one in (run(EVENTS, rename=renamer("a", "b")), run(EVENTS, raw=False)):
        one.reply.data(token("a"), last=False)
        one.commit()
        one.reply.data(token("b"), last=False)
        assert one.source.take is None


def test_the_shortcut_counts_what_it_passes() -> None:
    """Tokens and gaps are the same as on the long way."""
    counted: list[object] = []
    for raw in (True, False):
        one = run(EVENTS, raw=raw)
        for step_s, events in ((1.0, token("a")), (0.5, token("b")), (3.0, token("c") * 2)):
            one.clock.now += step_s
            take = one.source.take
            if take is None or not take(chunk(events)):
                one.reply.data(events, last=False)
            if not one.down.started:
                one.commit()
        one.clock.now += 0.25
        one.reply.data(finish(), last=False)
        counted.append((one.reply.usage(), one.gaps.counts, one.gaps.sum))
    assert counted == [(Usage(0, 5), [2, 1], 3.75)] * 2


# Rewriting.


@pytest.mark.parametrize("length", [None, HOLD_BYTES + 40])
def test_a_renamed_answer_has_its_own_length(length: int | None) -> None:
    """The declared length follows the longer name, whole or flowing."""
    body = json.dumps({"model": "m", "pad": ""}).encode()
    rename = renamer("m", "the-longer-name")
    renamed = body.replace(b'"m"', b'"the-longer-name"')
    one = run(plain(length), rename=rename)
    if length is None:
        one.reply.data(body, last=True)
        one.commit()
        assert one.down.sent == [("respond", 200, renamed)]
    else:
        one.reply.data(body + b" " * (HOLD_BYTES + 1), last=False)
        one.commit()
        assert one.down.sent[0] == ("start", 200, length + len(renamed) - len(body))


def test_a_renamed_stream_carries_the_name_in_every_event() -> None:
    """In what is held and in what flows."""
    one = run(EVENTS, rename=renamer("m", "alias"))
    one.reply.data(token("a"), last=False)
    one.commit()
    one.reply.data(token("b") + finish(), last=False)
    one.reply.data(DONE, last=True)
    assert one.down.sent[1:] == [
        token("a", "alias"),
        token("b", "alias") + finish(model="alias"),
        ("finish", DONE),
    ]


def test_usage_of_a_whole_answer_is_read() -> None:
    """Also under a 200 whose body says more than tokens."""
    one = run(plain(None))
    one.reply.data(b'{"usage":{"prompt_tokens":3,"completion_tokens":2}}', last=True)
    assert one.reply.usage() == Usage(3, 2, exact=True)
