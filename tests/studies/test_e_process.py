"""The e-process against the integral it is a closed form of, and against noise that is looked at after every seed."""

import math
import random

import numpy as np
import pytest
from scipy import integrate, stats

from workbench.studies import e_process


def marginal(t: float, n: int, g: float) -> float:
    """Integrate the density of t over delta ~ N(0, g): t of n draws is noncentral with parameter sqrt(n) delta."""
    width = 12 * math.sqrt(g)

    def integrand(delta: float) -> float:
        return stats.nct.pdf(t, n - 1, math.sqrt(n) * delta) * stats.norm.pdf(delta, scale=math.sqrt(g))

    return integrate.quad(integrand, -width, width, points=[0.0, t / math.sqrt(n)], limit=200)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "g"), [(2, 1.0), (3, 0.3), (5, 1.0), (12, 4.0)])
def test_it_is_the_ratio_of_marginal_likelihoods(n: int, g: float) -> None:
    for t in (-2.7, 0.1, 1.3, 6.0):
        expected = marginal(t, n, g) / stats.t.pdf(t, n - 1)
        assert e_process.e_value_of_t(n, t, g) == pytest.approx(expected, rel=1e-6), t


def test_it_is_the_integral_over_the_scale_and_the_effect() -> None:
    """The same from the raw differences: d sigma / sigma under both, no t statistic anywhere."""
    differences, g = np.array([0.3, -0.1, 0.5, 0.45]), 1.7

    def integral(delta: np.ndarray) -> np.ndarray:
        """For each delta, over log sigma, in which d sigma / sigma is flat: a sum over an even grid."""
        log_sigma = np.linspace(math.log(0.01), math.log(30), 500)
        sigma = np.exp(log_sigma)[:, None, None]
        likelihoods = stats.norm.pdf(differences, sigma * delta[:, None], sigma).prod(-1)
        return likelihoods.sum(0) * (log_sigma[1] - log_sigma[0])

    delta = np.linspace(-9, 9, 500)
    other = (integral(delta) * stats.norm.pdf(delta, scale=math.sqrt(g))).sum() * (delta[1] - delta[0])
    expected = float(other / integral(np.zeros(1))[0])
    assert e_process.e_value(differences.tolist(), g=g) == pytest.approx(expected, rel=1e-4)


def test_fewer_than_five_seeds_never_decide() -> None:
    assert round(e_process.greatest_e_value(4)) == 11
    assert round(e_process.greatest_e_value(5)) == 36
    assert e_process.find_least_deciding(0.05) == 5
    assert e_process.find_least_deciding(0.05, g=4) == 4
    assert e_process.e_value_of_t(5, 1e9) == pytest.approx(36)
    assert e_process.find_bounds([1.0, 1.001, 1.0, 1.001], 0.05) == (-math.inf, math.inf)
    low, high = e_process.find_bounds([1.0, 1.001, 1.0, 1.001, 1.0], 0.05)
    assert 0.99 < low < 1.0004 < high < 1.01


def test_bounds_are_where_the_shifted_e_value_is_one_over_alpha() -> None:
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    draw = np.random.default_rng(seed)
    for n, g, alpha in ((5, 1.0, 0.05), (9, 0.5, 0.1), (30, 2.0, 0.01)):
        differences = draw.normal(draw.normal(), 3, n).tolist()
        for bound in e_process.find_bounds(differences, alpha, g):
            assert e_process.e_value(differences, bound, g) == pytest.approx(1 / alpha)


def test_ties_and_single_seeds() -> None:
    assert e_process.e_value([]) == e_process.e_value([3.0]) == 1.0
    assert e_process.e_value([2.0] * 6) == e_process.greatest_e_value(6)
    assert e_process.e_value([0.0] * 6) == pytest.approx(7**-0.5)
    assert e_process.find_bounds([2.0] * 6, 0.05) == (2.0, 2.0)
    assert e_process.e_value([2.0] * 900) == e_process.e_value([2.0, 2.1] * 900) == 1e300  # no overflow


@pytest.mark.slow
def test_looking_after_every_seed_errs_at_most_at_alpha() -> None:
    """Under the null, of any scale and also of a shifted effect: a t test at every look errs in a third of them."""
    seed = random.SystemRandom().randrange(2**31)
    print("seed", seed)
    alpha, tries, most = 0.1, 4000, 60
    d = np.random.default_rng(seed).normal(size=(tries, most)) * 1e-3
    n = np.arange(2, most + 1)
    means, squares = d.cumsum(1)[:, 1:] / n, (d**2).cumsum(1)[:, 1:]
    t = means * np.sqrt(n) / np.sqrt((squares - n * means**2) / (n - 1))
    naive = (np.abs(t) > stats.t.ppf(1 - alpha / 2, n - 1)).any(1).mean()
    values = np.array([[e_process.e_value_of_t(k, x) for k, x in zip(n, row, strict=True)] for row in t[:1000]])
    ever = (values >= 1 / alpha).any(1).mean()
    assert naive > 0.3
    assert ever <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 1000)
    assert ever > 0.01  # it is no test that never says anything
    final = values[:, 3]  # of five seeds, an e-value: its expectation is 1 (its variance is finite, as it is bounded)
    assert abs(final.mean() - 1) < 5 * final.std() / math.sqrt(1000)


def test_how_many_seeds_it_would_take() -> None:
    wanted = e_process.expect_seeds_for_effect(1.0, 0.05)
    assert wanted is not None
    assert (
        e_process.e_value_of_t(wanted, math.sqrt(wanted))
        >= 20
        > e_process.e_value_of_t(wanted - 1, math.sqrt(wanted - 1))
    )
    assert e_process.expect_seeds_for_effect(0.0, 0.05) is None
    enough = e_process.expect_seeds_for_none(0.01, 0.04, 0.05, 0.05)
    assert enough is not None
    scattered = [0.01 + x for x in np.tile([-1, 1], 500)[:enough] * 0.04]
    low, high = e_process.find_bounds(scattered, 0.05)
    assert high - low == pytest.approx(2 * 0.04, rel=0.1)
    assert e_process.expect_seeds_for_none(0.06, 0.04, 0.05, 0.05) is None
