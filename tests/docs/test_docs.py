"""What the documentation names exists, and what exists of certain kinds is documented."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from gateway.admit.ticket import Refusal
from gateway.api.routes import ROUTES
from gateway.app import Gateway
from gateway.cli.root import build as build_cli
from gateway.config.cluster import Cluster as ClusterSpec
from gateway.config.schema import schema
from gateway.config.server import Server
from gateway.config.spec import Config
from gateway.control.app import build as build_app
from gateway.dispatch.outcome import MOVED, Cause, Verdict
from gateway.errors import upstream_error, upstream_timeout
from gateway.gauges import Gauges
from gateway.model import Outcome, Usage
from gateway.telemetry.generation import ConfigGauges
from gateway.telemetry.metrics import LoopTasks
from gateway.telemetry.record import Record, line_of
from gateway.upstream.balancer import BALANCERS
from gateway.workers.roster import Roster, exposition
from scripts.config_reference import PAGE, reference, with_reference
from tests.support.control import FakeAsk, FakeView, ManualClock
from tests.support.markdown import ROOT, Page, coded, page, pages

PAGES = pages()
FOLDERS = {"gateway", "engines", "vision", "policies", "tests", "docs", "scripts", "bench", ".ci"}

_SYMBOL = re.compile(r"(?:gateway|engines|vision)(?:\.\w+)+")
_MEMBER = re.compile(r"([A-Z]\w+)\.([a-z_]\w*)")

every_page = pytest.mark.parametrize("text", PAGES, ids=str)


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("gateway", "engines", "vision"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def members() -> dict[str, set[str]]:
    """Return what the classes of each name define: methods, fields, slots, attributes set."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, tree in trees():
        for owner in ast.walk(tree):
            if not isinstance(owner, ast.ClassDef):
                continue
            for node in ast.walk(owner):
                match node:
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        found[owner.name].add(name)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        found[owner.name].add(name)
                    case ast.Attribute(value=ast.Name(id="self"), attr=name):
                        found[owner.name].add(name)
                    case ast.Constant(value=str(name)):
                        found[owner.name].add(name)
    return found


def is_path(code: str) -> bool:
    folder, slash, rest = code.partition("/")
    return folder in FOLDERS and bool(slash) and not set("* ") & set(rest)


@every_page
def test_files_that_a_page_names_exist(text: Page) -> None:
    """A path in backticks that begins with a folder of ours is there."""
    named = [code for code in text.code() if is_path(code)]

    assert [name for name in named if not (ROOT / name).exists()] == []


@every_page
def test_links_resolve(text: Page) -> None:
    """A relative link leads to a file, and its fragment to a heading."""
    broken = []
    for link in text.links():
        if link.startswith("https://"):
            continue
        target, _, fragment = link.partition("#")
        path = (text.path.parent / target).resolve() if target else text.path
        if not path.exists() or (
            fragment and fragment not in Page(path, path.read_text()).anchors()
        ):
            broken.append(link)

    assert broken == []


@every_page
def test_symbols_that_a_page_names_exist(text: Page) -> None:
    """`gateway.x.Y` can be imported, and `Class.member` is a member of a class of ours."""
    known, missing = members(), []
    for code in text.code():
        if _SYMBOL.fullmatch(code) and not code.endswith(".py"):
            missing += [] if importable(code) else [code]
        elif (named := _MEMBER.fullmatch(code)) and named[2] not in known[named[1]]:
            missing.append(code)

    assert missing == []


def importable(name: str) -> bool:
    """Whether a dotted name is a module, or a member of one."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        owner, _, last = name.rpartition(".")
        return bool(owner) and importable(owner) and last in vars(importlib.import_module(owner))
    return True


def test_functions_in_the_essay_stand_in_the_files_that_it_names() -> None:
    """Every bare name in the essay's code spans is defined in one of its files."""
    essay = page("docs/life-of-a-request.md")
    files = [ROOT / code for code in essay.code() if code.endswith(".py")]
    text = "\n".join(path.read_text() for path in files)
    words = {"asyncio", "cancelled", "failure", "stream_options"}
    names = {code for code in essay.code() if re.fullmatch(r"[A-Za-z_]{4,}", code)} - words

    assert len(names) > 10
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


