"""When are tokens due, and who waits? Time here is a number that the test moves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim.prefix_cache import PrefixCache
from engines.sim.scheduler import (
    UNLIMITED,
    Limits,
    QueueFullError,
    Scheduler,
    Sequence,
    Stage,
    Timing,
)


def _scheduler(
    timing: Timing | None = None, *, seqs: int = 4, queued: int | None = None, cached: bool = False
) -> Scheduler:
    limits = Limits(max_num_seqs=seqs, max_queued=queued, block_tokens=4, blocks=16)
    cache = PrefixCache(16, 4) if cached else None
    default = Timing(first_token_s=1.0, inter_token_s=0.25)
    return Scheduler(timing or default, limits, cache, random.Random(7))


def test_the_first_token_comes_after_the_prefill_and_the_others_follow() -> None:
    """Time to first token, then one token each inter-token latency."""
    scheduler = _scheduler()
    sequence = Sequence([1, 2])
    scheduler.submit(sequence, 10.0)
    assert scheduler.next_due_s() == 11.0
    assert scheduler.advance(10.9) == []
    assert scheduler.advance(11.0) == [(sequence, 1, True)]
    assert scheduler.next_due_s() == 11.25
    assert scheduler.advance(11.25) == [(sequence, 1, False)]


def test_a_late_caller_catches_up() -> None:
    """Tokens that became due meanwhile are all released, and the pace does not drift."""
    scheduler = _scheduler()
    scheduler.submit(Sequence([1]), 0.0)
    assert len(scheduler.advance(2.0)) == 5
    assert scheduler.next_due_s() == 2.25


def test_a_longer_prompt_takes_longer() -> None:
    """Each uncached prompt token costs prefill time."""
    scheduler = _scheduler(Timing(first_token_s=1.0, prefill_token_s=0.5))
    scheduler.submit(Sequence([1, 2, 3, 4]), 0.0)
    assert scheduler.next_due_s() == 3.0


def test_a_repeated_prompt_is_faster() -> None:
    """Cached prompt tokens cost nothing."""
    timing = Timing(first_token_s=1.0, prefill_token_s=0.5)
    scheduler = _scheduler(timing, cached=True)
    first, second = Sequence(range(9)), Sequence(range(9))
    scheduler.submit(first, 0.0)
    assert scheduler.next_due_s() == 5.5
    scheduler.finish(first, 6.0)
    scheduler.advance(6.0)
    scheduler.submit(second, 10.0)
    assert scheduler.next_due_s() == 11.5
    assert (first.cached_tokens, second.cached_tokens) == (0, 8)


def test_load_stretches_latencies() -> None:
    """A full batch is load_factor times slower than a single sequence."""
    timing = Timing(first_token_s=1.0, inter_token_s=0.25, load_factor=2.0)
    scheduler = _scheduler(timing, seqs=2)
    scheduler.submit(Sequence([1]), 0.0)
    scheduler.submit(Sequence([2]), 0.0)
    due = [scheduler.next_due_s()]
    scheduler.advance(1.0)
    due.append(scheduler.next_due_s())
    assert due == [1.0, 1.5]  # the first alone; its next token with both running


def test_jitter_stays_within_bounds_and_follows_the_seed() -> None:
    """Normal jitter is cut to 30 % of the mean, and equal seeds give equal times."""
    timing = Timing(first_token_s=1.0, inter_token_s=1.0, first_token_deviation_s=5.0)

    def due_times() -> list[float | None]:
        scheduler = _scheduler(timing, seqs=1)
        times = []
        for _ in range(50):
            sequence = Sequence([1])
            scheduler.submit(sequence, 0.0)
            times.append(scheduler.next_due_s())
            scheduler.finish(sequence, 0.0)
            scheduler.advance(2.0)
        return times

    times = due_times()
    assert times == due_times()
    assert all(time is not None and 0.7 <= time <= 1.3 for time in times)
    assert len(set(times)) > 1


def test_without_latencies_everything_is_due_at_once() -> None:
    """Zero means no timers: all tokens with the first."""
    scheduler = _scheduler(Timing(first_token_s=0.0, inter_token_s=0.0))
    sequence = Sequence([1])
    scheduler.submit(sequence, 5.0)
    assert scheduler.advance(5.0) == [(sequence, UNLIMITED, True)]
    assert scheduler.next_due_s() is None


def test_a_full_batch_makes_others_wait_in_order() -> None:
    """The longest waiting sequence takes the first free place."""
    scheduler = _scheduler(seqs=1)
    first, second, third = Sequence([1]), Sequence([2]), Sequence([3])
    for sequence in (first, second, third):
        scheduler.submit(sequence, 0.0)
    assert [seq.stage for seq in (first, second, third)] == ["running", "waiting", "waiting"]
    scheduler.finish(first, 4.0)
    assert [seq.stage for seq in (first, second, third)] == ["done", "running", "waiting"]
    assert (second.arrived_s, second.started_s) == (0.0, 4.0)


def test_a_finished_sequence_gets_nothing_more() -> None:
    """Tokens already planned for it are dropped, and finishing again does nothing."""
    scheduler = _scheduler()
    sequence = Sequence([1])
    scheduler.submit(sequence, 0.0)
    scheduler.finish(sequence, 0.5)
    scheduler.finish(sequence, 0.5)
    assert scheduler.advance(9.0) == []
    assert sequence.stage is Stage.DONE


def test_the_queue_limit_counts_what_cannot_start() -> None:
    """Free places do not count as queued; one more than the limit is refused."""
    scheduler = _scheduler(seqs=2, queued=1)
    scheduler.check_room(3)
    with pytest.raises(QueueFullError):
        scheduler.check_room(4)
    for _ in range(3):
        scheduler.submit(Sequence([1]), 0.0)
    with pytest.raises(QueueFullError):
        scheduler.check_room(1)


def test_cache_usage_counts_running_blocks() -> None:
    """Prompt and generated tokens of running sequences, in blocks, up to all of them."""
    scheduler = _scheduler()
    sequence = Sequence(range(6))
    scheduler.submit(sequence, 0.0)
    assert scheduler.kv_usage() == 2 / 16
    sequence.generated = 3
    assert scheduler.kv_usage() == 3 / 16
    sequence.generated = 1000
    assert scheduler.kv_usage() == 1.0


@given(st.lists(st.sampled_from(["submit", "finish", "advance"]), max_size=60), st.randoms())
def test_no_sequence_is_ever_lost(steps: list[str], choices: random.Random) -> None:
    """Whatever happens: the batch keeps its size, and every sequence is in exactly one place."""
    scheduler = _scheduler(seqs=3)
    known: list[Sequence] = []
    now_s = 0.0
    for step in steps:
        now_s += 0.3
        if step == "submit":
            known.append(Sequence([len(known)]))
            scheduler.submit(known[-1], now_s)
        elif step == "finish" and known:
            scheduler.finish(choices.choice(known), now_s)
        else:
            for release in scheduler.advance(now_s):
                assert release.sequence.stage is Stage.RUNNING
        live = [seq for seq in known if seq.stage is not Stage.DONE]
        assert len(scheduler.running) == min(3, len(live))
        assert len(scheduler.running) + len(scheduler.waiting) == len(live)
