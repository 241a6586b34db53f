"""Each difference between two configurations is one line, in the file's words, without secrets."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.diff import Change, Kind, diff, effective
from gateway.config.spec import Config

GPU = {"endpoints": [{"url": "http://gpu-1:8000"}, {"url": "http://gpu-2:8000"}]}


def config(**parts: Any) -> Config:
    """A configuration of one cluster; `llama` are further settings of it."""
    llama = {**GPU, **parts.pop("llama", {})}
    return Config.model_validate({"clusters": {"llama": llama}, **parts})


def lines(old: Config, new: Config) -> list[str]:
    return [str(change) for change in diff(old, new)]


def test_equal_configurations_have_no_differences() -> None:
    """Also when one spells a default out, or an endpoint's URL in another way."""
    spelled = {"endpoints": [{"url": "HTTP://GPU-1:8000/"}, GPU["endpoints"][1]], "resume": "auto"}
    assert diff(config(), config(llama=spelled, server={"port": 8000})) == []


def test_settings_are_named_by_their_keys() -> None:
    """Old and new value as YAML has them, in the file's order; restarts are marked."""
    old = config(server={"port": 8000}, logging={"access": "a.log"})
    new = config(
        server={"port": 8080, "watch": False},
        llama={
            "timeouts": {"idle_s": 20, "total_s": 1_500_000},
            "slow_start_s": 0.5,
            "max_inflight": 64,
            "session": {"keys": ["header:x-user", "body:user"]},
        },
        logging={"access": "off", "level": "debug"},
    )
    assert lines(old, new) == [
        "~ server.port 8000 → 8080 (needs a restart)",
        "~ server.watch true → false (needs a restart)",
        "~ clusters.llama.timeouts.idle_s 30 → 20",
        "~ clusters.llama.timeouts.total_s 600 → 1500000",
        "~ clusters.llama.slow_start_s 30 → 0.5",
        "~ clusters.llama.max_inflight null → 64",
        (
            "~ clusters.llama.session.keys [header:x-session-id, header:x-user-id, body:user] → "
            "[header:x-user, body:user]"
        ),
        "~ logging.access a.log → null (needs a restart)",
        "~ logging.level info → debug",
    ]


def test_endpoints_come_go_and_change() -> None:
    """By their URL: the others' places in the list do not matter."""
    new = config(
        llama={"endpoints": [{"url": "http://gpu-3"}, {"url": "http://gpu-2:8000", "weight": 2}]}
    )
    assert lines(config(), new) == [
        "- endpoint http://gpu-1:8000 in clusters.llama",
        "+ endpoint http://gpu-3 in clusters.llama",
        "~ clusters.llama.endpoints[http://gpu-2:8000].weight 1 → 2",
    ]
    swapped = config(llama={"endpoints": GPU["endpoints"][::-1]})
    assert diff(config(), swapped) == []


def test_clusters_and_models_come_and_go_whole() -> None:
    """With what they amount to; their settings are not listed one by one."""
    old = config(models={"m": {"cluster": "llama"}, "n": {"cluster": "llama"}})
    new = Config.model_validate(
        {
            "clusters": {"qwen": {"registration": True}, "llama": GPU},
            "models": {
                "m": {"cluster": "qwen", "fallbacks": ["x"]},
                "x": {"cluster": "llama", "aliases": ["gpt-4", "gpt-5"]},
            },
        }
    )
    assert lines(old, new) == [
        "+ clusters.qwen with no endpoints yet",
        "- models.n on llama",
        "~ models.m.cluster llama → qwen",
        "~ models.m.fallbacks [] → [x]",
        "+ models.x on llama, also as gpt-4, gpt-5",
    ]
    assert lines(new, old)[0] == "- clusters.qwen with no endpoints yet"
    both = {"a": GPU, "b": GPU}
    turned = dict(reversed(both.items()))
    old, new = (Config.model_validate({"clusters": order}) for order in (both, turned))
    assert lines(old, new) == ["~ the order of clusters a, b → b, a"]


def test_secrets_are_dots() -> None:
    """That a key changed shows, but neither the old nor the new one."""
    old = config(llama={"api_key": "sk-1"})
    new = config(llama={"api_key": "sk-2"}, server={"admin": {"token": "t-1"}})
    assert lines(old, new) == [
        "~ server.admin.token null → ••• (needs a restart)",
        "~ clusters.llama.api_key ••• → •••",
    ]
    off = config(llama={"api_key": "sk-1"}, server={"admin": None})
    assert lines(new, off)[0] == (
        "~ server.admin {host: 127.0.0.1, port: 9090, token: •••} → null (needs a restart)"
    )


def test_names_cannot_move_the_cursor() -> None:
    """What cannot be printed is escaped."""
    assert str(Change(Kind.ADDED, "x\x1b[2J")) == "+ x\\x1b[2J"


@pytest.mark.parametrize("key", ["server", "logging"])
def test_a_running_process_takes_over_what_it_can(key: str) -> None:
    """The rest stays as it is, so that it is named again until somebody restarts."""
    running = config(logging={"access": "a.log"})
    new = config(
        server={"port": 1},
        logging={"access": "b.log", "level": "error"},
        llama={"balancer": "weighted"},
        models={"m": {"cluster": "llama"}},
    )
    taken = effective(running, new)
    assert (taken.server, taken.logging.access) == (running.server, "a.log")
    assert taken.logging.level == "error"
    assert (taken.clusters, taken.models) == (new.clusters, new.models)
    assert all(change.restart for change in diff(taken, new))
    assert any(change.what.startswith(key) for change in diff(taken, new))
