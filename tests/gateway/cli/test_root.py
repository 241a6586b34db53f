"""Do the commands take what they say, and end with the right code?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

import gateway
from gateway.cli.root import build
from gateway.config.spec import Config
from gateway.config.watch import FileSource
from gateway.workers.seat import Seat

GOOD = "clusters: {gpu: {endpoints: [{url: 'http://gpu-1:8000'}]}}\n"


def sluice(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(build(), arguments, prog_name="sluice", env={"COLUMNS": "200"})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that `serve` would have run; the server itself is left out."""
    configs: list[Config] = []

    def serve(config: Config, source: FileSource | None, seat: Seat | None) -> int:
        assert seat is None
        configs.append(config)
        return 0

    app = ModuleType("gateway.app")
    app.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gateway.app", app)
    return configs


def test_version_is_the_package_s() -> None:
    """`sluice version` names the version that is installed."""
    result = sluice("version")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"sluice {gateway.__version__} ")


@pytest.mark.parametrize("command", ["serve", "up", "check", "diff", "schema", "chat"])
def test_every_command_explains_itself(command: str) -> None:
    """--help says how to call it, with an example that begins with its name."""
    result = sluice(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"sluice {command}" in result.stdout.partition("Example")[2]


def test_wrong_usage_is_code_2() -> None:
    """Unknown commands and options, and missing ones, are the caller's mistakes."""
    for arguments in (["frobnicate"], ["serve", "--prot", "1"], ["check"], ["serve"], []):
        assert sluice(*arguments).exit_code == 2, arguments


def test_the_command_line_starts_light() -> None:
    """--help and version load neither the server's, the client's nor the configuration's parts.

    Nor what the commands of `sluice vision` need.
    """
    code = "import sys, gateway.__main__; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    heavy = {"pydantic", "fastapi", "uvicorn", "httpx", "asyncio", "yaml"}
    heavy |= {"PIL", "grpc", "numpy", "onnxruntime", "torch"}
    assert heavy & set(loaded.stdout.split()) == set()


def test_serve_builds_a_configuration_from_endpoints(served: list[Config]) -> None:
    """Zero configuration, with the options of the command line."""
    result = sluice(
        *("serve", "--endpoint", "http://a:1", "--endpoint", "http://b:1"),
        *("--host", "127.0.0.1", "--port", "0", "--balancer", "least_inflight"),
        *("--access-log", "off"),
    )
    assert result.exit_code == 0, result.output
    (config,) = served
    cluster = config.clusters["default"]
    assert [endpoint.url for endpoint in cluster.endpoints] == ["http://a:1", "http://b:1"]
    assert cluster.balancer == "least_inflight"
    assert (config.server.host, config.server.port) == ("127.0.0.1", 0)
    assert config.logging.access is None


def test_serve_lets_the_command_line_win_over_the_file(
    served: list[Config], tmp_path: Path
) -> None:
    """--host, --port and --access-log replace the file's values; silence keeps them."""
    file = tmp_path / "sluice.yaml"
    file.write_text(GOOD + "server: {port: 1, host: h}\nlogging: {access: a.log}\n")
    assert sluice("serve", "-c", str(file)).exit_code == 0
    assert sluice("serve", "-c", str(file), "--port", "2", "--access-log", "b").exit_code == 0
    found = [(each.server.host, each.server.port, each.logging.access) for each in served]
    assert found == [("h", 1, "a.log"), ("h", 2, "b")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://a", "--endpoint", "gpu"], "--endpoint number 2 must begin with"),
        (["--endpoint", "http://a/v1"], "must not end in /v1"),
        (["--endpoint", "http://a", "--balancer", "best"], "--balancer is not a balancer"),
        (["--endpoint", "http://a", "--host", ""], "must not be empty"),
        (["--endpoint", "http://a", "-c", "f"], "either --config FILE or --endpoint"),
        (["--endpoint", "http://a", "--port", "70000"], "--port"),
        (["--endpoint", "http://a", "--workers", "0"], "--workers must be `auto`, or a number"),
        (["-c", "f", "--balancer", "round_robin"], "--balancer goes with --endpoint"),
    ],
)
def test_serve_refuses_wrong_usage(served: list[Config], arguments: list[str], said: str) -> None:
    """Each mistake names its option, and nothing is started."""
    result = sluice("serve", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not served


def test_serve_refuses_a_bad_file(served: list[Config], tmp_path: Path) -> None:
    """The problems go to standard error; code 1, nothing started."""
    file = tmp_path / "sluice.yaml"
    file.write_text("clusters: {}\nx: 1\n")
    result = sluice("serve", "-c", str(file))
    assert result.exit_code == 1
    assert f"{file}:1:11: clusters needs at least one entry\n{file}:2:1: x is not" in result.stderr
    assert result.stdout == ""
    assert not served


def test_check_sums_up_a_good_file(tmp_path: Path) -> None:
    """Code 0 and what the file amounts to."""
    file = tmp_path / "sluice.yaml"
    file.write_text(
        "clusters:\n  gpu: {endpoints: [{url: 'http://a'}, {url: 'http://b'}]}\n"
        "  cpu: {endpoints: [{url: 'http://c'}]}\n"
        "models: {llama: {cluster: gpu, aliases: [gpt-4o]}}\n"
    )
    result = sluice("check", "-c", str(file))
    assert result.exit_code == 0
    assert f"{file} is valid: 2 clusters, 3 endpoints, 1 model\n" in result.stdout
    assert "llama (also gpt-4o)" in result.stdout
    assert "discovered" in result.stdout


def test_check_shows_every_problem(tmp_path: Path) -> None:
    """Code 1, one line with file, line and column for each problem, and their number."""
    file = tmp_path / "sluice.yaml"
    file.write_text("server: {port: x}\nclusters: {a: {endpoints: [{url: '[red]'}]}}\n")
    result = sluice("check", "-c", str(file))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{file}:1:16: server.port must be a whole number",
        f"{file}:2:34: clusters.a.endpoints[0].url must begin with http:// or https://",
        "2 problems found",
    ]


