"""An endpoint knows where it is, how busy it is and how fast it is."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.model import Outcome
from gateway.upstream import breaker
from gateway.upstream.breaker import BreakerSpec
from gateway.upstream.endpoint import Change, Endpoint, EndpointSpec, Health, Peers, State
from gateway.upstream.load import STALE_S, EngineLoad

NOW = 1000.0
URL = "http://h:1"


def healthy(max_inflight: int | None = None, spec: EndpointSpec | None = None) -> Endpoint:
    endpoint = Endpoint(URL, 1.0, spec, Peers(), max_inflight)
    endpoint.probed(True, NOW - 100)
    return endpoint


def busy(running: float, waiting: float = 0.0, *, asleep: bool = False) -> EngineLoad:
    return EngineLoad(running, waiting, 0.0, asleep)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h:8000", "h:8000"),
        ("http://h", "h:80"),
        ("https://h", "h:443"),
        ("http://h:1/base/", "h:1/base"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_its_name_says_where_it_is(url: str, name: str) -> None:
    """Host, port and base path; what tells replicas apart in metrics."""
    endpoint = Endpoint(url)
    assert endpoint.id == name
    assert repr(endpoint) == f"<Endpoint {name} unknown, 0 in flight>"


def test_requests_are_in_flight_from_start_to_finish() -> None:
    """However they end."""
    endpoint = healthy()
    tickets = [endpoint.start(NOW) for _ in Outcome]
    assert endpoint.inflight == endpoint.load(NOW) == len(tickets)
    for ticket, outcome in zip(tickets, Outcome, strict=True):
        assert endpoint.finish(ticket, outcome, NOW) is None
    assert endpoint.inflight == 0


def test_its_room_is_announced_when_it_ends_and_when_there_is_some_again() -> None:
    """Pools look at their endpoints only when the revision has grown."""
    endpoint = healthy(2)
    seen = endpoint.peers.revision
    one = endpoint.start(NOW)
    assert (endpoint.has_room(), endpoint.peers.revision) == (True, seen)
    two = endpoint.start(NOW)
    assert (endpoint.has_room(), endpoint.peers.revision) == (False, seen + 1)
    endpoint.finish(one, Outcome.SUCCESS, NOW)
    assert (endpoint.has_room(), endpoint.peers.revision) == (True, seen + 2)
    endpoint.finish(two, Outcome.SUCCESS, NOW)
    assert endpoint.peers.revision == seen + 2
    assert healthy().has_room()


def test_its_own_metrics_add_what_others_send_and_fade() -> None:
    """Half of it after half of the time, nothing after the whole."""
    endpoint = healthy()
    endpoint.start(NOW)
    endpoint.scraped(busy(running=5), NOW)
    assert endpoint.load(NOW) == 1 + 4
    assert endpoint.load(NOW + STALE_S / 2) == pytest.approx(1 + 2)
    assert endpoint.load(NOW + STALE_S) == 1
    endpoint.scraped(busy(running=1), NOW)
    assert endpoint.load(NOW) == 1


def test_a_scrape_that_says_it_sleeps_takes_it_out() -> None:
    """Until one says otherwise, or there have been none for a while."""
    endpoint = healthy()
    assert not endpoint.scraped(busy(0), NOW)
    assert endpoint.scraped(busy(0, asleep=True), NOW)
    assert endpoint.state(NOW) is State.ASLEEP
    assert not endpoint.scraped(None, NOW + STALE_S - 1)
    assert not endpoint.available(NOW + STALE_S - 1)
    assert endpoint.scraped(None, NOW + STALE_S)
    assert endpoint.available(NOW + STALE_S)
    assert endpoint.scraped(busy(0, asleep=True), NOW + 20)
    assert endpoint.scraped(busy(0), NOW + 22)


def test_who_has_no_metrics_is_awake() -> None:
    """They are never the only signal."""
    endpoint = healthy()
    assert not endpoint.scraped(None, NOW)
    assert endpoint.available(NOW)
    assert endpoint.load(NOW) == 0


def test_first_tokens_and_whole_answers_are_told_apart() -> None:
    """A stream's first token is not as long as an answer."""
    endpoint = healthy()
    assert (endpoint.latency(True, NOW), endpoint.latency(False, NOW)) == (0, 0)
    endpoint.first_token.observe(0.1, NOW)
    endpoint.whole.observe(7.0, NOW)
    assert (endpoint.latency(True, NOW), endpoint.latency(False, NOW)) == (0.1, 7.0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_failures_count_as_slow(outcome: Outcome) -> None:
    """And as at least a second each, for both kinds: failing fast is not being fast."""
    endpoint = healthy()
    endpoint.first_token.observe(0.1, NOW)
    endpoint.finish(endpoint.start(NOW), outcome, NOW)
    failed = outcome in {Outcome.RETRYABLE, Outcome.FAILURE}
    assert endpoint.latency(True, NOW) == (1.0 if failed else 0.1)
    assert endpoint.latency(False, NOW) == (1.0 if failed else 0.0)


def fail(endpoint: Endpoint, now: float) -> Change | None:
    return [endpoint.finish(endpoint.start(now), Outcome.RETRYABLE, now) for _ in range(5)][-1]


def test_latencies_end_with_the_life_that_they_are_of() -> None:
    """When the breaker closes again, when it is ejected, when probes bring it back."""
    endpoint = healthy()
    assert fail(endpoint, NOW) == Change(breaker.State.OPEN)
    assert endpoint.latency(True, NOW) > 10
    ticket = endpoint.start(NOW + 5)
    assert endpoint.commit(ticket, NOW + 5) != ticket
    assert endpoint.latency(True, NOW + 5) == 0

    endpoint.first_token.observe(0.1, NOW)
    ticket = endpoint.start(NOW + 6)
    assert endpoint.commit(ticket, NOW + 6) == ticket
    for ok in (False, False, False, True, True):
        assert endpoint.latency(True, NOW) == 0.1
        endpoint.probed(ok, NOW + 7)
    assert endpoint.health is Health.HEALTHY
    assert endpoint.latency(True, NOW) == 0

    endpoint = healthy()
    Endpoint(URL, peers=endpoint.peers)  # With a peer it may be ejected.
    assert fail(endpoint, NOW) == Change(breaker.State.OPEN, 30.0)
    assert endpoint.latency(True, NOW) == 0


def test_a_new_configuration_leaves_what_is_known() -> None:
    """It holds for what comes next."""
    endpoint = healthy()
    endpoint.start(NOW)
    seen = endpoint.peers.revision
    endpoint.configure(2.0, 1, EndpointSpec(fall=1, breaker=BreakerSpec(failures=1)))
    assert (endpoint.weight, endpoint.has_room(), endpoint.inflight) == (2.0, False, 1)
    assert endpoint.peers.revision > seen
    endpoint.configure(3.0, None)
    assert endpoint.has_room()
    assert endpoint.finish(endpoint.start(NOW), Outcome.FAILURE, NOW) is not None
    assert endpoint.probed(False, NOW) is Health.UNHEALTHY


class Machine(RuleBasedStateMachine):
    """Two peers, used only when they are available, and whatever may happen to one of them."""

    def __init__(self) -> None:
        super().__init__()
        peers = Peers()
        spec = EndpointSpec(breaker=BreakerSpec(failures=2))
        self.endpoint = Endpoint(URL, 1.0, spec, peers, 3)
        Endpoint("http://other:1", 1.0, spec, peers)
        self.now = NOW
        self.held: list[int] = []

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.endpoint.available(self.now) and self.endpoint.has_room())
    @rule()
    def start(self) -> None:
        self.held.append(self.endpoint.start(self.now))
        if self.endpoint.breaker.state is breaker.State.HALF_OPEN:
            assert not self.endpoint.available(self.now)

    @precondition(lambda self: self.held)
    @rule(outcome=st.sampled_from(Outcome), committed=st.booleans(), data=st.data())
    def finish(self, outcome: Outcome, committed: bool, data: st.DataObject) -> None:
        ticket = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        if committed:
            ticket = self.endpoint.commit(ticket, self.now)
        self.endpoint.finish(ticket, outcome, self.now)

    @rule(ok=st.booleans())
    def probe(self, ok: bool) -> None:
        self.endpoint.probed(ok, self.now)

    @rule(load=st.none() | st.builds(busy, st.just(1.0), asleep=st.booleans()))
    def scrape(self, load: EngineLoad | None) -> None:
        self.endpoint.scraped(load, self.now)

    @rule(drain=st.booleans())
    def operate(self, drain: bool) -> None:
        if drain:
            self.endpoint.drain()
        else:
            self.endpoint.undrain(self.now)

    @rule()
    def leave(self) -> None:
        self.endpoint.leave(self.now)

    @invariant()
    def it_counts_what_is_held(self) -> None:
        assert self.endpoint.inflight == len(self.held)
        assert self.endpoint.load(self.now) >= self.endpoint.inflight

    @invariant()
    def what_it_says_of_itself_agrees(self) -> None:
        endpoint, now = self.endpoint, self.now
        if endpoint.available(now):
            assert endpoint.health is Health.HEALTHY
            assert not endpoint.draining
            assert not endpoint.asleep
            assert now >= endpoint.ejected_until
            assert now >= endpoint.left_until
        assert endpoint.blocked_at_worst() <= endpoint.blocked_in_panic() <= endpoint.blocked_until
        assert 0.1 <= endpoint.ramp(now) <= 1.0

    @invariant()
    def time_brings_it_back_unless_something_is_awaited(self) -> None:
        endpoint = self.endpoint
        if endpoint.blocked_until == inf:
            awaited = endpoint.draining or endpoint.asleep or endpoint.health is not Health.HEALTHY
            assert awaited or endpoint.inflight > 0  # The breaker's probe.


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40)
