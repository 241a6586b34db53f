"""A stream's events say whether it is healthy and complete, and what it cost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Usage
from gateway.relay.sse import EventSplitter, split
from gateway.relay.watch import (
    ChatWatcher,
    Failure,
    TypedWatcher,
    Watcher,
    failure_of,
    read_error,
    usage_of,
)
from tests.support.engine import DEEP, DONE, event, finish, token, usage

PING = b": ping\n\n"


def chat(choices: int = 1, *, strip_usage: bool = False) -> ChatWatcher:
    return ChatWatcher(choices, strip_usage=strip_usage)


def typed(kind: str, **fields: Any) -> bytes:
    return b"event: %b\n" % kind.encode() + event({"type": kind, **fields})


def spaced(text: str) -> bytes:
    """Write a token as an engine with another JSON style does, which is not the plain pattern."""
    return b'data: {"choices": [{"delta": {"content": "%b"}, "finish_reason": null}]}\n\n' % (
        text.encode()
    )


def state(watcher: Watcher) -> tuple[Any, ...]:
    closing = watcher.closing()
    return (watcher.usage, watcher.failure, watcher.started, watcher.ended, closing)


PIECES = [token("a"), token("b"), spaced("c"), PING, finish(), usage(7, 3), DONE]
FAILING = [event({"error": {"message": "no", "code": 503}}), finish("abort"), event(b"{")]


@given(
    st.lists(st.sampled_from(PIECES + FAILING), max_size=10),
    st.lists(st.integers(0, 1500), max_size=10),
    st.booleans(),
    st.integers(1, 2),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_any_chunking_says_the_same_of_a_chat_stream(
    events: list[bytes], cuts: list[int], strip_usage: bool, choices: int, newline: bytes
) -> None:
    """Counts, verdict, end and passed bytes do not depend on which events share a read."""
    data = b"".join(events).replace(b"\n", newline)
    one = chat(choices, strip_usage=strip_usage)
    expected = b"".join(one.see(each) for each in split(data))

    other, splitter, passed = chat(choices, strip_usage=strip_usage), EventSplitter(), b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        whole = splitter.feed(data[start:end])
        if whole:
            passed += other.see(whole)
    assert passed == expected
    assert state(other) == state(one)


TYPED = [
    typed("message_start", message={"usage": {"input_tokens": 9}}),
    typed("content_block_delta", delta={"type": "text_delta", "text": "x"}),
    typed("response.output_text.delta", delta="y"),
    typed("message_delta", usage={"input_tokens": 9, "output_tokens": 4}),
    typed("response.completed", response={"usage": {"input_tokens": 8, "output_tokens": 2}}),
    typed("message_stop"),
    PING,
]
TYPED_FAILING = [
    typed("error", error={"type": "api_error", "message": "no"}),
    typed("response.failed", response={}),
]


@given(
    st.lists(st.sampled_from(TYPED + TYPED_FAILING), max_size=10),
    st.lists(st.integers(0, 1500), max_size=10),
)
def test_any_chunking_says_the_same_of_a_typed_stream(events: list[bytes], cuts: list[int]) -> None:
    """As for chat streams."""
    data = b"".join(events)
    one = TypedWatcher()
    expected = b"".join(one.see(each) for each in split(data))
    other, splitter, passed = TypedWatcher(), EventSplitter(), b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        whole = splitter.feed(data[start:end])
        if whole:
            passed += other.see(whole)
    assert passed == expected
    assert state(other) == state(one)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_events_counted_unseen_are_counted_the_same(runs: list[int]) -> None:
    """What the shortcut counts adds up to what looking at each event counts."""
    seen, unseen = chat(), chat()
    for tokens in runs:
        for _ in range(tokens):
            seen.see(token("x"))
        unseen.see(token("x"))
        unseen.count(tokens - 1)
    assert unseen.usage == seen.usage == Usage(0, sum(runs))


def test_a_whole_chat_stream_passes_unchanged() -> None:
    """Every byte goes on, the engine's own count wins, and nothing need be added."""
    watcher = chat()
    data = PIECES[0] + PIECES[1] + finish() + usage(7, 3) + DONE
    assert watcher.see(data) == data
    assert state(watcher) == (Usage(7, 3, exact=True), None, True, True, b"")


