"""How is a gateway of several workers started, and what is left of it at its end?"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

from gateway.clock import Clock, SystemClock
from gateway.config.spec import Config
from gateway.host import FORCE_S, background_tasks, url_of
from gateway.operators import Crossing, Heartbeat, serve_operators
from gateway.workers.desk import Parent as Powers
from gateway.workers.desk import build_desk
from gateway.workers.inner import serve_inside
from gateway.workers.parent import Job, Parent
from gateway.workers.ports import keep_port
from gateway.workers.seat import parent_socket
from gateway.workers.shares import too_small
from gateway.workers.whole import build_whole

_LOG = logging.getLogger("sluice")

MAX_FOLDER = 90
"""Characters: with a socket's name it must fit into the 107 bytes of a socket's path."""


def run_workers(config: Config, arguments: Sequence[str], count: int) -> int:
    """Run `count` workers until a signal ends them; return the exit code.

    `arguments` are those of `sluice` that start one gateway with this configuration.
    """
    level = logging.getLevelNamesMapping()[config.logging.level.upper()]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Every question to a worker would be a line of it.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for place in too_small(config, count):
        _LOG.warning("%s is less than the %d workers: each worker takes 1", place, count)
    folder = tempfile.gettempdir()
    if len(folder) > MAX_FOLDER:
        folder = "/tmp"  # noqa: S108  only the parent of a private one
    try:
        with tempfile.TemporaryDirectory(prefix="sluice-", dir=folder) as private:
            return asyncio.run(_run(config, arguments, count, private))
    except OSError as error:
        _LOG.error("%s", error)
        return 1


async def _run(config: Config, arguments: Sequence[str], count: int, folder: str) -> int:
    server = config.server
    with keep_port(server.host, server.port) as kept:
        job = Job(
            argv=(sys.executable, "-m", "gateway", *arguments),
            count=count,
            folder=folder,
            port=kept.getsockname()[1],
            drain_s=server.drain_delay_s + server.drain_s + FORCE_S,
        )
        url = url_of(kept, server)
        clock = SystemClock()
        parent = Parent(job, clock, Random())  # noqa: S311  jitter, nothing secret
        async with _answering(config, parent, folder, clock):
            _LOG.info("starting %d workers", count)
            return await parent.run(lambda: _LOG.info("listening on %s", url))


@asynccontextmanager
async def _answering(
    config: Config, parent: Parent, folder: str, clock: Clock
) -> AsyncIterator[None]:
    """Answer the workers, and operators if there is to be a listener for them."""
    heart = Heartbeat(clock.monotonic)
    crossing = Crossing(asyncio.get_running_loop())
    admin = config.server.admin
    async with AsyncExitStack() as stack:
        whole = build_whole(parent.roster, crossing)
        await stack.enter_async_context(serve_inside(whole, parent_socket(folder)))
        if admin is not None:
            token = admin.token.get_secret_value() if admin.token is not None else None
            powers = Powers(parent.end, clock.monotonic, heart.lag_s)
            desk = build_desk(parent.roster, crossing, powers, token)
            await stack.enter_async_context(serve_operators(admin, desk))
        start = await stack.enter_async_context(background_tasks())
        start(heart.beat_forever(lambda due, at: None))
        yield
