"""How are the figures of policies written for people?

Pure. A figure without samples is a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from gateway.stats.metrics import METRICS, Unit

DASH = "-"


def plain(*headers: str, right: Sequence[str] = ()) -> Table:
    """Return an empty table without lines; the columns of `right` hold numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        numbers = header in right
        # A word that does not fit is folded: a figure that is cut off is a wrong one.
        table.add_column(
            header, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold"
        )
    return table


def percent(share: float | None) -> str:
    """Return a share from 0 to 1: "99.8 %"."""
    if share is None:
        return DASH
    # Nines count: 99.95 % is not 99.9 %.
    return f"{100 * share:.4g} %" if share > 0.5 else f"{100 * share:.3g} %"


def seconds(value: float | None) -> str:
    """Return a time: "84 ms", "2.1 s", "4 h"."""
    if value is None:
        return DASH
    if 0 < abs(value) < 1:
        return f"{1000 * value:.3g} ms"
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if value >= 2 * size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} s"


def amount(value: float | None, metric: str, *, signed: bool = False) -> str:
    """Return a metric's value with its unit; `signed` for a difference, in points of a share."""
    if value is None:
        return DASH
    known = METRICS.get(metric)
    unit = known.unit if known is not None else Unit.SCORE
    sign = "+" if signed and value > 0 else ""
    if unit is Unit.SHARE:
        return f"{sign}{100 * value:.3g} points" if signed else percent(value)
    if unit is Unit.SECONDS:
        return sign + seconds(value)
    number = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{sign}{number}" + ("" if unit is Unit.SCORE else f" {unit}")


def span(low: float | None, high: float | None, metric: str) -> str:
    """Return an interval: "-1.2 to +3.4 points"; an open end is said in words."""
    if low is None and high is None:
        return "not known yet"
    if low is None:
        return f"up to {amount(high, metric, signed=True)}"
    if high is None:
        return f"{amount(low, metric, signed=True)} or more"
    return f"{amount(low, metric, signed=True)} to {amount(high, metric, signed=True)}"


def chance(p: float | None) -> str:
    """Return a p value."""
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def count(number: float | None, *, expected: bool = False) -> str:
    """Return how many: "1,234", "≈ 12.5" for an expected number or one that is not whole."""
    if number is None:
        return DASH
    if number == int(number):
        return f"≈ {number:,.0f}" if expected and number else f"{number:,.0f}"
    return f"≈ {number:,.1f}"


def of_arm(arm: Mapping[str, Any], metric: str, part: str = "mean") -> float | None:
    """Return one figure of an arm; None if nothing is known."""
    found = arm["figures"].get(metric)
    return None if found is None or not found["n"] else found[part]


def requests(arm: Mapping[str, Any]) -> float:
    """Return how many requests of an arm were counted: all but those that were refused."""
    found = arm["figures"].get("cancel_rate")
    return 0 if found is None else found["n"]


def share(percent: float) -> str:
    """Return a part of the traffic: "64.29 %"."""
    return f"{percent:.4g} %"


def stands(policy: Mapping[str, Any]) -> str:
    """Return in a line where a policy stands; empty if there is nothing to say."""
    rollout, experiment, mirror = policy["rollout"], policy["experiment"], policy["mirror"]
    if rollout is not None:
        return "; ".join(_stage(rollout))
    if experiment is not None:
        return str(experiment["verdict"])
    return str(mirror["words"]) if mirror is not None else ""


def _stage(rollout: Mapping[str, Any]) -> Iterator[str]:
    phase = str(rollout["phase"]).replace("_", " ")
    if rollout["phase"] in ("progressing", "paused"):
        phase += f", step {rollout['step']} of {len(rollout['steps'])}"
    yield f"{phase}, {rollout['weight']:g} % for the canary"
    waiting = rollout["waiting"]
    if waiting:
        yield f"waits for: {waiting[0]}" + (f" and {len(waiting) - 1} more" * (len(waiting) > 1))
    elif rollout["phase"] in ("rolled_back", "failed"):
        yield str(rollout["reason"])
