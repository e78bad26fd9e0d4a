"""Pictures of a comparison: curves with bands, and intervals of differences beside 0.

The trap: a band is the error of one arm's mean over seeds. Two bands that touch say nothing about a paired difference:
that is the interval beside them.
"""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from workbench.errors import writing
from workbench.figures.embeddings import INK
from workbench.studies.comparison import Comparison, Measured
from workbench.studies.run_facts import RunFacts

COLOURS = ("#3b6fb6", "#d9480f", "#0b7a6f", "#8250df", "#b3952a", "#a8557d", "#4a86ad", "#6d9140")
"""of arms, in their order"""
PAPER, QUIET, GRID = "#ffffff", "#6e7781", "#e6e8ec"
FORMATS = (".png", ".svg", ".pdf")


def draw(found: Comparison) -> Figure:
    """Draw a row for each metric: its curves, and intervals of its differences at the evaluation that stands first."""
    rows = [one for one in found.measured if one.at == found.measured[0].at]
    tallest = max(1, *(len(one.contrasts) for one in rows))
    height = max(3.2, 1.3 + 0.34 * tallest)
    figure = Figure(figsize=(11, height * len(rows)), dpi=150, facecolor=PAPER, layout="constrained")
    for (curves, intervals), one in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
        _draw_curves(curves, found, one)
        _draw_intervals(intervals, one)
    return figure


def _draw_curves(axes: Axes, found: Comparison, one: Measured) -> None:
    unit = 100 if one.metric.points else 1
    for colour, (arm, runs) in zip(_colours(), found.arms.items(), strict=False):
        points = list(_average([run for run in runs if run.seed in one.values[arm]], one.metric.name))
        if not points:
            continue
        samples, means, errors = (list(column) for column in zip(*points, strict=True))
        low, high = ([unit * (m + sign * e) for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(samples, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(samples, [unit * m for m in means], "-o", color=colour, lw=1.6, ms=3, label=arm)
    _dress(axes, f"{one.metric.name}{', points' if one.metric.points else ''}: mean ± s.e. over seeds", "samples seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: written out, millions of samples run into one another
    axes.legend(frameon=False, fontsize=8)


def _average(runs: list[RunFacts], metric: str) -> Iterator[tuple[int, float, float]]:
    """Yield (samples, mean, s.e.) at the evaluations that all runs have; an s.e. of 0 for one run."""
    curves = [run.curve(metric) for run in runs]
    for samples in sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []:
        values = [curve[samples] for curve in curves]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        yield samples, statistics.fmean(values), error


def _draw_intervals(axes: Axes, one: Measured) -> None:
    unit = 100 if one.metric.points else 1
    names = [f"{c.a} − {c.b}" for c in one.contrasts]
    for line, c in enumerate(one.contrasts):
        if not c.difference:
            continue
        d = c.difference
        colour = COLOURS[0] if d.excludes_zero else QUIET
        if d.low is not None and d.high is not None:
            axes.plot([unit * d.low, unit * d.high], [line, line], color=colour, lw=2.4, solid_capstyle="butt")
        axes.plot([unit * d.mean], [line], "o" if d.se is not None else "x", color=colour, ms=6)
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _dress(axes, "differences within seeds, 95 % intervals", f"{one.metric.name}, {one.at}")


def _dress(axes: Axes, title: str, across: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(across, color=QUIET)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


def save(figure: Figure, path: Path) -> None:
    """Write the picture. Raises ValueError for an ending that says no format, OSError where nothing can be written."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: a picture's file ends in {', '.join(FORMATS)}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def as_svg(figure: Figure) -> str:
    """Write the picture as an element of a page: without a prologue, and without addresses of other documents."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    return re.sub(r'width="[^"]*pt" height="[^"]*pt"', 'width="100%"', svg[svg.index("<svg") :], count=1)
