"""What `vision.shelf` promises: no gap in serving, no lost copy, and the right versions at rest."""

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.vision.test_versions import found
from vision.config import Versions
from vision.shelf import Shelf
from vision.versions import Copy, Found, Rest, State

LATEST = Versions()
ALL = Versions(policy="all")


def only(*versions: int) -> Versions:
    return Versions(policy="specific", versions=versions)


def shelf_of(*versions: int, policy: Versions = LATEST) -> Shelf[str]:
    """A shelf with these versions listed, none of them loaded."""
    shelf: Shelf[str] = Shelf("m", enabled=True)
    relist(shelf, {n: found(n) for n in versions}, policy)
    return shelf


def relist(shelf: Shelf[str], listed: dict[int, Found], policy: Versions | None = None) -> list:
    """Tell the shelf a listing; return what it retires."""
    shelf.listed(policy, listed)
    return shelf.settle()


def load(shelf: Shelf[str], number: int) -> list[Copy[str]]:
    """Let a load go well; return what is retired for it."""
    one = shelf.begin(number)
    copy = Copy(f"{number}", one, 1, 0.0)
    old = shelf.loaded(number, copy)
    return [*([old] if old else []), *shelf.settle()]


def fail(shelf: Shelf[str], number: int, reason: str = "odd") -> list[Copy[str]]:
    shelf.begin(number)
    shelf.failed(number, reason)
    return shelf.settle()


def states(shelf: Shelf[str]) -> dict[int | None, State]:
    return {row.version: row.state for row in shelf.rows()}


def reasons(shelf: Shelf[str]) -> dict[int | None, str]:
    return {row.version: row.reason for row in shelf.rows()}


def current(shelf: Shelf[str]) -> int | None:
    return None if shelf.current is None else shelf.current.number


def ready(shelf: Shelf[str]) -> set[int]:
    return {n for n, slot in shelf.slots.items() if slot.copy is not None}


def test_the_newest_is_loaded_and_serves() -> None:
    shelf = shelf_of(1, 2)
    assert shelf.due() == [2]
    assert current(shelf) is None
    load(shelf, 2)
    assert current(shelf) == 2
    assert shelf.due() == []
    assert states(shelf) == {1: State.UNAVAILABLE, 2: State.READY}
    assert reasons(shelf) == {1: "the policy (latest 1) does not serve it", 2: ""}


def test_a_new_version_takes_over_when_it_is_ready_and_not_before() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    assert relist(shelf, {1: found(1), 2: found(2)}) == []
    shelf.begin(2)
    assert (current(shelf), states(shelf)) == (1, {1: State.READY, 2: State.LOADING})
    copy = Copy("2", found(2), 1, 0.0)
    shelf.loaded(2, copy)
    (old,) = shelf.settle()
    assert (old.model, old.retired, current(shelf)) == ("1", True, 2)
    assert states(shelf) == {1: State.UNLOADING, 2: State.READY}
    shelf.going.remove(old)
    assert states(shelf) == {1: State.UNAVAILABLE, 2: State.READY}


def test_a_failed_load_leaves_the_old_version_and_says_why() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    relist(shelf, {1: found(1), 2: found(2)})
    assert fail(shelf, 2, "not a model") == []
    assert (current(shelf), shelf.due()) == (1, [])
    assert reasons(shelf)[2] == "not a model"
    assert shelf.shortfall() == [(2, "not a model")]
    relist(shelf, {1: found(1), 2: found(2)})
    assert shelf.due() == []  # The same files fail again.
    relist(shelf, {1: found(1), 2: found(2, content=1)})
    assert shelf.due() == [2]


def test_latest_falls_back_to_an_older_version_when_nothing_serves() -> None:
    shelf = shelf_of(1, 2, 3)
    fail(shelf, 3)
    assert shelf.due() == [2]
    fail(shelf, 2)
    load(shelf, 1)
    assert current(shelf) == 1


def test_specific_versions_have_no_stand_in_but_what_serves_stays() -> None:
    shelf = shelf_of(1, 2, policy=only(1))
    load(shelf, 1)
    assert relist(shelf, {1: found(1), 2: found(2)}, only(2)) == []
    assert fail(shelf, 2) == []
    assert current(shelf) == 1
    relist(shelf, {1: found(1)}, only(3))
    assert (current(shelf), shelf.due()) == (1, [])
    assert reasons(shelf)[3] == "the policy names it, but it has no folder"
    assert shelf.shortfall() == [(3, "has no folder")]