@every_page
def test_make_targets_exist(text: Page) -> None:
    """`make x` names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", text.text))
    blocks = "".join(block.text for block in text.blocks("sh"))

    assert named | set(re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE)) <= targets


@every_page
def test_command_lines_parse(text: Page) -> None:
    """Each `sluice …` line of a shell block has a command and options that exist."""
    cli = typer.main.get_command(build_cli())
    for line in "\n".join(block.text for block in text.blocks("sh")).splitlines():
        command = re.match(r"(?:\.venv/bin/)?sluice ([^#>|]+)", line)
        if command:
            name, *arguments = command[1].split()
            parsed = cli.get_command(cli.make_context("sluice", [name]), name)  # type: ignore[attr-defined]
            assert parsed is not None, line
            parsed.make_context(name, arguments)


def test_the_readme_lists_every_command() -> None:
    """The table of commands is that of the program."""
    cli = typer.main.get_command(build_cli())
    listed = [coded(row[0])[0] for row in page("README.md").table("command")]

    assert sorted(listed) == [f"sluice {name}" for name in sorted(cli.commands)]  # type: ignore[attr-defined]


def test_the_readme_lists_every_route() -> None:
    """The tables of routes are the data plane's and the app's own, no more and no fewer."""
    app = build_app(FakeView(), FakeAsk(), clock=ManualClock(), data_routes={})
    own = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    data = {f"POST {path.decode()}" for path in ROUTES}
    listed = [coded(row[0])[0] for row in page("README.md").table("route")]

    assert sorted(listed) == sorted(own | data | {"WS /v1/chat/ws", "GET /openapi.json"})


async def test_the_readme_lists_every_metric() -> None:
    """The table of metrics has each family with its labels; what is not ours has other names."""
    config = Config.from_endpoints(["http://127.0.0.1:1"], access=None)
    gateway = Gateway(config, ManualClock())
    text = gateway.view.metrics_text()[0].decode()
    families = [
        *gateway.metrics.collect(),
        *Gauges(gateway.clusters, gateway.lag, lambda: 0.0).collect(),
        *gateway.mirrors.collect(),
        *LoopTasks().collect(),
        *ConfigGauges(lambda: 1, lambda: True).collect(),
    ]
    # `_labelnames`, because what happens rarely has no sample to read them from.
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): set(family._labelnames)  # type: ignore[attr-defined]  # see above
        for family in families
        if isinstance(family, CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily)
    }
    listed = {
        coded(row[0])[0]: set(coded(re.sub(r"\(.*?\)", "", row[1])))
        for row in page("README.md").table("metric")
    }

    assert set(re.findall(r"^# TYPE (sluice_\w+)", text, re.MULTILINE)) == set(exposed)
    together = exposition(Roster([], "").about(0)).decode()
    of_workers = set(re.findall(r"^# TYPE (sluice_\w+)", together, re.MULTILINE))
    assert listed == exposed | {name: set() for name in of_workers}


def test_the_readme_lists_every_field_of_the_access_log() -> None:
    """The table of fields is what the line of a stream has that waited, moved and failed."""
    record = Record("chat", b"id", "::1", 1.0)
    record.first_at, record.usage, record.error = 2.0, Usage(1, 2), "upstream_error"
    record.attempts, record.resumes, record.queued_s = 3, 1, 0.5
    record.policy, record.arm = "new", "canary"
    listed = [name for row in page("README.md").table("field") for name in coded(row[0])]

    assert sorted(listed) == sorted(json.loads(line_of(record)))


@every_page
def test_metrics_that_a_page_names_exist(text: Page) -> None:
    """Each `sluice_…` of a page is in one of the tables that tests keep true."""
    tables = (page(name).table("metric") for name in ("README.md", "docs/vision.md"))
    known = {coded(row[0])[0] for table in tables for row in table}

    assert set(re.findall(r"\bsluice_\w+", text.text)) <= known


def keys(node: Any, root: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key that a configuration file may have."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    for one in node.get("anyOf", ()):
        yield from keys(one, root, place)
    if "items" in node:
        yield from keys(node["items"], root, place)
    if isinstance(node.get("additionalProperties"), dict):
        yield (*place, "<name>")
        yield from keys(node["additionalProperties"], root, (*place, "<name>"))
    for name, value in node.get("properties", {}).items():
        yield (*place, name)
        yield from keys(value, root, (*place, name))


@every_page
def test_configuration_keys_that_a_page_names_exist(text: Page) -> None:
    """`timeouts.idle_s`, and whatever else begins with a section, is the end of a key's path."""
    root = schema()
    paths = set(keys(root, root))
    known = {".".join(path[start:]) for path in paths for start in range(len(path))}
    sections = {path[at] for path in paths for at in range(len(path) - 1)} - {"<name>"}
    named = {code for code in text.code() if re.fullmatch(r"[a-z]+(\.[a-z_<>]+)+", code)}

    assert {code for code in named if code.partition(".")[0] in sections} <= known


