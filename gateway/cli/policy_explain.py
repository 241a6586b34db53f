"""Where would this request go and why, on a terminal, by a gateway or by a file alone?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from gateway.cli import figures
from gateway.cli.admin import AdminClient, AdminError
from gateway.clock import SystemClock
from gateway.config.problems import ConfigError
from gateway.config.watch import FileSource
from gateway.dispatch.explanation import Explainer
from gateway.errors import GatewayError
from gateway.plan.live import Live
from gateway.wire.guard import Limits


@dataclass(frozen=True, slots=True)
class Question:
    """What the person asks."""

    body: str
    """A file's name, or - for standard input."""
    headers: tuple[str, ...]
    path: str | None
    as_json: bool

    def read(self) -> tuple[bytes, dict[str, str]]:
        """Return body and header fields. Raises `ValueError` with words for the person."""
        try:
            body = sys.stdin.buffer.read() if self.body == "-" else Path(self.body).read_bytes()
        except OSError as error:
            raise ValueError(f"{self.body}: {error.strerror}") from None
        headers: dict[str, str] = {}
        for each in self.headers:
            name, colon, value = each.partition(":")
            if not colon or not name.strip():
                raise ValueError(f"--header {each}: write NAME:VALUE")
            headers[name.strip()] = value.strip()
        return body, headers


def by_gateway(admin: str, token: str | None, question: Question) -> int:
    """Ask a running gateway; return the exit code."""
    try:
        body, headers = question.read()
        try:
            json.loads(body)
        except ValueError as error:
            raise ValueError(f"{question.body} is no JSON: {error}") from None
        about = {"headers": headers, **({"path": question.path} if question.path else {})}
        wrapped = b'%b,"body":%b}' % (json.dumps(about).encode()[:-1], body)
        found = AdminClient(admin, token).ask("POST", "/admin/explain", body=wrapped)
    except (ValueError, AdminError) as error:
        return _fail(str(error))
    return _print(found, question, asked=True)


def by_file(file: Path, question: Question) -> int:
    """Explain by a configuration file alone; return the exit code."""
    try:
        body, headers = question.read()
        source = FileSource(file)
        config = source.load()
        clock = SystemClock()
        live = Live(config, source, clock, Random())  # noqa: S311 - nothing secret is drawn
        server = config.server
        limits = Limits(
            header_bytes=server.max_header_bytes,
            headers=server.max_headers,
            body_bytes=server.max_body_bytes,
            json_depth=server.max_json_depth,
        )
        explainer = Explainer(lambda: live.table, clock.monotonic, limits)
        found = explainer.explain(body, headers, question.path)
    except ConfigError as error:
        return _fail("\n".join(str(problem) for problem in error.problems))
    except GatewayError as error:
        hint = ""
        if error.code == "model_not_found" and any(
            name not in {model.cluster for model in config.models.values()}
            for name in config.clusters
        ):
            hint = " (models that only the endpoints list are not known without a gateway)"
        return _fail(f"{error.status} {error.code}: {error.message}{hint}")
    except (ValueError, OSError) as error:
        return _fail(str(error))
    return _print(found.model_dump(), question, asked=False)


def _print(found: Mapping[str, Any], question: Question, *, asked: bool) -> int:
    console = Console(highlight=False, markup=False)
    if question.as_json:
        console.print(json.dumps(found, indent=2, ensure_ascii=False), soft_wrap=True)
    else:
        console.print(Group(*_parts(found, asked=asked)))
    return 0


def _fail(words: str) -> int:
    Console(stderr=True, highlight=False, markup=False).print(words, style="red", soft_wrap=True)
    return 1


def _parts(found: Mapping[str, Any], *, asked: bool) -> Iterator[RenderableType]:
    yield Text(f"{found['model']} by {found['route']}", style="bold")
    yield from _rules(found["policies"])
    if found["decision"] is None:
        yield Text("No policy applies: the model goes its own way.")
    else:
        yield from _decision(found["decision"])
    if found["way"] is not None:
        yield from _way(found["way"], asked=asked)
    if asked and found["refused"] is not None:
        yield Text(f"It would be refused: {found['refused']}", style="red")
    if found["mirrors"]:
        yield Text()
        yield Text("Mirrors", style="bold")
        yield from _rules(found["mirrors"])
    if found["mirror"] is not None:
        yield Text(f"{found['mirror']['policy']} copies it, as far as there is room for copies.")
        if found["mirror_way"] is not None:
            yield from _way(found["mirror_way"], asked=asked)


def _rules(rules: list[Mapping[str, Any]]) -> Iterator[RenderableType]:
    for rule in rules:
        name = f"{rule['policy']} ({rule['kind']})"
        if not rule["asked"]:
            yield Text(f"  {name}: not asked any more", style="dim")
        elif rule["why_not"] is None:
            yield Text(f"→ {name}: applies")
        else:
            yield Text(f"  {name}: no, for this does not hold: {rule['why_not']}")


def _decision(decision: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(f"Arm {decision['arm']}", style="bold")
    if decision["label"] is not None:
        said = f'the classifier says "{decision["label"]}"' if decision["label"] else ""
        yield Text("  " + ("; ".join(filter(None, (said, decision["failure"])))))
        return
    yield Text(f"  by {decision['by']}: {decision['key']}")
    if len(decision["shares"]) > 1:
        shares = (f"{name} {figures.share(share)}" for name, share in decision["shares"].items())
        yield Text(f"  shares: {', '.join(shares)}")


def _way(way: Mapping[str, Any], *, asked: bool) -> Iterator[RenderableType]:
    yield Text(f"Cluster {way['cluster']}, where the model is called {way['upstream_model']}")
    if way["fallbacks"]:
        yield Text(f"  fallbacks: {', '.join(way['fallbacks'])}")
    right = ("in flight", "load", "latency", "cost")
    if asked:
        yield Text(f"  balancer {way['balancer']}, in the order of their scores:")
        table = figures.plain("  endpoint", "state", *right, right=right)
    else:
        yield Text(f"  balancer {way['balancer']}; endpoints are not asked:")
        table = figures.plain("  endpoint")
    for one in way["endpoints"]:
        cells = (
            one["state"] + ("" if one["candidate"] else " (not tried)"),
            figures.count(one["inflight"]),
            f"{one['load']:g}",
            figures.seconds(None if one["latency_ms"] is None else one["latency_ms"] / 1000),
            figures.DASH if one["cost"] is None else f"{one['cost']:.3g}",
        )
        table.add_row(f"  {one['id']}", *(cells if asked else ()))
    yield table
    if asked and way["affinity"] is not None:
        yield Text(f"  the session belongs to {way['affinity']}")
    if way["changes"]:
        yield Text("  changes of the body:")
        for change in way["changes"]:
            before, after = change["before"] or "nothing", change["after"] or "nothing"
            yield Text(f"    {change['path']}: {before} → {after}")
