"""Which names do clients have, given the configuration and what the endpoints list?

Pure in effect: reads clusters, returns a new table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.config.spec import Config
from gateway.model import Kind
from gateway.plan.classify import Classifier
from gateway.plan.junction import junction_of
from gateway.plan.match import Rules
from gateway.plan.table import Entry, Nature, Plan, Table, plan_for
from gateway.upstream.cluster import Cluster
from gateway.upstream.endpoint import Endpoint

VISION_OWNER = "sluice-vision"
"""Who owns the models in the list of a vision service of ours."""


def compile_table(
    config: Config,
    clusters: Mapping[str, Cluster],
    rules: Rules | None = None,
    classifiers: Mapping[str, Classifier] | None = None,
) -> Table:
    """Build the table; `rules` are the policies in effect, with their `classifiers` by name.

    Configured models come first. A cluster that no model names serves what its endpoints list,
    grouped by model id; a name that two clusters list belongs to the first.
    """
    plans: dict[str, Plan] = {}
    entries: dict[str, Entry] = {}
    named = {model.cluster for model in config.models.values()}
    for name, model in config.models.items():
        cluster = clusters[model.cluster]
        upstream = model.upstream_model or name
        metadata = _metadata(cluster, upstream)
        nature = _nature(cluster, metadata)
        for alias in (name, *model.aliases):
            plans[alias] = plan_for(alias, name, cluster.whole(), upstream, model.fallbacks, nature)
            entries[alias] = Entry(cluster.name, metadata, nature.kind)
    for cluster in clusters.values():
        if cluster.name in named:
            continue
        for model_id, endpoints in _listed(cluster).items():
            if model_id not in plans:
                pool = cluster.part(endpoints)
                metadata = _metadata(cluster, model_id)
                nature = _nature(cluster, metadata)
                plans[model_id] = plan_for(model_id, model_id, pool, model_id, (), nature)
                entries[model_id] = Entry(cluster.name, metadata, nature.kind)
    if rules is not None:
        for name, plan in list(plans.items()):
            lanes = rules.of(name)
            if lanes is not None:
                junction = junction_of(plan, lanes, plans, clusters, classifiers or {})
                plans[name] = replace(plan, junction=junction)
    return Table(plans, entries)


def _listed(cluster: Cluster) -> dict[str, list[Endpoint]]:
    """Return who lists each model; of two kinds under one name the first."""
    found: dict[str, list[Endpoint]] = {}
    kinds: dict[str, Kind | None] = {}
    for endpoint in cluster.endpoints:
        for entry in cluster.models.get(endpoint.id, ()):
            model_id, kind = entry["id"], _kind(cluster, entry)
            if kinds.setdefault(model_id, kind) is kind:
                found.setdefault(model_id, []).append(endpoint)
    return found


def _metadata(cluster: Cluster, model_id: str) -> Mapping[str, Any]:
    for endpoint in cluster.endpoints:
        for entry in cluster.models.get(endpoint.id, ()):
            if entry["id"] == model_id:
                return entry
    return {}


def _nature(cluster: Cluster, metadata: Mapping[str, Any]) -> Nature:
    return Nature(_kind(cluster, metadata), _max_model_len(metadata))


def _kind(cluster: Cluster, metadata: Mapping[str, Any]) -> Kind | None:
    if cluster.spec.kind is not None:
        return Kind(cluster.spec.kind)
    if not metadata:
        return None
    return Kind.VISION if metadata.get("owned_by") == VISION_OWNER else Kind.LLM


def _max_model_len(metadata: Mapping[str, Any]) -> int | None:
    # vLLM's own field of /v1/models; other engines may put anything there.
    found = metadata.get("max_model_len")
    return found if isinstance(found, int) and found is not True and found > 0 else None