def test_check_of_a_missing_file_is_plain(tmp_path: Path) -> None:
    """No traceback, code 1."""
    result = sluice("check", "-c", str(tmp_path / "none.yaml"))
    assert result.exit_code == 1
    assert "none.yaml: cannot be read: No such file or directory" in result.stdout


def test_diff_says_what_would_change(tmp_path: Path) -> None:
    """Exit codes are those of diff(1): 0 nothing, 1 something, 2 a file that cannot be used."""
    old, new, bad = (tmp_path / name for name in ("old.yaml", "new.yaml", "bad.yaml"))
    old.write_text(GOOD)
    new.write_text(GOOD.replace("gpu-1", "gpu-2") + "server: {port: 8001}\n")
    bad.write_text("clusters: 3\n")
    same = sluice("diff", str(old), str(old))
    assert (same.exit_code, same.stdout) == (0, "")
    result = sluice("diff", str(old), str(new))
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "~ server.port 8000 → 8001 (needs a restart)",
        "- endpoint http://gpu-1:8000 in clusters.gpu",
        "+ endpoint http://gpu-2:8000 in clusters.gpu",
    ]
    for pair in ((old, bad), (bad, old)):
        refused = sluice("diff", *map(str, pair))
        assert refused.exit_code == 2
        assert "bad.yaml:1:11: clusters must be a mapping" in refused.stdout


def test_schema_prints_json() -> None:
    """Standard output is the schema and nothing else."""
    result = sluice("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["title"] == "Sluice configuration"


def test_up_needs_a_model_for_vllm() -> None:
    """Said before anything is started."""
    result = sluice("up", "--engine", "vllm")
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert sluice("up", "--engine", "tgi").exit_code == 2


def test_up_starts_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three simulated engines by default, one vLLM; the exit code is passed on."""
    seen: list[tuple[object, ...]] = []

    class Options:
        def __init__(self, *fields: object) -> None:
            seen.append(fields)

    async def up(options: Options, run_gateway: object, console: object) -> int:
        return 7

    modules = {
        "gateway.app": {"run_endpoints": up},
        "gateway.cli.up": {"UpOptions": Options, "up": up},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    assert sluice("up").exit_code == 7
    assert sluice("up", "--engine", "vllm", "--model", "m", "--port", "1").exit_code == 7
    assert sluice("up", "--no-vision", "--models", "there").exit_code == 7
    assert seen == [
        ("sim", "sim", 3, "127.0.0.1", 8000, None, None),
        ("vllm", "m", 1, "127.0.0.1", 1, None, None),
        ("sim", "sim", 3, "127.0.0.1", 8000, False, Path("there")),
    ]


def test_policies_are_checked_and_compared_with_the_file(tmp_path: Path) -> None:
    """They are listed in the order in which they are asked; their mistakes are the file's."""
    policy = tmp_path / "a.yaml"
    text = "{name: blue, match: {models: [m]}, route: {cluster: gpu}, order: 2}"
    policy.write_text(text)
    off = "{name: green, match: {models: [m]}, mirror: {to: {model: m}}, enabled: false}"
    (tmp_path / "b.yaml").write_text(off)
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    with_models = GOOD + "models: {m: {cluster: gpu}}\n"
    old.write_text(f"{with_models}policies: ['{tmp_path}/[ab].yaml']\n")
    new.write_text(f"{with_models}policies: ['{tmp_path}/b.yaml']\n")
    result = sluice("check", "-c", str(old))
    assert result.exit_code == 0
    assert ", 1 model, 2 policies\n" in result.stdout
    assert [line.split()[:3] for line in result.stdout.splitlines()[-2:]] == [
        ["blue", "route", "m"],
        ["green", "(off)", "mirror"],
    ]
    result = sluice("diff", str(old), str(new))
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (1, "- policies.blue, a route")
    policy.write_text(text.replace("gpu", "cpu"))
    result = sluice("check", "-c", str(old))
    assert result.exit_code == 1
    assert f"{policy}:1:" in result.stdout
    assert 'the cluster "cpu", which does not exist' in result.stdout


def test_check_doubts_what_is_hardly_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern without files, rollouts that nobody could judge, a match that nobody can meet."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sluice.yaml"
    file.write_text(GOOD + "models: {m: {cluster: gpu}}\npolicies: [none/*.yaml, a.yaml]\n")
    arms = "[{name: a, model: m}, {name: b, model: m, override: {temperature: 1}}]"
    match = "{models: [m], keys: [ci]}"
    (tmp_path / "a.yaml").write_text(f"name: ab\nmatch: {match}\nsplit: {{arms: {arms}}}\n")
    monkeypatch.setattr("gateway.cli.check.find_spec", lambda _: None)
    result = sluice("check", "-c", str(file))
    assert (result.exit_code, result.stdout.splitlines()[-3:]) == (
        0,
        [
            f'policies: no file matches "none/*.yaml", seen from {tmp_path}',
            "splits and rollouts are not judged here: pip install 'sluice[policies]'",
            "ab matches nothing: no request has a key yet, so that `match.keys` fits none",
        ],
    )


def test_the_schema_of_policies_is_the_one_that_is_published() -> None:
    """`policies/schema.json` is what editors complete by."""
    result = sluice("schema", "--policies")
    assert json.loads(result.stdout)["title"] == "Sluice policy"
