"""A transcript knows what the client was given, however the events came and were spelt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.delivered import TEXT_CHARACTERS, Delivered, Obstacle
from gateway.relay.transcript import FOLD_BYTES, FOLD_READS, Transcript
from tests.support.answers import said, sim_stream
from tests.support.engine import DEEP, DONE, chunk, event, finish, token, usage

CAPTURES = Path(__file__).parents[2] / "data/vllm-0.32"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
HEAD = {"id": "c", "created": 7, "model": "m"}


def delta(_finish: str | None = None, **fields: Any) -> bytes:
    return event(HEAD | {"choices": [{"index": 0, "delta": fields, "finish_reason": _finish}]})


def choice(**fields: Any) -> bytes:
    return event(HEAD | {"choices": [{"index": 0, "finish_reason": None, **fields}]})


def state(*events: bytes) -> Delivered:
    transcript = Transcript()
    for one in events:
        transcript.plain(one)
    return transcript.state()


ROLE = delta(role="assistant", content="")


@given(
    st.lists(st.tuples(TEXTS, st.sampled_from(["chunked", "plain", "reads"])), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
    st.sampled_from(["content", "reasoning", "reasoning_content", "text"]),
)
def test_reads_of_both_kinds_keep_their_order(
    pieces: list[tuple[str, str]], folds: list[int], key: str
) -> None:
    """Folding at any moment, asking at any moment, and the kind of a read change nothing."""
    transcript = Transcript()
    for at, (text, way) in enumerate(pieces):
        data = choice(text=text) if key == "text" else delta(**{key: text})
        if way == "plain":
            transcript.plain(data)
        elif way == "chunked":
            transcript.chunked(chunk(data))
        else:
            transcript.reads.append(chunk(data))
        if at in folds:
            transcript.fold()
        if at + 1 in folds:
            transcript.state()
    whole = "".join(text for text, _ in pieces)
    found = transcript.state()
    assert (found.text, found.reasoning) == (("", whole) if "reason" in key else (whole, ""))
    assert found.tokens == len(pieces)
    assert transcript.state() == found


@pytest.mark.parametrize("route", ["chat", "completions"])
def test_a_streams_own_facts(route: str) -> None:
    """Text, names, tokens and the finish of a whole stream of the simulated engine."""
    body = {"model": "m", "prompt": "p", "messages": [{"role": "user", "content": "p"}]}
    events = sim_stream(route, json.dumps(body | {"max_tokens": 30, "stream": True}).encode())
    found = state(*events)
    chat = route == "chat"
    assert found == Delivered(
        said(b"".join(events), "content" if chat else "text"),
        id="chatcmpl-1" if chat else "cmpl-1",
        created=1700000000,
        model="m",
        role=chat,
        finished=True,
        tokens=30,
    )
    assert found.text.startswith("Simulated answer:")


def test_an_empty_transcript_has_delivered_nothing() -> None:
    """Also after the comments and the end mark, which are no answer."""
    assert Transcript().state() == Delivered()
    assert state(b"", b": ping\n\n", DONE) == Delivered()


def test_a_chunk_that_only_names_the_role_is_no_token() -> None:
    """One that brings text with it is, and so is an empty token."""
    assert state(ROLE).tokens == 0
    assert state(ROLE).role
    assert state(delta(role="assistant", content="a")).tokens == 1
    assert state(ROLE, delta(content="")).tokens == 1
    assert not state(delta(role=None, content="a")).role


def test_a_stream_that_counts_itself_is_believed() -> None:
    """The last count stands; one that is no number does not."""
    counted = event(HEAD | {"choices": [], "usage": {"completion_tokens": 9}})
    assert state(token("a"), counted).tokens == 9
    assert (
        state(token("a"), event({"choices": [], "usage": {"completion_tokens": None}})).tokens == 1
    )
    assert state(token("a"), finish(), usage(3, 5)).tokens == 5


@pytest.mark.parametrize(
    ("data", "obstacle"),
    [
        (delta(tool_calls=[{"index": 0}]), Obstacle.CALL),
        (delta(function_call={"name": "f"}), Obstacle.CALL),
        (delta(refusal="no"), Obstacle.REFUSAL),
        (delta(content="a", audio={"id": "x"}), Obstacle.OTHER),
        (event({"choices": [{"index": 1, "delta": {}}]}), Obstacle.CHOICES),
        (event(b"{"), Obstacle.UNREADABLE),
        (event(b"7"), Obstacle.UNREADABLE),
        (event({"choices": [7]}), Obstacle.UNREADABLE),
        (event({"choices": [{"delta": {"content": 7}}]}), Obstacle.UNREADABLE),
        (event({"choices": 7}), Obstacle.UNREADABLE),
        (event(b'{"choices":[{"text":"\xff"}]}'), Obstacle.UNREADABLE),
        pytest.param(event(b'{"x":%b}' % DEEP), Obstacle.UNREADABLE, id="too deep"),
        (delta(content="x" * (TEXT_CHARACTERS + 1)), Obstacle.TOO_LONG),
    ],
)
def test_what_cannot_be_put_together_is_named(data: bytes, obstacle: Obstacle) -> None:
    """From then on nothing is kept, and the reason stays."""
    transcript = Transcript()
    transcript.plain(token("a") + data)
    found = transcript.state()
    assert (found.obstacle, found.text) == (obstacle, "")
    for _ in range(3 * FOLD_READS):
        transcript.chunked(chunk(token("b")))
    assert transcript.state() == found
    assert not transcript.reads


def test_fields_that_say_nothing_are_no_obstacle() -> None:
    """SGLang writes every field into every delta, most of them null."""
    data = delta(content="a", tool_calls=None, refusal=None, audio=None, annotations=[])
    assert state(data) == Delivered("a", "", "c", 7, "m", tokens=1)
    assert state(choice(delta=None, text="b")).text == "b"


def test_two_names_of_one_thought_are_one() -> None:
    """Some versions write `reasoning` and `reasoning_content` with the same text."""
    assert state(delta(reasoning="r", reasoning_content="r")).reasoning == "r"


def test_logprobs_are_noted() -> None:
    """They belong to whole tokens, which matters to a replay."""
    assert state(choice(text="a", logprobs={"tokens": ["a"]})).logprobs
    assert not state(choice(text="a", logprobs=None)).logprobs


@pytest.mark.parametrize(
    "spell",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: b"event: x\nid: 4\n" + data,
        lambda data: data.replace(b"data: {", b"data:{"),
        lambda data: data.replace(b"data: {", b"data: {\ndata: "),
        lambda data: data + b": ping\n\n",
        lambda data: data.replace(b'":', b'" : '),
        lambda data: data.replace(b"\n\n", b"\n{}\n\n"),
    ],
)
def test_any_spelling_of_an_event_is_read(spell: Any) -> None:
    """Line ends, fields, comments and spaces are the engine's choice."""
    first, second = spell(delta(content="a\n\ndata: ")), spell(delta(content='b"'))
    for reads in ([first, second], [first + second]):
        assert state(*reads) == Delivered('a\n\ndata: b"', "", "c", 7, "m", tokens=2)


