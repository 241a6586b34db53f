"""How do policies stand, what do their mirrors say, and what is done to rollouts, on a terminal?"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli import figures, policy_report
from gateway.cli.admin import AdminClient, AdminError

WATCH_S = 2.0
"""Between two looks of `--watch`: the figures are a second old anyway."""

_UNDIVIDED = ("classifier", "mirror")
"""Kinds whose arms are given no share of the requests."""

_STYLES = {"fail": "red", "undecided": "yellow", "pass": "green"}


def _console(*, stderr: bool = False) -> Console:
    return Console(highlight=False, markup=False, stderr=stderr)


def show(
    admin: str, token: str | None, name: str | None, *, watch: bool = False, as_json: bool = False
) -> int:
    """Print all policies, or one; return the exit code."""
    client = AdminClient(admin, token)
    path = "/admin/policies" if name is None else f"/admin/policies/{quote(name, safe='')}"
    draw = _listing if name is None else _one

    def look() -> Any:
        return client.ask("GET", path)

    if not watch or as_json:
        return _print(look, draw, as_json=as_json)
    try:
        with suppress(KeyboardInterrupt):
            _watch(look, draw)
    except AdminError as error:
        return _fail(error)
    return 0


def _watch(look: Callable[[], Any], draw: Callable[[Any], RenderableType]) -> None:
    with Live(draw(look()), console=_console(), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(draw(look()), refresh=True)


def mirror(admin: str, token: str | None, name: str, *, as_json: bool = False) -> int:
    """Print a mirror's report; return the exit code."""
    client = AdminClient(admin, token)

    def look() -> Any:
        policy = client.ask("GET", f"/admin/policies/{quote(name, safe='')}")
        if policy["kind"] != "mirror":
            raise AdminError(f"{name} is a {policy['kind']}; only mirrors have a report")
        if policy["mirror"] is None:
            raise AdminError("the store does not answer, and the report is in it")
        return policy["mirror"]

    return _print(look, policy_report.mirror, as_json=as_json)


def history(
    admin: str, token: str | None, name: str | None, count: int, *, as_json: bool = False
) -> int:
    """Print the last transitions; return the exit code."""
    client = AdminClient(admin, token)
    query = {"count": count} | ({} if name is None else {"policy": name})

    def look() -> Any:
        return client.ask("GET", "/admin/audit", query=query)["events"]

    return _print(look, policy_report.audit, as_json=as_json)


def steer(admin: str, token: str | None, name: str, action: str) -> int:
    """Give a command to a rollout, and print its state; return the exit code."""
    client = AdminClient(admin, token)

    def do() -> Any:
        path = f"/admin/rollouts/{quote(name, safe='')}/{action}"
        return client.ask("POST", path, body={"by": _person()})

    def draw(state: Any) -> RenderableType:
        phase = str(state["phase"]).replace("_", " ")
        step = f", step {state['step']}" if state["phase"] in ("progressing", "paused") else ""
        return Text(f"{name}: {phase}{step}, {state['weight']:g} % for the canary")

    return _print(do, draw, as_json=False)


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user may have no name.
        return "sluice rollout"


def _print(look: Callable[[], Any], draw: Callable[[Any], RenderableType], *, as_json: bool) -> int:
    try:
        found = look()
    except AdminError as error:
        return _fail(error)
    if as_json:
        _console().print(json.dumps(found, indent=2, ensure_ascii=False), soft_wrap=True)
    else:
        _console().print(draw(found))
    return 0


def _fail(error: AdminError) -> int:
    _console(stderr=True).print(str(error), style="red", soft_wrap=True)
    return 1


# All policies.


def _listing(found: Mapping[str, Any]) -> RenderableType:
    right = ("share", "requests", "success", "ttft p50", "p95")
    table = figures.plain("policy", "kind", "arm", *right, right=right)
    stands = []
    for policy in found["policies"]:
        if said := figures.stands(policy):  # Below, since a column of 80 has no room for sentences.
            stands.append(Text(f"{policy['name']}: {said}"))
        for number, arm in enumerate(policy["arms"]):
            first = number == 0
            table.add_row(
                policy["name"] if first else "",
                policy["kind"] if first else "",
                f"{arm['name']} → {arm['to']}",
                figures.DASH if policy["kind"] in _UNDIVIDED else figures.share(arm["share"]),
                figures.count(None if policy["mirror"] else figures.requests(arm)),
                figures.percent(figures.of_arm(arm, "success_rate")),
                figures.seconds(figures.of_arm(arm, "ttft", "p50")),
                figures.seconds(figures.of_arm(arm, "ttft", "p95")),
            )
    parts: list[RenderableType] = [table if found["policies"] else Text("There are no policies.")]
    if stands:
        parts += [Text(), *stands]
    store = found["store"]
    if not store["available"]:
        words = f"The store {store['label']} does not answer: {store['reason']}. Weights stay."
        parts.append(Text(words, style="red"))
    return Group(*parts)


