"""Configured names come first; what endpoints list fills the clusters that no model names."""

from __future__ import annotations

from typing import Any

from gateway.config.spec import Config
from gateway.model import Kind
from gateway.plan.compile import compile_table
from gateway.upstream.cluster import Cluster

TWO = {"a": {"endpoints": [{"url": "http://a1"}, {"url": "http://a2"}]}}
OTHER = {"b": {"endpoints": [{"url": "http://b1"}]}}


def parts(clusters: dict[str, Any], models: dict[str, Any]) -> tuple[Config, dict[str, Cluster]]:
    config = Config.model_validate({"clusters": clusters, "models": models})
    return config, {
        name: Cluster(name, spec, lambda: 0.0) for name, spec in config.clusters.items()
    }


def lists(cluster: Cluster, number: int, *ids: str) -> None:
    endpoint = cluster.endpoints[number]
    endpoint.models = ids
    cluster.models[endpoint.id] = [{"id": one, "max_model_len": 8} for one in ids]


def test_configured_names_and_aliases_lead_to_their_cluster() -> None:
    """All of its endpoints, under the engines' name; metrics have the model's own."""
    config, clusters = parts(
        TWO, {"m": {"cluster": "a", "upstream_model": "engine/m", "aliases": ["x"]}}
    )
    lists(clusters["a"], 0, "engine/m", "unnamed")
    table = compile_table(config, clusters)
    assert set(table.plans) == {"m", "x"}
    plan = table.lookup("x")
    assert (plan.model, plan.label, plan.upstream_model) == ("x", "m", "engine/m")
    assert plan.pool is table.lookup("m").pool
    assert plan.pool.endpoints == tuple(clusters["a"].endpoints)
    assert table.entries["x"].metadata == {"id": "engine/m", "max_model_len": 8}


def test_listed_models_are_served_by_those_who_list_them() -> None:
    """A cluster without models in the configuration serves what it says; the first one wins."""
    config, clusters = parts({**TWO, **OTHER}, {})
    lists(clusters["a"], 0, "both", "one")
    lists(clusters["a"], 1, "both")
    lists(clusters["b"], 0, "one", "third")
    table = compile_table(config, clusters)
    first, second = clusters["a"].endpoints
    assert table.lookup("both").pool.endpoints == (first, second)
    assert table.lookup("one").pool.endpoints == (first,)
    assert table.lookup("third").pool.cluster == "b"


def test_plans_know_their_fallbacks_and_limits() -> None:
    """For aliases too; a limit that is no positive whole number is none."""
    config, clusters = parts(
        {**TWO, **OTHER},
        {"m": {"cluster": "a", "aliases": ["x"], "fallbacks": ["n"]}, "n": {"cluster": "b"}},
    )
    lists(clusters["a"], 0, "m")
    table = compile_table(config, clusters)
    assert table.lookup("x").fallbacks == ("n",)
    assert (table.lookup("m").max_model_len, table.lookup("n").max_model_len) == (8, None)
    for bad in (True, 0, "8", 8.5, None):
        clusters["a"].models["a1:80"] = [{"id": "m", "max_model_len": bad}]
        assert compile_table(config, clusters).lookup("m").max_model_len is None
    config, clusters = parts(TWO, {})
    lists(clusters["a"], 1, "m")
    plan = compile_table(config, clusters).lookup("m")
    assert (plan.fallbacks, plan.max_model_len) == ((), 8)


def test_pools_whose_members_stay_are_kept() -> None:
    """Their balancer goes on where it was; a changed pool is a new one."""
    config, clusters = parts(TWO, {})
    lists(clusters["a"], 0, "m")
    old = compile_table(config, clusters)
    lists(clusters["a"], 0, "m", "n")
    new = compile_table(config, clusters)
    assert new.lookup("m").pool is old.lookup("m").pool is new.lookup("n").pool
    lists(clusters["a"], 1, "m")
    assert compile_table(config, clusters).lookup("m").pool is not old.lookup("m").pool


def test_a_model_is_of_the_kind_that_its_cluster_or_its_list_says() -> None:
    """The configuration comes first; nobody knows before anybody has said."""
    clusters: dict[str, Any] = {**TWO, "v": {**OTHER["b"], "kind": "vision"}}
    config, made = parts(clusters, {"m": {"cluster": "a"}, "digits": {"cluster": "v"}})
    kinds = lambda: {name: plan.kind for name, plan in compile_table(config, made).plans.items()}  # noqa: E731
    assert kinds() == {"m": None, "digits": Kind.VISION}
    for owner, kind in (("vllm", Kind.LLM), (None, Kind.LLM), ("sluice-vision", Kind.VISION)):
        made["a"].models["a1:80"] = [{"id": "m", "owned_by": owner}]
        made["v"].models["b1:80"] = [{"id": "digits", "owned_by": owner}]
        assert kinds() == {"m": kind, "digits": Kind.VISION}
        assert compile_table(config, made).entries["m"].kind is kind


def test_of_two_kinds_under_one_name_the_first_is_served() -> None:
    """By those that have it of this kind."""
    config, clusters = parts(TWO, {})
    first, second = clusters["a"].endpoints
    seeing = {"id": "x", "owned_by": "sluice-vision"}
    for endpoint, entries in ((first, [seeing]), (second, [{"id": "x"}, {"id": "y"}])):
        clusters["a"].listed(endpoint, entries)
    table = compile_table(config, clusters)
    assert table.lookup("x").pool.endpoints == (first,)
    assert (table.lookup("x").kind, table.lookup("y").kind) == (Kind.VISION, Kind.LLM)
