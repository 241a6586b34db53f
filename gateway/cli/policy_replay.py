"""Where would yesterday's requests have gone, and what would have become of a rollout?"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

from gateway.cli import figures
from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.config.problems import ConfigError
from gateway.config.watch import FileSource
from gateway.plan.logged import Line, read_lines
from gateway.plan.match import Rules
from gateway.plan.rehearse import BASELINE, CANARY, Rehearsed, logged, models, rehearse
from gateway.plan.replay import OWN_WAY, Count, Replay

Pair = tuple[str, str]
"""Models whose requests stand for the baseline's and the canary's."""


def run(file: Path, logs: Sequence[Path], rollout: str | None, pair: Pair | None) -> int:
    """Print what the logs come to under the file's policies; return the exit code."""
    console = Console(highlight=False, markup=False)
    try:
        source = FileSource(file)
        known = Known.of(source.load())
        policies = [each.policy for each in source.policies]
        tried = None if rollout is None else _rollout(policies, rollout)
        tally = _Tally(Rules(policies, known), tried, pair)
        tally.read(logs)
    except ConfigError as error:
        return _fail("\n".join(str(problem) for problem in error.problems))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        return _fail(str(error))
    console.print(Group(*_parts(tally)))
    if tried is not None:
        console.print(Group(*_rehearsal(tried, tally.kept, pair)))
    return 0


class _Tally:
    """What the logs come to."""

    def __init__(self, rules: Rules, tried: Policy | None, pair: Pair | None) -> None:
        self.steered = Replay(rules)
        self.copied = Replay(rules)
        self.unread = 0
        """Lines that tell of no request."""
        self.kept: list[Line] = []
        """Those that concern the rollout that is tried."""
        self._tried = tried
        self._pair = pair

    def read(self, logs: Sequence[Path]) -> None:
        """Count all lines. Raises `OSError`, and `ValueError` if there are none."""
        for log in logs:
            with log.open("rb") as lines:
                for line in read_lines(lines):
                    self._take(line)
        if not self.steered.lines:
            raise ValueError("the log has no line of a request")

    def _take(self, line: Line | None) -> None:
        if line is None:
            self.unread += 1
            return
        self.steered.take(line)
        self.copied.copies(line)
        if self._tried is not None and self._concerns(line, self._tried):
            self.kept.append(line)

    def _concerns(self, line: Line, policy: Policy) -> bool:
        return line.policy == policy.name if self._pair is None else line.model in self._pair


def _rollout(policies: Sequence[Policy], name: str) -> Policy:
    for policy in policies:
        if policy.name == name and policy.rollout is not None:
            return policy
    known = ", ".join(policy.name for policy in policies if policy.rollout is not None)
    raise ValueError(f"the file has no rollout `{name}`; it has: {known or 'none'}")


def _fail(words: str) -> int:
    Console(stderr=True, highlight=False, markup=False).print(words, style="red", soft_wrap=True)
    return 1


def _parts(tally: _Tally) -> Iterator[RenderableType]:
    steered, copied = tally.steered, tally.copied
    said = f"{steered.lines:,} requests"
    if tally.unread:
        said += f", {tally.unread:,} lines that are none"
    yield Text(said, style="bold")
    yield _table(steered.counts(), steered.expected)
    copies = copied.counts()
    if copies:
        yield Text()
        yield Text("Copies by mirrors, were there room for all:", style="bold")
        yield _table(copies, copied.expected)
    notes = [*_notes(steered, copied)]
    if notes:
        yield Text()
    for note in notes:
        yield Text(note)


def _table(counts: Sequence[Count], expected: Container[str]) -> RenderableType:
    """`expected` are the policies whose numbers are, also where they happen to be whole."""
    right = ("requests", "perhaps")
    table = figures.plain("policy", "kind", "arm", "model", *right, right=right)
    for one in counts:
        table.add_row(
            one.policy or "(none applies)",
            one.kind,
            one.arm,
            one.model,
            figures.count(one.requests, expected=one.policy in expected),
            figures.count(one.perhaps) if one.perhaps else "",
        )
    return table


def _notes(steered: Replay, copied: Replay) -> Iterator[str]:
    """Say what the log could not tell."""
    counted = {one.policy for one in (*steered.counts(), *copied.counts())}
    for policy, unseen in steered.unseen.items():
        if policy in counted:
            yield f"{policy} looks at {', '.join(unseen)}, which is not logged: perhaps."
    for policy, why in (steered.expected | copied.expected).items():
        yield f"{policy} divides {why}: expected numbers (≈), as if every request had it."
    kinds = {one.kind for one in steered.counts() if one.policy != OWN_WAY}
    if "classifier" in kinds:
        yield "Classifiers look at the request, which is not logged: perhaps."
    if "rollout" in kinds:
        yield "Rollouts stand at their beginning, with everything on the baseline; see --rollout."


def _rehearsal(policy: Policy, lines: list[Line], pair: Pair | None) -> Iterator[RenderableType]:
    rollout = policy.rollout
    assert rollout is not None  # noqa: S101  `_rollout` looked
    yield Text()
    yield Text(f"Rollout {policy.name} over the log", style="bold")
    if not lines:
        yield Text("The log has no request of its arms.")
        return
    lines.sort(key=lambda line: line.ts)
    arm_of = logged(policy) if pair is None else models(policy, *pair)
    found = rehearse(rollout, lines, arm_of)
    table = figures.plain("when", "what", "why")
    for event in found.events:
        at = datetime.fromtimestamp(event.at, UTC)
        table.add_row(f"{at:%Y-%m-%d %H:%M:%S}Z", event.kind.replace("_", " "), event.words)
    yield table
    yield from _end(found)


def _end(found: Rehearsed) -> Iterator[RenderableType]:
    state = found.state
    phase = state.phase.replace("_", " ")
    yield Text(f"At the end of the log: {phase}, {state.weight:g} % for the canary.")
    for words in found.waiting:
        yield Text(f"  it waits for: {words}")
    for arm in (BASELINE, CANARY):
        counted, failed = found.requests[arm], found.failed[arm]
        yield Text(f"  {arm}: {counted:,} requests, {failed:,} of them failed")
    if found.left_out:
        gates = ", ".join(found.left_out)
        yield Text(f"  Gates on {gates} are left out: the access log does not tell.")
