"""Says in words what paired differences allow to be said, and nothing more.

The trap: "better" needs a direction. Recall up and loss down are known by their names; a scale has no better side, and
the sentence then says above and below.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.studies.paired import Difference, Summary
from workbench.training.metrics import LESS_IS_BETTER

MORE_IS_BETTER = r"r\d+|map\d+|recall|accuracy|top5|f1|recovered|mixing"
"""words in the last part of a metric's name by which the larger value is the better one"""
SHARES = r"r\d+|map\d+|recall|accuracy|top5|f1|mixing|kept|followed|majority|bayes"
"""words of metrics that are shares of 1, and are told in points, hundredths"""
NEITHER = ("probe_accuracy", "scale", "chance", "majority", "bayes", "left", "unpaired", "unlabelled")
"""metrics, or words of them, that are neither good nor bad; a gap's probe tells the modalities apart"""


@dataclass(frozen=True)
class Metric:
    """A metric as people read it."""

    name: str
    """without `eval/`"""
    better: int
    """1 where more is better, -1 where less is, 0 where neither is"""
    points: bool
    """whether it is a share, of which differences are told in hundredths"""

    @staticmethod
    def parse(text: str) -> Metric:
        """Read a metric's name, or `min NAME`, `max NAME`, which say what is better."""
        direction, _, name = text.strip().rpartition(" ")
        last = name.rpartition("/")[2]
        words = last.split("_")

        def says(pattern: str) -> bool:
            return any(re.fullmatch(pattern, word) for word in words)

        better = 1 if says(MORE_IS_BETTER) else -1 if any(word in LESS_IS_BETTER for word in words) else 0
        if any(word in NEITHER for word in (last, *words)):
            better = 0
        stated = {"min": -1, "max": 1}.get(direction)
        return Metric(name.removeprefix("eval/"), better if stated is None else stated, says(SHARES))

    @property
    def unit(self) -> str:
        return " points" if self.points else ""

    def write(self, value: float | None, *, signed: bool = False, digits: int = 2) -> str:
        """Write a value or a difference in the metric's unit, which is not written; `-` for None."""
        if value is None:
            return "-"
        number = 100 * value if self.points else value
        if not self.points and number and abs(number) < 0.01:
            return f"{number:{'+' if signed else ''}.2g}"
        if abs(number) >= 1000:
            return f"{number:{'+' if signed else ''},.0f}"
        return f"{number:{'+' if signed else ''}.{digits if self.points else digits + 1}f}"

    def write_summary(self, summary: Summary | None) -> str:
        """Write mean ± s.e.; `-` where nothing was measured."""
        if summary is None:
            return "-"
        error = "" if summary.se is None else f" ± {self.write(summary.se)}"
        return f"{self.write(summary.mean)}{error}"


def count_seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def describe(metric: Metric, a: str, b: str, difference: Difference | None) -> str:
    """Say what a difference of `a` over `b` shows: who is better and by how much, or that nothing was found."""
    if difference is None:
        return f"{a} and {b} share no seed: nothing can be said"
    if difference.se is None or difference.half_width is None:
        gap, way = metric.write(abs(difference.mean)), "above" if difference.mean >= 0 else "below"
        return (
            f"{a} is {way} {b} by {gap}{metric.unit} on the one seed that they share: no interval exists for one seed"
        )
    seeds = count_seeds(difference.n)
    if not difference.excludes_zero:
        return (
            f"no difference found between {a} and {b}, the interval is ± {metric.write(difference.half_width)}"
            f"{metric.unit} around {metric.write(difference.mean, signed=True)} ({seeds})"
        )
    first, second = (a, b) if difference.mean * (metric.better or 1) > 0 else (b, a)
    verb = "beats" if metric.better else "is above"
    return (
        f"{first} {verb} {second} by {metric.write(abs(difference.mean))} ± {metric.write(difference.se)}{metric.unit} "
        f"({seeds}; the interval excludes 0)"
    )


def list_words(words: Sequence[str]) -> str:
    """Join words as people do: a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
