"""How is one bound's judgement said in plain words?

Pure.
"""

from __future__ import annotations

from math import inf

from gateway.plan.evidence import Bound, Reading, Scope, Verdict

_SAID = {Verdict.PASS: "passes", Verdict.FAIL: "fails", Verdict.UNDECIDED: "undecided"}
_SHARES = frozenset({Bound.MAX, Bound.MAX_INCREASE, Bound.BASELINE})
_NOUN = {Bound.MAX_INCREASE: "increase ", Bound.MAX_RATIO: "ratio ", Bound.MIN_RATIO: "ratio "}
_UNIT = {Bound.MAX: " %", Bound.BASELINE: " %", Bound.MAX_INCREASE: " points", Bound.MAX_S: " s"}


def describe(found: Reading, why: str) -> str:
    """Return one line: the verdict, the figures of both arms, the interval and the limit.

    "error_rate fails: canary 6.5 % (13 of 200), baseline 0.4 % (64 of 16,000); increase 6.1 points
    [2.9, 11.4], at most 1 points"
    """
    said = f"{found.what} {_SAID[found.verdict]}"
    if found.scope is Scope.WINDOW:
        said += " in the last requests"
    if why:
        said += f" ({why})"
    arms = [_arm("baseline", found.baseline, found.baseline_n, found)]
    if found.bound is not Bound.BASELINE:
        arms.insert(0, _arm("canary", found.canary, found.canary_n, found))
    return f"{said}: {', '.join(arms)}; {_NOUN.get(found.bound, '')}{_effect(found)}{_limit(found)}"


def _arm(name: str, point: float | None, n: int, found: Reading) -> str:
    if point is None:
        return f"{name} none"
    if found.bound in _SHARES:
        return f"{name} {point * 100:.3g} % ({round(point * n):,} of {n:,})"
    unit = "" if found.metric == "output_tokens" else " s"
    return f"{name} {point:.3g}{unit} ({n:,})"


def _effect(found: Reading) -> str:
    """Return the figure that the bound is about, unless it is the canary's own; its interval."""
    if found.value is None:
        return ""
    own = found.bound not in _NOUN
    said = "" if own else f"{_number(found.value, found)}{_UNIT.get(found.bound, '')}"
    if found.low is not None and found.high is not None:
        gap = "" if own else " "
        said += f"{gap}[{_number(found.low, found)}, {_number(found.high, found)}]"
    return f"{said}, " if said else ""


def _limit(found: Reading) -> str:
    most = "at least" if found.bound is Bound.MIN_RATIO else "at most"
    return f"{most} {_number(found.allowed, found)}{_UNIT.get(found.bound, '')}"


def _number(value: float, found: Reading) -> str:
    if abs(value) == inf:
        return "∞" if value > 0 else "-∞"
    return f"{value * 100 if found.bound in _SHARES else value:.3g}"
