"""What would change between two configurations, in words an operator can check?

Pure. The same list is what `sluice diff` prints and what a reload logs. Secrets show as dots.

    + endpoint http://gpu-3:8000 in clusters.llama
    ~ clusters.llama.timeouts.idle_s 30 → 20
    ~ server.port 8000 → 8080 (needs a restart)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, SecretStr

from gateway.config.cluster import Cluster, Endpoint
from gateway.config.conflicts import Loc
from gateway.config.policy import Policy
from gateway.config.problems import key_path, visible
from gateway.config.spec import Config, Model

_RESTART: tuple[Loc, ...] = (("server",), ("logging", "access"), ("store",))
"""What is bound, opened or handed out once, when the process starts."""


class Kind(StrEnum):
    """What became of the thing; the sign that its line begins with."""

    ADDED = "+"
    REMOVED = "-"
    CHANGED = "~"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; never holds a secret."""

    kind: Kind
    what: str
    """The key of a setting, or the cluster, model or endpoint that comes or goes."""
    old: str = ""
    """For CHANGED only, as is `new`: the values as YAML would have them, a secret as dots."""
    new: str = ""
    restart: bool = False
    """Whether only a new process takes it over."""

    def __str__(self) -> str:
        values = f" {self.old} → {self.new}" if self.kind is Kind.CHANGED else ""
        mark = " (needs a restart)" if self.restart else ""
        return visible(f"{self.kind} {self.what}{values}{mark}")


def diff(old: Config, new: Config) -> list[Change]:
    """Return every difference in the order of the file's keys; none if both say the same."""
    return list(_fields(old, new, ()))


def diff_policies(old: Mapping[str, Policy], new: Mapping[str, Policy]) -> list[Change]:
    """Return every difference between two sets of policies, by their names."""
    return list(_mappings(old, new, ("policies",)))


def effective(running: Config, new: Config) -> Config:
    """Return what a running process can take over of `new`: all but what needs a restart."""
    logging = new.logging.model_copy(update={"access": running.logging.access})
    kept = {"server": running.server, "store": running.store, "logging": logging}
    return new.model_copy(update=kept)


def _fields(old: BaseModel, new: BaseModel, loc: Loc) -> Iterator[Change]:
    for name in type(old).model_fields:
        yield from _values(getattr(old, name), getattr(new, name), (*loc, name))


def _values(old: object, new: object, loc: Loc) -> Iterator[Change]:
    match old, new:
        case Mapping(), Mapping():  # Equal ones may still differ in their order.
            yield from _mappings(old, new, loc)
        case _ if old == new:
            return
        case BaseModel(), BaseModel():
            yield from _fields(old, new, loc)
        case tuple(), tuple() if loc[-1] == "endpoints":
            yield from _endpoints(old, new, loc)
        case _:
            yield _changed(loc, _shown(old), _shown(new))


def _mappings(
    old: Mapping[str, Cluster | Model | Policy],
    new: Mapping[str, Cluster | Model | Policy],
    loc: Loc,
) -> Iterator[Change]:
    for name, value in old.items():
        if name not in new:
            yield Change(Kind.REMOVED, _named(value, (*loc, name)))
    for name, value in new.items():
        if name in old:
            yield from _values(old[name], value, (*loc, name))
        else:
            yield Change(Kind.ADDED, _named(value, (*loc, name)))
    # The order decides who owns a name that two clusters list, and which policy is asked first.
    before, after = [name for name in old if name in new], [name for name in new if name in old]
    if before != after:
        order = f"the order of {key_path(loc)}"
        yield Change(Kind.CHANGED, order, ", ".join(before), ", ".join(after))


def _named(value: Cluster | Model | Policy, loc: Loc) -> str:
    """Name something with a name of its own that comes or goes, and what it amounts to."""
    if isinstance(value, Policy):
        return f"{key_path(loc)}, a {value.kind}"
    if isinstance(value, Cluster):
        urls = ", ".join(endpoint.url for endpoint in value.endpoints)
        return f"{key_path(loc)} with {urls or 'no endpoints yet'}"
    also = f", also as {', '.join(value.aliases)}" if value.aliases else ""
    return f"{key_path(loc)} on {value.cluster}{also}"


def _endpoints(old: Sequence[Endpoint], new: Sequence[Endpoint], loc: Loc) -> Iterator[Change]:
    before = {endpoint.url: endpoint for endpoint in old}
    after = {endpoint.url: endpoint for endpoint in new}
    where = key_path(loc[:-1])
    for url in before:
        if url not in after:
            yield Change(Kind.REMOVED, f"endpoint {url} in {where}")
    for url, endpoint in after.items():
        if url not in before:
            yield Change(Kind.ADDED, f"endpoint {url} in {where}")
            continue
        for name in Endpoint.model_fields:
            was, now = getattr(before[url], name), getattr(endpoint, name)
            if was != now:
                key = f"{key_path(loc)}[{url}].{name}"
                yield Change(Kind.CHANGED, key, _shown(was), _shown(now))


def _changed(loc: Loc, old: str, new: str) -> Change:
    restart = any(loc[: len(fixed)] == fixed for fixed in _RESTART)
    return Change(Kind.CHANGED, key_path(loc), old, new, restart)


def _shown(value: object) -> str:
    match value:
        case None:
            text = "null"
        case bool():
            text = "true" if value else "false"
        case float():
            text = f"{value:g}" if abs(value) < 1e6 else f"{value:.0f}"
        case SecretStr():
            text = "•••"
        case tuple():
            text = f"[{', '.join(map(_shown, value))}]"
        case BaseModel():
            parts = ((name, getattr(value, name)) for name in type(value).model_fields)
            text = f"{{{', '.join(f'{name}: {_shown(part)}' for name, part in parts)}}}"
        case _:
            text = str(value)
    return text
