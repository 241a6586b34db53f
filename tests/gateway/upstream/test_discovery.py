"""Sources of members: leases end unless renewed, and an empty answer empties nothing by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.config.cluster import Cluster
from gateway.config.names import endpoint_id, endpoint_url
from gateway.upstream.discovery import Member, Registered, Static, merge, settle
from gateway.upstream.endpoint import Endpoint

A, B = Member("http://a:1"), Member("http://b:1")


@pytest.mark.parametrize(
    "url",
    [
        *("http://gpu", "https://gpu", "http://gpu:80", "https://gpu:8443/a/b", "http://gpu/base"),
        *("http://[fd00::1]", "https://[fd00::1]:8000/x", "HTTP://GPU/"),
    ],
)
def test_an_id_is_the_same_before_and_after_the_endpoint_is_made(url: str) -> None:
    """Registration refuses by the id that metrics will show."""
    normal = endpoint_url(url)
    assert endpoint_id(normal) == Endpoint(normal).id == Member(normal).id


def test_static_members_are_the_file_s() -> None:
    """With their weights and limits; the answer is one object, however often it is asked for."""
    spec = Cluster.model_validate(
        {
            "endpoints": [
                {"url": "http://a:1"},
                {"url": "http://b:1", "weight": 2, "max_inflight": 3},
            ]
        }
    )
    static = Static(spec)
    assert static.members(0.0) == (A, Member("http://b:1", 2.0, 3))
    assert static.members(0.0) is static.members(9e9)


def test_a_registration_ends_unless_it_is_renewed() -> None:
    """To the second; a renewal begins the whole term anew, one that comes too late is refused."""
    registered = Registered()
    registered.register(A, 10.0, 100.0)
    registered.register(B, 30.0, 100.0)
    assert registered.members(109.9) == (A, B)
    assert registered.renew(A.id, 109.9)
    assert registered.expires_at(A.id) == pytest.approx(119.9)
    assert registered.members(119.8) == (A, B)
    assert registered.members(119.9) == (B,)
    assert not registered.renew(A.id, 119.9)
    assert registered.expires_at(A.id) is None
    assert not registered.renew(B.id, 130.0)  # Nobody has looked since its end.
    assert registered.members(130.0) == ()
    assert (len(registered), A.id in registered) == (0, False)


def test_registering_again_renews_and_changes() -> None:
    """The answer is a new one only if it says something new."""
    registered = Registered()
    registered.register(A, 10.0, 0.0)
    before = registered.members(0.0)
    registered.register(A, 20.0, 5.0)
    assert registered.members(24.9) is before
    heavier = Member(A.url, 2.0)
    registered.register(heavier, 20.0, 5.0)
    assert registered.members(5.0) == (heavier,)


def test_a_registration_can_be_taken_back() -> None:
    """Once; the second time it is unknown."""
    registered = Registered()
    registered.register(A, 10.0, 0.0)
    assert registered.remove(A.id)
    assert registered.members(0.0) == ()
    assert not registered.remove(A.id)


class Registrations(RuleBasedStateMachine):
    """Against the plainest model: a dict of ends."""

    def __init__(self) -> None:
        super().__init__()
        self.registered = Registered()
        self.ends: dict[str, tuple[float, float]] = {}
        self.now = 0.0

    def alive(self) -> set[str]:
        return {name for name, (end, _) in self.ends.items() if self.now < end}

    members = st.sampled_from([A, B, Member("http://c:1")])

    @rule(member=members, ttl_s=st.integers(1, 20))
    def register(self, member: Member, ttl_s: int) -> None:
        self.registered.register(member, ttl_s, self.now)
        self.ends[member.id] = (self.now + ttl_s, ttl_s)

    @rule(member=members)
    def renew(self, member: Member) -> None:
        known = member.id in self.alive()
        assert self.registered.renew(member.id, self.now) is known
        if known:
            self.ends[member.id] = (self.now + self.ends[member.id][1], self.ends[member.id][1])

    @rule(member=members)
    def remove(self, member: Member) -> None:
        self.registered.members(self.now)
        assert self.registered.remove(member.id) is (member.id in self.alive())
        self.ends.pop(member.id, None)

    @rule(seconds=st.integers(1, 15))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def members_are_those_whose_term_runs(self) -> None:
        assert {member.id for member in self.registered.members(self.now)} == self.alive()


TestRegistrations = Registrations.TestCase


def test_the_first_source_wins() -> None:
    """What the file says of an endpoint is not overruled by its own registration."""
    mine, theirs = Member("http://a:80", 1.0), Member("http://a", 5.0)
    assert merge([(mine,), (theirs, B)]) == (mine, B)


ANSWERS = st.lists(st.sampled_from([A, B]), unique=True).map(tuple)


@given(ANSWERS, ANSWERS, st.booleans())
def test_only_an_answer_with_somebody_in_it_is_believed(
    present: tuple[Member, ...], answer: tuple[Member, ...], allow_empty: bool
) -> None:
    """Unless the configuration says that nobody is an answer, too."""
    settled = settle(present, answer, allow_empty=allow_empty)
    if answer or allow_empty:
        assert settled == answer
    else:
        assert settled == present
