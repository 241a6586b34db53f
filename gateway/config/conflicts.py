"""Which names in a configuration contradict one another, and where does each stand?

Pure, and fed with names only, so that it can also look at a configuration whose other parts are
wrong: the operator then sees every error in one go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

from gateway.config.names import endpoint_id

Loc = tuple[str | int, ...]
Urls = Mapping[str, Sequence[str | None]]
"""Endpoint URLs by cluster. None, here and below, stands for something unreadable."""


class References(NamedTuple):
    """Which names one model uses."""

    cluster: str | None
    aliases: Sequence[str | None] = ()
    fallbacks: Sequence[str | None] = ()


Models = Mapping[str, References]
Kinds = Mapping[str, str | None]
"""What the clusters serve, where the configuration says so."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """One contradiction."""

    loc: Loc
    """Keys and indexes from the root to the value that is at fault."""
    message: str
    """Words that can follow the key."""


def conflicts(clusters: Urls, models: Models, kinds: Kinds) -> list[Conflict]:
    """Check the endpoints' URLs and the models' names against each other."""
    return [
        *_endpoints(clusters),
        *_references(clusters, models),
        *_aliases(models),
        *_fallbacks(models, kinds),
    ]


def nearest(name: str, known: Sequence[str]) -> str:
    """Return ` (did you mean "x"?)`, or nothing if no known name is close."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _endpoints(clusters: Urls) -> Iterator[Conflict]:
    for name, urls in clusters.items():
        first: dict[str, int] = {}
        for index, url in enumerate(urls):
            if url is None:
                continue
            one = endpoint_id(url)
            if one in first:
                yield Conflict(
                    ("clusters", name, "endpoints", index, "url"),
                    f"is the same endpoint as number {first[one] + 1} of this cluster",
                )
            first.setdefault(one, index)


def _references(clusters: Urls, models: Models) -> Iterator[Conflict]:
    for name, (cluster, *_) in models.items():
        if cluster is not None and cluster not in clusters:
            yield Conflict(
                ("models", name, "cluster"),
                f'names the cluster "{cluster}", which does not exist'
                + nearest(cluster, list(clusters)),
            )


def _aliases(models: Models) -> Iterator[Conflict]:
    owner: dict[str, str] = {}
    for name, (_, aliases, _) in models.items():
        for index, alias in enumerate(aliases):
            if alias is None:
                continue
            loc = ("models", name, "aliases", index)
            if alias in models:
                what = "model's own name" if alias == name else "name of another model"
                yield Conflict(loc, f'"{alias}" is already the {what}')
            elif alias in owner:
                where = "in this list" if owner[alias] == name else f'an alias of "{owner[alias]}"'
                yield Conflict(loc, f'"{alias}" is already {where}')
            owner.setdefault(alias, name)


def _fallbacks(models: Models, kinds: Kinds) -> Iterator[Conflict]:
    # Circles are harmless: only the first model's own list is followed.
    owner = {alias: name for name, (_, aliases, _) in models.items() for alias in aliases if alias}
    owner |= {name: name for name in models}
    for name, (_, _, fallbacks) in models.items():
        first: dict[str, int] = {}
        for index, fallback in enumerate(fallbacks):
            if fallback is None:
                continue
            loc = ("models", name, "fallbacks", index)
            target = owner.get(fallback)
            if target is None:
                yield Conflict(
                    loc,
                    f'names the model "{fallback}", which is not under `models:`'
                    + nearest(fallback, list(owner)),
                )
            elif target == name:
                yield Conflict(loc, f'"{fallback}" is the model itself')
            elif not _alike(models[name], models[target], kinds):
                words = "is a model of another kind: its cluster serves"
                yield Conflict(loc, f'"{fallback}" {words} {kinds[models[target].cluster or ""]}')
            elif target in first:
                where = f"number {first[target] + 1} of this list"
                yield Conflict(loc, f'"{fallback}" is the same model as {where}')
            else:
                first[target] = index


def _alike(one: References, other: References, kinds: Kinds) -> bool:
    first, second = kinds.get(one.cluster or ""), kinds.get(other.cluster or "")
    return first is None or second is None or first == second
