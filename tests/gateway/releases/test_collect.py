"""What a process hands on adds up to what it has counted, however often it is asked."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Outcome, Usage
from gateway.releases.collect import Collector, by_arm, name_of, owner_of, prefix_of
from gateway.stats.sums import Rate, Values
from gateway.telemetry.arms import ArmTallies
from gateway.telemetry.record import Record


def record(outcome: Outcome, seconds: float, tokens: int) -> Record:
    made = Record("chat", b"id", "client", 100.0)
    made.outcome, made.ended_at = outcome, 100.0 + seconds
    made.first_at = 100.0 + seconds / 2
    made.usage = Usage(5, tokens)
    return made


RECORDS = st.builds(
    record,
    st.sampled_from(Outcome),
    st.floats(0.001, 1000, allow_nan=False),
    st.integers(0, 5000),
)


@given(st.lists(st.lists(RECORDS, max_size=4), max_size=6))
def test_the_deltas_add_up_to_the_sums(rounds: list[list[Record]]) -> None:
    """Over any number of looks; the last one has nothing left."""
    tallies = ArmTallies()
    collector = Collector(tallies)
    store: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for records in rounds:
        for each in records:
            tallies.of("p", 3, "b").observe(each)
        for name, fields in collector.deltas().items():
            for field, value in fields.items():
                store[name][field] += value
    assert collector.deltas() == {}
    found = by_arm(store).get("b", {})
    for metric, sums in tallies.of("p", 3, "b").sums().items():
        if not sums.n:
            assert metric not in found
            continue
        read = found[metric]
        if isinstance(sums, Rate):
            assert isinstance(read, Rate)
            assert (read.n, read.hits) == (sums.n, sums.hits)
        else:
            assert isinstance(read, Values)
            assert read.buckets == sums.buckets
            assert abs(read.total - sums.total) <= 1e-6 * abs(sums.total)


def test_what_counts_for_an_arm() -> None:
    """Refusals nowhere, a client that left as that only, and times of successes."""
    tallies = ArmTallies()
    tally = tallies.of("p", 0, "a")
    for outcome in Outcome:
        tally.observe(record(outcome, 2.0, 11))
    assert (tally.cancel_rate.n, tally.cancel_rate.hits) == (4, 1)
    assert (tally.success_rate.n, tally.success_rate.hits) == (3, 1)
    assert (tally.error_rate.n, tally.error_rate.hits) == (3, 2)
    assert (tally.latency.n, tally.latency.total) == (1, 2.0)
    assert (tally.ttft.total, tally.inter_token.total) == (1.0, 0.1)
    assert (tally.output_tokens.total, tally.tokens_per_s.total) == (11.0, 5.5)


def test_what_broke_off_and_was_resumed_counts_against_the_arm() -> None:
    """The client has its answer, and the engine has not done its work."""
    tally = ArmTallies().of("p", 0, "a")
    cut, aborted = (record(Outcome.SUCCESS, 1.0, 5) for _ in range(2))
    cut.cut, aborted.aborted = True, True
    for each in (cut, aborted):
        tally.observe(each)
    assert (tally.success_rate.hits, tally.truncation_rate.hits, tally.abort_rate.hits) == (2, 1, 1)


def test_what_is_over_is_forgotten() -> None:
    """Its epochs before one, of one policy; it does not come back as new."""
    tallies = ArmTallies()
    collector = Collector(tallies)
    for policy, epoch in (("p", 1), ("p", 2), ("q", 1)):
        tallies.of(policy, epoch, "a").observe(record(Outcome.SUCCESS, 1.0, 1))
    collector.deltas()
    assert collector.forget("p", 2) == {1}
    assert [(key.policy, key.epoch) for key, _ in tallies.items()] == [("p", 2), ("q", 1)]
    assert collector.deltas() == {}
    tallies.of("p", 2, "a").observe(record(Outcome.SUCCESS, 1.0, 1))
    assert collector.deltas()[name_of("p", 2, "a", "success_rate")] == {"n": 1, "hits": 1}


def test_names_that_mean_nothing_here_are_passed_over() -> None:
    """A newer process may count what this one does not know."""
    flat = {"n": 2.0, "hits": 1.0}
    found = by_arm({"p/1/a/success_rate": flat, "p/1/a/novel": flat, "odd": flat})
    assert list(found) == ["a"]
    assert list(found["a"]) == ["success_rate"]
    assert name_of("p", 1, "a", "x").startswith(prefix_of("p", 1))
    assert prefix_of("p", 1).startswith(prefix_of("p"))
    assert owner_of(name_of("p", 1, "a", "x")) == "p"
