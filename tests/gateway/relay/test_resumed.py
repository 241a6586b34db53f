"""The second endpoint's stream becomes the rest of the first one's, or is no answer."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Usage
from gateway.relay.delivered import Delivered, Mode, Obstacle
from gateway.relay.resumed import ResumedWatcher, length_ending
from gateway.relay.sse import EventSplitter, split
from gateway.relay.transcript import Transcript
from gateway.relay.watch import Failure, Watcher
from tests.support.answers import said, sim_stream
from tests.support.engine import DEEP, DONE, event, finish, token, usage

NAMES = {"id": "second", "object": "chat.completion.chunk", "created": 9, "model": "engine"}
BEFORE = Delivered("one two", "", "first", 7, "m", role=True, tokens=2)
DIVERGED = "The answer diverged from the one that broke off."


def delta(_finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": fields, "logprobs": None, "finish_reason": _finish}
    return event(NAMES | {"choices": [choice]})


def counts(**details: Any) -> bytes:
    return event(NAMES | {"choices": [], "usage": details})


ROLE = delta(role="assistant", content="")


def watcher(mode: Mode, before: Delivered = BEFORE, **options: Any) -> ResumedWatcher:
    return ResumedWatcher(before, mode, **{"strip_usage": False} | options)


def continued(**options: Any) -> ResumedWatcher:
    return watcher(Mode.CONTINUE, **options)


def replayed(**options: Any) -> ResumedWatcher:
    return watcher(Mode.REPLAY, **options)


def chunks(events: bytes) -> list[Any]:
    return [
        json.loads(one[6:]) for one in events.decode().split("\n\n") if one.startswith("data: {")
    ]


def message(watched: ResumedWatcher) -> str | None:
    return None if watched.failure is None else watched.failure.message


def test_it_is_a_watcher() -> None:
    """The reply can use it where it uses the others, and never passes events unseen."""
    watched: Watcher = continued()
    assert watched.plain_mark is None


# The whole way, with the simulated engine.

ASK = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 40}
BODIES = {
    "chat": json.dumps(ASK | {"messages": [{"role": "user", "content": "Hi"}]}).encode(),
    "completions": json.dumps(ASK | {"prompt": "Hi there"}).encode(),
}
KEYS = {"chat": "content", "completions": "text"}


def feed(watched: Watcher, events: list[bytes], cuts: list[int]) -> bytes:
    """Pass events on in any chunking, as the reply does it; return what comes out."""
    splitter, raw = EventSplitter(), b"".join(events)
    places = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    reads = [raw[a:b] for a, b in pairwise(places)]
    return b"".join([watched.see(whole) for read in reads if (whole := splitter.feed(read))])


@given(
    st.sampled_from(["chat", "completions"]),
    st.integers(1, 39),
    st.integers(0, 39),
    st.lists(st.integers(0, 20000), max_size=6),
    st.booleans(),
)
def test_a_replay_cut_anywhere_gives_the_whole_answer(
    route: str, first: int, second: int, cuts: list[int], strip: bool
) -> None:
    """Broken off twice, anywhere, in any chunking: the text is exact and the usage the engine's."""
    whole = sim_stream(route, BODIES[route])
    transcript = Transcript()
    transcript.plain(b"".join(whole[:first]))
    shown = b"".join(whole[:first])
    again = ResumedWatcher(transcript.state(), Mode.REPLAY, strip_usage=strip)
    shown += feed(again, sim_stream(route, BODIES[route], "2", 9)[:second], cuts)
    third = ResumedWatcher(again.delivered(), Mode.REPLAY, strip_usage=strip)
    shown += feed(third, sim_stream(route, BODIES[route], "3", 11), cuts)
    assert third.closing() == b""
    assert third.failure is None
    assert said(shown, KEYS[route]) == said(b"".join(whole), KEYS[route])
    seen = chunks(shown)
    assert {(one["id"], one["created"], one["model"]) for one in seen} == {
        (chunks(whole[0])[0]["id"], 1700000000, "m")
    }
    if route == "chat":
        roles = [one for one in seen if one["choices"] and "role" in one["choices"][0]["delta"]]
        assert len(roles) == 1
    assert third.usage == Usage(
        chunks(b"".join(whole))[-1]["usage"]["prompt_tokens"], 40, exact=True
    )
    finishes = [one for one in seen if one["choices"] and one["choices"][0]["finish_reason"]]
    assert len(finishes) == 1
    assert len([one for one in seen if one.get("usage")]) == (not strip)
    assert shown.endswith(DONE)


