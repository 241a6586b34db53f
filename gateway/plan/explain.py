"""Where would this request go, and why?

Pure: the same rules, hashes and overrides as on a request's way, asked without sending anything and
without leaving a trace: no turn is used up, no failure counted. Keys never show, only their kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import TYPE_CHECKING

import msgspec
from pydantic import BaseModel, ConfigDict

from gateway.plan.classify import Choice
from gateway.plan.junction import Branch, Course
from gateway.plan.match import Subject, key_by
from gateway.plan.override import Override
from gateway.plan.table import Plan
from gateway.upstream.traits import Traits

if TYPE_CHECKING:
    from gateway.upstream.endpoint import Endpoint
    from gateway.upstream.pool import Pool

MAX_CHANGES = 100
"""Changes of a body that are listed."""

MAX_VALUE_CHARS = 1000
"""Characters of a changed value that are shown."""


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Asked(_Said):
    """One policy, in the order in which they are asked."""

    policy: str
    kind: str
    asked: bool
    """False for those after the one that decides."""
    why_not: str | None
    """The first condition that does not hold; null if the policy applies, or was not asked."""


class Decision(_Said):
    """What the policy that applies has chosen."""

    policy: str
    kind: str
    arm: str
    by: str
    """What requests are divided by: user, session, api_key, header:NAME or request."""
    key: str
    """What became of that: `given`, or why it does not matter. Never the key itself."""
    shares: dict[str, float]
    """Each arm's share at the moment, in percent; empty where shares do not decide."""
    label: str | None
    """What the classifier said; null for other kinds."""
    failure: str
    """Why a classifier's default arm was taken; empty if it was not for a failure."""


class Score(_Said):
    """One endpoint, as its balancer sees it now."""

    id: str
    state: str
    """`healthy`, or the first reason for which it is not tried."""
    candidate: bool
    """Whether it may be chosen: available, not asking to be left alone, with room."""
    inflight: int
    max_inflight: int | None
    load: float
    """Requests in flight, and what its own metrics say beyond them."""
    weight: float
    latency_ms: float | None
    """Peak-EWMA: of first tokens for a stream, else of whole answers; null if never observed."""
    cost: float | None
    """What `p2c` compares: latency in seconds * (load + 1) / weight; null without a latency."""


class Change(_Said):
    """One value of the body that the arm changes."""

    path: str
    """Such as `messages[0].content`."""
    before: str
    """As JSON; empty where there was nothing."""
    after: str
    """As JSON; empty where there is nothing any more."""


class Way(_Said):
    """Where requests go."""

    cluster: str
    upstream_model: str
    """What the engines call the model."""
    fallbacks: list[str]
    balancer: str
    endpoints: list[Score]
    """Those that may be chosen first, the cheapest of them on top."""
    affinity: str | None
    """The endpoint that the request's session belongs to now; null without one."""
    changes: list[Change]
    """What the arm changes in the body."""


class Explanation(_Said):
    """What would become of a request."""

    model: str
    """The name that the client used."""
    route: str
    policies: list[Asked]
    """Those that steer."""
    decision: Decision | None
    """Null if none applies: the model then goes its own way."""
    way: Way | None
    """Null if nobody serves the arm's model."""
    refused: str | None
    """Why the request would be refused at once; null if it would not."""
    mirrors: list[Asked]
    """Those that copy."""
    mirror: Decision | None
    """The one that would copy it, as far as there is room for copies; null for none."""
    mirror_way: Way | None


def explain(plan: Plan, subject: Subject, body: bytes, traits: Traits, now: float) -> Explanation:
    """Return what would become of a request for `plan`'s model at `now` (monotonic seconds).

    `traits` tell the balancers everything, also what only some of them need.
    """
    junction = plan.junction
    steering = junction.steering if junction is not None else ()
    mirrors = junction.mirrors if junction is not None else ()
    asked, branch = _ask(steering, subject)
    copied, mirror = _ask(mirrors, subject)
    decision, taken, override = None, plan, None
    served = True
    if branch is not None:
        decision, course = _decide(branch, subject, body)
        served, override = course.plan is not None, course.override
        taken = course.plan or plan
    way = _way(taken, override, body, subject, traits, now) if served else None
    mirrored, mirror_way = None, None
    if mirror is not None:
        mirrored, course = _decide(mirror, subject, body)
        if course.plan is not None:
            mirror_way = _way(course.plan, course.override, body, subject, traits, now)
    return Explanation(
        model=subject.model,
        route=subject.route,
        policies=asked,
        decision=decision,
        way=way,
        refused=_refused(way),
        mirrors=copied,
        mirror=mirrored,
        mirror_way=mirror_way,
    )


def _ask(branches: Sequence[Branch], subject: Subject) -> tuple[list[Asked], Branch | None]:
    found: Branch | None = None
    said: list[Asked] = []
    for branch in branches:
        policy, asked = branch.rule.policy, found is None
        why_not = branch.rule.why_not(subject) if asked else None
        said.append(Asked(policy=policy.name, kind=policy.kind, asked=asked, why_not=why_not))
        if asked and why_not is None:
            found = branch
    return said, found