@pytest.mark.parametrize(
    ("said", "believed"), [(10**400, 10**12 - 1), (-5, 0)], ids=["huge", "negative"]
)
def test_counts_that_cannot_be_do_not_reach_the_metrics(said: int, believed: int) -> None:
    """A number without end is no double, and one below nothing would turn a counter back."""
    one, other = chat(), TypedWatcher()
    one.see(usage(said, said))
    other.see(typed("message_delta", usage={"input_tokens": 9, "output_tokens": said}))
    assert one.usage == Usage(believed, believed, exact=True)
    assert other.usage == Usage(9, believed, exact=True)


def test_the_usage_that_only_we_asked_for_is_taken_out() -> None:
    """The usage chunk is read and dropped; a last chunk with choices beside usage stays."""
    watcher = chat(strip_usage=True)
    assert watcher.see(token("a") + finish() + usage(7, 3) + DONE) == token("a") + finish() + DONE
    assert watcher.usage == Usage(7, 3, exact=True)
    both = event({"choices": [{"finish_reason": "stop"}], "usage": {"prompt_tokens": 1}})
    assert chat(strip_usage=True).see(both) == both


def test_counts_that_are_null_say_nothing() -> None:
    """vLLM's schema allows them: the stream is as whole as any, and the estimate stays."""
    nulls = {"prompt_tokens": None, "completion_tokens": None}
    data = token("a") + finish() + event({"choices": [], "usage": nulls}) + DONE
    watcher = chat()
    assert watcher.see(data) == data
    assert state(watcher) == (Usage(0, 2), None, True, True, b"")
    other = TypedWatcher()
    nulls = {"input_tokens": None, "output_tokens": None}
    data = typed("content_block_delta") + typed("message_delta", usage=nulls)
    assert other.see(data) == data
    assert (other.usage, other.failure) == (Usage(0, 1), None)


@pytest.mark.parametrize("choices", [1, 2, 3])
def test_a_missing_end_mark_is_added_once_all_choices_have_finished(choices: int) -> None:
    """With one choice unfinished the stream was cut, and nothing makes it whole."""
    watcher = chat(choices)
    for _ in range(choices):
        assert watcher.closing() is None
        watcher.see(token("a") + finish())
    assert watcher.closing() == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (event({"error": {"message": "boom", "code": 500}}), Failure("The engine failed: boom")),
        (
            event({"error": {"message": "full", "code": 503}}),
            Failure("The engine failed: full", overloaded=True),
        ),
        (event({"error": "bare"}), Failure("The engine failed: bare")),
        (finish("abort"), Failure("The engine aborted the answer.")),
        (event(b"{half"), Failure("The engine sent an event that is not JSON.")),
        (event(b"\xff"), Failure("The engine sent an event that is not JSON.")),
        pytest.param(
            event(b'{"x":%b}' % DEEP),
            Failure("The engine sent an event that is not JSON."),
            id="too deep",
        ),
        (event(b"[]"), Failure("The engine sent an event that is not JSON.")),
        (event({"choices": 3}), Failure("The engine sent an event that is not JSON.")),
    ],
)
def test_a_failing_event_ends_what_is_passed_on(bad: bytes, failure: Failure) -> None:
    """Events before it pass, it and all after it do not, and no end mark is made up."""
    watcher = chat()
    assert watcher.see(token("a") + bad + token("b") + finish() + DONE) == token("a")
    assert watcher.failure == failure
    assert watcher.see(finish() + DONE) == b""


def test_plain_tokens_after_a_failure_are_dropped_too() -> None:
    """The plain pattern is no way round the verdict."""
    watcher = chat()
    watcher.see(event({"error": "no"}))
    assert watcher.see(token("late")) == b""
    assert watcher.usage.completion_tokens == 0


def test_nothing_follows_the_end_mark() -> None:
    """Events after `[DONE]`, also plain ones, belong to no answer."""
    watcher = chat()
    assert watcher.see(token("a") + DONE + token("b")) == token("a") + DONE
    assert watcher.see(token("c")) == b""


@pytest.mark.parametrize("events", [PING, DONE, PING + DONE, b"\n\n"])
def test_what_is_no_answer_does_not_commit(events: bytes) -> None:
    """Comments and a bare end mark are held back: a failure may still get a status."""
    watcher = chat()
    assert watcher.see(events) == b""
    assert not watcher.started


