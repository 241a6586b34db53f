"""Which part of a prompt counts as seen before?"""

from hypothesis import given
from hypothesis import strategies as st

from engines.sim.prefix_cache import CacheUse, PrefixCache


def test_a_repeated_prompt_is_cached_but_for_its_last_block() -> None:
    """All full blocks are found, except that one token at least is computed."""
    cache = PrefixCache(100, 4)
    assert cache.use(range(8)) == CacheUse(0, 8)
    assert cache.use(range(8)) == CacheUse(4, 0)
    assert cache.use(range(9)) == CacheUse(8, 0)


def test_a_shared_beginning_is_enough() -> None:
    """Prompts that differ later share the blocks before."""
    cache = PrefixCache(100, 4)
    cache.use([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.use([1, 2, 3, 4, 9, 9, 9, 9]) == CacheUse(4, 4)


def test_equal_blocks_at_other_places_do_not_count() -> None:
    """A block is only known after the same beginning."""
    cache = PrefixCache(100, 2)
    cache.use([1, 2, 3, 4])
    assert cache.use([3, 4, 1, 2]).cached_tokens == 0


def test_the_least_recently_used_blocks_leave() -> None:
    """A full cache forgets the prompt that was used longest ago."""
    cache = PrefixCache(2, 2)
    cache.use([1, 1, 0])
    cache.use([2, 2, 0])
    cache.use([1, 1, 0])
    cache.use([3, 3, 0])
    assert cache.use([1, 1, 0]).cached_tokens == 2
    assert cache.use([2, 2, 0]).cached_tokens == 0


@given(
    prompts=st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=20),
    size=st.integers(1, 4),
)
def test_invariants_hold_for_any_traffic(prompts: list[list[int]], size: int) -> None:
    """Cached tokens are whole blocks, leave one token over, and the cache keeps its bound."""
    cache = PrefixCache(5, size)
    for prompt in prompts:
        use = cache.use(prompt or [0])
        assert use.cached_tokens % size == 0
        assert 0 <= use.cached_tokens < max(len(prompt), 1)
        assert len(cache) <= 5
