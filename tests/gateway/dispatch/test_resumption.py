"""A stream that breaks goes on elsewhere, and its client gets one whole answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.engine import (
    DEEP,
    DONE,
    Script,
    Then,
    Turn,
    chunk,
    event,
    finish,
    response,
    stream,
    token,
    usage,
)
from tests.support.failover import Failover, failover
from tests.support.raw import post
from tests.support.rig import STREAM

GREEDY = {**STREAM, "temperature": 0}
WORDS = ("one ", "two ", "three ", "four")
TEXT = "".join(WORDS)
COUNT = [response(b'{"count":2}')]


def tokens(*words: str) -> list[bytes]:
    return [token(word) for word in words]


def cut(*words: str, end: Script = (Then.RESET,)) -> list[Any]:
    """A stream that breaks after some words."""
    return [*stream(*tokens(*words), whole=False), Then.YIELD, *end]


REPLAY = stream(*tokens(*WORDS), finish(), usage(3, 4), DONE)
CONTINUED = stream(*tokens(*WORDS[2:]), finish(), usage(5, 2), DONE)
ENDS: dict[str, Script] = {
    "reset": [Then.RESET],
    "closed": [Then.CLOSE],
    "ended": [b"0\r\n\r\n"],
    "error event": stream(event({"error": {"message": "oom"}}), DONE)[1:],
    "abort": stream(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}))[1:],
    "not JSON": stream(event(b"{what"))[1:],
    "without a bottom": stream(event(b'{"x":%b}' % DEEP))[1:],
    "bad chunk": [b"zz\r\n"],
    "half an event": [chunk(token("x")[:30]), Then.CLOSE],
}


def read(body: bytes) -> tuple[str, list[dict[str, Any]]]:
    """Return the text of a stream and its chunks; there must be one end mark, at the end."""
    events = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(one) for one in events if not one.startswith(":")]
    assert all("error" not in one for one in chunks)
    texts = [c["delta"].get("content", "") for one in chunks for c in one["choices"]]
    return "".join(texts), chunks


def resumed(rig: Failover, mode: str, result: str = "resumed") -> float:
    return rig.metric("sluice_resumes_total", cluster="pool", mode=mode, result=result)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_greedy_stream_is_asked_for_again(end: Script) -> None:
    """What the client has is dropped from the second answer, whatever broke the first."""
    async with failover([cut(*WORDS[:2], end=end)], [REPLAY]) as rig:
        answer = await rig.post(GREEDY)
        text, chunks = read(answer.body)
        assert text == TEXT
        assert {one["id"] for one in chunks} == {"c"}
        assert [one["usage"]["completion_tokens"] for one in chunks if "usage" in one] == [4]
        assert rig.engines[1].requests[0].json == rig.engines[0].requests[0].json
        assert resumed(rig, "replay") == 1


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_any_other_stream_is_continued(end: Script) -> None:
    """The second endpoint is given the text so far, and counts its tokens first."""
    async with failover([cut(*WORDS[:2], end=end)], [COUNT, CONTINUED]) as rig:
        text, chunks = read((await rig.post({**STREAM, "max_tokens": 10})).body)
        assert text == TEXT
        counted, asked = rig.engines[1].requests
        assert (counted.line.split()[1], counted.json["prompt"]) == (b"/tokenize", "one two")
        assert asked.json["messages"][-1] == {"role": "assistant", "content": "one two"}
        assert asked.json["continue_final_message"] is True
        assert asked.json["max_tokens"] == 8
        assert chunks[-1]["usage"] == {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
        }
        assert resumed(rig, "continue") == 1


async def test_an_engine_that_refuses_a_beginning_is_asked_for_the_whole() -> None:
    """Its refusal is not the client's to see."""
    refusal = [response(b'{"error":{"message":"no prefix"}}', b"400 Bad Request")]
    async with failover([cut(*WORDS[:2])], [COUNT, refusal, REPLAY]) as rig:
        text, _ = read((await rig.post(STREAM)).body)
        assert text == TEXT
        assert (resumed(rig, "continue", "failed"), resumed(rig, "replay")) == (1, 1)


async def test_another_answer_is_not_spliced_on() -> None:
    """The first failure is told, in the stream, and no end mark follows."""
    other = stream(*tokens("uno ", "dos "), finish(), DONE)
    async with failover([cut(*WORDS[:2])], [other], cluster={"resume": "replay"}) as rig:
        body = (await rig.post(STREAM)).body
        assert body.startswith(token("one ") + token("two ") + b'data: {"error":')
        assert b'"upstream_error"' in body
        assert b"[DONE]" not in body
        assert b"uno" not in body


async def test_a_stream_is_resumed_twice_at_the_most() -> None:
    """Each time from all that its client has."""
    parts = [cut(*WORDS[:n]) for n in (1, 2)]
    async with failover([parts[0]], [parts[1]], [REPLAY]) as rig:
        text, _ = read((await rig.post(GREEDY)).body)
        assert text == TEXT
        assert resumed(rig, "replay") == 2
    parts = [cut(*WORDS[:n]) for n in (1, 2, 3)]
    async with failover([parts[0]], [parts[1]], [parts[2]], [REPLAY]) as rig:
        body = (await rig.post(GREEDY)).body
        assert b'"upstream_error"' in body
        assert rig.asked == [1, 1, 1, 0]


