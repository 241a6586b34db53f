"""Prompts go where their beginning is known, and never so that one endpoint is swamped."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.candidate import SPARE
from gateway.upstream.prefix import Blocks, Prefix, Seen, chain
from gateway.upstream.traits import Traits
from tests.support.candidates import FakeEndpoint, fakes

SMALL = Blocks(size_bytes=4, most=8, remembered=16)


def prefix(blocks: Blocks | None = None) -> Prefix:
    return Prefix(1.25, 4, blocks or Blocks(), Random(0))


def asks(prompt: bytes) -> Traits:
    return Traits(stream=True, prompt=prompt)


def text(seed: object, size_bytes: int) -> bytes:
    """Make text that no other seed makes."""
    return Random(str(seed)).randbytes(size_bytes)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_hashes_agree_as_far_as_the_text_does(one: bytes, other: bytes) -> None:
    """And not a block further, even if later blocks are equal again."""
    hashes, others = chain(one, SMALL), chain(other, SMALL)
    assert len(hashes) == min(len(one) // 4, 8)
    for count, (mine, theirs) in enumerate(zip(hashes, others, strict=False), start=1):
        assert (mine == theirs) is (one[: count * 4] == other[: count * 4])


def test_no_more_of_a_prompt_is_hashed_than_so_many_blocks() -> None:
    """The cost of a pick is bounded; what is behind them may differ. A last part block is left."""
    assert len(chain(b"x" * 31, SMALL)) == 7
    assert chain(b"x" * 32 + b"tail", SMALL) == chain(b"x" * 32, SMALL)


@given(
    st.lists(st.text("ab", max_size=36).map(str.encode), max_size=40),
    st.text("ab", min_size=4, max_size=36).map(str.encode),
)
def test_the_match_is_the_longest_known_beginning(told: list[bytes], asked: bytes) -> None:
    """Also after old blocks were dropped: a prompt's beginning outlives its end."""
    seen = Seen(5)
    for prompt in told:
        seen.add(chain(prompt, SMALL))
        assert len(seen) <= 5
    hashes = chain(asked, SMALL)
    known = [one in seen._blocks for one in hashes]
    assert known == sorted(known, reverse=True)
    assert seen.match(hashes) == sum(known)


def test_what_was_used_last_is_kept() -> None:
    """A prompt that is asked again and again survives any number of others."""
    seen, mine = Seen(SMALL.remembered), chain(b"mine" * 8, SMALL)
    for number in range(50):
        seen.add(mine)
        seen.add(chain(text(number, 32), SMALL))
    assert seen.match(mine) == 8
    for number in range(2):
        seen.add(chain(text(-number, 32), SMALL))
    assert seen.match(mine) == 0


def test_a_conversation_sticks() -> None:
    """Each turn goes to where the one before it went, though others are as idle."""
    balancer, pool = prefix(), fakes(4)
    for number in range(50):
        said = text(number, 1500)
        first = balancer.pick(pool, asks(said), 0.0)
        for turn in range(5):
            said += text((number, turn), 700)
            assert balancer.pick(pool, asks(said), 0.0) is first


def test_new_conversations_spread() -> None:
    """What nobody knows goes to the cheaper of two."""
    balancer, pool = prefix(), fakes(2)
    pool[0].busy = 1
    for number in range(20):
        assert balancer.pick(pool, asks(text(number, 2000)), 0.0) is pool[1]


def test_short_prompts_are_not_worth_a_detour() -> None:
    """Under one block they go to the cheaper of two, and nothing is remembered."""
    balancer, pool = prefix(), fakes(2)
    for _ in range(20):
        pool.reverse()
        pool[0].busy, pool[1].busy = 1, 0
        assert balancer.pick(pool, asks(b"x" * 511), 0.0) is pool[1]
    assert not balancer._seen


@pytest.mark.parametrize(("busier", "stays"), [(4, True), (5, False)])
def test_a_match_is_worth_a_few_requests(busier: int, stays: bool) -> None:
    """Four more than an idle one has, and no more."""
    balancer, pool = prefix(), fakes(2)
    prompt = text("p", 8192)
    home = balancer.pick(pool, asks(prompt), 0.0)
    home.busy = busier
    assert (balancer.pick(pool, asks(prompt), 0.0) is home) is stays


def test_if_the_longest_match_is_too_busy_the_next_longest_counts() -> None:
    """And of those that know as much, the less busy."""
    balancer, pool = prefix(), fakes(4)
    prompt = text("p", 8192)
    for one, known in zip(pool, (8192, 4096, 4096, 1024), strict=True):
        balancer.pick([one], asks(prompt[:known]), 0.0)
    pool[0].busy, pool[1].busy, pool[2].busy = 5, 3, 2
    assert balancer.pick(pool, asks(prompt), 0.0) is pool[2]