def default_of(path: str) -> float:
    """Return the default of a number, by the end of its path: a cluster's, or the server's."""
    first, _, rest = path.partition(".")
    owner: Any = Server() if first == "server" else ClusterSpec(registration=True)
    for name in (rest if first == "server" else path).split("."):
        owner = getattr(owner, name)
    return float(owner)


def test_defaults_are_told_as_they_are() -> None:
    """The tables of defaults and timers begin with the configuration's own numbers."""
    reliability = page("docs/reliability.md")
    rows = [*reliability.table("default"), *reliability.table("timer")]
    named = [(coded(row[0]), re.findall(r"\d+(?:\.\d+)?", row[1])) for row in rows]
    told = {
        key: float(number)
        for keys_of, numbers in named
        for key, number in zip(keys_of, numbers, strict=False)
        if not key.startswith("x-")
    }

    assert len(told) > 20
    assert told == {key: default_of(key) for key in told}


def test_every_cause_and_balancer_has_its_row() -> None:
    """What decides about retries, and what chooses endpoints, is listed whole."""
    reliability = page("docs/reliability.md")

    assert {coded(row[0])[0] for row in reliability.table("cause")} == set(Cause)
    assert {coded(row[0])[0] for row in reliability.table("balancer")} == set(BALANCERS)


def test_causes_are_charged_and_paid_as_the_page_says() -> None:
    """The columns of the table of causes are what the code decides."""
    for cell, _, _, paid, endpoint in page("docs/reliability.md").table("cause"):
        cause = Cause(coded(cell)[0])
        charged = Verdict(cause).outcome is Outcome.RETRYABLE
        assert charged == ("not charged" not in endpoint), cause
        assert (paid == "no") == (cause in MOVED), cause


def test_every_reason_of_a_refusal_has_its_row() -> None:
    """The reasons that the gate counts stand among those of `overloaded`."""
    rows = page("docs/errors.md").table("reason")

    assert [code for row in rows for code in coded(row[0])] == list(Refusal)


def test_the_readme_lists_every_outcome() -> None:
    """The outcomes are told by name."""
    assert set(Outcome) <= set(page("README.md").code())


def raised() -> set[tuple[int, str]]:
    """Return (status, code) of every error that the gateway's source makes."""
    found = set()
    for path, tree in trees():
        if not path.is_relative_to(ROOT / "gateway"):
            continue
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Name(id="GatewayError"),
                    args=[ast.Constant(value=int(status)), ast.Constant(value=str(code)), *_],
                ):
                    found.add((status, code))
    return found


def test_every_error_is_documented() -> None:
    """The table of errors has every status and code that the source can make, and no other."""
    listed = [(int(row[0]), coded(row[1])[0]) for row in page("docs/errors.md").table("status")]

    assert sorted(listed) == sorted(raised())
    assert [status for status, _ in listed] == sorted(status for status, _ in listed)


def test_error_frames_are_shown_as_they_are_sent() -> None:
    """The frames in README and errors.md are those that the code makes."""
    closed = upstream_error("The engine closed the connection.").event().decode().strip()
    silent = upstream_timeout("The engine went silent.").event().decode().strip()

    assert closed in page("README.md").text
    assert silent in page("docs/errors.md").text


def test_the_configuration_reference_is_current() -> None:
    """docs/configuration.md is what scripts/config_reference.py would write."""
    text = PAGE.read_text()

    assert text == with_reference(text, reference(schema()))


def test_decisions_are_numbered_and_listed() -> None:
    """The records have numbers without gaps, and each is linked from their index."""
    records = sorted(path.name for path in (ROOT / "docs/adr").glob("0*.md"))
    numbers = [int(name[:4]) for name in records]

    assert numbers[0] == 1
    assert all(after == before + 1 for before, after in pairwise(numbers))
    assert page("docs/adr/README.md").links() == records
