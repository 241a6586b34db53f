"""Streams of events, through both hosts of the proxy core."""

from __future__ import annotations

import json

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    Script,
    Step,
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
from tests.support.raw import post
from tests.support.rig import CHAT, STREAM, ask_past_commit, read_event

PLAIN_STREAM = {**CHAT, "stream": True}
WHOLE = [token("a"), token("b"), finish(), usage(), DONE]
OVERLOADED = event({"error": {"message": "try later", "type": "x", "param": None, "code": 503}})
BROKEN = event({"error": {"message": "EngineCore died", "type": "x", "param": None, "code": 500}})
ABORT = finish("abort")


def last_error(body: bytes) -> dict[str, object]:
    """Return the error of the stream's last frame, which no `[DONE]` follows."""
    frames = body.split(b"\n\n")
    assert frames[-1] == b""
    assert b"[DONE]" not in body
    error = json.loads(frames[-2].removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


async def test_events_pass_as_they_come(serve: MakeRig) -> None:
    """Each event reaches the client while the engine is still at the next one."""
    turns = [Turn() for _ in WHOLE]
    script: list[Step] = [STREAM_HEAD]
    for one, turn in zip(WHOLE, turns, strict=True):
        script += [chunk(one), turn]
    async with serve([*script, LAST_CHUNK]) as rig, rig.client() as client:
        client.send(post(STREAM))
        head = await client.head()
        assert head.status == 200
        assert head.header(b"content-type") == [b"text/event-stream; charset=utf-8"]
        assert head.header(b"cache-control") == [b"no-cache"]
        assert head.header(b"x-accel-buffering") == [b"no"]
        assert len(head.header(b"date")) == 1
        assert head.header(b"date") != [b"Thu, 01 Jan 1970 00:00:00 GMT"]
        for one, turn in zip(WHOLE, turns, strict=True):
            assert await read_event(client) == one
            assert rig.inflight == 1
            turn.go.set()
        assert await client.piece() == b""
        assert (await client.ask(post(STREAM))).body == b"".join(WHOLE)
        assert rig.outcomes() == {"success": 2}


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"x": [1.5]}])
async def test_usage_is_asked_for_and_taken_out_again(serve: MakeRig, options: object) -> None:
    """The engine is asked to count; a client that did not ask sees no usage chunk."""
    request = PLAIN_STREAM if options is None else {**PLAIN_STREAM, "stream_options": options}
    async with serve(stream(*WHOLE)) as rig:
        answer = await rig.post(request)
        assert answer.body == b"".join([token("a"), token("b"), finish(), DONE])
        expected = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        assert rig.engine.requests[0].json["stream_options"] == expected
        metrics = rig.gateway.view.metrics_text()[0]
        assert b'sluice_tokens_total{kind="prompt",model="m"} 3.0' in metrics
        assert b'sluice_tokens_total{kind="completion",model="m"} 2.0' in metrics


async def test_usage_that_was_asked_for_stays(serve: MakeRig) -> None:
    """The request is not touched, nor the answer."""
    async with serve(stream(*WHOLE)) as rig:
        assert (await rig.post(STREAM)).body == b"".join(WHOLE)
        assert rig.engine.requests[0].json == STREAM


async def test_usage_is_not_asked_for_elsewhere(serve: MakeRig) -> None:
    """A plain request and a family that always reports usage stay as they are."""
    async with serve([response(b"{}")]) as rig:
        for path, body in (("/v1/chat/completions", CHAT), ("/v1/responses", PLAIN_STREAM)):
            await rig.post(body, path)
            assert rig.engine.requests[-1].json == body


