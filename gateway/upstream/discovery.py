"""Which endpoints does a cluster have, by what its sources say at the moment?

    Static ──────┐
                 ├─ merge ─ settle ─> the members in effect
    Registered ──┘

A source is asked, it does not push. One that has to ask somebody itself, as DNS would, does so in
a task of its own and hands out its last answer here.

Pure: callers pass `now`; nothing here probes or opens connections.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from gateway.config.cluster import Cluster
from gateway.config.names import endpoint_id


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint as a source describes it."""

    url: str
    """As `gateway.config.names.endpoint_url` returns it."""
    weight: float = 1.0
    max_inflight: int | None = None

    @property
    def id(self) -> str:
        """What it is known by; two members with the same one cannot stand side by side."""
        return endpoint_id(self.url)


Members = tuple[Member, ...]


class Discovery(Protocol):
    """One source of members."""

    def members(self, now: float) -> Members:
        """Return all that it knows of; the same tuple for as long as nothing has changed.

        Asked four times a second: the usual answer must not cost more than a comparison.
        """


class Static:
    """What the configuration file lists."""

    __slots__ = ("_members",)

    def __init__(self, spec: Cluster) -> None:
        self._members = tuple(
            Member(one.url, one.weight, one.max_inflight) for one in spec.endpoints
        )

    def members(self, now: float) -> Members:
        """Return the list; it only changes with the configuration."""
        return self._members


class _Term:
    """One registration."""

    __slots__ = ("expires_at", "member", "ttl_s")

    def __init__(self, member: Member, ttl_s: float, expires_at: float) -> None:
        self.member = member
        self.ttl_s = ttl_s
        self.expires_at = expires_at


class Registered:
    """Endpoints that registered themselves, each for as long as it renews.

    absent --register--> present --renew, register--> present --time is up, remove--> absent
    """

    __slots__ = ("_earliest", "_members", "_terms")

    def __init__(self) -> None:
        self._terms: dict[str, _Term] = {}
        self._members: Members = ()
        # No term ends before this. Renewals only make ends later, so that they need not touch it.
        self._earliest = inf

    def __len__(self) -> int:
        return len(self._terms)

    def __contains__(self, endpoint: str) -> bool:
        return endpoint in self._terms

    def register(self, member: Member, ttl_s: float, now: float) -> None:
        """Add a member for `ttl_s` seconds, or begin its term anew with what it says now."""
        known = self._terms.get(member.id)
        expires_at = now + ttl_s
        self._terms[member.id] = _Term(member, ttl_s, expires_at)
        self._earliest = min(self._earliest, expires_at)
        if known is None or known.member != member:
            self._list()

    def renew(self, endpoint: str, now: float) -> bool:
        """Begin a member's term anew; return False if it is not registered, or no longer."""
        self._expire(now)
        term = self._terms.get(endpoint)
        if term is None:
            return False
        term.expires_at = now + term.ttl_s
        return True

    def remove(self, endpoint: str) -> bool:
        """End a member's term; return False if it is not registered."""
        if self._terms.pop(endpoint, None) is None:
            return False
        self._list()
        return True

    def expires_at(self, endpoint: str) -> float | None:
        """Return when a member's term ends unless it is renewed; None if it is not registered."""
        term = self._terms.get(endpoint)
        return None if term is None else term.expires_at

    def members(self, now: float) -> Members:
        """Return those whose term runs. O(1) but for the moments at which one may have ended."""
        self._expire(now)
        return self._members

    def _expire(self, now: float) -> None:
        if now < self._earliest:
            return
        ended = [name for name, term in self._terms.items() if now >= term.expires_at]
        for name in ended:
            del self._terms[name]
        self._earliest = min((term.expires_at for term in self._terms.values()), default=inf)
        if ended:
            self._list()

    def _list(self) -> None:
        self._members = tuple(term.member for term in self._terms.values())


def merge(answers: Iterable[Members]) -> Members:
    """Put answers together in their order; of two members with one id the first counts."""
    found: dict[str, Member] = {}
    for members in answers:
        for member in members:
            found.setdefault(member.id, member)
    return tuple(found.values())


def settle(present: Members, answer: Members, *, allow_empty: bool) -> Members:
    """Return the members to go on with when the sources now say `answer`.

    That nobody is left is more often the source's failure than the truth; then the last ones
    stay, and their probes tell whether they are there. Consul, Eureka ("self-preservation") and
    Envoy, which keeps its hosts when DNS answers nothing, have it the same way.
    """
    return answer if answer or allow_empty else present