CAPTURE = Path(__file__).parents[2] / "data/vllm-0.32/tools_chat_stream.txt"


def test_a_real_stream_is_replayed_from_any_event() -> None:
    """vLLM 0.32's own events, broken off after each of them."""
    whole = [
        b"data: %b\n\n" % one for one in re.findall(rb"(?m)^data: (.*)$", CAPTURE.read_bytes())
    ]
    second = b"".join(whole).replace(b"chatcmpl-", b"chatcmpl-second-")
    for cut in range(1, len(whole) - 3):
        transcript = Transcript()
        transcript.plain(b"".join(whole[:cut]))
        watched = replayed(before=transcript.state())
        rest = watched.see(second)
        assert said(b"".join(whole[:cut]) + rest) == said(b"".join(whole))
        assert b"second" not in rest
        assert (watched.usage, watched.closing()) == (Usage(19, 24, exact=True), b"")


# Names, roles, and what is left alone.


def test_the_second_stream_speaks_under_the_firsts_names() -> None:
    """One id, one time, one model; its role chunk is nothing new; other members stay as bytes."""
    watched = continued()
    assert watched.see(ROLE) == b""
    assert not watched.started
    odd = delta(content=" three").replace(b'"logprobs":null', b'"logprobs":[-6.50,1E+2]')
    out = watched.see(odd)
    assert watched.started
    assert b'"logprobs":[-6.50,1E+2]' in out
    (chunk,) = chunks(out)
    assert (chunk["id"], chunk["created"], chunk["model"]) == ("first", 7, "m")
    assert chunk["choices"][0]["delta"] == {"content": " three"}


def test_names_that_the_first_did_not_say_are_the_seconds() -> None:
    """An engine that leaves out the time gets none written over."""
    (chunk,) = chunks(continued(before=Delivered("a", id="first")).see(delta(content="b")))
    assert (chunk["id"], chunk["created"], chunk["model"]) == ("first", 9, "engine")


def test_a_role_with_text_keeps_the_text() -> None:
    """Some engines begin with both in one chunk."""
    (chunk,) = chunks(continued().see(delta(role="assistant", content=" three")))
    assert chunk["choices"][0]["delta"] == {"content": " three"}


@pytest.mark.parametrize("mode", list(Mode))
def test_a_role_that_the_client_lacks_is_shown_once(mode: Mode) -> None:
    """Also where nothing but a comment had been sent; then the names are the second's too."""
    watched = watcher(mode, Delivered())
    out = watched.see(ROLE + delta(role="assistant", content="a") + finish())
    first, second, _ = chunks(out)
    assert first["id"] == "second"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert second["choices"][0]["delta"] == {"content": "a"}


def test_a_role_that_comes_too_late_is_dropped() -> None:
    """The client has text without a role: a replay's role chunk is no divergence."""
    watched = replayed(before=Delivered("a", id="first"))
    out = watched.see(ROLE + delta(content="a") + delta(content="b"))
    assert said(out) == "b"
    assert b"role" not in out
    assert watched.failure is None


# Replay.


@given(st.text("ab ", max_size=8), st.text("ab ", max_size=8), st.lists(st.integers(0, 8)))
def test_a_replay_shows_what_is_new_or_fails(old: str, new: str, cuts: list[int]) -> None:
    """However the pieces fall: the new text less the old, and nothing where it is another."""
    places = [0, *sorted(min(cut, len(new)) for cut in cuts), len(new)]
    pieces = [new[a:b] for a, b in pairwise(places)]
    watched = replayed(before=Delivered(old, id="first", role=True))
    out = b"".join([watched.see(delta(content=piece)) for piece in pieces])
    assert said(out) == (new[len(old) :] if new.startswith(old) else "")
    assert watched.started is (new.startswith(old) and new != old)
    assert message(watched) == (None if old.startswith(new) or new.startswith(old) else DIVERGED)
    out += watched.see(delta("stop", content=""))
    assert watched.started is new.startswith(old)
    assert message(watched) == (None if new.startswith(old) else DIVERGED)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_thoughts_are_repeated_before_the_text(name: str) -> None:
    """Both are dropped as far as the client has them."""
    before = Delivered("text", "thought", "first", 7, "m", role=True)
    watched = replayed(before=before)
    out = watched.see(delta(**{name: "thou"}) + delta(**{name: "ght"}) + delta(content="text!"))
    assert said(out) == "!"
    assert said(out, name) == ""
    assert watched.delivered().text == "text!"


