"""An address names a store, or the error says what is wrong with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.store.connect import store_at
from tests.support.control import ManualClock


@pytest.mark.parametrize(
    ("address", "label"),
    [
        ("memory:", "memory"),
        ("sqlite:/srv/state", "sqlite at /srv/state"),
        ("sqlite:///srv/state", "sqlite at /srv/state"),
        ("sqlite:state.db", "sqlite at state.db"),
        ("redis://store:6380/2", "redis at store:6380/2"),
        ("rediss://user:secret@store/0?ssl_cert_reqs=none", "redis at store/0"),
        ("unix://:secret@/run/redis.sock?db=1", "redis at /run/redis.sock"),
    ],
)
async def test_an_address_names_a_store(address: str, label: str) -> None:
    """Nothing is opened yet, and no secret is in its label."""
    store = store_at(address, ManualClock())
    assert store.label == label
    await store.close()


@pytest.mark.parametrize("address", ["sqlite:", "sqlite://", "mysql://x", "", "/srv/state"])
def test_an_address_that_names_none_is_an_error(address: str) -> None:
    """Which says what there is, or what is missing."""
    with pytest.raises(
        ValueError, match=r"no kind of store; there are memory, sqlite|needs a path"
    ):
        store_at(address, ManualClock())


def test_without_redis_py_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    monkeypatch.delitem(sys.modules, "gateway.store.redis", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'sluice\[redis\]'"):
        store_at("redis://store", ManualClock())


async def test_a_path_may_have_blanks(tmp_path: Path) -> None:
    """It is taken as it is."""
    store = store_at(f"sqlite:{tmp_path}/a b", ManualClock())
    assert await store.put("x", 1, 0) is not None
    await store.close()
    assert (tmp_path / "a b").exists()
