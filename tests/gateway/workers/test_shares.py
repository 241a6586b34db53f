"""Each worker's part of the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.config.spec import Config
from gateway.workers.shares import divided, share, too_small


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_parts_add_up_and_none_is_0(limit: int, count: int) -> None:
    parts = [share(limit, number, count) for number in range(count)]
    assert sum(parts) == (max(limit, count) if limit else 0)
    assert max(parts) - min(parts) <= 1


def config() -> Config:
    return Config.model_validate(
        {
            "clusters": {
                "a": {
                    "endpoints": [{"url": "http://a:1", "max_inflight": 5}, {"url": "http://b:1"}],
                    "max_inflight": 9,
                    "queue": {"size": 2},
                },
                "b": {"endpoints": [{"url": "http://c:1"}], "queue": {"size": 0}},
            }
        }
    )


def test_every_limit_of_a_cluster_is_divided() -> None:
    """What has no limit keeps none."""
    first, last = (divided(config(), number, 4).clusters["a"] for number in (0, 3))
    assert (first.max_inflight, last.max_inflight) == (3, 2)
    assert [one.max_inflight for one in first.endpoints] == [2, None]
    assert [one.max_inflight for one in last.endpoints] == [1, None]
    assert (first.queue.size, last.queue.size) == (1, 1)
    other = divided(config(), 0, 4).clusters["b"]
    assert (other.max_inflight, other.queue.size) == (None, 0)


def test_limits_that_cannot_be_divided_are_named() -> None:
    assert too_small(config(), 4) == ["clusters.a.queue.size"]
    assert too_small(config(), 6) == [
        "clusters.a.queue.size",
        "clusters.a.endpoints[0].max_inflight",
    ]
