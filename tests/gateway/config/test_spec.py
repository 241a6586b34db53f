"""What holds in every configuration, and what does it say by default?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.cluster import (
    BALANCERS,
    Breaker,
    Cluster,
    Hedging,
    Outliers,
    Queue,
    Retries,
    Session,
    Timeouts,
)
from gateway.config.server import Admin, Server
from gateway.config.spec import Config, Logging
from gateway.upstream import balancer

GPU = {"endpoints": [{"url": "http://gpu-1:8000"}]}


def refused(value: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(value)
    return [(each["loc"], each["msg"]) for each in caught.value.errors()]


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    """One cluster with one endpoint is enough; everything else has a value."""
    config = Config.model_validate({"clusters": {"gpu": GPU}})
    assert config.server == Server(
        host="0.0.0.0",
        port=8000,
        tls=None,
        keep_alive_s=75,
        head_timeout_s=15,
        body_timeout_s=15,
        max_body_bytes=33_554_432,
        max_header_bytes=65_536,
        max_headers=100,
        max_json_depth=128,
        drain_s=30,
        drain_delay_s=5,
        max_event_loop_lag_s=1,
        admin=Admin(host="127.0.0.1", port=9090, token=None),
        watch=True,
    )
    gpu = config.clusters["gpu"]
    assert gpu.timeouts == Timeouts(
        connect_s=2, first_token_s=60, idle_s=30, total_s=600, keepalive_s=10
    )
    assert (gpu.balancer, gpu.api_key, gpu.forward_authorization) == ("p2c", None, False)
    assert (gpu.registration, gpu.allow_empty, gpu.resume) == (False, False, "auto")
    assert (gpu.slow_start_s, gpu.max_inflight, gpu.endpoints[0].max_inflight) == (30, None, None)
    assert gpu.retries == Retries(attempts=3, budget_percent=20, budget_min_per_s=3, max_wait_s=10)
    assert gpu.breaker == Breaker(failures=5, open_s=5, max_open_s=300)
    assert gpu.outliers == Outliers(
        failures=5,
        min_success=0.8,
        min_requests=20,
        eject_s=30,
        max_eject_s=300,
        max_ejected_percent=50,
        panic_percent=50,
    )
    assert gpu.hedging == Hedging(enabled=False, quantile=0.95, max_load=0.7)
    assert gpu.queue == Queue(size=256, timeout_s=30)
    assert gpu.session == Session(
        keys=("header:x-session-id", "header:x-user-id", "body:user"), max_load=1.25
    )
    assert (gpu.health.path, gpu.health.interval_s, gpu.health.timeout_s) == ("/health", 2, 1)
    assert (gpu.health.rise, gpu.health.fall) == (2, 3)
    assert config.logging == Logging(access="-", level="info")


def test_nothing_can_be_changed() -> None:
    """Values are frozen, sequences are tuples."""
    config = Config.model_validate({"clusters": {"gpu": GPU}})
    with pytest.raises(ValidationError, match="frozen"):
        config.server.port = 1  # type: ignore[misc]
    assert isinstance(config.clusters["gpu"].endpoints, tuple)


@pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan, True, "abc", None])
def test_times_are_positive_and_finite(bad: object) -> None:
    """No timer can be off, endless or a truth value."""
    with pytest.raises(ValidationError):
        Timeouts.model_validate({"idle_s": bad})


def test_numbers_may_come_as_text() -> None:
    """The environment only holds text."""
    assert Server.model_validate({"port": "8080", "drain_s": "2.5"}).port == 8080


def test_every_contradiction_is_reported_at_its_place() -> None:
    """Missing clusters, names that collide and repeated endpoints are found together."""
    found = refused(
        {
            "clusters": {
                "gpu": {"endpoints": [{"url": "http://a:1"}, {"url": "http://A:1/"}]},
                "tpu": {"endpoints": [{"url": "http://a"}, {"url": "http://a:80"}]},
                "cpu": {"endpoints": [{"url": "http://a:1"}]},
            },
            "models": {
                "x": {"cluster": "gpus", "aliases": ["y", "z", "z"]},
                "y": {"cluster": "gpu", "aliases": ["y", "z"]},
            },
        }
    )
    assert found == [
        (
            ("clusters", "gpu", "endpoints", 1, "url"),
            "is the same endpoint as number 1 of this cluster",
        ),
        (
            ("clusters", "tpu", "endpoints", 1, "url"),
            "is the same endpoint as number 1 of this cluster",
        ),
        (
            ("models", "x", "cluster"),
            'names the cluster "gpus", which does not exist (did you mean "gpu"?)',
        ),
        (("models", "x", "aliases", 0), '"y" is already the name of another model'),
        (("models", "x", "aliases", 2), '"z" is already in this list'),
        (("models", "y", "aliases", 0), '"y" is already the model\'s own name'),
        (("models", "y", "aliases", 1), '"z" is already an alias of "x"'),
    ]


def test_there_is_always_an_endpoint() -> None:
    """Neither the clusters nor a cluster's endpoints may be empty."""
    assert [loc for loc, _ in refused({"clusters": {}})] == [("clusters",)]
    assert [loc for loc, _ in refused({"clusters": {"a": {"endpoints": []}}})] == [
        ("clusters", "a")
    ]


