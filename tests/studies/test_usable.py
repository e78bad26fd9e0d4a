"""Intervals against scipy's, and the word that follows from them."""

import math
import random
import statistics

import pytest
from scipy import stats

from workbench.studies.synergy.critics import Fitted
from workbench.studies.synergy.usable import (
    GRAIN,
    Interval,
    decide,
    gain_of,
    hull,
    least,
    margin_of,
    samples_to_tell,
    t_interval,
    usable,
)


def draws(count: int, mean: float = 1.0, spread: float = 0.2) -> list[float]:
    return [random.gauss(mean, spread) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5, 11])
def test_the_t_interval_is_scipys(count: int) -> None:
    values = draws(count)
    found = t_interval(values, 0.9)
    expected = stats.t.interval(0.9, count - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(statistics.fmean(values))


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        t_interval([1.0])


def test_the_hull_reaches_to_what_unlimited_samples_would_give() -> None:
    whole, half = draws(5, 1.0), draws(5, 0.8)
    more = t_interval([2 * a - b for a, b in zip(whole, half, strict=True)])
    found = hull(whole, half)
    assert found.mean == pytest.approx(statistics.fmean(whole))
    assert found.high == pytest.approx(max(t_interval(whole).high, more.high))
    assert found.low == pytest.approx(min(t_interval(whole).low, more.low))


def test_what_lacks_one_over_n_is_held() -> None:
    """A value of 2 - 300/n, seen without noise at n = 1000 and 500, is 2 without limit."""
    found = hull([1.7, 1.7, 1.7], [1.4, 1.4, 1.4])
    assert found == pytest.approx((1.7, 1.7 - GRAIN, 2.0))


def test_usable_nats_are_between_nothing_and_the_ceiling() -> None:
    assert usable([Fitted(-0.2, -0.2), Fitted(-0.1, -0.1)], 4.0) == pytest.approx((0, 0, 0.4853102), abs=1e-6)
    assert usable([Fitted(3.9, 3.5), Fitted(3.8, 3.5)], math.log(64)).high == math.log(64)


def test_the_gain_is_paired_and_its_upper_end_no_loss() -> None:
    common = draws(5, 2.0, 0.5)  # what the parts have in common takes no part in the difference
    fused = [Fitted(value + 0.3, value + 0.3) for value in common]
    summed = [Fitted(value, value) for value in common]
    assert gain_of(fused, summed) == pytest.approx((0.3, 0.3 - GRAIN, 0.3 + GRAIN))
    lost = gain_of(summed, fused)
    assert (lost.mean, lost.high) == pytest.approx((-0.3, 0.0))


def test_the_least_takes_each_end_by_itself() -> None:
    assert least([Interval(1, 0.5, 2), Interval(1.2, 0.2, 1.4)]) == (1, 0.2, 1.4)


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        (Interval(0.5, 0.21, 0.8), "fuse"),
        (Interval(0.5, 0.19, 0.8), "cannot tell"),  # above 0, and not above the margin of .2
        (Interval(0.1, -0.1, 0.19), "pairs are enough"),
        (Interval(0.1, -0.1, 0.21), "cannot tell"),
    ],
)
def test_the_word_needs_the_whole_interval_on_one_side_of_the_margin(gain: Interval, word: str) -> None:
    assert decide(Interval(2.0, 1.9, 2.1), gain) == word


def test_the_margin_is_a_share_and_never_less_than_a_few_hundredths() -> None:
    assert margin_of(Interval(2.0, 1.9, 2.1)) == pytest.approx(0.2)
    assert margin_of(Interval(0.01, 0, 0.1)) == 0.05


def test_the_number_of_samples_that_might_tell() -> None:
    assert samples_to_tell(Interval(0.3, 0.1, 0.5), margin=0.2, samples=1000) == 4000  # half as wide
    assert samples_to_tell(Interval(0.2, 0.1, 0.3), margin=0.2, samples=1000) is None
