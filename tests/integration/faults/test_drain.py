"""Row 14, what its figures leave out: a drain of conversations that have no end of their own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import websockets

from tests.integration.faults.draining import CHAT, under_load

pytestmark = pytest.mark.integration


async def heard(socket: websockets.ClientConnection) -> AsyncIterator[str | bytes]:
    """Yield messages until the other side closes, in whatever way."""
    with suppress(websockets.ConnectionClosed):
        while True:
            yield await socket.recv()


async def test_a_websocket_finishes_its_answer_and_is_closed(tmp_path: Path) -> None:
    """1012 says: come again; an idle one hears it as soon as the listener closes."""
    async with under_load(tmp_path, delay=0, drain=60) as (gateway, _):
        url = gateway.url.replace("http", "ws") + "/v1/chat/ws"
        async with websockets.connect(url) as busy, websockets.connect(url) as idle:
            await busy.send(json.dumps({**CHAT, "max_tokens": 20}))
            await busy.recv()
            os.kill(gateway.pid, signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed):
                await idle.recv()
            said = [message async for message in heard(busy)]
        assert (idle.close_code, busy.close_code) == (1012, 1012)
        assert json.loads(said[-1]) == {"type": "done"}
