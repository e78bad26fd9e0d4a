"""Time and peak memory against the batch, with the lower bound that all face, as a picture.

Trap: lines join sizes of one kind of workload (dimension, positives, threads). Of each loss the kind with most rows is
drawn, the latest of each size; the others are in the table.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernels.bench.compare import Row
from kernels.bench.providers import OURS
from kernels.bench.workload import PRODUCTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, float]

INK, QUIET, GRID, FLOOR = "#1f2430", "#6b7280", "#e6e8ec", "#f3f4f6"
COLORS = {
    "triton": "#0b7a6f",
    "chunked": "#17a589",
    "dense": "#c2410c",
    "compile": "#e39a3b",
    "memeff": "#6d4fc2",
    "inf-cl": "#b0479a",
    "siglip-kernel": "#c26a8d",
    "open_clip": "#2f6fb7",
    "open_clip chunked": "#79a7d8",
    "st cached": "#8c5a2b",
    "pml SupCon": "#7d8590",
    "pml NTXent": "#b0b5bd",
}
LEAST_MIB = 1.0
"""what less than a page or two of tensors is drawn as"""
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def plot(rows: Sequence[Row], path: Path, mode: str = "full") -> None:
    """Draws a column of panels for each loss, time above memory. Writes nothing when no row is of this mode."""
    columns = _choose_columns([row for row in rows if row["mode"] == mode])
    if not columns:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        size = (5.8 * len(columns) + 0.6, 8.2)
        figure, axes = pyplot.subplots(2, len(columns), figsize=size, squeeze=False, sharey="row")
        times = [row["seconds"] * 1e3 for group in columns for row in group]
        floors = [row["floor_seconds"] * 1e3 for group in columns for row in group]
        peaks = [max(row["peak_mib"], LEAST_MIB) for group in columns for row in group]
        for column, group in enumerate(columns):
            floor = sorted({row["n"]: row["floor_seconds"] * 1e3 for row in group}.items())
            name = f"floor, {PRODUCTS[group[0]['loss']][mode]} MND"
            _draw_panel(axes[0, column], _join_lines(group, "seconds", 1e3), (min(floors), max(times)), floor, name)
            _draw_panel(axes[1, column], _join_lines(group, "peak_mib", 1.0), (min(peaks), max(peaks)))
            axes[0, column].set_title(_write_title(group[0]), loc="left", fontweight="bold", fontsize=11, pad=26)
            _write_subtitle(axes[0, column], "forward + backward, ms" if mode == "full" else "forward, ms")
            _write_subtitle(axes[1, column], "peak memory, MiB")
            axes[1, column].set_xlabel("N, rows on each side", color=QUIET, loc="left")
        figure.text(0.012, 0.008, _write_caption(columns[0][0]), color=QUIET, fontsize=8)
        figure.tight_layout(rect=(0, 0.03, 1, 1), h_pad=2.4, w_pad=1.5)
        figure.savefig(path, dpi=160, facecolor="white")
        pyplot.close(figure)


def _choose_columns(rows: Sequence[Row]) -> list[list[Row]]:
    """Chooses the rows of each loss's most measured kind of workload."""
    kinds: dict[str, dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        kinds[row["loss"]][row["d"], row["positives"], row["dtype"], row["threads"]].append(row)

    def count(group: list[Row]) -> tuple[int, int]:
        return len({row["n"] for row in group}), len({(row["n"], row["provider"]) for row in group})

    return [max(groups.values(), key=count) for groups in kinds.values()]


def _join_lines(rows: list[Row], what: str, factor: float) -> dict[str, list[Point]]:
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: (row["n"], row["date"])):
        value = row[what] * factor
        lines[row["provider"]][row["n"]] = max(value, LEAST_MIB) if what == "peak_mib" else value
    return {name: list(line.items()) for name, line in lines.items()}


def _draw_panel(
    axes: Axes,
    lines: dict[str, list[Point]],
    limits: tuple[float, float],
    floor: Sequence[Point] = (),
    floor_name: str = "",
) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    sizes = sorted({n for line in lines.values() for n, _ in line})
    low, high = limits
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    # Room for the names at the right, which stand for a legend
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * max(sizes[-1] / sizes[0], 2.0) ** 0.45)
    axes.set_ylim(low / 1.7, high * 1.7)
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.tick_params(colors=QUIET, length=0, labelleft=True)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)

    names = []
    for name, line in lines.items():
        ours = name in OURS
        look = {"linewidth": 2.8, "markersize": 7} if ours else {"linewidth": 1.7, "markersize": 5}
        axes.plot(*zip(*line, strict=True), "o-", color=COLORS[name], markeredgecolor="white", zorder=3 + ours, **look)
        names.append((line[-1], name, COLORS[name], "bold" if ours else "normal"))
    if floor:
        rows, bound = zip(*floor, strict=True)
        axes.plot(rows, bound, color=INK, linestyle=(0, (2, 2)), linewidth=1.3, zorder=2)
        axes.fill_between(rows, bound, 1e-12, color=FLOOR, linewidth=0, zorder=0)
        names.append((floor[-1], floor_name, INK, "normal"))
    _name_lines(axes, names)


def _name_lines(axes: Axes, names: list[tuple[Point, str, str, str]]) -> None:
    """Writes each name beside the end of its line; names that would touch are moved apart, upwards."""
    from matplotlib.patheffects import withStroke

    bottom, top = (math.log(limit) for limit in axes.get_ylim())
    gap, before = 0.052 * (top - bottom), dict[int, float]()
    for (n, value), name, color, weight in sorted(names):
        at = before[n] = max(math.log(value), before.get(n, -math.inf) + gap)
        axes.annotate(
            name,
            (n, math.exp(at)),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight=weight,
            path_effects=[withStroke(linewidth=4, foreground="white")],
            annotation_clip=False,
            zorder=5,
        )


def _write_title(row: Row) -> str:
    many = f", {row['positives']} positives a row" if row["positives"] > 1 else ""
    return f"{row['loss']}   D = {row['d']}, {row['dtype']}{many}"


def _write_subtitle(axes: Axes, text: str) -> None:
    axes.text(0, 1.025, text, transform=axes.transAxes, color=QUIET)


def _write_caption(row: Row) -> str:
    return (
        f"{row['device']}, {row['threads']} threads, torch {row['torch']}, {row['date'][:10]}.   "
        f"Floor: {row['matmul_tflops']:,.3g} TFLOP/s, the best large matrix product of the same run."
    )
