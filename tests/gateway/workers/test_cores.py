"""How many workers `auto` means."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.workers.cores import count_of, parse_max, quota, usable_cores


@pytest.mark.parametrize(
    ("schedulable", "cores", "expected"),
    [(8, None, 8), (8, 2.0, 2), (8, 2.9, 2), (8, 0.5, 1), (2, 16.0, 2)],
)
def test_as_many_as_may_run_and_the_quota_fills(
    schedulable: int, cores: float | None, expected: int
) -> None:
    assert usable_cores(schedulable, cores) == expected


def test_a_number_is_taken_as_it_is() -> None:
    assert count_of(3) == 3
    assert count_of("auto") >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", None), ("-1\n 100000\n", None), ("150000 100000", 1.5)],
)
def test_a_limit_is_quota_over_period(text: str, expected: float | None) -> None:
    assert parse_max(text) == expected


def test_the_narrowest_group_above_counts_in_version_2(tmp_path: Path) -> None:
    """A group's own limit may be wider than that of one above it."""
    group = tmp_path / "pods" / "one"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("400000 100000")
    (tmp_path / "pods" / "cpu.max").write_text("300000 100000")
    own = tmp_path / "cgroup"
    own.write_text("0::/pods/one\n")
    assert quota(own, tmp_path) == 3.0


def test_version_1_has_files_of_its_own(tmp_path: Path) -> None:
    """Only the line of the controller `cpu` matters, and a file that is no limit is none."""
    group = tmp_path / "cpu" / "docker"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("250000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("nonsense")
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/docker\n3:cpu,cpuacct:/docker\n")
    assert quota(own, tmp_path) == 2.5


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert quota(tmp_path / "none", tmp_path) is None
