"""Does an endpoint answer, how busy is it, and what does it say it serves?

Active probes (`GET /health`), scrapes of `/metrics` and looks at `/v1/models`: requests that an
engine answers from its HTTP server, so that none of them ever spends a token.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random

from gateway.upstream.endpoint import Endpoint, Health
from gateway.upstream.load import EngineLoad, parse_load
from gateway.wire.scarcity import is_scarcity

_LOG = logging.getLogger("sluice.health")

JITTER = 0.1
"""Probes of many gateways must not fall into step."""

MODELS_REFRESH = 10
"""Looks at a known endpoint's models are this many times rarer than at an unknown one's."""

SCRAPE_PAUSE_S = 60.0
"""How long an endpoint that has no metrics for us is not asked again."""

MAX_METRICS_BYTES = 4 * 1024 * 1024
"""More is not read. vLLM's own are 64 KB."""

MAX_MODELS_BYTES = 16 * 1024 * 1024
"""A longer list is none. vLLM's has 0.5 KB for a model or an adapter."""

_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, UnicodeError)
"""What asking raises; the last two where a host reads as an encoded name (`xn--…`) and is none."""

ModelEntry = dict[str, Any]
"""One entry of an engine's `/v1/models`."""


async def probe(
    http: httpx.AsyncClient, endpoint: Endpoint, path: str, timeout_s: float
) -> str | None:
    """Ask once whether the endpoint is well; return why not, "" for any 2xx within `timeout_s`.

    None says that it could not be asked, for want of descriptors or ports of our own.
    Only the head is read: a body that never ends must not hold up the next probe.
    """
    try:
        async with (
            asyncio.timeout(timeout_s),
            http.stream("GET", endpoint.url + path, timeout=timeout_s) as response,
        ):
            return "" if response.is_success else f"{path} answered {response.status_code}"
    except _NO_ANSWER as error:
        if is_scarcity(error):
            return None
        return str(error) or type(error).__name__
    except TimeoutError:
        return f"{path} took more than {timeout_s:g} s"


async def scrape(
    http: httpx.AsyncClient, endpoint: Endpoint, path: str, timeout_s: float
) -> bytes | None:
    """Return the endpoint's metrics, b"" if it says that it has none, None without an answer.

    Endless or huge ones are cut at `MAX_METRICS_BYTES`.
    """
    try:
        return await _get(http, endpoint.url + path, timeout_s, MAX_METRICS_BYTES) or b""
    except (*_NO_ANSWER, TimeoutError):
        return None


async def _get(
    http: httpx.AsyncClient, url: str, timeout_s: float, most_bytes: int
) -> bytes | None:
    """Return the body of a good answer, which is not read on behind `most_bytes`; else None.

    Raises `httpx.HTTPError`, and `TimeoutError` where all of it takes more than `timeout_s`.
    """
    text = bytearray()
    async with (
        asyncio.timeout(timeout_s),
        http.stream("GET", url, timeout=timeout_s) as response,
    ):
        if not response.is_success:
            return None
        async for piece in response.aiter_bytes():
            text += piece
            if len(text) > most_bytes:
                break
    return bytes(text)


async def list_models(
    http: httpx.AsyncClient, endpoint: Endpoint, timeout_s: float
) -> list[ModelEntry] | None:
    """Return the endpoint's models as it lists them, or None if it does not answer properly."""
    attempts = AsyncRetrying(
        stop=stop_after_attempt(2),
        wait=wait_random(0, 0.2),
        retry=retry_if_exception_type(httpx.TransportError),
    )
    try:
        async for attempt in attempts:
            with attempt:
                body = await _get(http, endpoint.url + "/v1/models", timeout_s, MAX_MODELS_BYTES)
    except (RetryError, *_NO_ANSWER, TimeoutError):
        return None
    try:
        entries = json.loads(body or b"")["data"]
        return [
            {key: value for key, value in entry.items() if _can_be_told({key: value})}
            for entry in entries
            if isinstance(entry["id"], str) and _can_be_told(entry["id"])
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _can_be_told(value: object) -> bool:
    """Whether our own list of models can hold it: Python reads NaN and lone surrogates as well."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False
    return True


class Watch:
    """Keeps an eye on one endpoint for as long as the gateway runs."""

    def __init__(
        self,
        endpoint: Endpoint,
        http: httpx.AsyncClient,
        rng: Random,
        monotonic: Callable[[], float],
        on_models: Callable[[Endpoint, list[ModelEntry]], None],
        metrics_path: str | None = None,
    ) -> None:
        """`on_models` is told the endpoint's models, whenever it has listed them."""
        self._endpoint = endpoint
        self._http = http
        self._rng = rng
        self._monotonic = monotonic
        self._on_models = on_models
        self._metrics_path = metrics_path
        self._scrape_at = 0.0
        self._known = ""  # Why the last probe failed, "" if it was well.

    async def probe_forever(self, path: str, interval_s: float, timeout_s: float) -> None:
        """Probe at the interval, with jitter, and apply each result; read the load of who is well.

        What an endpoint says is all that is ever waited for, and `timeout_s` bounds each of it.
        """
        while True:
            try:
                await self.probe_once(path, timeout_s)
            except Exception:  # A task's edge: what one endpoint does must not end the gateway.
                _LOG.exception("endpoint %s: its probe failed", self._endpoint.id)
            await asyncio.sleep(interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    async def probe_once(self, path: str, timeout_s: float) -> None:
        """Probe, and scrape if it was well.

        Why a probe failed is logged when it is news: a wrong authority, say, shows nowhere else.
        """
        endpoint = self._endpoint
        why = await probe(self._http, endpoint, path, timeout_s)
        if why is None:
            _LOG.warning("endpoint %s: no descriptor is left to probe it with", endpoint.id)
            return
        if why and why != self._known:
            _LOG.warning("endpoint %s: probe failed: %s", endpoint.id, why)
        self._known = why
        changed = endpoint.probed(not why, self._monotonic())
        if changed is not None:
            level = logging.INFO if changed is Health.HEALTHY else logging.WARNING
            _LOG.log(level, "endpoint %s is %s", endpoint.id, changed)
        if not why:
            await self._scrape(timeout_s)

    async def _scrape(self, timeout_s: float) -> None:
        """Read the endpoint's load. That it has none to read is no fault of its."""
        path, endpoint = self._metrics_path, self._endpoint
        load: EngineLoad | None = None
        if path is not None and self._monotonic() >= self._scrape_at:
            text = await scrape(self._http, endpoint, path, timeout_s)
            load = parse_load(text) if text else None
            if load is None and text is not None:
                self._scrape_at = self._monotonic() + SCRAPE_PAUSE_S
        if endpoint.scraped(load, self._monotonic()):
            asleep = "asleep" if endpoint.asleep else "awake"
            _LOG.warning("endpoint %s is %s, its metrics say", endpoint.id, asleep)

    async def list_forever(self, interval_s: float, timeout_s: float) -> None:
        """List models until the endpoint answers, then now and then, for adapters come and go."""
        while True:
            pause_s = interval_s
            try:
                entries = await list_models(self._http, self._endpoint, timeout_s)
                if entries is not None:
                    pause_s *= MODELS_REFRESH
                    self._on_models(self._endpoint, entries)
            except Exception:  # As above.
                _LOG.exception("endpoint %s: the look at its models failed", self._endpoint.id)
            await asyncio.sleep(pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER))
