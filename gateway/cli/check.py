"""Is this configuration file good, what does it amount to, and what may such a file hold?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gateway.config.policies import PolicyFile, empty_patterns, missing_files, policy_schema
from gateway.config.problems import ConfigError
from gateway.config.schema import schema
from gateway.config.spec import Config
from gateway.config.watch import FileSource


def run(file: Path) -> int:
    """Print the file's problems and return 1, or a summary of it and return 0."""
    console = Console(highlight=False)
    try:
        source = FileSource(file)
        config = source.load()
    except ConfigError as error:
        for problem in error.problems:
            console.print(str(problem), markup=False, soft_wrap=True)
        console.print(f"{_count(len(error.problems), 'problem')} found", style="red")
        return 1
    endpoints = sum(len(cluster.endpoints) for cluster in config.clusters.values())
    parts = [
        _count(len(config.clusters), "cluster"),
        _count(endpoints, "endpoint"),
        _count(len(config.models), "model"),
    ]
    if source.policies:
        count = len(source.policies)
        parts.append(f"{count} policies" if count > 1 else "1 policy")
    console.print(f"{file} is valid: {', '.join(parts)}", markup=False, soft_wrap=True)
    console.print(_table(config))
    if source.policies:
        console.print()
        console.print(_policies(source.policies))
    for problem in missing_files(source.policies):
        console.print(str(problem), markup=False, soft_wrap=True, style="yellow")
    for words in _doubts(config, source.policies):
        console.print(words, markup=False, soft_wrap=True, style="yellow")
    return 0


def _doubts(config: Config, policies: Sequence[PolicyFile]) -> Iterator[str]:
    """Say what is no mistake of the file, and yet hardly meant."""
    for pattern in empty_patterns(config.policies):
        yield f'policies: no file matches "{pattern}", seen from {Path.cwd()}'
    judged = any(each.policy.kind in ("split", "rollout") for each in policies)
    if judged and not all(map(find_spec, ("numpy", "scipy"))):
        yield "splits and rollouts are not judged here: pip install 'sluice[policies]'"
    for each in policies:
        named = [name for name in ("tenants", "keys") if getattr(each.policy.match, name)]
        if named:
            words = f"no request has a key yet, so that `match.{named[0]}` fits none"
            yield f"{each.policy.name} matches nothing: {words}"


def print_schema(*, policies: bool = False) -> None:
    """Print the JSON Schema of configuration files, or of policy files, to standard output."""
    made = policy_schema() if policies else schema()
    text = json.dumps(made, indent=2, ensure_ascii=False)
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


def _table(config: Config) -> Table:
    table = Table("cluster", "endpoints", "balancer", "models", box=None, pad_edge=False)
    for name, cluster in config.clusters.items():
        models = [
            f"{model} (also {', '.join(spec.aliases)})" if spec.aliases else model
            for model, spec in config.models.items()
            if spec.cluster == name
        ]
        table.add_row(
            name,
            "\n".join(endpoint.url for endpoint in cluster.endpoints),
            cluster.balancer,
            "\n".join(models) or "(discovered from /v1/models)",
        )
    return table


def _policies(policies: Sequence[PolicyFile]) -> Table:
    """Say in which order policies are asked, and what each does."""
    table = Table("policy", "kind", "models", "arms", box=None, pad_edge=False)
    for each in policies:
        policy = each.policy
        arms = [f"{arm.name} → {arm.model or arm.cluster}" for arm in policy.arms]
        state = "" if policy.enabled else " (off)"
        models = ", ".join(policy.match.models) or "every one"
        table.add_row(f"{policy.name}{state}", policy.kind, models, "\n".join(arms))
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
