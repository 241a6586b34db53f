"""What is an operator told who has brought everything up with one command?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import httpx
from rich.console import Console

from engines.launch import http_url
from gateway.model import Kind

SEVEN = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAQ0lEQVR42iXF0RSAQBAAwHkR"
    "LMIihHAoIRxCEYRyCCGEUAaHsH00P4MYVd3ClocXRFSD7HdNxKy6VsTeKoFz/MfT8AHCHBIFOAAZoQAAAABJRU5ErkJg"
    "gg=="
)
"""A handwritten digit, a seven, that the shipped model has not been trained on, 8 by 8 pixels."""


_NAMES = {Kind.LLM: "engine", Kind.VISION: "vision"}
_LOOKS = 50
_LOOK_S = 0.1


async def announce(
    host: str, port: int, urls: Mapping[Kind, Sequence[str]], console: Console
) -> None:
    """Say where the gateway is as soon as it answers, and what to paste.

    `urls` are those of what runs behind it. Five seconds are enough to learn their models.
    """
    base = http_url(host, port)
    async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
        while not await _answers(client, f"{base}/readyz"):  # noqa: ASYNC110  another server's state
            await asyncio.sleep(_LOOK_S)
        for _ in range(_LOOKS):
            models = await _models(client, base)
            if all(kind in models for kind, known in urls.items() if known):
                break
            await asyncio.sleep(_LOOK_S)
    say = console.print
    say(f"\n[bold green]Sluice is ready[/] at [bold]{base}[/]", highlight=False)
    for kind, known in urls.items():
        for url in known:
            say(f"  {_NAMES[kind]} {url}", highlight=False)
    say("\nTry it:\n", highlight=False)
    for kind, line in ((Kind.LLM, curl_line), (Kind.VISION, predict_line)):
        if kind in models:
            say(line(base, models[kind]), markup=False, highlight=False, soft_wrap=True)
    say("\nCtrl-C stops everything.\n", highlight=False)


def curl_line(base: str, model: str) -> str:
    """A command that streams an answer of this model, fit for pasting into any POSIX shell."""
    body = (
        f'{{"model": "{_quoted(model)}", "stream": true, '
        '"messages": [{"role": "user", "content": "Hello!"}]}'
    )
    return f"curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def predict_line(base: str, model: str) -> str:
    """A command that lets this model look at a digit, fit for pasting as well."""
    body = f'{{"model": "{_quoted(model)}", "inputs": {{"image": "{SEVEN}"}}}}'
    return f"curl {base}/v1/predict -d '{body}'"


def _quoted(model: str) -> str:
    return model.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False


async def _models(client: httpx.AsyncClient, base: str) -> dict[str, str]:
    """The first model of each kind that the gateway lists, which is what a client must call it."""
    try:
        listed = (await client.get(f"{base}/v1/models")).json()["data"]
        found = [(str(entry.get("kind") or Kind.LLM), str(entry["id"])) for entry in listed]
    except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return dict(reversed(found))
