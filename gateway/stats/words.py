"""How is a comparison said in plain words?"""

from __future__ import annotations

from math import isfinite

from gateway.stats.compare import Analysis, Comparison, Decision
from gateway.stats.metrics import Unit


def recommend(result: Comparison, names: tuple[str, str], analysis: Analysis) -> str:
    """Return one sentence: what was found, on what evidence, and what to do.

    "treatment is better by 1.9 to 4.2 points (p = 0.001, 18,200 samples); promote it"
    """
    match result.decision:
        case Decision.NO_DIFFERENCE:
            return _no_difference(result, analysis)
        case Decision.WAIT:
            return f"not enough data ({result.samples:,} samples): about {result.more:,} more"
        case Decision.CHANGED:
            return (
                f"the difference has changed during the test ({result.samples:,} samples): "
                "no single answer fits; start it anew"
            )
    a, b = names
    by = f"by {_span(result)} ({_evidence(result)})"
    return {
        Decision.PROMOTE: f"{b} is better {by}; promote it",
        Decision.KEEP: f"{b} is worse {by}; keep {a}",
        Decision.DIFFERS: f"{b} is {_direction(result)} {by}; whether that is better, you must say",
        Decision.DEFECT: f"an A/A test that differs {by}: look for a defect in how it is set up",
    }[result.decision]


def _no_difference(result: Comparison, analysis: Analysis) -> str:
    count = f"{result.samples:,} samples"
    least = amount(result.min_effect, result.metric.unit)
    if max(-result.low, result.high) <= result.min_effect:
        return f"no difference beyond ±{least} ({count})"
    return (
        f"no difference found (p = {result.p:.2g}, {count}); one of {least} would have been, "
        f"{analysis.power:.0%} of the time"
    )


def _direction(result: Comparison) -> str:
    return "higher" if result.low > 0 else "lower"


def _evidence(result: Comparison) -> str:
    p = "p < 0.001" if result.p < 0.001 else f"p = {result.p:.2g}"
    return f"{p}, {result.samples:,} samples"


def _span(result: Comparison) -> str:
    """Return the interval of the effect's size, "1.9 to 4.2 points"."""
    near, far = sorted((abs(result.low), abs(result.high)))
    unit = result.metric.unit
    if not isfinite(far):
        return f"{amount(near, unit)} or more"
    if unit is Unit.SECONDS and far < 1.0:
        return f"{_number(near * 1e3)} to {amount(far, unit)}"
    scale = 100.0 if unit is Unit.SHARE else 1.0
    return f"{_number(near * scale)} to {amount(far, unit)}"


def amount(value: float, unit: Unit) -> str:
    """Return a size with its unit: "4.2 points", "35 ms", "1.2 s", "12 tokens"."""
    if unit is Unit.SHARE:
        return f"{_number(value * 100)} points"
    if unit is Unit.SECONDS and value < 1.0:
        return f"{_number(value * 1e3)} ms"
    if unit is Unit.SCORE:
        return _number(value)
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Return two or three digits that matter, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1:
        return f"{value:.1f}"
    return f"{value:.2g}" if value >= 1e-4 else f"{value:.6f}".rstrip("0").rstrip(".")