def test_a_thought_that_was_cut_goes_on() -> None:
    """Both names of it, where an engine writes both."""
    before = Delivered("", "thou", "first", role=True)
    out = replayed(before=before).see(delta(reasoning="thought", reasoning_content="thought"))
    assert (said(out, "reasoning"), said(out, "reasoning_content")) == ("ght", "ght")


@pytest.mark.parametrize(
    "events",
    [
        delta(content="text"),
        delta(reasoning="thoughts"),
        delta(reasoning="though!"),
        delta(tool_calls=[{"index": 0}]),
        delta("stop", content=""),
        delta(reasoning="thought") + delta(content="tex") + delta("stop", content="."),
        delta(reasoning="thought") + delta("length", content="tex"),
    ],
)
def test_another_answer_is_a_failure(events: bytes) -> None:
    """Text too early, another thought, more of it, a call, an end before what is new."""
    before = Delivered("text", "thought", "first", 7, "m", role=True)
    watched = replayed(before=before)
    assert watched.see(events + token("more")) == b""
    assert message(watched) == DIVERGED
    assert not watched.started
    assert watched.delivered() == before


def test_a_call_after_the_text_is_new() -> None:
    """What the first stream would have said next is let through."""
    watched = replayed()
    out = watched.see(delta(content="one two") + delta(tool_calls=[{"index": 0}]))
    assert chunks(out)[0]["choices"][0]["delta"] == {"tool_calls": [{"index": 0}]}
    assert watched.delivered().obstacle is Obstacle.CALL


def test_empty_tokens_count_only_once_something_is_new() -> None:
    """Before that the client may have them; after that they pass."""
    watched = replayed()
    assert watched.see(delta(content="one two") + delta(content="")) == b""
    assert len(chunks(watched.see(delta(content="!") + delta(content="")))) == 2


# Continue.


@pytest.mark.parametrize(
    ("pieces", "rest"),
    [
        (["\n\nnext"], "\nnext"),
        (["", "\n", " x"], "x"),
        ([" next"], " next"),
        (["next", "\n"], "next\n"),
        (["\n", "next"], "next"),
    ],
)
def test_the_space_at_the_seam_is_not_doubled(pieces: list[str], rest: str) -> None:
    """What was held back of the text is dropped as far as it comes again."""
    watched = continued(seam="\n ")
    out = b"".join([watched.see(delta(content=piece)) for piece in pieces])
    assert said(out) == rest
    assert watched.failure is None


def test_the_seam_is_the_texts_own() -> None:
    """A thought is passed on whole."""
    watched = continued(seam=" ")
    assert said(watched.see(delta(reasoning=" r")), "reasoning") == " r"


def test_continued_usage_adds_up() -> None:
    """The beginning is counted in the prompt by the engine, in the answer by us; details stay."""
    watched = continued(tokens=5)
    watched.see(delta(content=" three"))
    assert watched.usage == Usage(0, 6, exact=False)
    details = {"cached_tokens": 4}
    out = watched.see(
        counts(
            prompt_tokens=25, total_tokens=28, completion_tokens=3, prompt_tokens_details=details
        )
    )
    assert chunks(out)[0]["usage"] == {
        "prompt_tokens": 20,
        "total_tokens": 28,
        "completion_tokens": 8,
        "prompt_tokens_details": details,
    }
    assert watched.usage == Usage(20, 8, exact=True)
    watched.count(1)
    assert watched.delivered().tokens == 8


def test_a_stream_that_counts_itself_adds_up_in_each_event() -> None:
    """`continuous_usage_stats` continues where the first stream's count ended."""
    watched = continued()
    plain = delta(content=" three")
    out = watched.see(plain[:-3] + b',"usage":{"prompt_tokens":12,"completion_tokens":1}}\n\n')
    assert chunks(out)[0]["usage"]["completion_tokens"] == 3
    assert watched.delivered().tokens == 3
    second = continued(before=watched.delivered())
    out = second.see(plain[:-3] + b',"usage":{"prompt_tokens":13,"completion_tokens":1}}\n\n')
    assert chunks(out)[0]["usage"] == {
        "prompt_tokens": 10,
        "total_tokens": 14,
        "completion_tokens": 4,
    }


