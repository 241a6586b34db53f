"""An endpoint's health follows its probes, with as many in a row as configured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.endpoint import Endpoint, Health, ProbeSpec


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
    assert Endpoint(url).id == name


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_health_follows_the_last_probes(probes: list[bool], rise: int, fall: int) -> None:
    """`fall` failures take it out, `rise` successes bring it back; at first one suffices."""
    endpoint = Endpoint("http://h", spec=ProbeSpec(rise, fall))
    expected = Health.UNKNOWN
    for count in range(1, len(probes) + 1):
        seen = probes[:count]
        before = expected
        if expected is Health.HEALTHY:
            if len(seen) >= fall and not any(seen[-fall:]):
                expected = Health.UNHEALTHY
        elif seen[-1] and (expected is Health.UNKNOWN or (len(seen) >= rise and all(seen[-rise:]))):
            expected = Health.HEALTHY
        changed = endpoint.probed(seen[-1])
        assert endpoint.health is expected
        assert changed is (None if expected is before else expected)
        assert endpoint.available() is (expected is Health.HEALTHY)
