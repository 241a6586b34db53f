"""Does the engine behave on real sockets: clients, connections, limits, counters?"""

import asyncio
import json
from typing import Any

import pytest

from engines.sim.api.model import Served
from engines.sim.scheduler import Limits, Timing
from engines.sim.server import RunningServer

_HI: Any = [{"role": "user", "content": "Hi"}]
_CHAT = "/v1/chat/completions"
_FOREVER = {"messages": _HI, "max_tokens": 4000, "ignore_eos": True, "stream": True}
_SLOW = Timing(first_token_s=0.0, inter_token_s=3600.0)
"""One token at once, the next in an hour: whoever waits for the end waits for the test's action."""


@pytest.fixture
async def server(start_server: Any) -> RunningServer:
    """An engine without latencies."""
    started: RunningServer = await start_server()
    return started


def _value(text: str, name: str) -> float:
    """The sum of a metric's samples whose line begins with `name`."""
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_small_routes(server: RunningServer, client_of: Any) -> None:
    """Health, version, load, and FastAPI's words for wrong routes and methods."""
    client = client_of(server)
    health = await client.get("/health")
    assert (health.status, health.body, health.headers["server"]) == (200, b"", "sluice-sim")
    assert (await client.post("/ping", {})).status == 200
    assert (await client.get("/version")).json() == {"version": "0.32.0"}
    assert (await client.get("/load")).json() == {"server_load": 0}
    unknown = await client.get("/v1/nothing")
    assert (unknown.status, unknown.json()) == (404, {"detail": "Not Found"})
    wrong = await client.get(_CHAT)
    assert (wrong.status, wrong.json()) == (405, {"detail": "Method Not Allowed"})
    assert wrong.headers["allow"] == "post"
    missing = await client.get("/v1/responses/resp_123")
    assert missing.json()["error"]["message"] == "Response with id 'resp_123' not found."


async def test_other_computed_routes(server: RunningServer, client_of: Any) -> None:
    """Tokenize, detokenize, count_tokens, score and rerank answer over HTTP."""
    client = client_of(server)
    tokens = (await client.post("/tokenize", {"prompt": "hello"})).json()["tokens"]
    assert (await client.post("/detokenize", {"tokens": tokens})).json() == {"prompt": "hello"}
    counted = (await client.post("/v1/messages/count_tokens", {"messages": _HI})).json()
    assert list(counted) == ["input_tokens", "context_management"]
    scored = await client.post("/v1/score", {"text_1": "a", "text_2": "a"})
    assert scored.json()["data"][0]["object"] == "score"
    ranked = await client.post("/v1/rerank", {"query": "a", "documents": ["b", "a"]})
    assert ranked.json()["results"][0]["index"] == 1


async def test_the_api_key_guards_v1_only(start_server: Any, client_of: Any) -> None:
    """401 with vLLM's string; health, metrics and tokenize stay open."""
    client = client_of(await start_server(api_key="secret"))
    for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": "Basic secret"}):
        refused = await client.get("/v1/models", **headers)
        assert (refused.status, refused.json()) == (401, {"error": "Unauthorized"})
    assert (await client.get("/v1/models", authorization="Bearer secret")).status == 200
    assert (await client.get("/health")).status == 200
    assert (await client.post("/tokenize", {"prompt": "x"})).status == 200


async def test_the_request_id_becomes_the_answers_id(server: RunningServer, client_of: Any) -> None:
    """x-request-id is taken over; without one ids differ."""
    client = client_of(server)
    asked = {"messages": _HI, "max_tokens": 1}
    named = await client.post(_CHAT, asked, **{"x-request-id": "my-req-1"})
    assert named.json()["id"] == "chatcmpl-my-req-1"
    ids = {(await client.post(_CHAT, asked)).json()["id"] for _ in range(2)}
    assert len(ids) == 2


async def test_request_id_headers_can_be_switched_on(start_server: Any, client_of: Any) -> None:
    """As with vLLM's --enable-request-id-headers, on every answer."""
    client = client_of(await start_server(request_id_headers=True))
    assert (await client.get("/health", **{"x-request-id": "a1"})).headers["x-request-id"] == "a1"
    assert len((await client.get("/health")).headers["x-request-id"]) == 32


async def test_a_repeated_prompt_is_reported_as_cached(
    server: RunningServer, client_of: Any
) -> None:
    """Usage tells how many prompt tokens came from the prefix cache, metrics add them up."""
    client = client_of(server)
    asked = {"messages": [{"role": "user", "content": "the dog " * 40}], "max_tokens": 1}
    first, second = [
        (await client.post(_CHAT, asked)).json()["usage"]["prompt_tokens_details"] for _ in range(2)
    ]
    assert (first["cached_tokens"], second["created_cache_tokens"]) == (0, 0)
    assert first["created_cache_tokens"] == second["cached_tokens"] == 80
    text = (await client.get("/metrics")).body.decode()
    assert _value(text, "vllm:prefix_cache_hits_total{") == 80


async def test_no_cache_no_details(start_server: Any, client_of: Any) -> None:
    """Without prefix caching the details are null."""
    client = client_of(await start_server(prefix_caching=False))
    usage = (await client.post(_CHAT, {"messages": _HI, "max_tokens": 1})).json()["usage"]
    assert usage["prompt_tokens_details"] is None