async def test_every_chunk_carries_the_clients_name_of_the_model(serve: MakeRig) -> None:
    """Content that looks like the member stays what it is."""
    look = token('"model":"engine/m"', "engine/m")
    steps = stream(look, finish("stop", "engine/m"), usage(1, 1, "engine/m"), DONE)
    async with serve(steps) as rig:
        for name in ("renamed", "alias"):
            answer = await rig.post({**STREAM, "model": name})
            chunks = [json.loads(one[6:]) for one in answer.body.split(b"\n\n")[:-2]]
            assert [one["model"] for one in chunks] == [name] * 3
            assert chunks[0]["choices"][0]["delta"]["content"] == '"model":"engine/m"'
            assert rig.engine.requests[-1].json["model"] == "engine/m"


@pytest.mark.parametrize("usage_too", [True, False])
async def test_a_forgotten_end_mark_is_added(serve: MakeRig, usage_too: bool) -> None:
    """The finish reason has come, so the answer is complete: `[DONE]` follows."""
    events = [token("a"), finish(), *([usage()] if usage_too else [])]
    for script in (stream(*events), [*stream(*events, whole=False), Then.CLOSE]):
        async with serve(script) as rig:
            assert (await rig.post(STREAM)).body == b"".join([*events, DONE])
            assert rig.outcomes() == {"success": 1}


EARLY: list[tuple[list[bytes], int, str]] = [
    ([BROKEN, DONE], 502, "upstream_error"),
    ([OVERLOADED, DONE], 503, "overloaded"),
    ([event({"error": "Unauthorized"})], 502, "upstream_error"),
    ([ABORT, DONE], 502, "upstream_error"),
    ([b": hello\n\n", BROKEN], 502, "upstream_error"),
    ([event(b"{nonsense")], 502, "upstream_error"),
    ([event(b"\xff\xfe")], 502, "upstream_error"),
    ([DONE], 502, "upstream_error"),
    ([b": nothing but a comment\n\n"], 502, "upstream_error"),
    ([b"data: half"], 502, "upstream_error"),
    ([], 502, "upstream_error"),
]


@pytest.mark.parametrize(("events", "status", "code"), EARLY)
async def test_a_failure_before_the_commit_point_has_a_status(
    serve: MakeRig, events: list[bytes], status: int, code: str
) -> None:
    """Nothing of the 200 was shown, so the client gets a real error and may retry."""
    async with serve(stream(*events)) as rig:
        answer = await rig.post(PLAIN_STREAM)
        assert (answer.status, answer.code) == (status, code)
        assert answer.header(b"content-type") == [b"application/json"]
        assert rig.outcomes() == {"retryable": 1}


LATE: list[tuple[list[bytes], str]] = [
    ([BROKEN, DONE], "upstream_error"),
    ([OVERLOADED, DONE], "overloaded"),
    ([ABORT, DONE], "upstream_error"),
    ([event(b"{nonsense"), token("no"), finish(), DONE], "upstream_error"),
    ([b"data: " + token("half")[:-2]], "upstream_error"),
    ([], "upstream_error"),
]


@pytest.mark.parametrize("then", [LAST_CHUNK, Then.CLOSE, Then.RESET])
@pytest.mark.parametrize(("events", "code"), LATE)
async def test_a_failure_after_the_commit_point_is_a_frame(
    serve: MakeRig, events: list[bytes], code: str, then: Step
) -> None:
    """The whole events before it stay; the last one says what happened, and is no `[DONE]`."""
    turn = Turn()
    script = [*stream(token("a"), whole=False), turn, *[chunk(one) for one in events], then]
    async with serve(script) as rig:
        body = await ask_past_commit(rig, turn, PLAIN_STREAM)
        assert body.startswith(token("a"))
        assert body.count(b"\n\n") == 2
        assert last_error(body)["code"] == code
        assert rig.outcomes() == {"failure": 1}


async def test_nothing_follows_an_error_frame(serve: MakeRig) -> None:
    """An engine that goes on after its error is cut off; the client's connection stays usable."""
    turn, late = Turn(), Turn()
    script = [*stream(token("a"), whole=False), turn, chunk(BROKEN), late, chunk(token("ghost"))]
    async with serve([*script, Then.HANG], stream(*WHOLE)) as rig, rig.client() as client:
        client.send(post(STREAM))
        await client.head()
        assert await read_event(client) == token("a")
        turn.go.set()
        assert last_error(await read_event(client))["code"] == "upstream_error"
        assert await client.piece() == b""
        late.go.set()
        assert (await client.ask(post(STREAM))).body == b"".join(WHOLE)
        await rig.engine.requests[0].abandoned()
        assert rig.inflight == 0


ENDLESS = b"HTTP/1.1 500 Oops\r\ncontent-length: 99999999\r\n\r\n" + b"x" * (3 * 1024 * 1024)


@pytest.mark.parametrize("script", [[ENDLESS], stream(BROKEN, whole=False)])
async def test_a_failed_engine_is_not_left_streaming(serve: MakeRig, script: Script) -> None:
    """After an error that became a status, the connection under it is closed."""
    async with serve([*script, Then.HANG]) as rig:
        assert (await rig.post(PLAIN_STREAM)).status == 502
        await rig.engine.requests[0].abandoned()


async def test_an_event_without_an_end_is_given_up(serve: MakeRig) -> None:
    """An engine cannot make the gateway hold an event of any size."""
    turn = Turn()
    script = [*stream(token("a"), whole=False), turn, *[chunk(b"x" * 1_000_000)] * 6, Then.HANG]
    async with serve(script) as rig:
        body = await ask_past_commit(rig, turn, PLAIN_STREAM)
        assert last_error(body)["code"] == "upstream_error"
        assert len(body) < 10_000


async def test_a_large_event_passes(serve: MakeRig) -> None:
    """Up to the limit an event may be as large as it likes."""
    large = token("x" * 3_000_000)
    async with serve(stream(large, finish(), DONE)) as rig:
        assert (await rig.post(PLAIN_STREAM)).body == large + finish() + DONE


async def test_an_answer_of_several_choices_ends_with_the_last(serve: MakeRig) -> None:
    """With n = 2, one finish reason is half an answer."""
    turn = Turn()
    half = [*stream(token("a"), whole=False), turn, chunk(finish()), LAST_CHUNK]
    async with serve(half, stream(token("a"), finish(), finish())) as rig:
        body = await ask_past_commit(rig, turn, {**STREAM, "n": 2})
        assert last_error(body)["code"] == "upstream_error"
        assert (await rig.post({**STREAM, "n": 2})).body.endswith(DONE)


async def test_a_prompt_of_odd_numbers_streams(serve: MakeRig) -> None:
    """Token ids that no machine integer holds are the engine's to refuse, not a crash here."""
    body = b'{"model":"m","stream":true,"prompt":[%b]}' % (b"1" * 5000)
    async with serve(stream(token("a"), finish(), DONE)) as rig:
        answer = await rig.post(body, "/v1/completions")
        assert answer.body == token("a") + finish() + DONE


async def test_events_of_any_line_end(serve: MakeRig) -> None:
    """CRLF events are as good as LF ones."""
    events = [one.replace(b"\n", b"\r\n") for one in (token("a"), finish(), DONE)]
    async with serve(stream(*events)) as rig:
        assert (await rig.post(STREAM)).body == b"".join(events)
        assert rig.outcomes() == {"success": 1}


async def test_an_http_1_0_client_knows_a_cut_stream_by_its_frame(serve_wire: MakeRig) -> None:
    """Without chunks the end of the connection ends the body: only the frame tells."""
    turn = Turn()
    script = [*stream(token("a"), whole=False), turn, Then.CLOSE]
    async with serve_wire(script) as rig, rig.client() as client:
        client.send(post(PLAIN_STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await client.head()).status == 200
        await turn.reached.wait()
        turn.go.set()
        assert last_error(await client.rest())["code"] == "upstream_error"
