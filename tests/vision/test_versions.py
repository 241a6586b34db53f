"""What `vision.versions` promises: policies, looks that agree, and whom the budget evicts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.config import ModelConfig, Versions
from vision.versions import Copy, FileStamp, Found, Slot, chosen, describe, idle_to_evict, settled


def found(version: int = 1, content: int = 0, problem: str | None = None) -> Found:
    stamp = FileStamp("model.onnx", 10, content, 7)
    folder = Path("models/m") / str(version)
    return Found(version, folder, folder.parent, ModelConfig(), (stamp,), ("model.onnx",), problem)


def copy(used_at: float = 0.0, memory_bytes: int = 1) -> Copy[str]:
    return Copy("model", found(), memory_bytes, used_at)


@pytest.mark.parametrize(
    ("policy", "there", "names"),
    [
        (Versions(), [1, 3, 2], (3,)),
        (Versions(count=2), [1, 3, 10], (10, 3)),
        (Versions(count=2), [], ()),
        (Versions(policy="all"), [1, 3, 2], (3, 2, 1)),
        (Versions(policy="specific", versions=(2, 5, 2)), [1, 2], (5, 2)),
    ],
)
def test_a_policy_names_versions_newest_first(policy: Versions, there, names) -> None:
    assert chosen(policy, there) == names


def test_policies_are_said_in_the_words_of_their_keys() -> None:
    assert describe(Versions(count=3)) == "latest 3"
    assert describe(Versions(policy="specific", versions=(5, 2))) == "specific 2, 5"
    assert describe(Versions(policy="all")) == "all"


def test_the_size_of_a_version_is_that_of_its_largest_model_file() -> None:
    files = tuple(
        FileStamp(name, size, 0, 0)
        for name, size in [("model.onnx", 5), ("model.plan", 9), ("notes.txt", 99)]
    )
    one = Found(1, Path(), Path(), ModelConfig(), files, ("model.plan", "model.onnx"))
    assert one.size_bytes == 9
    assert Found(1, Path(), Path(), ModelConfig(), files).size_bytes == 0


def test_what_two_looks_agree_on_is_taken() -> None:
    old, new = found(content=1), found(content=2)
    assert settled({}, {1: new}, {1: new}) == {1: new}
    assert settled({1: old}, {1: old}, {1: new}) == {1: old}  # It may still be written.
    assert settled({1: old}, {1: new}, {1: new}) == {1: new}
    assert settled({}, {}, {1: new}) == {}
    assert settled({1: old}, {1: old}, {}) == {1: old}  # It may be being replaced.
    assert settled({1: old}, {}, {}) == {}


contents = st.dictionaries(st.integers(1, 4), st.builds(found, content=st.integers(0, 2)))


@given(contents, contents, contents)
def test_two_equal_looks_are_taken_whole(taken, before, now) -> None:
    assert settled(taken, now, now) == now
    agreed = settled(taken, before, now)
    assert all(one in (taken.get(n), now.get(n)) for n, one in agreed.items())


def test_the_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    old, middle, new = copy(1.0, 10), copy(2.0, 10), copy(3.0, 10)
    assert idle_to_evict([new, old, middle], 11) == [old, middle]
    assert idle_to_evict([new, old, middle], 10) == [old]
    assert idle_to_evict([new, old, middle], 0) == []
    assert idle_to_evict([new, old, middle], 31) is None
    assert idle_to_evict([], 1) is None


@given(
    st.lists(st.builds(copy, st.floats(0, 9), st.integers(0, 9)), max_size=6), st.integers(0, 60)
)
def test_what_is_evicted_is_enough_or_nothing_is(idle: list[Copy[str]], excess: int) -> None:
    evicted = idle_to_evict(idle, excess)
    if evicted is None:
        assert sum(one.memory_bytes for one in idle) < excess
        return
    assert sum(one.memory_bytes for one in evicted) >= excess
    kept = [one for one in idle if one not in evicted]
    assert all(gone.used_at <= stays.used_at for gone in evicted for stays in kept)


def test_a_slot_is_broken_when_no_load_would_help() -> None:
    slot: Slot[str] = Slot(1)
    assert not slot.broken
    slot.found = found()
    assert not slot.broken
    slot.failed = found()
    assert slot.broken
    slot.copy = copy()
    assert not slot.broken  # Something serves.
    slot.copy, slot.failed, slot.found = None, None, found(problem="why")
    assert slot.broken


def test_a_slot_says_what_is_wrong_with_its_files_as_they_are() -> None:
    slot: Slot[str] = Slot(1, found=found(), failed=found(), reason="odd")
    assert slot.why == "odd"
    slot.found = found(content=1)
    assert slot.why == ""
    slot.found = found(problem="no model")
    assert slot.why == "no model"
    assert Slot(2).why == ""
