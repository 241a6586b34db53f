"""What operators see and do, over a gateway's real parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.app import Gateway
from gateway.config.spec import Config
from gateway.control.operations import Registration
from gateway.errors import GatewayError
from gateway.view import Commands, InProcess, Steering
from gateway.wire.guard import Limits
from gateway.wire.types import Downstream, Request
from tests.support.control import ManualClock

URL = "http://a:1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def gateway(clock: ManualClock) -> Gateway:
    values = {
        "clusters": {"c": {"endpoints": [{"url": URL}], "registration": True}},
        "logging": {"access": None},
    }
    return Gateway(Config.model_validate(values), clock)


def steering(gateway: Gateway, drain: Callable[[], None] = lambda: None) -> Steering:
    def register(cluster: str, url: str, term: object) -> str:
        name = gateway.fleet.register(cluster, url, term)  # type: ignore[arg-type]
        gateway.fleet.refresh(gateway._clock.monotonic())
        return name

    commands = Commands(register, gateway.fleet.remove, gateway.reload, drain)
    clock = gateway._clock.monotonic
    reloads = gateway.live.reloads
    return Steering(gateway.view, gateway.clusters, reloads, commands, clock, "f.yaml")


def test_an_endpoint_is_shown_as_it_stands(gateway: Gateway, clock: ManualClock) -> None:
    """Seconds become milliseconds; what was never observed is None."""
    endpoint = gateway.clusters["c"].endpoints[0]
    endpoint.probed(True, clock.now)
    endpoint.first_token.observe(0.25, clock.now)
    endpoint.start(clock.now)
    (shown,) = steering(gateway).endpoints()
    assert (shown.id, shown.cluster, shown.url) == ("a:1", "c", URL)
    assert (shown.state, shown.health, shown.breaker) == ("healthy", "healthy", "closed")
    assert (shown.inflight, shown.load, shown.ejected) == (1, 1, False)
    assert (shown.first_token_ms, shown.whole_ms) == (250.0, None)
    assert (shown.ramp, shown.expires_in_s) == (0.1, None)


def test_draining_and_back(gateway: Gateway, clock: ManualClock) -> None:
    """An endpoint that drains is not available; back, it is. Others are left alone."""
    endpoint = gateway.clusters["c"].endpoints[0]
    endpoint.probed(True, clock.now)
    told = steering(gateway)
    told.set_draining("c", "other", True)
    assert endpoint.available(clock.now)
    told.set_draining("c", "a:1", True)
    assert not endpoint.available(clock.now)
    assert told.endpoints()[0].state == "draining"
    told.set_draining("c", "a:1", False)
    assert endpoint.available(clock.now)


def test_a_registration_runs_out_of_time(gateway: Gateway, clock: ManualClock) -> None:
    """It is shown with what is left of its term, and can be removed; a listed one cannot."""
    told = steering(gateway)
    assert told.register(Registration("c", "http://b:2", 1.0, None, 20.0)) == "b:2"
    clock.now += 5
    assert [one.expires_in_s for one in told.endpoints()] == [None, 15.0]
    told.remove("c", "b:2")
    with pytest.raises(GatewayError):
        told.remove("c", "a:1")


async def test_reload_and_configuration(gateway: Gateway, clock: ManualClock) -> None:
    """Without a file there is nothing to read again, and the state says so from then on."""
    told = steering(gateway)
    assert told.config().problems == ()
    done = await told.reload()
    assert (done.result, done.generation) == ("failed", 1)
    shown = told.config()
    assert (shown.generation, shown.file, shown.loaded_at) == (1, "f.yaml", clock.now)
    assert shown.problems == done.problems != ()


async def test_who_asks_by_a_route_of_the_gateways_own_is_known_to_the_data_path() -> None:
    """The log has the address, and tenants without keys are told apart by it."""
    seen: list[str] = []

    async def serve(request: Request, down: Downstream) -> None:
        seen.append(request.client)
        down.respond(200, b"", b"{}")

    ask = InProcess(serve, Limits())
    async with ask("/v1/completions", [], b"{}", "10.0.0.7") as answer:
        assert answer.status == 200
    assert seen == ["10.0.0.7"]
