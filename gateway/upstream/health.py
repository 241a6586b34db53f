"""Does an endpoint answer, and what does it say it serves?

Active probes (`GET /health`) and looks at `/v1/models`: requests that an engine answers from its
HTTP server, so that neither ever spends a token.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random

from gateway.upstream.endpoint import Endpoint, Health

_LOG = logging.getLogger("sluice.health")

JITTER = 0.1
"""Probes of many gateways must not fall into step."""

MODELS_REFRESH = 10
"""Looks at a known endpoint's models are this many times rarer than at an unknown one's."""

ModelEntry = dict[str, Any]
"""One entry of an engine's `/v1/models`."""


async def probe(http: httpx.AsyncClient, endpoint: Endpoint, path: str, timeout_s: float) -> str:
    """Ask once whether the endpoint is well; return why not, "" for any 2xx within `timeout_s`."""
    try:
        response = await http.get(endpoint.url + path, timeout=timeout_s)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    return "" if response.is_success else f"{path} answered {response.status_code}"


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
                response = await http.get(endpoint.url + "/v1/models", timeout=timeout_s)
    except (RetryError, httpx.HTTPError):  # The second: a broken content coding, say.
        return None
    if not response.is_success:
        return None
    try:
        entries = response.json()["data"]
        return [entry for entry in entries if isinstance(entry["id"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class Watch:
    """Keeps an eye on one endpoint for as long as the gateway runs."""

    def __init__(
        self,
        endpoint: Endpoint,
        http: httpx.AsyncClient,
        rng: Random,
        on_models: Callable[[Endpoint, list[ModelEntry]], None],
    ) -> None:
        """`on_models` is told the endpoint's models, whenever it has listed them."""
        self._endpoint = endpoint
        self._http = http
        self._rng = rng
        self._on_models = on_models

    async def probe_forever(self, path: str, interval_s: float, timeout_s: float) -> None:
        """Probe at the interval, with jitter, and apply each result.

        Why a probe failed is logged when it is news: a wrong authority, say, shows nowhere else.
        """
        known = ""
        while True:
            why = await probe(self._http, self._endpoint, path, timeout_s)
            if why and why != known:
                _LOG.warning("endpoint %s: probe failed: %s", self._endpoint.id, why)
            known = why
            changed = self._endpoint.probed(not why)
            if changed is not None:
                level = logging.INFO if changed is Health.HEALTHY else logging.WARNING
                _LOG.log(level, "endpoint %s is %s", self._endpoint.id, changed)
            await asyncio.sleep(interval_s * self._rng.uniform(1 - JITTER, 1 + JITTER))

    async def list_forever(self, interval_s: float, timeout_s: float) -> None:
        """List models until the endpoint answers, then now and then, for adapters come and go."""
        while True:
            entries = await list_models(self._http, self._endpoint, timeout_s)
            if entries is not None:
                self._on_models(self._endpoint, entries)
            pause_s = interval_s if entries is None else interval_s * MODELS_REFRESH
            await asyncio.sleep(pause_s * self._rng.uniform(1 - JITTER, 1 + JITTER))