def test_a_version_that_the_policy_names_goes_before_a_newer_that_it_does_not() -> None:
    shelf = shelf_of(1, 2, 3, policy=only(2))
    load(shelf, 2)
    relist(shelf, {n: found(n) for n in (1, 2, 3)}, only(1, 3))
    load(shelf, 1)
    assert (current(shelf), ready(shelf)) == (1, {1, 2})
    assert [copy.model for copy in load(shelf, 3)] == ["2"]
    assert current(shelf) == 3


def test_changed_files_are_loaded_beside_the_old_copy() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    relist(shelf, {1: found(1, content=1)})
    assert shelf.due() == [1]
    fail(shelf, 1, "cut short")
    assert (states(shelf), shelf.due()) == ({1: State.READY}, [])
    assert reasons(shelf)[1] == "serves as it was loaded; its files changed since: cut short"
    relist(shelf, {1: found(1, content=2)})
    (old,) = load(shelf, 1)
    assert (old.found, reasons(shelf)[1]) == (found(1), "")


def test_files_as_they_were_need_no_load() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    relist(shelf, {1: found(1, content=1)})
    relist(shelf, {1: found(1)})
    assert shelf.due() == []


def test_a_problem_of_the_folder_is_told_once_and_never_loaded() -> None:
    shelf: Shelf[str] = Shelf("m", enabled=True)
    bad = found(1, problem="no model")
    assert shelf.listed(LATEST, {1: bad}) == [(1, "no model")]
    assert shelf.listed(LATEST, {1: bad}) == []
    shelf.settle()
    assert (shelf.due(), reasons(shelf)) == ([], {1: "no model"})


def test_a_removed_version_goes_when_what_follows_it_is_ready() -> None:
    shelf = shelf_of(1, 2)
    load(shelf, 2)
    assert relist(shelf, {1: found(1)}) == []
    assert (current(shelf), shelf.due()) == (2, [1])
    assert [copy.model for copy in load(shelf, 1)] == ["2"]
    assert current(shelf) == 1


def test_a_removed_version_goes_at_once_when_nothing_can_follow_it() -> None:
    shelf = shelf_of(1, 2)
    load(shelf, 2)
    relist(shelf, {1: found(1)})
    assert [copy.model for copy in fail(shelf, 1)] == ["2"]
    assert current(shelf) is None


def test_a_removed_model_leaves_an_empty_shelf() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    (copy,) = relist(shelf, {})
    assert (shelf.slots, states(shelf)) == ({}, {1: State.UNLOADING})
    shelf.going.remove(copy)
    assert reasons(shelf) == {None: "has no version folder (1, 2, …)"}
    shelf.listed(None, {}, "config.yaml: line 1: odd")
    assert reasons(shelf) == {None: "config.yaml: line 1: odd"}


def test_a_disabled_shelf_retires_all_and_loads_nothing() -> None:
    shelf = shelf_of(1, 2, policy=ALL)
    load(shelf, 1)
    load(shelf, 2)
    shelf.disable()
    assert len(shelf.settle()) == 2
    shelf.going.clear()
    assert (shelf.due(), current(shelf)) == ([], None)
    assert reasons(shelf)[1] == "not loaded; load it by the repository's API"
    shelf.enable()
    assert shelf.due() == [2, 1]


def test_enabling_tries_again_what_failed() -> None:
    shelf = shelf_of(1)
    fail(shelf, 1)
    shelf.enable()
    assert shelf.due() == [1]


def test_an_evicted_version_is_still_the_one_that_serves() -> None:
    shelf = shelf_of(1, 2, policy=ALL)
    load(shelf, 1)
    load(shelf, 2)
    copy = shelf.evict(2)
    assert shelf.settle() == []
    assert (copy.retired, current(shelf), shelf.due()) == (True, 2, [])
    shelf.going.remove(copy)
    assert reasons(shelf)[2] == Rest.EVICTED
    assert shelf.shortfall() == [(2, Rest.EVICTED)]
    load(shelf, 2)
    assert states(shelf)[2] is State.READY