def test_the_operators_listener_is_guarded() -> None:
    """Where other machines reach it, it needs a token; null switches it off."""
    assert Server.model_validate({"admin": None}).admin is None
    with pytest.raises(ValidationError, match="needs a token"):
        Server.model_validate({"admin": {"host": "0.0.0.0"}})
    guarded = Server.model_validate({"admin": {"host": "0.0.0.0", "token": "t-1"}})
    assert "t-1" not in repr(guarded)


@pytest.mark.parametrize(
    "bad", ["cookie:x", "header:", "header:a b", "body:session", "header:x\r\ny"]
)
def test_a_session_key_has_one_of_two_places(bad: str) -> None:
    """A header by its name, or the body's `user`."""
    with pytest.raises(ValidationError, match="write header:NAME or body:user"):
        Session.model_validate({"keys": [bad]})
    assert Session.model_validate({"keys": ["header:X-User"]}).keys == ("header:x-user",)


def test_unknown_keys_are_refused() -> None:
    """A typing mistake is never silently a default."""
    assert refused({"clusters": {"gpu": {**GPU, "balancr": "round_robin"}}})[0][0] == (
        "clusters",
        "gpu",
        "balancr",
    )


def test_keys_never_show() -> None:
    """Neither repr, dump nor an error about its cluster holds the API key."""
    cluster = Cluster.model_validate({**GPU, "api_key": "sk-123"})
    assert cluster.api_key is not None
    assert cluster.api_key.get_secret_value() == "sk-123"
    assert "sk-123" not in repr(cluster) + str(cluster.model_dump())
    with pytest.raises(ValidationError) as caught:
        Cluster.model_validate({**GPU, "api_key": "sk-123\n"})
    assert "sk-123" not in str(caught.value)


def test_an_empty_key_is_no_key() -> None:
    """`${VLLM_KEY:-}` means a key if there is one."""
    assert Cluster.model_validate({**GPU, "api_key": ""}).api_key is None


def test_only_one_authorization_is_sent() -> None:
    """A cluster's own key and the client's header exclude each other."""
    with pytest.raises(ValidationError, match="only one can be sent"):
        Cluster.model_validate({**GPU, "api_key": "sk", "forward_authorization": True})


@pytest.mark.parametrize(
    ("written", "meant"), [("-", "-"), ("a.log", "a.log"), ("off", None), (False, None)]
)
def test_the_access_log_can_be_off(written: object, meant: str | None) -> None:
    """`off` and null are no log; anything else is a place."""
    assert Logging.model_validate({"access": written}).access == meant


def test_balancers_are_those_that_exist() -> None:
    """The names that the specification knows are the registry's."""
    assert set(BALANCERS) == set(balancer.BALANCERS)


def test_endpoints_alone_make_a_configuration() -> None:
    """Zero configuration: one cluster, no models named, so that they are discovered."""
    config = Config.from_endpoints(["http://a:1/", "http://b:1"], "127.0.0.1", 0)
    assert [endpoint.url for endpoint in config.clusters["default"].endpoints] == [
        "http://a:1",
        "http://b:1",
    ]
    assert (config.server.host, config.server.port, config.models) == ("127.0.0.1", 0, {})
    assert Config.from_endpoints(["http://a"]).server == Server()
    with pytest.raises(ValidationError):
        Config.from_endpoints([])


def test_a_fallback_is_of_the_same_kind() -> None:
    """As far as the clusters say what they serve."""
    at = {"endpoints": [{"url": "http://a"}]}
    clusters = {"l": {**at, "kind": "llm"}, "v": {**at, "kind": "vision"}, "x": at}
    models = {
        "talks": {"cluster": "l", "fallbacks": ["unsaid", "sees"]},
        "sees": {"cluster": "v", "fallbacks": ["unsaid"]},
        "unsaid": {"cluster": "x", "fallbacks": ["talks", "sees"]},
    }
    assert refused({"clusters": clusters, "models": models}) == [
        (
            ("models", "talks", "fallbacks", 1),
            '"sees" is a model of another kind: its cluster serves vision',
        )
    ]


def test_vision_services_have_a_cluster_of_their_own() -> None:
    """Where somebody knows that they are such."""
    config = Config.from_endpoints(["http://a"], balancer="session", vision=["http://b"])
    assert [*config.clusters] == ["default", "vision"]
    kinds = [(one.kind, one.balancer, one.endpoints[0].url) for one in config.clusters.values()]
    assert kinds == [(None, "session", "http://a"), ("vision", "session", "http://b")]
    assert [*Config.from_endpoints(["http://a"]).clusters] == ["default"]
