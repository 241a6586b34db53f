"""Sharing devices among equal engines."""

import pytest

from engines.placement import Placement, place


def test_one_engine_is_left_to_vllm():
    """It takes what it needs, wherever it finds it."""
    assert place((), 1) == [Placement()]
    assert place(("0", "1"), 1) == [Placement()]


def test_without_known_devices_memory_is_shared():
    """On a CPU build the share is one of the machine's memory."""
    assert place((), 2) == [Placement((), 0.45)] * 2


def test_each_engine_gets_its_own_device_while_they_last():
    """Two engines on four devices take one each, whole."""
    assert place(("0", "1", "2", "3"), 2) == [Placement(("0",)), Placement(("1",))]


@pytest.mark.parametrize(("devices", "replicas"), [(1, 2), (1, 4), (2, 3), (3, 8)])
def test_shared_devices_are_never_promised_twice(devices, replicas):
    """The shares on one device stay within what a single engine would take by default."""
    placements = place([str(n) for n in range(devices)], replicas)

    assert len(placements) == replicas
    for device in range(devices):
        shares = [p.memory_share for p in placements if p.devices == (str(device),)]
        assert sum(share or 0.92 for share in shares) <= 0.92
