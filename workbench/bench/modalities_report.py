"""What `workbench.bench.modalities` measured: a table in Markdown, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from workbench.bench.panels import QUIET, draw_line, dress, three_panels
from workbench.bench.rows import markdown
from workbench.scoring.verdict import PASSES

if TYPE_CHECKING:
    from workbench.bench.modalities import Measured

COLOURS = {"symile": "#8250df", "confu_subsets": "#d9480f", "confu_chain": "#0b7a6f"}
HEAD = ("M", "objective", "terms", "ms a step", "MiB a step", "epochs", "accuracy", "recovered", "verdict")


def table(rows: Sequence[Measured]) -> str:
    """A line for each number of modalities and objective, means over seeds."""

    def place(row: Measured) -> tuple[int, int]:
        return row.modalities, row.terms

    return markdown(HEAD, (_line(list(same)) for _, same in groupby(sorted(rows, key=place), place)))


def _line(same: Sequence[Measured]) -> list[str]:
    first, verdicts = same[0], [row.verdict for row in same if row.verdict]
    counted = " · ".join(f"{v} {verdicts.count(v)}/{len(verdicts)}" for v in dict.fromkeys(verdicts))
    cost = [f"{statistics.fmean(getattr(row, name) for row in same):.0f}" for name in ("ms_per_step", "step_mib")]
    learned = [_mean(same, "accuracy"), _mean(same, "recovered"), counted or "not trained"]
    return [str(first.modalities), first.objective, str(first.terms), *cost, str(first.epochs or "-"), *learned]


def _mean(same: Sequence[Measured], name: str) -> str:
    values = [value for row in same if (value := getattr(row, name)) is not None]
    return f"{statistics.fmean(values):.3f}" if values else "-"


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Time, memory and what is learned against the number of modalities; where nothing was trained a line ends."""
    figure, (time, memory, learned) = three_panels()
    _panel(time, rows, "ms_per_step", "milliseconds a step, one thread")
    _panel(memory, rows, "step_mib", "MiB a step")
    _panel(learned, rows, "recovered", "share of the nats of M-way parity recovered")
    for axes in (time, memory):
        axes.set_yscale("log")
    learned.axhline(PASSES, color=QUIET, lw=1, ls=":")
    learned.annotate("passes", (3, PASSES), xytext=(0, -11), textcoords="offset points", color=QUIET, fontsize=8.5)
    learned.set_ylim(top=1.02)
    time.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, rows: Sequence[Measured], name: str, title: str) -> None:
    """Means as a line, seeds as dots."""
    for objective, colour in COLOURS.items():
        dots = sorted(
            (row.modalities, value)
            for row in rows
            if row.objective == objective and (value := getattr(row, name)) is not None
        )
        means = {m: statistics.fmean(value for _, value in same) for m, same in groupby(dots, lambda dot: dot[0])}
        draw_line(axes, means, colour, objective)
        axes.plot([m for m, _ in dots], [value for _, value in dots], ".", color=colour, alpha=0.45, ms=6)
    axes.set_xticks(range(3, 9))
    dress(axes, title, "modalities M")
