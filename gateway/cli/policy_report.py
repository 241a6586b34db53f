"""How are a mirror's report and the audit log shown on a terminal?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gateway.cli import figures


def mirror(report: Mapping[str, Any]) -> RenderableType:
    """Return a mirror's report: rows of figures, and the worst pairs."""
    right = ("pairs", "mean", "p5", "p50", "p95")
    table = figures.plain("", *right, right=right)
    for row in report["rows"]:
        parts = (row["mean"], row["p5"], row["p50"], row["p95"])
        rate = row["p50"] is None
        values = [figures.percent(row["mean"])] if rate else [_size(row, part) for part in parts]
        table.add_row(row["metric"], figures.count(row["n"]), *values)
    return Group(Text(report["words"]), Text(), table, *_worst(report["worst"]))


def _size(row: Mapping[str, Any], value: float) -> str:
    is_time = row["metric"].endswith(("_latency", "_ttft"))
    return figures.seconds(value) if is_time else f"{value:.3g}"


def _worst(cases: list[Mapping[str, Any]]) -> Iterator[RenderableType]:
    if not cases:
        return
    yield Text()
    yield Text("The worst pairs:", style="bold")
    table = figures.plain("alike", "request", "model", "route", "live", "copy")
    for case in cases:
        pair = case["pair"]
        live, copy = pair["live"], pair["copy"]
        table.add_row(
            figures.percent(case["score"]),
            pair["request_id"],
            pair["model"],
            pair["route"],
            f"{live['status']}, {figures.seconds(live['latency_s'])}",
            copy["failure"] or f"{copy['status']}, {figures.seconds(copy['latency_s'])}",
        )
    yield table
    for case in cases:
        content = case["pair"]["content"]
        if content is not None:
            yield Text()
            yield Text(case["pair"]["request_id"], style="bold")
            for part in ("prompt", "live", "copy"):
                yield Text(f"{part}: {_one_line(content[part])}")


def _one_line(text: str) -> str:
    """Return text of foreign origin so that it cannot touch the terminal."""
    return json.dumps(text, ensure_ascii=False)


def audit(events: list[Mapping[str, Any]]) -> RenderableType:
    """Return the transitions of policies, a line for each."""
    if not events:
        return Text("Nothing has happened.")
    table = figures.plain("when", "policy", "what", "by", "why")
    for event in events:
        at = datetime.fromtimestamp(event["at"], UTC)
        table.add_row(
            f"{at:%Y-%m-%d %H:%M:%S}Z",
            event["policy"],
            str(event["kind"]).replace("_", " "),
            str(event.get("by", "")),
            event["words"],
        )
    return table