def test_an_evicted_version_whose_files_break_makes_way_for_an_older_one() -> None:
    shelf = shelf_of(1, 2)
    load(shelf, 2)
    shelf.evict(2)
    shelf.settle()
    relist(shelf, {1: found(1), 2: found(2, problem="gone bad")})
    assert shelf.due() == [1]


def test_a_load_without_room_waits_for_a_lease_or_for_the_next_look() -> None:
    shelf = shelf_of(1)
    shelf.begin(1)
    shelf.no_room(1)
    shelf.settle()
    assert (current(shelf), shelf.due(), reasons(shelf)[1]) == (1, [], Rest.NO_ROOM)
    relist(shelf, {1: found(1)})
    assert shelf.due() == []  # Nothing of it serves, nobody asks: a look is no reason.
    load(shelf, 1)
    relist(shelf, {1: found(1), 2: found(2)})
    shelf.begin(2)
    shelf.no_room(2)
    assert shelf.settle() == []
    assert (current(shelf), shelf.due()) == (1, [])
    relist(shelf, {1: found(1), 2: found(2)})
    assert shelf.due() == [2]


def test_a_reload_without_room_says_so_and_is_tried_again() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    relist(shelf, {1: found(1, content=1)})
    shelf.begin(1)
    shelf.no_room(1)
    shelf.settle()
    assert Rest.NO_ROOM in reasons(shelf)[1]
    relist(shelf, {1: found(1, content=1)})
    assert shelf.due() == [1]


def test_a_turn_looks_again_at_what_there_is_to_load() -> None:
    shelf = shelf_of(1)
    shelf.begin(1)
    relist(shelf, {1: found(1, content=1)})
    assert shelf.turn(1) == found(1, content=1)
    relist(shelf, {1: found(1), 2: found(2)})
    assert shelf.turn(1) is None  # A newer one has come.
    assert shelf.slots[1].loading is None
    shelf.begin(2)
    relist(shelf, {1: found(1)})
    assert shelf.turn(2) is None  # Its folder has gone.


def test_what_a_load_replaces_does_not_count() -> None:
    shelf = shelf_of(1, 2, policy=ALL)
    load(shelf, 1)
    load(shelf, 2)
    relist(shelf, {n: found(n) for n in (1, 2, 3)}, Versions(count=2))
    assert [copy.model for copy in shelf.replaced_by(3)] == ["1"]
    assert [copy.model for copy in shelf.replaced_by(2)] == ["1", "2"]


@pytest.mark.parametrize("policy", [LATEST, ALL, only(1)])
def test_a_policy_that_cannot_be_read_changes_nothing(policy: Versions) -> None:
    shelf = shelf_of(1, policy=policy)
    relist(shelf, {1: found(1)}, None)
    assert shelf.policy == policy


VERSIONS = st.integers(1, 4)
POLICIES = st.one_of(
    st.builds(Versions, count=st.integers(1, 3)),
    st.just(ALL),
    st.builds(only, VERSIONS),
    st.builds(only, VERSIONS, VERSIONS),
)


