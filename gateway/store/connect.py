"""Which store does an address name?

    memory:                       this process alone
    sqlite:/var/lib/sluice/state  all processes of this host
    redis://host:6379/0           all that reach the server; also rediss:// and unix://

Each kind is imported only when it is asked for: a gateway without Redis needs no redis-py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateway.clock import Clock
from gateway.store.base import Store


def store_at(address: str, clock: Clock) -> Store:
    """Return the store; it opens with its first call. Raises `ValueError` for an address."""
    scheme = address.partition(":")[0]
    kind = _KINDS.get(scheme)
    if kind is None:
        raise ValueError(f"`{scheme}` is no kind of store; there are {', '.join(_KINDS)}")
    return kind(address, clock)


def _memory(_: str, clock: Clock) -> Store:
    from gateway.store.memory import MemoryStore  # noqa: PLC0415  only who asks for it pays for it

    return MemoryStore(clock)


def _sqlite(address: str, clock: Clock) -> Store:
    from gateway.store.sqlite import SqliteStore  # noqa: PLC0415  only who asks for it pays for it

    path = address.partition(":")[2].removeprefix("//")
    if not path:
        raise ValueError("a sqlite store needs a path: `sqlite:/var/lib/sluice/state`")
    return SqliteStore(Path(path), clock)


def _redis(address: str, _: Clock) -> Store:
    try:
        from gateway.store.redis import RedisStore  # noqa: PLC0415  only who asks for it pays for it
    except ModuleNotFoundError as error:
        raise ValueError("a redis store needs redis-py: pip install 'sluice[redis]'") from error
    return RedisStore(address)


_KINDS: dict[str, Callable[[str, Clock], Store]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
}
