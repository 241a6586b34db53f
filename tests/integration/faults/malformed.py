"""Rows 8 and 9: what becomes of answers that break every rule of their format?"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import openai

from tests.integration.faults.figure import Figure, Scale, holds, most
from tests.integration.faults.stage import forget_peak, gateway, held, stage
from tests.integration.faults.traffic import Heard, ask, chat, for_sdk
from tests.support.engine import STREAM_HEAD, Engine, Step, chunk, response, token

_FAULTS = {
    "EOF without terminator": "cut-after=4",
    "half an event": "half-after=4",
    "RST": "reset-after=4",
    "bad chunk size": "bad-chunk-after=4",
    "malformed JSON event": "malformed-after=4",
    "in-band error": "error-after=4",
    "abort": "abort-after=4",
    "stall": "stall-after=4",
}
_MIB = 1 << 20


async def row_08(folder: Path, scale: Scale) -> list[Figure]:
    """No broken stream looks like a whole one to openai-python; nor does a broken plain answer."""
    cluster = {"resume": "off", "timeouts": {"idle_s": 4}, "breaker": {"failures": 1000}}
    cluster["outliers"] = {"failures": 1000, "min_requests": 1000}
    # So slow that the gateway has shown what comes before a break.
    slow = ("--allow-fault-headers", "--inter-token-latency", "100ms")
    async with stage(folder, 1, *slow, cluster=cluster) as (served, _):
        streams = {
            name: await asyncio.to_thread(_with_sdk, served.url, {"x-sim-fault": fault}, True)
            for name, fault in _FAULTS.items()
        }
        plain = {
            name: await asyncio.to_thread(_with_sdk, served.url, {"x-sim-fault": fault}, False)
            for name, fault in _FAULTS.items()
            if name != "abort"  # vLLM's plain answers have no such thing.
        }
        whole = await asyncio.to_thread(_with_sdk, served.url, {}, True)
    figures = [holds("without a fault", "no error", whole or "none", ok=not whole)]
    for kind, results in (("streams", streams), ("plain answers", plain)):
        silent = [name for name, error in results.items() if not error]
        figures.append(
            holds(
                f"broken {kind}: openai-python raises",
                f"{len(results)} of {len(results)}",
                f"{len(results) - len(silent)}" + (f", not for {silent}" if silent else ""),
                ok=not silent,
            )
        )
    return figures


def _with_sdk(url: str, headers: dict[str, str], stream: bool) -> str:
    """Return what the SDK raises; "" if it takes the answer for whole."""
    body = chat(tokens=12, stream=stream)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        try:
            answer = client.chat.completions.create(**for_sdk(body), extra_headers=headers)
            if stream:
                for _ in answer:
                    pass
        except (openai.APIError, ValueError) as error:  # The latter: a body that is no JSON.
            return type(error).__name__
    return ""


async def row_09(folder: Path, scale: Scale) -> list[Figure]:
    """A response head of 100 KiB; an event that never ends, of which 64 MiB are offered."""
    head = [response(fields=[(b"x-large", b"a" * (100 << 10))])]
    piece = chunk(b"a" * (64 << 10))
    endless: list[Step] = [STREAM_HEAD, chunk(b'data: {"x":"'), *[piece] * 1024]
    begun: list[Step] = [STREAM_HEAD, chunk(token("hi")), *endless[1:]]
    large = await _grown(folder, head)
    first = await _grown(folder, endless)
    later = await _grown(folder, begun)
    figures = []
    for name, (answers, grown, _) in (
        ("head of 100 KiB", large),
        ("never-ending first event", first),
        ("never-ending later event", later),
    ):
        said = sorted({f"{one.status} {one.error}" for one in answers})
        code = "200 upstream_error" if name.endswith("later event") else "502 upstream_error"
        figures += [
            holds(name, code, said, ok=said == [code]),
            most(f"{name}: growth at its peak", 32, grown / _MIB, " MiB"),
        ]
    for name, sent in (("first", first[2]), ("later", later[2])):
        cut_mib = sent / _MIB
        figures.append(
            holds(
                f"never-ending {name} event: taken from the engine",
                "4 MiB, and what two sockets buffer (usually ≤ 8 MiB)",
                f"{cut_mib:.1f} MiB",
                ok=4 <= cut_mib <= 32,  # Of 64. How much they do is the kernel's affair.
            )
        )
    return figures


async def _grown(folder: Path, script: Sequence[Step]) -> tuple[list[Heard], int, float]:
    """Ask five times; return the answers, by how much RSS grew at its peak, and bytes sent each."""
    cluster = {
        "retries": {"attempts": 1},
        "resume": "off",
        "breaker": {"failures": 1000},
        "outliers": {"failures": 1000},
    }
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_Counting(script))
        served = await stack.enter_async_context(gateway(folder, [engine.url], cluster=cluster))
        stream = chat(stream=True)
        warm = await ask(served.port, {**stream, "model": "other"})
        assert warm.status == 404
        forget_peak(served.pid)
        before = held(served.pid).rss_bytes
        answers = [await ask(served.port, stream) for _ in range(5)]
        peak = held(served.pid).peak_bytes
    return answers, peak - before, engine.sent_bytes / len(answers)


class _Counting(Engine):
    """An engine that knows how much it could send before its peer left."""

    def __init__(self, script: Sequence[Step]) -> None:
        self.sent_bytes = 0
        super().__init__(_Counted(script, self))


class _Counted(list[Step]):
    """A script that notes each step's size when it is taken."""

    def __init__(self, steps: Sequence[Step], engine: _Counting) -> None:
        super().__init__(steps)
        self._engine = engine

    def __iter__(self):  # type: ignore[no-untyped-def]  # list's own, with a note
        for step in super().__iter__():
            if isinstance(step, bytes):
                self._engine.sent_bytes += len(step)
            yield step
