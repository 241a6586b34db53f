"""Generations count what took effect; a failure changes nothing but the answer."""

from __future__ import annotations

from gateway.config.diff import Change, Kind
from gateway.config.reloads import Reloads, Result

NOW = Change(Kind.CHANGED, "clusters.a.balancer", "p2c", "weighted")
LATER = Change(Kind.CHANGED, "server.port", "8000", "8001", restart=True)


def test_the_first_configuration_is_number_one() -> None:
    """Loaded when the process started, and good."""
    reloads = Reloads(5.0)
    assert (reloads.generation, reloads.ok, reloads.loaded_at) == (1, True, 5.0)


def test_what_took_effect_is_a_new_generation() -> None:
    """What waits for a restart is told, but makes none by itself."""
    reloads = Reloads(5.0)
    result = reloads.succeeded([NOW, LATER], 6.0)
    assert (result.result, result.generation, result.changes) == (Result.APPLIED, 2, (NOW, LATER))
    assert reloads.loaded_at == 6.0
    for changes in ([LATER], []):
        result = reloads.succeeded(changes, 7.0)
        assert (result.result, result.generation) == (Result.UNCHANGED, 2)
        assert result.changes == tuple(changes)
    assert (reloads.generation, reloads.loaded_at) == (2, 6.0)


def test_a_failure_is_remembered_until_a_success() -> None:
    """The generation stays; the problems can be read."""
    reloads = Reloads(5.0)
    failed = reloads.failed(["f:1:1: is empty"])
    assert (failed.result, failed.generation) == (Result.FAILED, 1)
    assert reloads.last.problems == ("f:1:1: is empty",)
    assert not reloads.ok
    reloads.succeeded([], 6.0)
    assert reloads.ok
