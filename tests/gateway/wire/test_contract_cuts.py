"""Answers cut at any byte, and clients that leave at any byte, through both hosts.

What no single case shows: wherever it breaks, nobody takes a part for the whole, and nothing is
left over afterwards.
"""

from __future__ import annotations

import asyncio
import json
from random import Random

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import (
    DONE,
    LAST_CHUNK,
    Script,
    Step,
    Then,
    chunk,
    event,
    finish,
    response,
    stream,
    token,
    usage,
)
from tests.support.raw import Answer, CutError, post
from tests.support.rig import CHAT, STREAM, Rig, eventually

EVENTS = [token("a"), token("b"), finish(), usage(), DONE]
STREAMED = b"".join(stream(*EVENTS))
PLAIN = response(b'{"id":"x","choices":[]}')
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    + chunk(b'{"id":"x",')
    + chunk(b'"choices":[]}')
    + LAST_CHUNK
)
UNFINISHED = (Then.CLOSE, Then.RESET, Then.HANG)
OF_A_CHUNK = [STREAMED.index(token("b")) + len(token("b")) + 2 + at for at in range(-8, 9)]
"""Cuts around the end of a chunk, one byte apart."""


def is_whole_stream(answer: Answer) -> bool:
    return answer.status == 200 and answer.body == b"".join(EVENTS)


def is_honest_about_a_cut(answer: Answer) -> bool:
    """Whether a stream that is not whole says so: by its status or by its last frame."""
    if answer.status != 200:
        return answer.status == 502 and answer.code == "upstream_error"
    *frames, last, rest = answer.body.split(b"\n\n")
    shown = b"".join([frame + b"\n\n" for frame in frames])
    error = json.loads(last.removeprefix(b"data: ")).get("error")
    return rest == b"" and b"".join(EVENTS).startswith(shown) and error is not None


async def ask(rig: Rig, body: dict[str, object]) -> Answer | None:
    """Return the answer, or None if the client saw it break."""
    try:
        return await rig.post(body)
    except CutError:
        return None


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
async def test_a_stream_cut_at_any_byte(serve: MakeRig, then: Then) -> None:
    """The client has the whole answer, or knows that it has not."""
    done = STREAMED.index(finish()) + len(finish())  # From here on only the end mark is missing.
    cuts = sorted({*range(0, len(STREAMED), 7), *OF_A_CHUNK, done, len(STREAMED) - 1})
    scripts: list[Script] = [[STREAMED[:cut], then] for cut in cuts]
    async with serve(*scripts) as rig:
        for cut in cuts:
            answer = await ask(rig, STREAM)
            assert answer is not None
            if answer.body.endswith(DONE):
                # What the engine had still to say was its usage or the end mark.
                assert cut >= done
                assert answer.body.startswith(b"".join(EVENTS[:3]))
            else:
                assert is_honest_about_a_cut(answer)
        assert rig.inflight == 0


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED], ids=["length", "chunked"])
async def test_a_plain_answer_cut_at_any_byte(serve: MakeRig, whole: bytes) -> None:
    """One byte short is a failure, whatever the part looks like."""
    async with serve(*[[whole[:cut], Then.CLOSE] for cut in range(len(whole))]) as rig:
        for cut in range(len(whole)):
            answer = await ask(rig, CHAT)
            assert answer is not None
            assert (cut, answer.status, answer.code) == (cut, 502, "upstream_error")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 50])
async def test_a_stream_in_pieces_of_any_size(serve: MakeRig, size: int) -> None:
    """However the network cuts it, the client's events are the same."""
    steps: list[Step] = []
    for start in range(0, len(STREAMED), size):
        steps += [STREAMED[start : start + size], Then.YIELD]
    async with serve(steps, stream(*EVENTS)) as rig:
        answer = await ask(rig, STREAM)
        assert answer is not None
        assert is_whole_stream(answer)
        assert rig.outcomes() == {"success": 1}


async def test_a_client_that_leaves_at_any_byte(serve: MakeRig) -> None:
    """However much it has sent, and whatever it has read, nothing of it stays behind."""
    request = post(STREAM)
    scripts: list[Script] = [stream(*EVENTS)]
    async with serve(*scripts) as rig:
        assert (await rig.post(STREAM)).status == 200
        idle = len(asyncio.all_tasks())
        for length in (*range(0, len(request), 23), len(request) - 1, len(request)):
            async with rig.client() as client:
                client.send(request[:length])
                await client.writer.drain()
        answer = await rig.post(STREAM)
        assert is_whole_stream(answer)
        await eventually(lambda: rig.inflight == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= idle)


async def test_a_crowd_of_every_kind_leaves_nothing_behind(serve: MakeRig) -> None:
    """Good and broken engines, patient and hasty clients, all at once."""
    rng = Random(20)
    broken: list[Script] = [[STREAMED[: rng.randrange(len(STREAMED))], end] for end in UNFINISHED]
    failing: list[Script] = [
        stream(token("a"), event({"error": "no"})),
        [response(b"{}", b"500 x")],
    ]
    kinds: list[Script] = [stream(*EVENTS), [PLAIN], [CHUNKED], [Then.HANG], *broken, *failing]
    scripts = [rng.choice(kinds) for _ in range(120)]

    async def visit(rig: Rig, patience_s: float) -> None:
        async with rig.client() as client:
            client.send(post(STREAM))
            try:
                async with asyncio.timeout(patience_s):
                    await client.answer()
            except (TimeoutError, CutError):
                pass

    async with serve(*scripts) as rig:
        assert (await rig.post(STREAM)).status
        await eventually(lambda: rig.inflight == 0)
        idle = len(asyncio.all_tasks())
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                for _ in range(20):
                    group.create_task(visit(rig, rng.choice([0.0, 0.005, 0.05])))
        await eventually(lambda: rig.inflight == 0)
        await eventually(lambda: len(asyncio.all_tasks()) <= idle + rig.engine.open)
        rig.pass_time(5)
        await eventually(lambda: rig.open_upstream == 0)
