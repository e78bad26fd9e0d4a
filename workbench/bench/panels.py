"""How the plots of `workbench.bench` look: three panels side by side."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2430", "#6b7280", "#e6e8ec"


def three_panels() -> tuple[Figure, tuple[Axes, Axes, Axes]]:
    figure = Figure(figsize=(11.5, 3.6), layout="constrained")
    return figure, tuple(figure.subplots(1, 3))


def draw_line(axes: Axes, points: Mapping[int, float], colour: str, label: str, style: str = "-") -> None:
    """Draw points {x: y} as a line, in their order."""
    axes.plot(list(points), list(points.values()), style, marker="o", color=colour, label=label, lw=1.8, ms=5)


def dress(axes: Axes, title: str, across: str) -> None:
    """Give a panel its title, the name of its x-axis and a grid; take its frame away."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(across, color=QUIET)
    axes.grid(color=GRID)
    axes.spines[["top", "right"]].set_visible(False)
