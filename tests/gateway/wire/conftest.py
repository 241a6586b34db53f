"""The rig for these tests, on the event loop that production uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import uvloop

from tests.support.rig import Host, Rig, rig

MakeRig = Callable[..., AbstractAsyncContextManager[Rig]]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=list(Host))
def serve(request: pytest.FixtureRequest) -> MakeRig:
    """Start a rig on either host: a contract test passes on both."""
    return partial(rig, request.param)


@pytest.fixture
def serve_wire() -> Callable[..., Any]:
    """Start a rig on our own protocol, for what a plain ASGI server does in its own way."""
    return partial(rig, Host.PROTOCOL)
