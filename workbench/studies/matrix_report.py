"""The matrix for people: a table in the terminal, a heat map, a CSV file.

The trap: a cell without a number is not a zero. What an objective cannot do, what failed, and what no exact optimum
judges look different from what was blind.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from rich.table import Table
from rich.text import Text

from workbench.figures.embeddings import INK
from workbench.studies.matrix import Cell, way_to_bayes

LEGEND = (
    "P passed: at least .95 of the learnable nats recovered · F blind: none · part: between · worse: above knowing "
    "nothing · low!: below the optimum, a bug · P†: no exact optimum is known, the accuracy shows it (?: it does not). "
    "In rows by accuracy, P is nine tenths of the way from chance to Bayes, F within a quarter. (In brackets): "
    "predicted, * not asserted · ≠ differs. Below: share recovered (- where there is nothing to recover, or no "
    "optimum), accuracy ± s.e."
)
STYLES = {"P": "green", "F": "red", "p": "yellow", "l": "bold red", "w": "red", "e": "bold red", "?": "dim", "–": "dim"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

COLOURS = LinearSegmentedColormap.from_list("recovered", ["#fbf3e6", "#d9e8d2", "#8cc7b0", "#2f8f83", "#0b5f63"])
PAPER, ABSENT, UNJUDGED, MARK, QUIET = "#ffffff", "#f3f4f6", "#e3e8f1", "#d9480f", "#6e7781"


def short(value: float | None, digits: int) -> str:
    """Write a number as `.95`, `1.00` or `-.01`; `-` for none."""
    if value is None:
        return "-"
    written = f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 makes -0.0 a 0
    return written.replace("0.", ".", 1) if abs(value) < 1 else written


def notes(cells: Iterable[Cell]) -> dict[str, str]:
    """Number the reasons of cells without a number: {reason: the mark of its footnote}."""
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
    return {reason: str(number).translate(SUPERSCRIPTS) for number, reason in enumerate(reasons, 1)}


def _letter(cell: Cell, footnotes: dict[str, str]) -> str:
    return cell.letter + footnotes.get(cell.reason or "", "")


def accuracy(cell: Cell) -> str:
    error = cell.accuracy_se
    return short(cell.mean("accuracy"), 2) + ("" if error is None else f"±{short(error, 2)}")


def predicted(cell: Cell) -> str:
    """Write a cell's prediction as `(P)`, `(.25)` or `(*)`; nothing where there is none."""
    if cell.predicted is None or cell.left_out:
        return ""
    return f"({short(cell.predicted, 2) if isinstance(cell.predicted, float) else cell.predicted})"


def table(cells: dict[tuple[str, str], Cell], title: str) -> Table:
    """Lay out rows x objectives as a table for the terminal, three lines a cell."""
    rows, objectives = _axes(cells)
    footnotes = notes(cells.values())
    drawn = Table(title=title, box=None, padding=(0, 2, 1, 0), header_style="bold underline")
    drawn.add_column("", no_wrap=True)
    for objective in objectives:
        drawn.add_column(objective.replace("_", "\n"))
    for row in rows:
        drawn.add_row(Text(row, "bold"), *(_text(cells[row, o], footnotes) for o in objectives))
    return drawn


def _text(cell: Cell, footnotes: dict[str, str]) -> Text:
    letter = Text(_letter(cell, footnotes), STYLES[cell.letter[0]])
    if not cell.runs:
        return letter
    differs = (" ≠", "bold magenta") if cell.agrees is False else ""
    first = Text.assemble(letter, (f" {predicted(cell)}" if predicted(cell) else "", "dim"), differs)
    return Text("\n").join([first, Text(short(cell.mean("recovered"), 3)), Text(accuracy(cell))])


