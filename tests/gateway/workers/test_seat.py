"""A worker's place."""

from __future__ import annotations

from gateway.config.spec import Config
from gateway.workers.seat import Seat

SEAT = Seat(1, 4, "/tmp/x", 8123, 3)


def config(store: str) -> Config:
    return Config.model_validate(
        {
            "server": {"port": 0},
            "store": store,
            "clusters": {"c": {"endpoints": [{"url": "http://a:1"}], "max_inflight": 6}},
        }
    )


def test_what_the_parent_says_is_what_the_worker_reads() -> None:
    assert Seat.given(SEAT.variable()) == SEAT
    assert Seat.given({}) is None


def test_a_worker_takes_its_part_the_settled_port_and_the_shared_store() -> None:
    own = SEAT.settle(config("memory:"))
    assert own.server.port == 8123
    assert own.store == "sqlite:/tmp/x/state"
    assert own.clusters["c"].max_inflight == 2


def test_a_store_that_is_configured_stays() -> None:
    assert SEAT.settle(config("redis://h:1/0")).store == "redis://h:1/0"


def test_sockets_are_in_the_private_folder() -> None:
    assert SEAT.socket == "/tmp/x/1.sock"
    assert SEAT.parent_socket == "/tmp/x/p.sock"
    assert SEAT.output_lock == "/tmp/x/output.lock"
