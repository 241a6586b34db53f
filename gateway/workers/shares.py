"""Which part of the gateway's limits is one worker's?

Pure. `max_inflight` and `queue.size` protect engines and memory from the gateway as a whole, so
each worker gets its part and the parts add up. Where a limit is smaller than the number of
workers, each still gets 1: with none it could not serve at all.
"""

from __future__ import annotations

from gateway.config.cluster import Cluster
from gateway.config.spec import Config


def share(limit: int, number: int, count: int) -> int:
    """Return the part of worker `number` of `count`, at least 1 of a limit that is not 0."""
    base, rest = divmod(limit, count)
    return max(min(limit, 1), base + (number < rest))


def too_small(config: Config, count: int) -> list[str]:
    """Return the limits that cannot be divided among so many workers, by their places."""
    found = []
    for name, cluster in config.clusters.items():
        limits = {
            f"clusters.{name}.max_inflight": cluster.max_inflight,
            f"clusters.{name}.queue.size": cluster.queue.size or None,
        }
        for index, endpoint in enumerate(cluster.endpoints):
            limits[f"clusters.{name}.endpoints[{index}].max_inflight"] = endpoint.max_inflight
        found += [place for place, limit in limits.items() if limit is not None and limit < count]
    return found


def divided(config: Config, number: int, count: int) -> Config:
    """Return the configuration with the limits of worker `number` of `count`."""
    clusters = {name: _cluster(one, number, count) for name, one in config.clusters.items()}
    return config.model_copy(update={"clusters": clusters})


def _cluster(cluster: Cluster, number: int, count: int) -> Cluster:
    def part(limit: int | None) -> int | None:
        return None if limit is None else share(limit, number, count)

    return cluster.model_copy(
        update={
            "max_inflight": part(cluster.max_inflight),
            "queue": cluster.queue.model_copy(update={"size": part(cluster.queue.size)}),
            "endpoints": tuple(
                one.model_copy(update={"max_inflight": part(one.max_inflight)})
                for one in cluster.endpoints
            ),
        }
    )