# One policy.


def _one(policy: Mapping[str, Any]) -> RenderableType:
    return Group(*_parts(policy))


def _parts(policy: Mapping[str, Any]) -> Iterator[RenderableType]:
    models = ", ".join(policy["models"]) or "every model"
    yield Text(f"{policy['name']}: {policy['kind']} for {models}", style="bold")
    if policy["description"]:
        yield Text(policy["description"])
    if policy["mirror"] is not None:  # Copies are not requests: an arm's figures are all empty.
        yield Text(f"copies go to {policy['arms'][0]['to']}")
        yield Text()
        yield policy_report.mirror(policy["mirror"])
        return
    said = figures.stands(policy)
    if said:
        yield Text(said)
    yield Text()
    yield _arms(policy)
    if policy["rollout"] is not None:
        yield from _rollout(policy["rollout"])
    if policy["experiment"] is not None:
        yield from _experiment(policy["experiment"])


def _arms(policy: Mapping[str, Any]) -> Table:
    """Return each metric as a line, each arm as a column."""
    names = [_titled(policy, arm) for arm in policy["arms"]]
    table = figures.plain("", *names, right=names)
    table.add_row("leads to", *(arm["to"] for arm in policy["arms"]))
    table.add_row("requests", *(figures.count(figures.requests(arm)) for arm in policy["arms"]))
    metrics = dict.fromkeys(name for arm in policy["arms"] for name in arm["figures"])
    for metric in metrics:
        table.add_row(metric, *(_cell(arm, metric) for arm in policy["arms"]))
    return table


def _titled(policy: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """Return the arm's name with its share, if it has one."""
    if policy["kind"] in _UNDIVIDED:
        return str(arm["name"])
    return f"{arm['name']} ({figures.share(arm['share'])})"


def _cell(arm: Mapping[str, Any], metric: str) -> str:
    """Return a share, or p50 and p95 of what has a size."""
    half = figures.of_arm(arm, metric, "p50")
    if half is None:
        return figures.amount(figures.of_arm(arm, metric), metric)
    if metric == "feedback":  # Scores may be negative or few: their mean says more.
        mean = figures.amount(figures.of_arm(arm, metric), metric)
        return f"{mean} ({arm['figures'][metric]['n']:,})"
    most = figures.amount(figures.of_arm(arm, metric, "p95"), metric)
    return f"{figures.amount(half, metric)} / {most}"


def _rollout(rollout: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text()
    steps = figures.plain("step", "weight", "holds", "requests", right=("weight", "requests"))
    for number, step in enumerate(rollout["steps"], 1):
        here = number == rollout["step"] and rollout["phase"] in ("progressing", "paused")
        held, seen = step["hold_s"], step["min_requests"]
        steps.add_row(
            f"{'→' if here else ' '} {number}",
            f"{step['weight']:g} %",
            _so_far(rollout["elapsed_s"] if here else None, held, figures.seconds),
            _so_far(rollout["requests"] if here else None, seen, figures.count),
        )
    yield steps
    if rollout["gates"]:
        yield Text()
        for gate in rollout["gates"]:
            yield Text(gate["words"], style=_STYLES.get(gate["verdict"], ""))
    for words in rollout["waiting"]:
        yield Text(f"waits for: {words}")


def _so_far(now: float | None, whole: float, write: Callable[[float], str]) -> str:
    return write(whole) if now is None else f"{write(now)} of {write(whole)}"


def _experiment(experiment: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text()
    right = ("baseline", "value", "p", "samples")
    table = figures.plain(
        "metric", "arm", "baseline", "value", "effect, interval", "p", "samples", "", right=right
    )
    for one in experiment["comparisons"]:
        metric = one["metric"]
        table.add_row(
            metric,
            one["arm"],
            figures.amount(one["baseline"], metric),
            figures.amount(one["value"], metric),
            f"{figures.amount(one['effect'], metric, signed=True)}"
            f" ({figures.span(one['low'], one['high'], metric)})",
            figures.chance(one["p"]),
            figures.count(one["samples"]),
            one["text"],
        )
    if experiment["comparisons"]:
        yield table
    if experiment["mismatch"] is not None:
        yield Text(f"shares of traffic as given: p = {figures.chance(experiment['mismatch'])}")