def test_the_first_id_is_the_one() -> None:
    """A first event without one, or unreadable names, do not hide it."""
    assert state(event({"choices": []}), delta(content="a")).id == "c"
    named = Transcript()
    named.plain(delta(content="a"))
    named.fold()
    named.plain(token("b").replace(b'"id":"c"', b'"id":"d"'))
    assert named.state().id == "c"


def long_stream(key: str, count: int) -> list[bytes]:
    opening = [ROLE, delta(**{key: "first"}), delta(**{key: 'se"cond'})]
    return [*opening, *[delta(**{key: f" w{at}"}) for at in range(count)]]


@pytest.mark.parametrize("key", ["content", "reasoning"])
@pytest.mark.parametrize(
    "odd",
    [
        b"",
        delta(content="", reasoning=""),
        delta(content="x", reasoning="y"),
        delta(role="assistant", content="x"),
        event(HEAD | {"choices": [], "usage": {"completion_tokens": 700}}),
        choice(text="t"),
        choice(text="", logprobs={"tokens": []}),
        delta(content="x") + delta(content="y"),
        delta("stop", content="."),
    ],
)
@pytest.mark.parametrize("at", [4, 300, 999])
def test_folding_a_long_stream_changes_nothing(key: str, odd: bytes, at: int) -> None:
    """What 1,000 events say is the same, decoded alike and in bulk or one by one."""
    events = long_stream(key, 1000)
    events.insert(at, odd)
    bulk, single = Transcript(), Transcript()
    for one in events:
        if one:
            bulk.chunked(chunk(one))
            assert len(bulk.reads) < FOLD_READS
            single.plain(one)
            single.fold()
    assert bulk.state() == single.state()


def test_a_long_stream_that_counts_itself() -> None:
    """No two events are alike; each is decoded, and its count believed."""
    transcript = Transcript()
    for at in range(1000):
        said_so = {"usage": {"completion_tokens": 2 * at}}
        transcript.chunked(
            chunk(event(HEAD | {"choices": [{"delta": {"content": "a"}}]} | said_so))
        )
    found = transcript.state()
    assert (found.text, found.tokens) == ("a" * 1000, 1998)


def test_few_large_events_are_folded_too() -> None:
    """What is kept is bounded by its bytes, not only by its number."""
    transcript = Transcript()
    transcript.plain(token("x" * (FOLD_BYTES // 2)))
    assert len(transcript.reads) == 1
    transcript.plain(token("x" * (FOLD_BYTES // 2)))
    assert not transcript.reads


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("chat_stream_usage.txt", "content"),
        ("tools_chat_stream.txt", "content"),
        ("chat_stream_usage_continuous.txt", "content"),
        ("completions_stream_usage.txt", "text"),
    ],
)
def test_real_streams_are_read(name: str, key: str) -> None:
    """vLLM 0.32's own bytes, chunk by chunk: the text, and as many tokens as it says."""
    raw = (CAPTURES / name).read_bytes().split(b"<<< RESPONSE")[1].split(b"\r\n\r\n", 1)[1]
    transcript, whole = Transcript(), b""
    while (size := int(raw[: raw.index(b"\r\n")], 16)) > 0:
        end = raw.index(b"\r\n") + size + 4
        transcript.chunked(raw[:end])
        whole += raw[raw.index(b"\r\n") + 2 : end - 2]
        raw = raw[end:]
    found = transcript.state()
    assert found.text == said(whole, key)
    assert found.tokens == json.loads(whole.split(b"data: ")[-2])["usage"]["completion_tokens"]
    counted = Transcript()
    for one in whole.split(b"\n\n")[:-3]:  # Without the usage that would correct the count.
        counted.plain(one + b"\n\n")
    assert counted.state().tokens == found.tokens