def write_csv(cells: Iterable[Cell], path: Path) -> None:
    """Write a line a cell at full precision, empty where there is no number."""
    lines = [cell.as_dict() for cell in cells]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def heat_map(cells: dict[tuple[str, str], Cell], title: str) -> Figure:
    """Draw a tile a cell, coloured by the share recovered; a frame where it differs from the prediction."""
    rows, objectives = _axes(cells)
    footnotes = notes(cells.values())
    wide, high, left, top = 1.3, 0.74, 2.3, 1.25  # inches of a tile, and of the margins
    bottom = 1.05 + 0.2 * len(footnotes)
    width, height = left + wide * len(objectives) + 0.3, top + high * len(rows) + bottom
    figure = Figure(figsize=(max(width, 7.6), height), dpi=160, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set(xticks=[], yticks=[], xlim=(0, max(width, 7.6)), ylim=(height, 0))
    axes.text(0.25, 0.32, title, fontsize=15, weight="bold", color=INK, va="center")
    for column, objective in enumerate(objectives):
        x = left + wide * (column + 0.5)
        axes.text(x, top - 0.12, objective.replace("_", "\n"), fontsize=10.5, color=INK, ha="center", va="bottom")
    for line, row in enumerate(rows):
        y = top + high * line
        axes.text(left - 0.15, y + high / 2, row, fontsize=10.5, color=INK, ha="right", va="center")
        for column, objective in enumerate(objectives):
            _tile(axes, left + wide * column, y, wide, high, cells[row, objective], footnotes)
    _key(axes, left, top + high * len(rows) + 0.28, footnotes)
    return figure


def _tile(axes: Axes, x: float, y: float, wide: float, high: float, cell: Cell, footnotes: dict[str, str]) -> None:
    share = _share(cell)
    fill = ABSENT if not cell.runs else UNJUDGED if share is None else COLOURS(share)
    ink = "white" if share is not None and share > 0.75 else INK
    edge, shape = MARK if cell.agrees is False else "none", "round,pad=0,rounding_size=0.07"
    box = FancyBboxPatch((x + 0.05, y + 0.05), wide - 0.1, high - 0.1, boxstyle=shape, fc=fill, ec=edge, linewidth=2.2)
    axes.add_patch(box)
    middle, letter = x + wide / 2, _letter(cell, footnotes)
    if not cell.runs:
        axes.text(middle, y + high / 2, letter, fontsize=11, color=QUIET, ha="center", va="center")
        return
    size = 11.5 if len(letter) < 6 else 9
    axes.text(x + 0.13, y + 0.23, letter, fontsize=size, weight="bold", color=ink, va="center")
    axes.text(x + wide - 0.13, y + 0.23, predicted(cell), fontsize=9, color=ink, alpha=0.75, ha="right", va="center")
    axes.text(x + 0.13, y + 0.5, short(cell.mean("recovered"), 2), fontsize=9, color=ink, va="center")
    axes.text(x + wide - 0.13, y + 0.5, accuracy(cell), fontsize=9, color=ink, ha="right", va="center")


def _share(cell: Cell) -> float | None:
    """Choose what colours a tile: the share recovered, or in rows by accuracy the way to Bayes; None: not judged."""
    if not cell.runs:
        return None
    if cell.row.by == "accuracy" or cell.verdict == "passed by accuracy":
        return float(np.clip(np.mean([way_to_bayes(run) for run in cell.runs]), 0, 1))
    if cell.verdict == "unknown":
        return None
    return float(np.clip(cell.mean("recovered") or 0.0, 0, 1))


def _key(axes: Axes, x: float, y: float, footnotes: dict[str, str]) -> None:
    ramp = np.linspace(0, 1, 256)[None]
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(ramp, cmap=COLOURS, extent=(x + 0.05, x + 2.05, y + 0.14, y), aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    axes.text(x + 0.05, y + 0.27, "0", fontsize=8.5, color=QUIET, va="center")
    axes.text(x + 2.05, y + 0.27, "1", fontsize=8.5, color=QUIET, ha="right", va="center")
    axes.text(x + 1.05, y + 0.27, "recovered", fontsize=8.5, color=QUIET, ha="center", va="center")
    lines = [
        "tile: verdict (predicted), share recovered, accuracy ± s.e. · P passed · F blind · part: between · worse",
        "framed: differs from the prediction · † by accuracy, no optimum is known, ? not shown · (*) not asserted",
        *(f"{mark} {reason}" for reason, mark in footnotes.items()),
    ]
    for line, text in enumerate(lines):
        axes.text(0.25, y + 0.5 + 0.2 * line, text, fontsize=8.5, color=QUIET, va="center")


def _axes(cells: dict[tuple[str, str], Cell]) -> tuple[Sequence[str], Sequence[str]]:
    return list(dict.fromkeys(row for row, _ in cells)), list(dict.fromkeys(objective for _, objective in cells))
