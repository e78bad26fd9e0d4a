"""Paired t intervals and Holm's correction, against scipy and by hand."""

import random
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from workbench.studies.paired import adjust_by_holm, compare_paired, subtract, summarise


@pytest.mark.parametrize("n", [2, 3, 8, 41])
def test_the_interval_is_that_of_scipy(n: int) -> None:
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    draw = np.random.default_rng(seed)
    a, b = draw.normal(3, 2, n), draw.normal(0, 2, n)
    found = compare_paired((a - b).tolist(), level=0.9)
    theirs = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
    assert (found.mean, found.n) == (pytest.approx((a - b).mean()), n)
    assert found.se == pytest.approx(stats.sem(a - b))
    assert found.half_width == pytest.approx((theirs.high - theirs.low) / 2)
    assert found.excludes_zero == (stats.ttest_rel(a, b).pvalue < 0.1)


def test_what_is_common_to_a_seed_goes_away() -> None:
    a, b = {0: 1.0, 1: 5.0, 2: 9.0}, {2: 8.0, 0: 0.0, 1: 4.0, 7: 100.0}
    assert subtract(a, b) == {0: 1.0, 1: 1.0, 2: 1.0}
    found = compare_paired(list(subtract(a, b).values()))
    assert (found.low, found.mean, found.high) == (1.0, 1.0, 1.0)
    assert found.excludes_zero


def test_one_seed_has_no_interval() -> None:
    found = compare_paired([0.25])
    assert (found.mean, found.se, found.low, found.high, found.half_width, found.n) == (0.25, *[None] * 4, 1)
    assert not found.excludes_zero
    assert summarise([0.25]).se is None


def test_holm_by_hand() -> None:
    by_hand = {0.01: 0.03, 0.02: 0.04, 0.04: 0.04}  # 3 x .01, 2 x .02, 1 x .04
    for order in permutations(by_hand):
        assert adjust_by_holm(order) == pytest.approx([by_hand[p] for p in order])
    assert adjust_by_holm([0.04, 0.015, 0.02]) == pytest.approx([0.045, 0.045, 0.045])  # none falls below one before
    assert adjust_by_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []
