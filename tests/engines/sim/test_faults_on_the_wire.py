"""Does each injected fault look on the socket as its description says?"""

import asyncio
import json
from typing import Any

import pytest

from engines.sim import faults
from engines.sim.scheduler import Timing
from engines.sim.server import RunningServer
from engines.sim.settings import FaultSettings

_CHAT = "/v1/chat/completions"
_ASKED = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6}
_STREAM = _ASKED | {"stream": True}


@pytest.fixture
async def server(start_server: Any) -> RunningServer:
    """An engine that obeys the fault header."""
    started: RunningServer = await start_server()
    return started


async def _with(server: RunningServer, client_of: Any, spec: str, body: Any = _STREAM) -> Any:
    async with asyncio.timeout(10):
        return await client_of(server).post(_CHAT, body, **{"x-sim-fault": spec})


def _tokens(body: bytes) -> int:
    """How many whole token events a stream holds."""
    return body.count(b'"delta":{"content":')


async def test_status(server: RunningServer, client_of: Any) -> None:
    """Any error status, streamed or not, and nothing is generated."""
    for asked in (_STREAM, _ASKED):
        reply = await _with(server, client_of, "status=429", asked)
        assert (reply.status, reply.json()["error"]["code"]) == (429, 429)
    assert server.app.engine.counters.generation_tokens == 0


async def test_cut(server: RunningServer, client_of: Any) -> None:
    """A proper FIN after k tokens; neither end mark nor last chunk."""
    reply = await _with(server, client_of, "cut-after=3")
    assert (reply.status, _tokens(reply.body), reply.reset) == (200, 3, False)
    assert reply.body.endswith(b"\n\n\r\n")
    assert b"[DONE]" not in reply.body


async def test_cut_before_the_first_token(server: RunningServer, client_of: Any) -> None:
    """After 0 tokens the opening chunk is all there is."""
    reply = await _with(server, client_of, "cut-after=0")
    assert (reply.body.count(b"data: "), _tokens(reply.body)) == (1, 0)


async def test_reset(server: RunningServer, client_of: Any) -> None:
    """RST instead of an answer."""
    reply = await _with(server, client_of, "reset")
    assert (reply.reset, reply.status) == (True, 0)


async def test_reset_after(start_server: Any, client_of: Any) -> None:
    """RST after k tokens, which were sent before."""
    server = await start_server(timing=Timing(first_token_s=0.0, inter_token_s=0.001))
    reply = await _with(server, client_of, "reset-after=2")
    assert (reply.reset, reply.status, _tokens(reply.body)) == (True, 200, 2)


@pytest.mark.parametrize("asked", [_STREAM, _ASKED])
async def test_stall(server: RunningServer, client_of: Any, until: Any, asked: Any) -> None:
    """After k tokens nothing more comes; the sequence stays until the client leaves."""
    reader, writer = await client_of(server).connect()
    body = json.dumps(asked).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-sim-fault: "
        b"stall-after=2\r\ncontent-length: %d\r\n\r\n%b" % (_CHAT.encode(), len(body), body)
    )
    async with asyncio.timeout(5):
        received = await reader.readuntil(b" answer" if asked is _STREAM else b'"choices":')
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            received += await reader.readuntil(b"never sent")
    assert b"[DONE]" not in received
    assert len(server.app.engine.scheduler.running) == (1 if asked is _STREAM else 0)
    writer.close()
    async with asyncio.timeout(5):
        await until(lambda: not (server.connections or server.app.engine.load))


async def test_malformed(server: RunningServer, client_of: Any) -> None:
    """One event is not JSON; the rest of the stream is whole."""
    reply = await _with(server, client_of, "malformed-after=2")
    bad = []
    for line in reply.body.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                json.loads(line[6:])
            except ValueError:
                bad.append(line)
    assert len(bad) == 1
    assert _tokens(reply.body) == 6
    assert b"[DONE]" in reply.body


async def test_bad_chunk(server: RunningServer, client_of: Any) -> None:
    """The framing breaks after k tokens."""
    reply = await _with(server, client_of, "bad-chunk-after=1")
    assert b"\r\nnot-hex\r\ndata: " in reply.body
    assert b"[DONE]" not in reply.body


async def test_half_an_event(server: RunningServer, client_of: Any) -> None:
    """The last event is announced whole and comes by half."""
    reply = await _with(server, client_of, "half-after=2")
    before, _, last = reply.body.rpartition(b"\r\n")
    announced_bytes = int(before.rpartition(b"\r\n")[2], 16)
    assert last.startswith(b"data: {")
    assert len(last) == announced_bytes // 2


async def test_error_in_band(server: RunningServer, client_of: Any) -> None:
    """vLLM's error event, then the end mark, in a message that ends properly."""
    reply = await _with(server, client_of, "error-after=2")
    assert _tokens(reply.body) == 2
    assert reply.body.endswith(
        b'a9\r\ndata: {"error": {"message": "EngineCore encountered an issue. See stack trace '
        b'(above) for the root cause.", "type": "InternalServerError", "param": null, "code": '
        b"500}}\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )
    assert server.app.engine.counters.finished["error"] == 1
    assert (await _with(server, client_of, "error-after=2", _ASKED)).status == 500


async def test_abort(server: RunningServer, client_of: Any) -> None:
    """finish_reason abort after k tokens, whole and streamed."""
    reply = await _with(server, client_of, "abort-after=2")
    assert b'"finish_reason":"abort"' in reply.body
    assert b"[DONE]" in reply.body
    body = (await _with(server, client_of, "abort-after=2", _ASKED)).json()
    assert body["choices"][0]["finish_reason"] == "abort"
    assert body["choices"][0]["message"]["content"] == "Simulated answer"
    assert body["usage"]["completion_tokens"] == 2


async def test_no_done(server: RunningServer, client_of: Any) -> None:
    """Everything but the end mark."""
    reply = await _with(server, client_of, "no-done")
    assert b'"finish_reason":"length"' in reply.body
    assert b"[DONE]" not in reply.body
    assert reply.body.endswith(b"\r\n0\r\n\r\n")


async def test_error_in_a_200(server: RunningServer, client_of: Any) -> None:
    """A status that lies."""
    reply = await _with(server, client_of, "error-200", _ASKED)
    assert (reply.status, reply.json()["error"]["code"]) == (200, 500)


async def test_garbage_head(server: RunningServer, client_of: Any) -> None:
    """What comes is not HTTP."""
    assert (await _with(server, client_of, "garbage-head")).status == 0


async def test_big_header(server: RunningServer, client_of: Any) -> None:
    """A good answer behind a header that no client should take."""
    reply = await _with(server, client_of, "big-header")
    assert len(reply.headers["x-big"]) == 131072
    assert b"[DONE]" in reply.body


@pytest.mark.parametrize("spec", ["cut-after=1", "half-after=0", "reset-after=1"])
async def test_whole_bodies_break_in_the_middle(
    server: RunningServer, client_of: Any, spec: str
) -> None:
    """The announced length never arrives."""
    reply = await _with(server, client_of, spec, _ASKED)
    assert 0 < len(reply.body) < int(reply.headers["content-length"])
    assert reply.reset == spec.startswith("reset")


async def test_a_whole_body_can_be_malformed(server: RunningServer, client_of: Any) -> None:
    """The length is right, the JSON is not."""
    reply = await _with(server, client_of, "malformed-after=1", _ASKED)
    assert len(reply.body) == int(reply.headers["content-length"])
    with pytest.raises(ValueError, match=r"delimiter|Unterminated|Expecting"):
        reply.json()


async def test_an_answer_shorter_than_the_fault_is_whole(
    server: RunningServer, client_of: Any
) -> None:
    """A break after more tokens than there are does not happen."""
    reply = await _with(server, client_of, "cut-after=7")
    assert b"[DONE]" in reply.body
    assert (await _with(server, client_of, "cut-after=7", _ASKED)).json()["choices"]


async def test_delays_come_before_the_head_or_before_the_first_token(
    server: RunningServer, client_of: Any
) -> None:
    """delay-headers holds everything back, delay-first only what follows the head."""
    reader, writer = await client_of(server).connect()
    body = json.dumps(_STREAM).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-sim-fault: "
        b"delay-headers=0.05,delay-first=0.05\r\ncontent-length: %d\r\n\r\n%b"
        % (_CHAT.encode(), len(body), body)
    )
    loop = asyncio.get_running_loop()
    times_s = [loop.time()]
    for mark in (b"\r\n\r\n", b"data: "):
        await reader.readuntil(mark)
        times_s.append(loop.time())
    writer.close()
    head_s, first_s = times_s[1] - times_s[0], times_s[2] - times_s[1]
    assert head_s >= 0.048
    assert first_s >= 0.04


async def test_leaving_during_a_delay_starts_nothing(
    server: RunningServer, client_of: Any, until: Any
) -> None:
    """A client that goes away while it is delayed leaves nothing behind."""
    for spec in ("delay-headers=3000", "delay-first=3000"):
        _, writer = await client_of(server).connect()
        body = json.dumps(_STREAM).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-sim-fault: %b\r\n"
            b"content-length: %d\r\n\r\n%b" % (_CHAT.encode(), spec.encode(), len(body), body)
        )
        async with asyncio.timeout(5):
            await until(lambda: server.connections)
            await asyncio.sleep(0.01)
            writer.close()
            await until(lambda: not (server.connections or server.app.engine.load))


async def test_faults_reach_other_routes(server: RunningServer, client_of: Any) -> None:
    """Embeddings break too, and with the header even /health can fail."""
    client = client_of(server)
    asked = {"input": "x"}
    reply = await client.post("/v1/embeddings", asked, **{"x-sim-fault": "cut-after=0"})
    assert 0 < len(reply.body) < int(reply.headers["content-length"])
    assert (await client.get("/health", **{"x-sim-fault": "status=503"})).status == 503


async def test_a_wrong_spec_is_a_400(server: RunningServer, client_of: Any) -> None:
    """The message names the clause."""
    reply = await _with(server, client_of, "explode=now")
    assert (reply.status, reply.json()["error"]["param"]) == (400, "x-sim-fault")


async def test_the_header_counts_only_where_allowed(start_server: Any, client_of: Any) -> None:
    """By default clients cannot break an engine."""
    server = await start_server(faults=FaultSettings())
    assert (await _with(server, client_of, "status=503", _ASKED)).status == 200


async def test_configured_faults_hit_posts_only(start_server: Any, client_of: Any) -> None:
    """A fault for every request leaves the probes alone; so does a rate of 100 %."""
    for settings in (
        FaultSettings(always=faults.parse("status=503")),
        FaultSettings(rate_percent=100.0, types=faults.parse_types("server_error")),
    ):
        client = client_of(await start_server(faults=settings))
        assert (await client.post(_CHAT, _ASKED)).status == 503
        assert (await client.get("/health")).status == 200
