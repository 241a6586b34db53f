"""Where would the requests of an access log have gone under these policies?

Pure. What the log holds (model, route, request id) is decided as on a request's way. What it does
not hold is not guessed:

- conditions on headers, users, tenants and keys: the policy *perhaps* has the request, and so has
  whatever would have it otherwise;
- arms and samples by a key that is not logged: by their shares, so that the counts are expected
  ones;
- classifiers: each arm perhaps has the request.

Requests that never came to a model (refused, or of a name that nobody served) went to no policy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.config.policy import Policy
from gateway.model import Kind
from gateway.plan.logged import Line
from gateway.plan.match import Rule, Rules
from gateway.plan.split import sampler

OWN_WAY = ""
"""Stands in the place of a policy's name for requests that none applies to."""

_VISION_ROUTE = "predict"
"""The one route of models of images; all others are of language models (`gateway.api.routes`)."""

_WHOLE = 1.0
_NOTHING = 1e-12


@dataclass(frozen=True, slots=True)
class Count:
    """How many requests for one name would have gone one way."""

    policy: str
    """`OWN_WAY` for requests that no policy applies to."""
    kind: str
    arm: str
    model: str
    """The name that clients used."""
    requests: float
    """Those of which it can be told; not whole where they are expected ones."""
    perhaps: float
    """At most so many more, if what the log does not tell is so."""


class Replay:
    """Counts the lines of a log. Weights are those of the rules as they are now."""

    __slots__ = ("_counts", "_perhaps", "_rules", "_trials", "expected", "lines")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._trials = {name: _Trial(rule, rules.kinds[name]) for name, rule in rules.rules.items()}
        self._counts: dict[tuple[str, str, str], float] = defaultdict(float)
        self._perhaps: dict[tuple[str, str, str], float] = defaultdict(float)
        self.lines = 0
        """Requests so far."""
        self.expected: dict[str, str] = {}
        """By policy: why its arms' counts are expected ones; only those where they are."""

    @property
    def unseen(self) -> dict[str, tuple[str, ...]]:
        """By policy: what of its conditions the log does not tell; only those that have any."""
        return {name: trial.unseen for name, trial in self._trials.items() if trial.unseen}

    def take(self, line: Line) -> None:
        """Count one request. About 10 µs under a policy."""
        self.lines += 1
        lanes = self._rules.of(line.model) if line.model else None
        left, certain = _WHOLE, True
        for rule in lanes.steering if lanes is not None else ():
            left, certain = self._offer(rule, line, left, certain)
            if left <= _NOTHING:
                return
        self._add((OWN_WAY, "", line.model), left, certain)

    def copies(self, line: Line) -> None:
        """Count the copies that mirrors would make of one request, were there room for all."""
        lanes = self._rules.of(line.model) if line.model else None
        left, certain = _WHOLE, True
        for rule in lanes.mirrors if lanes is not None else ():
            if left > _NOTHING:
                left, certain = self._offer(rule, line, left, certain)

    def counts(self) -> list[Count]:
        """Return all counts: policies in their order, then those that go their own way."""
        kinds = {name: rule.policy.kind for name, rule in self._rules.rules.items()}
        places = {name: number for number, name in enumerate(kinds)}
        found = sorted(
            self._counts.keys() | self._perhaps.keys(),
            key=lambda key: (places.get(key[0], len(places)), *key),
        )
        return [
            Count(
                policy=policy,
                kind=kinds.get(policy, ""),
                arm=arm,
                model=model,
                requests=round(self._counts[policy, arm, model], 3),
                perhaps=round(self._perhaps[policy, arm, model], 3),
            )
            for policy, arm, model in found
        ]

    def _offer(self, rule: Rule, line: Line, left: float, certain: bool) -> tuple[float, bool]:
        """Give a policy what it takes of a request; return what is left, and if that is sure."""
        trial = self._trials[rule.policy.name]
        taken = left * trial.share(line)
        if taken <= _NOTHING:
            return left, certain
        sure = certain and not trial.unseen and rule.policy.classifier is None
        for arm, share in trial.arms(line):
            self._add((rule.policy.name, arm, line.model), taken * share, sure)
        if trial.expected:
            self.expected[rule.policy.name] = trial.expected
        if trial.unseen:
            return left, False
        return left - taken, certain

    def _add(self, key: tuple[str, str, str], mass: float, certain: bool) -> None:
        (self._counts if certain else self._perhaps)[key] += mass


class _Trial:
    """One policy, asked about lines instead of requests."""

    __slots__ = ("_kinds", "_policy", "_routes", "_rule", "_samples", "expected", "unseen")

    def __init__(self, rule: Rule, kinds: frozenset[str | None]) -> None:
        policy = rule.policy
        self._kinds = kinds
        self._rule = rule
        self._policy = policy
        self._routes = frozenset(policy.match.routes)
        self._samples = [*_samples(policy)]
        self.unseen = (*_unseen(policy),)
        keys = {by for by, _, _ in self._samples if by != "request"}
        if policy.classifier is None and sum(w > 0 for w in rule.splitter.weights) > 1:
            keys |= {policy.by} - {"request"}
        self.expected = f"by {' and '.join(sorted(keys))}, which is not logged" if keys else ""

    def share(self, line: Line) -> float:
        """Return which part of the request the policy applies to, as far as the log tells."""
        if self._routes and line.route not in self._routes:
            return 0.0
        if self._kinds - {Kind.VISION if line.route == _VISION_ROUTE else Kind.LLM}:
            return 0.0
        share = _WHOLE
        for by, purpose, percent in self._samples:
            if by != "request":
                share *= percent / 100
            elif not sampler(self._policy.salt, purpose, percent)(line.request_id.encode()):
                return 0.0
        return share

    def arms(self, line: Line) -> Iterator[tuple[str, float]]:
        """Yield the arms that the request may have, each with its share of it."""
        splitter, policy = self._rule.splitter, self._policy
        if policy.classifier is not None:
            for name in splitter.names:
                yield name, _WHOLE
        elif policy.by == "request":
            yield splitter.names[splitter.pick(line.request_id.encode())], _WHOLE
        else:
            whole = sum(splitter.weights)
            for name, weight in zip(splitter.names, splitter.weights, strict=True):
                if weight:
                    yield name, weight / whole


def _samples(policy: Policy) -> Iterator[tuple[str, str, float]]:
    """Yield what is sampled by, for which purpose and how much: as `gateway.plan.match` does."""
    by = policy.match.percent_by or policy.by
    if policy.match.percent < 100:
        yield by, "match", policy.match.percent
    if policy.mirror is not None and policy.mirror.percent < 100:
        yield by, "mirror", policy.mirror.percent


def _unseen(policy: Policy) -> Iterator[str]:
    match = policy.match
    for what, names in (("tenant", match.tenants), ("key", match.keys), ("user", match.users)):
        if names:
            yield what
    for header in match.headers:
        yield f"header {header.name}"