def test_content_cannot_imitate_an_event() -> None:
    """Marks, errors and end marks inside a JSON string are content."""
    text = '"finish_reason":null {"error":1} data: [DONE]\n\n "finish_reason":"abort"'
    watcher = chat()
    assert watcher.see(token(text)) == token(text)
    assert state(watcher) == (Usage(0, 1), None, True, False, None)


def test_an_exact_count_is_not_added_to() -> None:
    """Once the engine has counted, later events change nothing, whether seen or not."""
    watcher = chat()
    watcher.see(usage(7, 3))
    watcher.see(token("a"))
    watcher.see(spaced("b"))
    watcher.count(1)
    assert watcher.usage == Usage(7, 3, exact=True)


def test_two_choices_leave_the_shortcut_out() -> None:
    """One event with two marks could hide one with none."""
    two = event({"choices": [{"finish_reason": None}, {"finish_reason": None}]})
    watcher = chat(2)
    assert watcher.plain_mark is None
    assert watcher.see(two + event({"error": "no"})) == two
    assert watcher.failure is not None


def test_a_typed_stream_ends_only_with_its_end_event() -> None:
    """Without it the stream was cut; usage adds up over the events that carry it."""
    watcher = TypedWatcher()
    assert watcher.see(TYPED[1] + TYPED[3]) == TYPED[1] + TYPED[3]
    assert watcher.closing() is None
    watcher.see(typed("message_stop"))
    assert state(watcher) == (Usage(9, 4, exact=True), None, True, True, b"")


def test_a_typed_error_event_is_the_failure() -> None:
    """Its message is kept, nothing after it passes."""
    watcher = TypedWatcher()
    assert watcher.see(TYPED[1] + TYPED_FAILING[0] + TYPED[1] + TYPED[5]) == TYPED[1]
    assert watcher.failure == Failure("The engine failed: no")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        ({"message": "m", "code": 429}, Failure("The engine failed: m", overloaded=True)),
        ({"message": "m", "code": "oops"}, Failure("The engine failed: m")),
        ({"message": "m", "code": []}, Failure("The engine failed: m")),
        ({"message": "m", "code": {"a": 1}}, Failure("The engine failed: m")),
        ({}, Failure("The engine failed: no reason given")),
        ("", Failure("The engine failed: no reason given")),
        ([1], Failure("The engine failed: [1]")),
    ],
)
def test_an_error_value_of_any_form_is_read(error: object, failure: Failure) -> None:
    """Engines are free in the form; no form makes the reading itself fail."""
    assert read_error(error) == failure


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", Usage()),
        (
            b'{"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}',
            Usage(3, 2, exact=True),
        ),
        (b'{"usage":{"prompt_tokens":3,"total_tokens":3}}', Usage(3, 0, exact=True)),
        (b'{"usage":{"completion_tokens": 2, "prompt_tokens": 3}}', Usage(3, 2, exact=True)),
        (b'{"usage":{"input_tokens":4,"output_tokens":6}}', Usage(4, 6, exact=True)),
    ],
)
def test_usage_is_found_in_a_whole_answer(body: bytes, expected: Usage) -> None:
    """In vLLM's spelling, in any order, under both APIs' names."""
    found = usage_of(body)
    assert (found.prompt_tokens, found.completion_tokens) == (
        expected.prompt_tokens,
        expected.completion_tokens,
    )


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b'{"error":{"message":"m"}}', Failure("The engine failed: m")),
        (b' {\n "error" : "m"}', Failure("The engine failed: m")),
        (b'{"error":null,"choices":[]}', None),
        (b'{"choices":[{"finish_reason": "abort"}]}', Failure("The engine aborted the answer.")),
        (b'{"choices":[{"text":"\\"finish_reason\\":\\"abort\\""}]}', None),
        (b'{"object":"list","error":{"message":"m"}}', None),
        (b'{"error":{', Failure("The engine sent an answer that is not JSON.")),
        pytest.param(
            b'{"error":%b}' % DEEP,
            Failure("The engine sent an answer that is not JSON."),
            id="too deep",
        ),
    ],
)
def test_an_error_in_a_whole_answer_is_told_from_content(
    body: bytes, failure: Failure | None
) -> None:
    """An error object at the top or an aborted choice, not what a text quotes."""
    assert failure_of(body) == failure