class ShelfMachine(RuleBasedStateMachine):
    """Any order of looks, loads, failures, evictions and leases."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf: Shelf[str] = Shelf("m", enabled=True)
        self.disk: dict[int, Found] = {}
        self.copies: list[Copy[str]] = []
        self.closed: list[Copy[str]] = []
        self.serving: Copy[str] | None = None
        self.excused = False
        """Whether this step may end what serves."""

    @rule(version=VERSIONS, content=st.integers(0, 3), problem=st.sampled_from([None, None, "bad"]))
    def write(self, version: int, content: int, problem: str | None) -> None:
        self.disk[version] = found(version, content, problem)
        self.look()

    @rule(version=VERSIONS)
    def remove(self, version: int) -> None:
        self.disk.pop(version, None)
        self.look()

    @rule(policy=POLICIES)
    def choose(self, policy: Versions) -> None:
        self.shelf.listed(policy, self.disk)
        self.settle()

    @rule()
    def look(self) -> None:
        self.shelf.listed(None, self.disk)
        self.settle()

    @precondition(lambda self: self.loading())
    @rule(data=st.data(), end=st.sampled_from(["loaded", "loaded", "failed", "no_room"]))
    def end_load(self, data: st.DataObject, end: str) -> None:
        number = data.draw(st.sampled_from(self.loading()))
        one = self.shelf.slots[number].loading
        assert one is not None
        if end == "loaded":
            copy = Copy("model", one, 1, 0.0)
            self.copies.append(copy)
            self.shelf.loaded(number, copy)
        elif end == "failed":
            self.shelf.failed(number, "odd")
        else:
            self.shelf.no_room(number)
        self.settle()

    @precondition(lambda self: self.loading())
    @rule(data=st.data())
    def take_turn(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.loading()))
        one = self.shelf.turn(number)
        assert one is None or one == self.disk[number]
        self.settle()

    @precondition(lambda self: ready(self.shelf))
    @rule(data=st.data())
    def evict(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(ready(self.shelf))))
        self.excused = True
        self.shelf.evict(number)
        self.settle()

    @precondition(lambda self: self.shelf.current is not None and self.shelf.current.copy is None)
    @rule()
    def wake(self) -> None:
        slot = self.shelf.current
        assert slot is not None
        assert slot.rest is not None  # What is current is in memory or can be brought there.
        if slot.loading is None:
            self.shelf.begin(slot.number)

    @rule()
    def disable(self) -> None:
        self.excused = True
        self.shelf.disable()
        self.settle()
        assert not ready(self.shelf)

    @rule()
    def enable(self) -> None:
        self.shelf.enable()
        self.settle()

    @rule()
    def close(self) -> None:
        self.closed.extend(self.shelf.going)
        self.shelf.going.clear()

    def loading(self) -> list[int]:
        return sorted(n for n, slot in self.shelf.slots.items() if slot.loading is not None)

    def settle(self) -> None:
        for copy in self.shelf.settle():
            assert copy.retired
        for number in self.shelf.due():
            self.shelf.begin(number)
        assert self.shelf.due() == []

    @invariant()
    def nothing_is_lost(self) -> None:
        held = [slot.copy for slot in self.shelf.slots.values() if slot.copy is not None]
        assert len(held) + len(self.shelf.going) + len(self.closed) == len(self.copies)
        assert {*held, *self.shelf.going, *self.closed} == {*self.copies}
        assert not any(copy.retired for copy in held)
        assert all(copy.retired for copy in self.shelf.going)

    @invariant()
    def what_serves_serves_on(self) -> None:
        slot = self.shelf.current
        now = None if slot is None else slot.copy
        before, self.serving = self.serving, now
        excused, self.excused = self.excused, False
        if before is not None and before.found.version in self.disk and not excused:
            assert slot is not None
            assert slot.copy is not None or slot.rest is Rest.EVICTED

    @invariant()
    def at_rest_the_policy_is_served(self) -> None:
        if self.loading() or any(slot.rest for slot in self.shelf.slots.values()):
            return
        slots = self.shelf.slots
        sound = {n for n, slot in slots.items() if slot.found is not None and not slot.broken}
        wanted = {n for n in self.shelf.wanted() if n in sound}
        assert wanted <= ready(self.shelf)
        if wanted:
            assert current(self.shelf) == max(wanted)
        if not self.shelf.enabled or self.shelf.policy.policy != "specific":
            assert ready(self.shelf) == wanted

    @invariant()
    def the_index_has_each_version_once(self) -> None:
        versions = [row.version for row in self.shelf.rows()]
        assert len(versions) == len(set(versions))
        assert all(
            (row.copy is not None) == (row.state is State.READY) for row in self.shelf.rows()
        )
        assert all(row.reason for row in self.shelf.rows() if row.state is State.UNAVAILABLE)


TestShelf = ShelfMachine.TestCase
TestShelf.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_a_copy_that_is_lost_is_due_again() -> None:
    shelf = shelf_of(1)
    load(shelf, 1)
    copy = shelf.lose(1)
    assert shelf.going == [copy]
    assert copy.retired
    assert shelf.settle() == []
    assert current(shelf) is None
    assert shelf.due() == [1]


def test_a_load_without_room_after_an_unload_leaves_nothing_at_rest() -> None:
    shelf = shelf_of(1)
    shelf.begin(1)
    shelf.disable()
    shelf.no_room(1)
    assert shelf.slots[1].rest is None
    assert shelf.slots[1].loading is None
