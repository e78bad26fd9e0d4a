"""Differences between two arms within seeds, their t intervals, and Holm's correction for several endpoints.

Two runs of one seed share their initial towers and their samples, so the difference within a seed is freed of what both
owe to the draw. The trap: two means, each with an error bar of its own, hide such a difference; only what is paired is
compared here, and a seed that one arm lacks says nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

LEVEL = 0.95
"""how often an interval holds the true value, of one that was asked for before the runs"""


@dataclass(frozen=True)
class Summary:
    """The mean of one number over seeds; `se` is None for fewer than two."""

    mean: float
    se: float | None
    n: int


def summarise(values: Sequence[float]) -> Summary:
    """Take the mean and its standard error over at least one value."""
    count = len(values)
    error = statistics.stdev(values) / math.sqrt(count) if count > 1 else None
    return Summary(statistics.fmean(values), error, count)


@dataclass(frozen=True)
class Difference:
    """By how much an arm is above another, over the seeds that both have; no interval exists for one seed."""

    mean: float
    se: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def half_width(self) -> float | None:
        """The interval is mean ± this."""
        return None if self.high is None else self.high - self.mean


def subtract(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    """Subtract `b` from `a`, both {seed: value}, within each seed that both have, seeds in rising order."""
    return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}


def compare_paired(differences: Sequence[float], level: float = LEVEL) -> Difference:
    """Make the paired t interval of at least one difference: mean ± t s / sqrt(n), at n - 1 degrees of freedom."""
    summary = summarise(differences)
    if summary.se is None:
        return Difference(summary.mean, None, None, None, 1)
    half = float(stdtrit(summary.n - 1, (1 + level) / 2)) * summary.se
    return Difference(summary.mean, summary.se, summary.mean - half, summary.mean + half, summary.n)


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several endpoints after Holm (1979), in their own order.

    Rejecting where the adjusted value is at most alpha errs in any of them with at most that probability, whatever
    their dependence: the smallest of k is multiplied by k, the next by k - 1, and none falls below one before it.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
