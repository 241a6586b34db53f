"""Which requests came, and what became of them? One JSON line each, if asked for.

The gateway writes such a log already; this one is for a service without a gateway before it. A line
has no query, no body and no field of the request but its id: images and tensors are never logged.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import IO

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vision.api.exchange import encode_json


class AccessLog:
    """Wraps an app; about 10 µs a request."""

    def __init__(self, app: ASGIApp, stream: IO[str] | None = None) -> None:
        """`stream` takes the lines; standard error without it."""
        self._app = app
        self._stream = stream or sys.stderr

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, then write its line."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 499  # The client left before an answer began.
        request_id = ""
        began = time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                for name, value in message["headers"]:
                    if name == b"x-request-id":
                        request_id = value.decode("latin-1")
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            line = {
                "time": round(time.time(), 3),  # noqa: TID251  a line's date is of the wall clock
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round((time.perf_counter() - began) * 1000, 3),
                "request_id": request_id,
            }
            # A full disk is no reason to cut the connection, which raising here would do.
            with contextlib.suppress(OSError):
                self._stream.write(encode_json(line).decode() + "\n")