def test_the_tolerance_grows_with_the_load_and_counts_by_weight() -> None:
    """100 requests on the least busy: up to 1.25 * 100 + 4; of twice the weight, twice as many."""
    balancer, pool = prefix(), fakes(2)
    prompt = text("p", 8192)
    pool[0].busy, pool[1].busy = 128, 100
    assert balancer.pick(pool[:1], asks(prompt), 0.0) is pool[0]
    assert balancer.pick(pool, asks(prompt), 0.0) is pool[0]
    pool[0].busy = 130
    assert balancer.pick(pool, asks(prompt), 0.0) is pool[1]
    heavier, others = prefix(), fakes(2, (2, 1))
    assert heavier.pick(others[:1], asks(prompt), 0.0) is others[0]
    # Normalised by the average weight of 1.5: 3/4 of 250 against 3/2 of 100.
    others[0].busy, others[1].busy = 250, 100
    assert heavier.pick(others, asks(prompt), 0.0) is others[0]
    others[0].busy = 262
    assert heavier.pick(others, asks(prompt), 0.0) is others[1]


class Traffic:
    """Requests of which so many are always under way, the oldest or any ending."""

    def __init__(self, balancer: Prefix, pool: list[FakeEndpoint], at_once: int) -> None:
        self.balancer = balancer
        self.pool = pool
        self.at_once = at_once
        self.taken: Counter[str] = Counter()
        self._under_way: list[FakeEndpoint] = []
        self._rng = Random(9)

    def send(self, prompt: bytes) -> FakeEndpoint:
        if len(self._under_way) >= self.at_once:
            ends = self._under_way.pop(self._rng.randrange(len(self._under_way)))
            ends.busy -= 1
        least = min(one.busy for one in self.pool)
        picked = self.balancer.pick(self.pool, asks(prompt), 0.0)
        # Either for its match, within the tolerance, or because nobody knew the prompt.
        assert picked.busy <= 1.25 * least + 4 or not self.taken
        picked.busy += 1
        self.taken[picked.id] += 1
        self._under_way.append(picked)
        return picked


def test_a_shared_system_prompt_makes_no_hot_spot() -> None:
    """16 KiB that all share, and a short question each: no endpoint is far from a third."""
    traffic = Traffic(prefix(), fakes(3), at_once=60)
    system = text("system", 16 * 1024)
    for number in range(3000):
        traffic.send(system + text(number, 600))
    assert all(0.28 < taken / 3000 < 0.39 for taken in traffic.taken.values())
    assert max(one.busy for one in traffic.pool) <= 1.25 * min(one.busy for one in traffic.pool) + 5


def test_conversations_stick_under_load_despite_a_shared_system_prompt() -> None:
    """100 at a time, four turns each, 30 requests under way: most turns find their cache."""
    traffic, rng = Traffic(prefix(), fakes(3), at_once=30), Random(10)
    system = text("system", 4096)
    said: dict[int, bytes] = {number: system + text(number, 800) for number in range(100)}
    where: dict[int, FakeEndpoint] = {}
    stuck = turns = 0
    for turn in range(4000):
        number = rng.randrange(100)
        picked = traffic.send(said[number])
        if number in where:
            turns += 1
            stuck += picked is where[number]
        where[number] = picked
        if len(said[number]) > 4096 + 800 * 4:  # It ends, and another begins.
            said[number] = system + text((number, turn), 800)
            del where[number]
        else:
            said[number] += text((number, turn), 800)
    assert turns > 2000
    assert stuck / turns > 0.9
    assert all(0.25 < taken / 4000 < 0.42 for taken in traffic.taken.values())


def test_ties_fall_to_either() -> None:
    """Endpoints that know a prompt equally well, and are as busy, share it."""
    balancer, pool = prefix(), fakes(3)
    prompt = text("p", 4096)
    for one in pool:
        balancer.pick([one], asks(prompt), 0.0)
    taken = Counter(balancer.pick(pool, asks(prompt), 0.0) for _ in range(300))
    assert all(taken[one] > 60 for one in pool)


def test_memory_of_endpoints_is_bounded() -> None:
    """Those that come and go leave nothing behind; the others keep what they know."""
    balancer, (home,), prompt = prefix(), fakes(1), text("p", 2048)
    for number in range(200):
        balancer.pick([home, FakeEndpoint(f"pod-{number}", busy=9)], asks(prompt), 0.0)
    assert len(balancer._seen) <= 4 + SPARE
    assert len(balancer._seen[home.id]) == 4
