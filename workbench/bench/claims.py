"""The court on trial: simulated claims whose truth is known; how often it errs, and how many seeds it takes.

A claim says that an arm is less than another one, with a margin; the differences within seeds have a true mean, in
standard deviations of theirs, and one of three shapes, of which only the first is what the mathematics assumes. Each
claim has a positive control of -3 deviations. The trap: an error rate that is measured where verdicts are rare is small
for nothing, so undecided ones are counted beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from workbench.bench.rows import markdown, write
from workbench.studies.court import Question, Verdict, answer, judge

ALPHA, MARGIN, MOST, CONTROL = 0.05, 0.75, 20, -3.0
POWER, PLANNED = 0.9, 1.0
"""of the fixed design: a t test of so many seeds that it finds an effect of one deviation nine times in ten"""
FIXED = ("planned", "planned, knowing the effect")
TRUTHS = {0.0: 0.35, -1.0: 0.25, -2.0: 0.25, 2.0: 0.15}
"""{true mean, in standard deviations: share of the claims}"""
SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda draw, n: draw.normal(size=n),
    "heavy tails": lambda draw, n: draw.standard_t(5, size=n) / math.sqrt(5 / 3),
    "skewed": lambda draw, n: draw.exponential(size=n) - 1,
}
"""{name: draws of mean 0 and deviation 1}"""
QUESTION = Question("a", "b", "less", MARGIN)


@dataclass(frozen=True)
class Tried:
    """One simulated claim."""

    truth: float
    shape: str
    verdict: Verdict
    seeds: int

    @property
    def wrong(self) -> bool:
        """Whether the verdict says what is not so; undecided and blind say nothing."""
        return {
            "supported": self.truth >= 0,
            "refuted": self.truth <= 0,
            "no effect beyond the margin": abs(self.truth) > MARGIN,
        }.get(self.verdict, False)


@dataclass(frozen=True)
class Measured:
    """A line of the CSV: all claims of one truth and one shape, or of several."""

    truth: float | None
    """standard deviations; None: of all"""
    shape: str
    claims: int
    wrong: float
    """share of the claims"""
    undecided: float
    blind: float
    supported: float
    refuted: float
    no_effect: float
    mean_seeds: float
    median_seeds: float
    fixed_seeds: int
    """of a t test that was planned for an effect of one deviation"""
    knowing_seeds: int | None
    """of a t test by somebody who knows the true effect; None where there is none"""


def simulate(claims: int, seed: int) -> list[Tried]:
    """Try so many claims, their truths by TRUTHS, their shapes in turn."""
    draw = np.random.default_rng(seed)
    counts = {truth: round(share * claims) for truth, share in TRUTHS.items()}
    names = list(SHAPES)
    return [_try(truth, names[number % len(names)], draw) for truth, count in counts.items() for number in range(count)]


def _try(truth: float, shape: str, draw: np.random.Generator) -> Tried:
    """Rule on a claim as `wb claim` does: seed after seed, until more could change nothing."""
    control, main = ((mean + SHAPES[shape](draw, MOST)).tolist() for mean in (CONTROL, truth))
    question = Question("control", "b", "less")
    for n in range(2, MOST + 1):
        ruling = judge([answer(QUESTION, main[:n], ALPHA)], [answer(question, control[:n], ALPHA)])
        if not ruling.open:
            return Tried(truth, shape, ruling.verdict, n)
    return Tried(truth, shape, ruling.verdict, MOST)


def find_fixed(effect: float) -> int:
    """Find the seeds at which a two-sided t test of level ALPHA finds an effect of so many deviations with POWER."""
    from scipy import stats

    for n in range(2, 10_000):
        bound = stats.t.ppf(1 - ALPHA / 2, n - 1)
        power = stats.nct.sf(bound, n - 1, math.sqrt(n) * abs(effect))
        if power >= POWER:
            return n
    raise AssertionError


def measure(tried: Sequence[Tried], truth: float | None, shape: str) -> Measured:
    """Count the verdicts of claims."""
    verdicts = Counter(one.verdict for one in tried)

    def share(verdict: Verdict) -> float:
        return verdicts[verdict] / len(tried)

    seeds = [one.seeds for one in tried]
    return Measured(
        truth, shape, len(tried), sum(one.wrong for one in tried) / len(tried), share("undecided"), share("blind"),
        share("supported"), share("refuted"), share("no effect beyond the margin"),
        float(np.mean(seeds)), float(np.median(seeds)), find_fixed(PLANNED), find_fixed(truth) if truth else None,
    )  # fmt: skip


def tabulate(tried: Sequence[Tried]) -> list[Measured]:
    """Make the lines: each truth, each shape where there is no effect, all."""
    lines = [measure([one for one in tried if one.truth == truth], truth, "all") for truth in TRUTHS]
    null = [one for one in tried if not one.truth]
    lines += [measure([one for one in null if one.shape == shape], 0.0, shape) for shape in SHAPES]
    return [*lines, measure(tried, None, "all")]


def table(lines: Sequence[Measured]) -> str:
    """Write the lines as Markdown."""
    shares = ("wrong", "undecided", "blind", "supported", "refuted", "no_effect")
    head = ("true effect", "shape", "claims", *(name.replace("_", " ") for name in shares), "seeds", *FIXED)
    return markdown(head, [_write(line, shares) for line in lines])


def _write(line: Measured, shares: Sequence[str]) -> tuple[str, ...]:
    truth = "all" if line.truth is None else f"{line.truth:+g} s.d." if line.truth else "0"
    written = (f"{100 * getattr(line, name):.1f} %" for name in shares)
    knowing = "-" if line.knowing_seeds is None else str(line.knowing_seeds)
    return truth, line.shape, str(line.claims), *written, f"{line.mean_seeds:.1f}", str(line.fixed_seeds), knowing


OUT = Path("docs/measured/claims.csv")


@click.command()
@click.option("--claims", default=200, show_default=True, type=click.IntRange(min=20), help="How many are simulated.")
@click.option("--seed", default=0, show_default=True, help="Of the simulation.")
@click.option(
    "--csv", "file", type=click.Path(path_type=Path), default=OUT, show_default=True, help="Where the lines go."
)
def main(claims: int, seed: int, file: Path) -> None:
    """Simulate claims, print a table and write a CSV. Exit 1 where more than 5 % of the verdicts were wrong.

    Example: python -m workbench.bench.claims --claims 4000
    """
    lines = tabulate(simulate(claims, seed))
    write(lines, file)
    click.echo(table(lines))
    raise SystemExit(int(lines[-1].wrong > ALPHA))


if __name__ == "__main__":
    main()