def test_usage_that_only_we_wanted_is_kept_back() -> None:
    """It is read all the same."""
    watched = continued(strip_usage=True)
    assert watched.see(delta(content=" three"))
    assert watched.see(usage(10, 3)) == b""
    assert watched.usage == Usage(8, 5, exact=True)


def test_counts_that_are_missing_are_none() -> None:
    """An engine need not say them all, and the prompt is never less than nothing."""
    watched = continued()
    watched.see(delta(content="x") + counts(completion_tokens=1))
    assert watched.usage == Usage(0, 3, exact=True)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_count_that_is_null_stays_null(mode: Mode) -> None:
    """There is nothing to add to; and it breaks no stream."""
    watched = watcher(mode, replace_text(mode))
    out = watched.see(delta(content="a") + counts(prompt_tokens=3, completion_tokens=None) + DONE)
    last = json.loads(list(split(out))[-2].removeprefix(b"data: "))
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": None}
    assert (watched.failure, watched.usage.exact) == (None, False)


# The end.


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        (event({"error": {"message": "boom", "code": 503}}), "The engine failed: boom"),
        (delta("abort", content=""), "The engine aborted the answer."),
        (event(b"{"), "The engine sent an event that is not JSON."),
        (event(b"7"), "The engine sent an event that is not JSON."),
        (event({"choices": [7]}), "The engine sent an event that is not JSON."),
        (counts(prompt_tokens="x"), "The engine sent an event that is not JSON."),
        (event(b'{"choices":[{"text":"\xff"}]}'), "The engine sent an event that is not JSON."),
        pytest.param(
            event(b'{"x":%b}' % DEEP), "The engine sent an event that is not JSON.", id="too deep"
        ),
    ],
)
def test_failures_are_those_of_any_stream(mode: Mode, bad: bytes, failure: str) -> None:
    """Nothing after one is passed on, what came before it is."""
    watched = watcher(mode, replace_text(mode))
    out = watched.see(delta(content="a") + bad + delta(content="b") + DONE)
    assert said(out) == "a"
    assert message(watched) == failure
    assert watched.closing() is None


def replace_text(mode: Mode) -> Delivered:
    return BEFORE if mode is Mode.CONTINUE else Delivered(id="first", role=True)


def test_overload_is_told_apart() -> None:
    """As with any stream's error."""
    watched = continued()
    watched.see(event({"error": {"message": "busy", "code": 503}}))
    assert watched.failure == Failure("The engine failed: busy", overloaded=True)


@pytest.mark.parametrize("mode", list(Mode))
def test_an_end_before_anything_new_is_no_answer(mode: Mode) -> None:
    """Comments, usage and the end mark do not start an answer."""
    watched = watcher(mode)
    assert watched.see(b": ping\n\n" + ROLE + usage() + DONE) == b""
    assert watched.ended
    assert not watched.started
    assert watched.delivered() == BEFORE


def test_the_end_of_a_good_stream() -> None:
    """Comments pass once it has started, nothing after the end mark, which may be missing."""
    watched = continued()
    assert watched.closing() is None
    out = watched.see(delta(content="!") + b": ping\n\n" + finish())
    assert b": ping\n\n" in out
    assert watched.closing() == DONE
    assert watched.see(DONE + token("x")) == DONE
    assert watched.ended
    assert watched.closing() == b""
    assert watched.delivered() == Delivered(
        "one two!", "", "first", 7, "m", role=True, finished=True, tokens=4
    )


def test_an_answer_that_was_whole_may_only_end() -> None:
    """The model adds nothing: its finish is the answer's."""
    watched = continued()
    assert watched.see(ROLE + delta("stop", content=""))
    assert watched.started
    assert watched.delivered().finished


# An answer that has had all its tokens.


@pytest.mark.parametrize("chat", [True, False])
def test_the_end_by_length_is_a_stream_of_the_firsts(chat: bool) -> None:
    """Finish, usage, end mark; and the watcher of any stream takes it for whole."""
    events = length_ending(BEFORE, chat=chat, usage=Usage(5, 2, exact=True))
    last, counted = chunks(events)
    assert last["object"] == ("chat.completion.chunk" if chat else "text_completion")
    assert last["choices"][0]["finish_reason"] == "length"
    assert counted["usage"] == {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}
    assert {one["id"] for one in (last, counted)} == {"first"}
    assert events.endswith(DONE)
    assert length_ending(BEFORE, chat=chat, usage=None) == events.replace(
        b"data: " + json.dumps(counted, separators=(",", ":")).encode() + b"\n\n", b""
    )