async def test_an_endpoint_that_fails_before_the_seam_is_passed_over() -> None:
    """A resume is as patient as a first attempt."""
    oops = [response(b"{}", b"500 Oops")]
    async with failover([cut(*WORDS[:2])], [oops], [REPLAY]) as rig:
        text, _ = read((await rig.post(GREEDY)).body)
        assert text == TEXT
        assert rig.asked == [1, 1, 1]


async def test_the_only_endpoint_may_go_on_itself() -> None:
    """A connection breaks for many reasons."""
    async with failover([cut(*WORDS[:2]), REPLAY]) as rig:
        text, _ = read((await rig.post(GREEDY)).body)
        assert text == TEXT


async def test_a_stall_is_a_break_and_the_silent_endpoint_is_left_alone() -> None:
    """Its connection is closed at once."""
    stalled = [*stream(*tokens(*WORDS[:2]), whole=False), Then.HANG]
    async with failover([stalled], [REPLAY]) as rig, rig.client() as client:
        client.send(post(GREEDY))
        await client.head()
        body = b""
        while body.count(b"\n\n") < 2:
            body += await client.piece()
        rig.pass_time(1)  # The sweep sees that something came,
        rig.pass_time(31)  # and then nothing for longer than idle_s.
        await rig.engines[0].requests[0].abandoned()
        while piece := await client.piece():
            body += piece
        assert read(body)[0] == TEXT
    async with failover([stalled]) as rig, rig.client() as client:
        client.send(post(GREEDY))
        await client.head()
        body = b""
        while body.count(b"\n\n") < 2:
            body += await client.piece()
        rig.pass_time(1)
        rig.pass_time(31)
        while piece := await client.piece():
            body += piece
        assert b'"upstream_timeout"' in body
        assert rig.asked == [1]


TOOL = event(
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}, "finish_reason": None}]}
)
HALF_TOOL = [*stream(TOOL, whole=False), Then.YIELD, Then.RESET]


@pytest.mark.parametrize(
    ("body", "script", "cluster"),
    [
        ({**GREEDY, "n": 2}, cut("one "), {}),
        (GREEDY, HALF_TOOL, {}),
        (GREEDY, cut("one "), {"resume": "off"}),
    ],
    ids=["two choices", "a tool call", "switched off"],
)
async def test_what_cannot_be_resumed_ends_with_its_error(
    body: dict[str, Any], script: Script, cluster: dict[str, Any]
) -> None:
    """One frame, and no end mark."""
    async with failover([script], [REPLAY], cluster=cluster) as rig:
        got = (await rig.post(body)).body
        assert got.count(b'"error"') == 1
        assert b"[DONE]" not in got
        assert rig.asked == [1, 0]


async def test_an_answer_that_has_its_length_is_ended() -> None:
    """Every token that was asked for has come; only the finish was lost."""
    async with failover([cut(*WORDS[:2])], [COUNT], cluster={"resume": "continue"}) as rig:
        text, chunks = read((await rig.post({**STREAM, "max_tokens": 2})).body)
        assert text == "one two "
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_fallback_goes_on_where_no_endpoint_of_the_model_can() -> None:
    """Under the name that the stream began with."""
    continued = stream(*[token(word, "o") for word in WORDS[2:]], finish(model="o"), DONE)
    async with failover(
        [cut(*WORDS[:2]), [Then.RESET]],
        others=[[COUNT, continued]],
        models={"m": {"cluster": "pool", "fallbacks": ["o"]}},
    ) as rig:
        text, chunks = read((await rig.post(STREAM)).body)
        assert text == TEXT
        assert {one["model"] for one in chunks} == {"m"}


async def test_a_fallbacks_engine_that_knows_the_model_by_its_name_changes_nothing() -> None:
    """The same model in another cluster must have another name there, but not for the client."""
    async with failover(
        [cut(*WORDS[:2]), [Then.RESET]],
        others=[[COUNT, CONTINUED]],
        models={
            "m": {"cluster": "pool", "fallbacks": ["o"]},
            "o": {"cluster": "other", "upstream_model": "m"},
        },
    ) as rig:
        text, chunks = read((await rig.post(STREAM)).body)
        assert text == TEXT
        assert {one["model"] for one in chunks} == {"m"}


async def test_a_client_that_leaves_during_a_resume_leaves_nothing_behind() -> None:
    """The second engine sees it leave as well."""
    turn = Turn()
    async with failover([cut(*WORDS[:2])], [[turn, *REPLAY]]) as rig:
        async with rig.client() as client:
            client.send(post(GREEDY))
            received = await rig.engines[1].wait_requests(1)
        await received.abandoned()


async def test_the_second_endpoints_tokens_are_the_clients_and_counted_once() -> None:
    """Usage in metrics adds up over both."""
    async with failover([cut(*WORDS[:2])], [COUNT, CONTINUED]) as rig:
        await rig.post(STREAM)
        await asyncio.sleep(0)
        assert rig.metric("sluice_tokens_total", model="m", kind="completion") == 4
        assert rig.metric("sluice_tokens_total", model="m", kind="prompt") == 3
