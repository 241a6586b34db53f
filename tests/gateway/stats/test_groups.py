"""By how much do requests of the same user blur a comparison?"""

import json
import random

import numpy as np
import pytest
from scipy import stats

from gateway.stats.groups import GROUPS, Groups, crowding, design_effect
from gateway.stats.proportions import counts, signed_root
from gateway.stats.ratio import mismatch
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import Rate, Sums, Values


def users(seed: int, many: int, requests: int, alike: float) -> tuple[Values, Groups]:
    """Values of users, who have the share `alike` of the variance in common."""
    rng = random.Random(seed)
    sums, groups = Values(), Groups()
    for _ in range(many):
        key, own = rng.getrandbits(32), rng.gauss(0.0, alike**0.5)
        for _ in range(requests):
            value = 10.0 + own + rng.gauss(0.0, (1 - alike) ** 0.5)
            sums.add(value)
            groups.add(key, value)
    return sums, groups


def test_independent_requests_have_a_design_effect_of_about_one() -> None:
    assert design_effect([users(1, 4000, 1, 0.0), users(2, 4000, 1, 0.0)]) < 1.5


def test_the_design_effect_is_that_of_the_textbook() -> None:
    """1 + (requests - 1) * alike = 1 + 19 * 0.3 = 6.7 for users with 20 requests each."""
    found = [
        design_effect([users(seed, 500, 20, 0.3), users(seed + 100, 500, 20, 0.3)])
        for seed in range(6)
    ]
    assert float(np.mean(found)) == pytest.approx(6.7, rel=0.15)


def test_a_handful_of_users_count_as_no_more_than_they_are() -> None:
    """Three users with 1,000 requests: fewer groups than a variance can be taken from."""
    arms = [users(1, 3, 1000, 0.0), users(2, 3, 1000, 0.0)]
    assert 6000 / design_effect(arms) <= 6 + 1e-9


def test_an_arm_without_samples_or_variance_is_no_error() -> None:
    """Before the first request, and when all succeed."""
    empty: list[tuple[Sums, Groups]] = [(Rate(), Groups()), (Rate(), Groups())]
    assert design_effect(empty) == 1.0
    sure = Groups()
    for key in range(100):
        sure.add(key, 1.0)
    assert design_effect([(Rate(100, 100), sure), (Rate(100, 100), sure)]) == 1.0
    assert design_effect([(Rate(100, 99), sure), (Rate(), Groups())]) >= 1.0


def test_groups_merge_and_survive_json_beside_the_sums_of_their_metric() -> None:
    """In one flat dict, which is how the store keeps them."""
    (sums, left), (_, right) = users(3, 40, 5, 0.3), users(4, 40, 5, 0.3)
    merged = Groups.of(json.loads(json.dumps({**sums.flat(), **left.flat()})))
    assert (merged.counts, merged.totals) == (left.counts, left.totals)
    assert Values.of({**sums.flat(), **left.flat()}).buckets == sums.buckets
    merged.merge(right)
    assert sum(merged.counts) == 400
    assert merged.totals[5] == left.totals[5] + right.totals[5]
    assert merged.minus(right).counts == left.counts
    assert merged.minus(right).totals == pytest.approx(left.totals)
    assert Groups.of({}).counts == [0] * GROUPS


def test_sticky_users_keep_to_alpha_with_it_and_far_from_it_without() -> None:
    """100 A/A runs of 400 users with 15 requests each, a look after every 20 users."""
    runs, wrong, naive = 100, 0, 0
    rng = np.random.default_rng(9)
    for _ in range(runs):
        arms = [(Rate(), Groups()), (Rate(), Groups())]
        plain = careful = False
        for user in range(400):
            rate, groups = arms[rng.integers(2)]
            hits, group = int(rng.binomial(15, rng.beta(2.0, 2.0))), rng.integers(64)
            rate.merge(Rate(15, hits))
            groups.counts[group] += 15
            groups.totals[group] += hits
            if user % 20 == 19:
                plain = plain or _differs(arms[0][0], arms[1][0], 1.0)
                careful = careful or _differs(arms[0][0], arms[1][0], design_effect(arms))
        wrong += careful
        naive += plain
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)
    assert naive / runs > 0.3


def test_crowding_is_the_mean_number_of_requests_weighted_by_requests() -> None:
    """Half the keys with 10 requests, half with 30: (100 + 900) / (10 + 30) = 25."""
    found = []
    for seed in range(20):
        rng, arms = random.Random(seed), (Groups(), Groups())
        for user in range(1000):
            key, requests = rng.getrandbits(32), 10 if user % 2 else 30
            arms[user % 3 == 0].counts[key % GROUPS] += requests
        found.append(crowding(arms))
    assert float(np.mean(found)) == pytest.approx(25, rel=0.15)
    assert crowding([Groups(), Groups()]) == 1.0
    even = Groups()
    even.counts = [10] * GROUPS
    assert crowding([even]) == 1.0


def test_users_with_many_requests_are_no_mismatch_of_the_split() -> None:
    """100 runs of 600 users with 20 requests each, assigned 50:50, at alpha = 0.01."""
    rng, wrong, naive = np.random.default_rng(12), 0, 0
    for _ in range(100):
        arms = (Groups(), Groups())
        for arm, group in zip(rng.integers(2, size=600), rng.integers(64, size=600), strict=True):
            arms[arm].counts[group] += 20
        counted = [sum(arm.counts) for arm in arms]
        wrong += mismatch(counted, [1, 1], 0.01, crowding=crowding(arms)).found
        naive += mismatch(counted, [1, 1], 0.01).found
    assert wrong <= 3
    assert naive > 20


def _differs(a: Rate, b: Rate, effect: float) -> bool:
    mixture = Mixture(effective(a.n, b.n), rho2(0.05, 500), effect)
    return bool(mixture.p_value(signed_root(counts(a), counts(b))) <= 0.05)
