"""Streams of typed events, those of `/v1/messages` and `/v1/responses`, through both hosts."""

from __future__ import annotations

import json

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import LAST_CHUNK, Turn, chunk, event, stream
from tests.support.rig import STREAM, ask_past_commit


def typed(kind: str, **fields: object) -> bytes:
    return b"event: %b\n" % kind.encode() + event({"type": kind, **fields})


TYPED = [
    typed("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}}),
    typed("content_block_delta", delta={"text": "a"}),
    typed("message_delta", usage={"output_tokens": 2}),
    typed("message_stop"),
]


async def test_typed_streams_pass_untouched(serve: MakeRig) -> None:
    """`/v1/messages` and `/v1/responses` have end events instead of a mark."""
    done = typed("response.completed", response={"usage": {"input_tokens": 1, "output_tokens": 2}})
    for path, events in (("/v1/messages", TYPED), ("/v1/responses", [typed("x"), done])):
        async with serve(stream(*events)) as rig:
            assert (await rig.post(STREAM, path)).body == b"".join(events)
            assert rig.outcomes() == {"success": 1}


async def test_a_cut_typed_stream_ends_in_its_own_error_shape(serve: MakeRig) -> None:
    """Anthropic's clients read `event: error` with a nested error."""
    turn = Turn()
    script = [*stream(TYPED[0], whole=False), turn, *[chunk(one) for one in TYPED[1:-1]]]
    async with serve([*script, LAST_CHUNK]) as rig:
        body = await ask_past_commit(rig, turn, STREAM, "/v1/messages")
        frame = body.removeprefix(b"".join(TYPED[:-1]))
        assert frame.startswith(b"event: error\ndata: ")
        error = json.loads(frame.partition(b"data: ")[2])
        assert (error["type"], error["error"]["type"]) == ("error", "api_error")
