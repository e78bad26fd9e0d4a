r"""Evidence that may be looked at after every seed: an e-process for paired differences, and its confidence sequence.

The trap: adding seeds until a p-value is small finds an effect in pure noise sooner or later. What is computed here
stays valid whenever one stops, for whatever reason.

The n differences d_i of two arms within seeds are N(sigma delta, sigma^2); a standardised effect delta of 0 is tested.

1.  sigma has the right Haar prior d sigma / sigma, under both hypotheses; delta is 0 under H0, and N(0, g) under H1. So
    under H1, given sigma, the mean m of the differences is N(0, sigma^2 (1/n + g)), and v s^2 = sum (d_i - m)^2 is
    independent of it, v = n - 1.
2.  Integrating sigma out: the integral of sigma^-n exp(-Q / 2 sigma^2) d sigma / sigma is proportional to Q^(-n/2),
    with Q = v s^2 + n m^2 under H0 and, after the mean's own variance gave a factor (1 + n g)^(-1/2),
    Q = v s^2 + n m^2 / (1 + n g) under H1.
3.  Their ratio, by t = sqrt(n) m / s:

        BF(n) = (1 + n g)^(-1/2) [ (1 + t^2 / v) / (1 + t^2 / (v (1 + n g))) ]^(n/2)

4.  It depends on the d_i through their ratios only, whose law under H0 is one and the same for all sigma, so it is a
    likelihood ratio between two simple hypotheses on the sequence of these ratios: under H0 a non-negative martingale
    that begins at BF(1) = 1. By Ville's inequality P(BF(n) >= 1/alpha for any n at all) <= alpha.
5.  With d_i - c in the place of d_i the same holds where the true effect is c. The values c at which BF stays below
    1/alpha are therefore a confidence sequence: it holds the truth at all n at once with probability 1 - alpha.
6.  As t grows, BF(n) tends to (1 + n g)^(v/2): 11 at four seeds and 36 at five with g = 1. No data whatever decide
    before that passes 1/alpha.

Hendriksen, de Heide, Grünwald 2021 (arXiv 1807.09077); Wang, Ramdas 2024 (arXiv 2310.03722); Lai 1976 (On confidence
sequences).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

MOST_SEEDS = 10_000
"""no search goes on beyond so many"""
LARGEST = 1e300


def measure_scatter(differences: Sequence[float]) -> tuple[float, float]:
    """Measure the mean and the standard deviation of at least two differences, far faster than `statistics` does."""
    n = len(differences)
    mean = math.fsum(differences) / n
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in differences) / (n - 1))


def e_value(differences: Sequence[float], effect: float = 0.0, g: float = 1.0) -> float:
    """Compute BF(n) of the hypothesis that the differences scatter around `effect`; 1 for fewer than two."""
    n = len(differences)
    if n < 2:
        return 1.0
    mean, scatter = measure_scatter(differences)
    mean -= effect
    if scatter == 0:  # ties, which the model gives no probability: as far from the effect as can be, or right at it
        return greatest_e_value(n, g) if mean else e_value_of_t(n, 0.0, g)
    return e_value_of_t(n, math.sqrt(n) * mean / scatter, g)


def e_value_of_t(n: int, t: float, g: float = 1.0) -> float:
    """Compute BF(n) of a t statistic of n >= 2 differences: step 3 above."""
    ratio, growth = t * t / (n - 1), 1 + n * g
    return _exp(-0.5 * math.log(growth) + 0.5 * n * (math.log1p(ratio) - math.log1p(ratio / growth)))


def _exp(logarithm: float) -> float:
    """Take the exponential; 1e300 where it would be too large to write, which decides as well."""
    return math.exp(logarithm) if logarithm < math.log(LARGEST) else LARGEST


def greatest_e_value(n: int, g: float = 1.0) -> float:
    """Compute what BF(n) cannot exceed, whatever the data: step 6 above."""
    return _exp(0.5 * (n - 1) * math.log1p(n * g))


def find_least_deciding(alpha: float, g: float = 1.0) -> int:
    """Find the smallest number of seeds at which any data could decide at `alpha`."""
    return next(n for n in range(2, MOST_SEEDS) if greatest_e_value(n, g) >= 1 / alpha)


def find_bounds(differences: Sequence[float], alpha: float, g: float = 1.0) -> tuple[float, float]:
    """Find the bounds of the confidence sequence at this number of differences: step 5; infinite before it can decide.

    BF >= 1/alpha is t^2 >= v (K - 1) / (1 - K / (1 + n g)), with K = (sqrt(1 + n g) / alpha)^(2/n).
    """
    n = len(differences)
    if n < 2 or math.isinf(reach := _critical_t(n, alpha, g)):
        return -math.inf, math.inf
    mean, scatter = measure_scatter(differences)
    half = reach * scatter / math.sqrt(n)
    return mean - half, mean + half


def _critical_t(n: int, alpha: float, g: float) -> float:
    """Find the t at which BF(n) is 1/alpha; infinite where none is."""
    growth = 1 + n * g
    k = (math.sqrt(growth) / alpha) ** (2 / n)
    return math.inf if k >= growth else math.sqrt((n - 1) * (k - 1) / (1 - k / growth))


def expect_seeds_for_effect(standardised: float, alpha: float, g: float = 1.0) -> int | None:
    """Find the number of seeds at which differences of this mean, in standard deviations, would decide; None: never."""
    return _find_first(lambda n: e_value_of_t(n, math.sqrt(n) * standardised, g) >= 1 / alpha)


def expect_seeds_for_none(mean: float, scatter: float, margin: float, alpha: float, g: float = 1.0) -> int | None:
    """Find the number of seeds at which the confidence sequence would lie inside ± margin; None where it never does."""
    room = margin - abs(mean)
    return _find_first(lambda n: room > 0 and _critical_t(n, alpha, g) * scatter <= room * math.sqrt(n))


def _find_first(is_enough: Callable[[int], bool]) -> int | None:
    """Find the first number of seeds that is enough, where all larger ones are, too; None up to MOST_SEEDS."""
    counts = range(2, MOST_SEEDS)
    place = bisect_left(counts, True, key=is_enough)
    return counts[place] if place < len(counts) else None