async def test_metrics_count_what_happened(server: RunningServer, client_of: Any) -> None:
    """Tokens, finish reasons and latencies agree with the answers given."""
    client = client_of(server)
    usage = (await client.post(_CHAT, {"messages": _HI, "max_tokens": 7})).json()["usage"]
    await client.post(_CHAT, {"messages": _HI, "stop": ["The"]})
    text = (await client.get("/metrics")).body.decode()
    assert _value(text, 'vllm:request_success_total{engine="0",finished_reason="length"') == 1
    assert _value(text, 'vllm:request_success_total{engine="0",finished_reason="stop"') == 1
    assert _value(text, "vllm:generation_tokens_total{") == 7 + 4
    assert _value(text, "vllm:prompt_tokens_total{") == 2 * usage["prompt_tokens"]
    assert _value(text, "vllm:time_to_first_token_seconds_count{") == 2
    assert _value(text, "vllm:inter_token_latency_seconds_count{") == 6 + 3
    assert _value(text, "vllm:num_requests_running{") == 0


async def test_a_client_that_leaves_frees_its_place(
    start_server: Any, client_of: Any, until: Any
) -> None:
    """The sequence is taken out of the batch as an abort, streamed or not."""
    server = await start_server(timing=_SLOW)
    scheduler = server.app.engine.scheduler
    for stream in (True, False):
        _, writer = await client_of(server).connect()
        body = json.dumps(_FOREVER | {"stream": stream}).encode()
        writer.write(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (_CHAT.encode(), len(body), body)
        )
        async with asyncio.timeout(5):
            await until(lambda: len(scheduler.running) == 1)
            writer.close()
            await until(lambda: not scheduler.running)
    assert server.app.engine.counters.finished["abort"] == 2
    assert server.app.engine.load == 0


async def test_a_waiting_client_that_leaves_is_forgotten(
    start_server: Any, client_of: Any, until: Any
) -> None:
    """One that never got its turn leaves the queue."""
    limits = Limits(max_num_seqs=1, max_queued=1)
    server = await start_server(timing=_SLOW, limits=limits)
    scheduler = server.app.engine.scheduler
    client = client_of(server)
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        first = group.create_task(client.post(_CHAT, _FOREVER))
        await until(lambda: scheduler.running)
        second = group.create_task(client.post(_CHAT, _FOREVER))
        await until(lambda: scheduler.waiting)
        third = await client.post(_CHAT, _FOREVER)
        second.cancel()
        await until(lambda: not scheduler.waiting)
        first.cancel()
        await until(lambda: not scheduler.running)
    assert third.status == 503
    assert third.json()["error"]["type"] == "Service Unavailable"
    assert "retry-after" not in third.headers
    assert server.app.engine.counters.rejections == 1


async def test_a_slow_reader_stops_the_engine_not_the_memory(
    start_server: Any, client_of: Any
) -> None:
    """While a client does not read, tokens stop being made; when it reads, all of them come."""
    served = Served(("sim",), "sim", max_model_len=200_000)
    server = await start_server(served=served)
    counters = server.app.engine.counters
    tokens = 100_000  # about 20 MB of events: more than socket buffers hold
    reader, writer = await client_of(server).connect()
    body = json.dumps(_FOREVER | {"max_tokens": tokens}).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (_CHAT.encode(), len(body), body)
    )
    async with asyncio.timeout(30):
        before = -1
        while counters.generation_tokens == 0 or before != counters.generation_tokens:
            before = counters.generation_tokens
            await asyncio.sleep(0.05)
        assert 0 < before < tokens
        received, tail = 0, b""
        while piece := await reader.read(1 << 20):
            received += len(piece)
            tail = (tail + piece)[-40:]
    writer.close()
    assert counters.generation_tokens == tokens
    assert received > 15_000_000
    assert tail.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_other_clients_are_served_beside_an_endless_stream(
    start_server: Any, client_of: Any, until: Any
) -> None:
    """A stream without latencies does not keep the loop to itself."""
    served = Served(("sim",), "sim", max_model_len=1_000_000)
    server = await start_server(served=served)
    client = client_of(server)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        endless = group.create_task(client.post(_CHAT, _FOREVER | {"max_tokens": 900_000}))
        await until(lambda: server.app.engine.counters.generation_tokens > 100)
        assert (await client.post(_CHAT, {"messages": _HI, "max_tokens": 5})).status == 200
        assert not endless.done()
        endless.cancel()


async def test_tokens_come_at_their_pace(start_server: Any, client_of: Any) -> None:
    """The configured latencies are lower bounds of what a client sees."""
    timing = Timing(first_token_s=0.05, inter_token_s=0.01)
    server = await start_server(timing=timing)
    began_s = asyncio.get_running_loop().time()
    await client_of(server).post(_CHAT, {"messages": _HI, "max_tokens": 6})
    # libuv's timers count whole milliseconds, asyncio's round to the clock's resolution.
    assert asyncio.get_running_loop().time() - began_s >= 0.05 + 5 * 0.01 - 0.002


async def test_many_timed_streams_at_once_all_complete(start_server: Any, client_of: Any) -> None:
    """Arrivals while tokens are overdue leave no stream behind."""
    limits = Limits(max_num_seqs=40)
    server = await start_server(timing=Timing(0.001, 0.0001), limits=limits)
    client = client_of(server)
    asked = _FOREVER | {"max_tokens": 20}
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        streams = [group.create_task(client.post(_CHAT, asked)) for _ in range(100)]
    assert all(stream.result().body.count(b"data: ") == 22 for stream in streams)
    assert server.app.engine.load == 0