def _decide(branch: Branch, subject: Subject, body: bytes) -> tuple[Decision, Course]:
    rule, choice = branch.rule, None
    policy = rule.policy
    if branch.classifier is not None:
        # Of a copy, so that a failure is not counted as a request's.
        choice = copy(branch.classifier).pick(body)
        course = branch.courses[choice.arm]
    else:
        course = branch.choose(subject, body)
    return (
        Decision(
            policy=policy.name,
            kind=policy.kind,
            arm=course.arm,
            by=policy.by,
            key=_key(branch, subject, choice),
            shares={} if choice is not None else _shares(branch),
            label=choice.label if choice is not None else None,
            failure=choice.failure if choice is not None else "",
        ),
        course,
    )


def _key(branch: Branch, subject: Subject, choice: Choice | None) -> str:
    """Say what the arm hangs on."""
    rule = branch.rule
    if choice is not None:
        return "the classifier looks at the request itself"
    if sum(weight > 0 for weight in rule.splitter.weights) == 1 and rule.sticky(subject):
        return "one arm has everything"
    if rule.policy.by == "request":
        return "the request's id: each request is drawn by itself"
    if key_by(rule.policy.by)(subject):
        return "given"
    if rule.falls_back:
        return "missing: the request's id takes its place, so each is drawn by itself"
    return "missing: such requests go to the baseline"


def _shares(branch: Branch) -> dict[str, float]:
    splitter = branch.rule.splitter
    whole = sum(splitter.weights)
    return {
        name: round(100 * weight / whole, 6)
        for name, weight in zip(splitter.names, splitter.weights, strict=True)
    }


def _way(
    plan: Plan,
    override: Override | None,
    body: bytes,
    subject: Subject,
    traits: Traits,
    now: float,
) -> Way:
    pool = plan.pool
    scores = [_score(endpoint, traits.stream, now) for endpoint in pool.endpoints]
    changed = body if override is None else override.apply(body, subject.route)
    return Way(
        cluster=pool.cluster,
        upstream_model=plan.upstream_model,
        fallbacks=list(plan.fallbacks),
        balancer=pool.owner.spec.balancer,
        endpoints=sorted(scores, key=_rank),
        affinity=_affinity(pool, traits, now),
        changes=changes(body, changed),
    )


def _score(endpoint: Endpoint, stream: bool, now: float) -> Score:
    latency_s, cost = endpoint.latency(stream, now), endpoint.cost(stream, now)
    return Score(
        id=endpoint.id,
        state=endpoint.state(now),
        candidate=_is_candidate(endpoint, now),
        inflight=endpoint.inflight,
        max_inflight=endpoint.max_inflight,
        load=round(endpoint.load(now), 3),
        weight=endpoint.weight,
        latency_ms=round(1000 * latency_s, 3) if latency_s else None,
        cost=round(cost, 6) if cost else None,
    )


def _is_candidate(endpoint: Endpoint, now: float) -> bool:
    return endpoint.available(now) and now >= endpoint.shunned_until and endpoint.has_room()


def _rank(score: Score) -> tuple[bool, float, float]:
    return not score.candidate, score.cost or 0.0, (score.load + 1) / score.weight


def _affinity(pool: Pool, traits: Traits, now: float) -> str | None:
    """Return where a session belongs. Only this rule chooses without keeping a trace of it."""
    candidates = [endpoint for endpoint in pool.endpoints if _is_candidate(endpoint, now)]
    if not (pool.balancer.needs_session and traits.session and candidates):
        return None
    return pool.balancer.pick(candidates, traits, now).id


def _refused(way: Way | None) -> str | None:
    if way is None:
        return "no_healthy_upstream: nobody serves the arm's model"
    if not way.endpoints:
        return "no_healthy_upstream: the cluster has no endpoint"
    if not any(score.candidate for score in way.endpoints):
        return "no endpoint may be tried now: unless panic or the queue helps, 503"
    return None


# What an arm changes in a body.

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


def changes(before: bytes, after: bytes) -> list[Change]:
    """Return the values that differ between two JSON texts, at most `MAX_CHANGES` of them."""
    found = _changes("", before.strip(), after.strip())
    return [change for change, _ in zip(found, range(MAX_CHANGES), strict=False)]


def _changes(path: str, before: bytes, after: bytes) -> Iterator[Change]:
    if before == after:
        return
    opening = before[:1] + after[:1]
    if opening == b"{{":
        yield from _members(path, before, after)
    elif opening == b"[[":
        yield from _elements(path, before, after)
    else:
        yield Change(path=path, before=_shown(before), after=_shown(after))


def _members(path: str, before: bytes, after: bytes) -> Iterator[Change]:
    old, new = _OBJECT.decode(before), _OBJECT.decode(after)
    for name in {**old, **new}:
        one, other = bytes(old.get(name, b"")), bytes(new.get(name, b""))
        yield from _changes(f"{path}.{name}" if path else name, one, other)


def _elements(path: str, before: bytes, after: bytes) -> Iterator[Change]:
    """Compare what is left between equal beginnings and ends; so one that is new shows alone."""
    old, new = [*map(bytes, _ARRAY.decode(before))], [*map(bytes, _ARRAY.decode(after))]
    shorter = min(len(old), len(new))
    same = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    left = shorter - same
    tail = next((at for at in range(left) if old[-1 - at] != new[-1 - at]), left)
    ones, others = old[same : len(old) - tail], new[same : len(new) - tail]
    if len(ones) != len(others):
        for at, one in enumerate(ones):
            yield Change(path=f"{path}[{same + at}]", before=_shown(one), after="")
        ones = [b""] * len(others)
    for at, (one, other) in enumerate(zip(ones, others, strict=True)):
        yield from _changes(f"{path}[{same + at}]", one, other)


def _shown(value: bytes) -> str:
    text = value.decode()
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"
