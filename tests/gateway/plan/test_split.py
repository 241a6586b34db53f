"""Is everybody always in the same arm, in the right shares, whatever else is changed?

Critical values of χ² are those of p = 0.001 (any table). Keys and salts are fixed, so these tests
give the same result each time.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.policy import Policy
from gateway.plan.split import Splitter, sampler

KEYS = [b"session-%d" % number for number in range(100_000)]
FEW = KEYS[:2000]
CRITICAL = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}
NAMES = ("a", "b", "c", "d", "e")


def splitter(*weights: float, salt: str = "salt") -> Splitter:
    return Splitter(salt, NAMES[: len(weights)], weights)


def picks(divides: Splitter, keys: Sequence[bytes] = KEYS) -> list[int]:
    return [divides.pick(key) for key in keys]


def chi2(observed: Sequence[int], expected: Sequence[float]) -> float:
    return sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))


@pytest.mark.parametrize(
    "weights", [(50, 50), (90, 10), (1, 99), (1, 1, 1), (5, 0.5, 3, 1.5), (1, 0, 3)]
)
def test_shares_are_the_weights_over_100_000_keys(weights: tuple[float, ...]) -> None:
    found = Counter(picks(splitter(*weights)))
    counts = [(found[index], weight) for index, weight in enumerate(weights) if weight]
    expected = [len(KEYS) * weight / sum(weights) for _, weight in counts]
    assert chi2([count for count, _ in counts], expected) < CRITICAL[len(counts) - 1]
    assert sum(count for count, _ in counts) == len(KEYS)


@pytest.mark.parametrize(
    "keys", [[b"%d" % n for n in range(20_000)], [b"x" * n for n in range(1, 3001)]]
)
def test_keys_that_look_alike_are_divided_as_well(keys: list[bytes]) -> None:
    found = Counter(picks(splitter(3, 1), keys))
    expected = [len(keys) * 0.75, len(keys) * 0.25]
    assert chi2([found[0], found[1]], expected) < CRITICAL[1]


def test_everybody_stays_where_they_are() -> None:
    """Without exception; in an instance made anew as well."""
    first = picks(splitter(70, 20, 10))
    assert picks(splitter(70, 20, 10)) == first
    assert picks(splitter(7, 2, 1), FEW) == first[: len(FEW)]


def test_another_process_decides_alike() -> None:
    """Python's own hash() would not: it has a new key in each process."""
    code = (
        "from gateway.plan.split import Splitter\n"
        "s = Splitter('salt', ('a', 'b', 'c'), (70, 20, 10))\n"
        "print(''.join(str(s.pick(b'session-%d' % n)) for n in range(2000)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "".join(map(str, picks(splitter(70, 20, 10), FEW)))


def test_assignments_are_the_published_ones() -> None:
    """A change of the hash would move everybody in every running experiment."""
    divides = Splitter("new-llama", ("control", "treatment"), (1, 1))
    assert "".join(map(str, picks(divides, FEW[:32]))) == "00111111110010100011101011100110"
    inside = sampler("new-llama", "match", 30)
    found = "".join(str(int(inside(key))) for key in FEW[:32])
    assert found == "10010010000010110000001001101000"


WEIGHTS = st.lists(st.floats(0.01, 1000), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, which=st.integers(0, 4), factor=st.floats(1.0001, 50))
def test_an_arm_that_grows_takes_and_one_that_shrinks_gives(
    weights: list[float], which: int, factor: float
) -> None:
    """Nobody moves between two arms whose weights stay the same, in either direction."""
    which %= len(weights)
    grown = [w * factor if index == which else w for index, w in enumerate(weights)]
    before, after = splitter(*weights), splitter(*grown)
    moved = [
        (one, other)
        for one, other in zip(picks(before, FEW[:400]), picks(after, FEW[:400]), strict=True)
        if one != other
    ]
    assert all(other == which for _, other in moved)  # Read backwards: out of it only.


def test_a_changed_share_moves_no_more_than_it_must() -> None:
    """From 10 to 20 % a tenth of the keys moves; all that were in the arm stay."""
    before, after = picks(splitter(90, 10)), picks(splitter(80, 20))
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved == after.count(1) - before.count(1)
    assert abs(moved / len(KEYS) - 0.1) < 0.005


def test_arms_that_come_go_or_change_places_move_nobody_else() -> None:
    names = [splitter(2, 1, 1).names[index] for index in picks(splitter(2, 1, 1), FEW)]
    turned = Splitter("salt", ("c", "a", "b"), (1, 2, 1))
    assert [turned.names[turned.pick(key)] for key in FEW] == names
    without = Splitter("salt", ("a", "b"), (2, 1))
    left = [without.names[without.pick(key)] for key in FEW]
    assert all(one == other for one, other in zip(names, left, strict=True) if one != "c")
    off = splitter(2, 1, 1).reweighted((2, 1, 0))
    assert [off.names[off.pick(key)] for key in FEW] == left


def independent(left: Sequence[int], right: Sequence[int]) -> float:
    """χ² of independence of two assignments to two arms each; one degree of freedom."""
    rows, columns, cells = Counter(left), Counter(right), Counter(zip(left, right, strict=True))
    pairs = [(row, column) for row in rows for column in columns]
    expected = [rows[row] * columns[column] / len(left) for row, column in pairs]
    return chi2([cells[pair] for pair in pairs], expected)


def test_policies_assign_independently_of_each_other() -> None:
    """The same keys and the same names of arms, under other salts."""
    assignments = [picks(splitter(80, 20, salt=salt)) for salt in ("one", "two", "one2", "2one")]
    for index, left in enumerate(assignments):
        for right in assignments[:index]:
            assert independent(left, right) < CRITICAL[1]
    same = picks(splitter(80, 20, salt="one"))
    assert independent(assignments[0], same) > 10_000  # The test would see a dependence.


def test_a_sample_tells_nothing_of_the_arm() -> None:
    """Nor of another sample under the same salt."""
    arms = picks(splitter(50, 50))
    match, mirror = sampler("salt", "match", 30), sampler("salt", "mirror", 30)
    inside, copied = [int(match(key)) for key in KEYS], [int(mirror(key)) for key in KEYS]
    assert (
        chi2([inside.count(1), inside.count(0)], [len(KEYS) * 0.3, len(KEYS) * 0.7]) < CRITICAL[1]
    )
    assert independent(arms, inside) < CRITICAL[1]
    assert independent(inside, copied) < CRITICAL[1]


def test_a_larger_sample_keeps_the_smaller_one() -> None:
    samples = [sampler("salt", "match", percent) for percent in (0, 10, 50, 100)]
    sizes = [{key for key in FEW if inside(key)} for inside in samples]
    assert sizes[0] == set()
    assert sizes[1] < sizes[2] < sizes[3] == set(FEW)


def test_without_a_key_it_is_the_baseline() -> None:
    divides = Splitter("salt", ("a", "b"), (1, 1), baseline=1)
    assert divides.pick(b"") == 1
    assert divides.reweighted((1, 0)).pick(b"") == 1


def test_one_arm_with_all_the_weight_has_everything() -> None:
    assert set(picks(splitter(0, 5, 0), FEW)) == {1}


@pytest.mark.parametrize("weights", [(0, 0), (1, -1), (float("inf"), 1), (float("nan"), 1), (1,)])
def test_weights_that_divide_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="needs a weight"):
        Splitter("salt", ("a", "b"), weights)


def test_a_policy_brings_names_weights_salt_and_baseline() -> None:
    arms = [{"name": "a", "model": "m", "weight": 3}, {"name": "b", "model": "n", "weight": 1}]
    policy = Policy.model_validate({"name": "p", "split": {"arms": arms, "baseline": "b"}})
    divides = Splitter.of(policy)
    assert (divides.names, divides.weights, divides.pick(b"")) == (("a", "b"), (3, 1), 1)
    assert picks(divides, FEW) == picks(Splitter("p", ("a", "b"), (3, 1)), FEW)
    canary = {"baseline": {"model": "m"}, "canary": {"model": "n"}}
    rollout = Splitter.of(Policy.model_validate({"name": "p", "rollout": canary}))
    assert set(picks(rollout, FEW)) == {0}
    assert set(picks(rollout.reweighted((95, 5)), FEW)) == {0, 1}
