"""How much CPU does the gateway's own code take for a request and for a streamed chunk?

    python -m bench.datapath [--requests 20000] [--rounds 7] [--policies]

Runs the real protocol class, proxy core and upstream client in one process with the two sockets
replaced by objects that swallow writes: no kernel, no second process, so the figures are the
Python and parser part only and repeat within a few per cent. Compare before and after a change of
the data path; a gateway's whole cost is about 15 µs a request more (four system calls).
With `--policies` each request is under a split between two arms and a mirror's rule
that copies none: what a copy costs is what a request costs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import uvicorn
import uvloop
from rich.console import Console
from rich.table import Table as Grid
from uvicorn.server import ServerState

from gateway.admit.lag import LoopLag
from gateway.api.routes import ROUTES
from gateway.clock import SystemClock
from gateway.config.cluster import Cluster as Spec
from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.dispatch.mirror import Mirrors
from gateway.dispatch.shared import Shared
from gateway.model import Kind
from gateway.plan.junction import Junction, junction_of
from gateway.plan.match import Rules
from gateway.plan.table import Nature, Plan, Table, plan_for
from gateway.proxy import Proxy
from gateway.telemetry.logs import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.record import Recorder, line_of
from gateway.upstream.cluster import Cluster
from gateway.wire.connection import Connection
from gateway.wire.downstream import DataPlaneProtocol, Plane
from gateway.wire.guard import Limits
from gateway.wire.upstream import Address, Client

_PROMPT = b"x" * 900
_AA = {"aa": True}
_PLAIN = b'{"model":"m","messages":[{"role":"user","content":"%b"}],"max_tokens":64}' % _PROMPT
_STREAM = _PLAIN[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}'
_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"m","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Paris."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":211,"total_tokens":225,"completion_tokens":14}}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
_LAST = _EVENT.replace(b"null}]", b'"stop"}]') + b"data: [DONE]\n\n"


def _request(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        b"Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: bench/1\r\n"
        b"Authorization: Bearer sk-0123456789\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Sink:
    """A transport that keeps the last write and does nothing else."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep `data`."""
        self.written = data

    def is_closing(self) -> bool:
        """Never."""
        return False

    def is_reading(self) -> bool:
        """Always."""
        return True

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Know nothing."""
        return default

    def ignore(self) -> None:
        """Do nothing."""

    abort = close = pause_reading = resume_reading = ignore


class Bench:
    """One client connection, one engine connection, and the gateway between them."""

    def __init__(self, *, policies: bool) -> None:
        clock = SystemClock()
        # Two names of one address: p2c has a choice to make, and either leads to one connection.
        spec = Spec.model_validate({"endpoints": [{"url": f"http://{host}:1"} for host in "ab"]})
        cluster = Cluster("bench", spec, clock.monotonic, Random(1))  # noqa: S311  a choice, no secret
        client = Client(Address("a", 1), clock.monotonic)
        for endpoint in cluster.endpoints:
            endpoint.probed(True, clock.monotonic() - 3600)
            cluster.clients[endpoint.id] = client
        plan = plan_for("m", "m", cluster.whole(), "m", (), Nature(Kind.LLM))
        if policies:
            plan = replace(plan, junction=_junction(plan, cluster))
        table = Table({"m": plan})
        self._log = AccessLog("/dev/null", line_of)
        metrics = Metrics(list)
        shared = Shared(lambda: table, metrics, clock, Random(1))  # noqa: S311  jitter, no secret
        recorder = Recorder(metrics, self._log, clock)
        proxy = Proxy(shared, recorder, Random(1), max_json_depth=128)  # noqa: S311  ids, no secret
        proxy.mirrors = Mirrors(shared, LoopLag(1.0), lambda _: None)
        plane = Plane(ROUTES, proxy.serve, proxy.refuse, Limits())
        config = uvicorn.Config(_no_app, log_config=None, lifespan="off")
        sink: Any = Sink()
        engine_sink: Any = Sink()
        self.engine = Connection(client)
        self.engine.connection_made(engine_sink)
        client.release(self.engine, keep=True)
        self.down = DataPlaneProtocol(config, ServerState(), {}, plane=plane)
        self.down.connection_made(sink)
        self.sink: Sink = sink

    async def plain(self, count: int) -> None:
        """Serve `count` requests, one after the other."""
        request = _request(_PLAIN)
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n"
        response = head % len(_ANSWER) + _ANSWER
        for _ in range(count):
            self.down.data_received(request)
            await asyncio.sleep(0)
            self.engine.data_received(response)
            await asyncio.sleep(0)
        _expect(self.sink.written.endswith(_ANSWER))

    async def stream(self, count: int) -> None:
        """Serve one stream of `count` chunks."""
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        chunk = _chunk(_EVENT)
        self.down.data_received(_request(_STREAM))
        await asyncio.sleep(0)
        self.engine.data_received(head + b"transfer-encoding: chunked\r\n\r\n" + chunk)
        await asyncio.sleep(0)
        for _ in range(count):
            self.engine.data_received(chunk)
        self.engine.data_received(_chunk(_LAST) + b"0\r\n\r\n")
        await asyncio.sleep(0)
        _expect(self.sink.written.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"))

    async def idle(self, count: int) -> None:
        """Turn the event loop as often as `plain` does, to be subtracted from it."""
        for _ in range(2 * count):
            await asyncio.sleep(0)

    def close(self) -> None:
        """End the log's thread."""
        self._log.close()


def _junction(plan: Plan, cluster: Cluster) -> Junction:
    to = {"cluster": cluster.name}
    split = {"by": "session", "arms": [{"name": "a", **to}, {"name": "b", **to}], "analysis": _AA}
    mirror = {"to": to, "percent": 0}
    rules = Rules(
        [
            Policy.model_validate({"name": name, "match": {"models": ["m"]}, name: spec})
            for name, spec in (("split", split), ("mirror", mirror))
        ],
        Known({"m": ()}, (cluster.name,), discovers=False),
    )
    lanes = rules.of("m")
    assert lanes is not None  # noqa: S101  both rules are about it
    return junction_of(plan, lanes, {"m": plan}, {cluster.name: cluster}, {})


async def _no_app(scope: object, receive: object, send: object) -> None:
    raise AssertionError("every request of the bench is a data-plane request")


def _expect(right: bool) -> None:
    if not right:
        raise SystemExit("bench.datapath: the gateway did not answer as it should")


async def _best_us(work: Callable[[int], Awaitable[None]], count: int, rounds: int) -> float:
    """Return the least CPU time of `rounds`, in µs for each of `count`."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        await work(count)
        best = min(best, time.process_time() - start)
    return best / count * 1e6


async def measure(requests: int, rounds: int, *, policies: bool) -> tuple[float, float]:
    """Return (µs per plain request, µs per streamed chunk), each the best of `rounds`."""
    bench = Bench(policies=policies)
    try:
        await bench.plain(200)
        gc.freeze()
        idle = await _best_us(bench.idle, requests, rounds)
        plain = await _best_us(bench.plain, requests, rounds)
        return plain - idle, await _best_us(bench.stream, requests, rounds)
    finally:
        bench.close()


def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.datapath", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--policies", action="store_true")
    chosen = parser.parse_args(arguments)
    measured = measure(chosen.requests, chosen.rounds, policies=chosen.policies)
    request_us, chunk_us = uvloop.run(measured)
    grid = Grid("part", "CPU µs")
    grid.add_row("a plain request, 1 KB prompt", f"{request_us:.1f}")
    grid.add_row("a streamed chunk", f"{chunk_us:.2f}")
    Console().print(grid)


if __name__ == "__main__":
    main(sys.argv[1:])
