"""How large an engine's response head and trailers may be, however their bytes come."""

from __future__ import annotations

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.gateway.wire.test_contract_errors import check
from tests.support.engine import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Script,
    Then,
    chunk,
    finish,
    response,
    token,
)
from tests.support.rig import STREAM

LARGE = response(fields=[(b"x-large", b"a" * (100 << 10))])
FITTING = response(b'"' + b"b" * (200 << 10) + b'"', fields=[(b"x-large", b"a" * (60 << 10))])


@pytest.mark.parametrize(
    "script",
    [[LARGE], [LARGE[: 80 << 10], Then.YIELD, LARGE[80 << 10 :]], [LARGE[:-20], Then.HANG]],
    ids=["at once", "in two pieces", "never whole"],
)
async def test_a_head_past_64_kib_is_no_answer(serve: MakeRig, script: Script) -> None:
    """502, also where one read brings all of it."""
    async with serve(script) as rig:
        check(await rig.post(), 502, "upstream_error")


async def test_a_large_body_does_not_count_as_head(serve: MakeRig) -> None:
    """Head and body in one read: only the head is measured."""
    async with serve([FITTING]) as rig:
        answer = await rig.post()
        assert answer.status == 200
        assert len(answer.body) == (200 << 10) + 2


ANSWER = [STREAM_HEAD, chunk(token("hi")), chunk(finish()), chunk(DONE)]
FIELDS = [b"x-%d: %b\r\n" % (number, b"a" * 1000) for number in range(200)]
VALUE = [b"x: ", *[b"a" * 1000] * 200]
EXTENSION = [b"1;", *[b"a" * 1000] * 200]


@pytest.mark.parametrize(
    "rest",
    [[b"0\r\n", *FIELDS], [b"0\r\n", *VALUE], EXTENSION],
    ids=["fields", "one value", "extension"],
)
async def test_an_answer_does_not_wait_for_what_never_ends(
    serve_wire: MakeRig, rest: list[bytes]
) -> None:
    """Bytes between a body's chunks, or after them, are part of no answer, and are not kept."""
    async with serve_wire([*ANSWER, *rest, Then.HANG]) as rig:
        answer = await rig.post(STREAM)
        assert answer.body.endswith(DONE)
        await rig.engine.requests[0].abandoned()


async def test_the_framing_of_a_long_stream_does_not_add_up(serve_wire: MakeRig) -> None:
    """However much of it comes in reads of its own: these size lines are more than 64 KiB."""
    size = b"0" * 1000 + b"5\r\n"
    comments = [size, Then.YIELD, b": x\n\n\r\n", Then.YIELD] * 70
    async with serve_wire(
        [STREAM_HEAD, chunk(token("hi")), *comments, *ANSWER[2:], LAST_CHUNK]
    ) as rig:
        assert (await rig.post(STREAM)).body.endswith(DONE)
