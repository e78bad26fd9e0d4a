"""Which classes are taken for which, as a picture: a row a class, dark where its items were called the column's name.

The trap: a thousand classes are no picture. Where there are many, those with the most wrong answers are drawn, and the
title says how many of how many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from workbench.figures.embeddings import short
from workbench.types import ClassTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 30
"""classes that are drawn"""
WRITTEN = 16
"""classes up to which the numbers of items are written into the cells, too"""


def confusion_picture(table: ClassTable, title: str) -> Figure:
    """Draw the pairs of a table, each row in shares of the class's items. Raises ValueError for a table without any."""
    from matplotlib.figure import Figure

    if table.pairs is None:
        raise ValueError("a table without answers has no confusions to draw")
    chosen, counts = choose(table)
    support = np.maximum(table.columns["support"][chosen].numpy(), 1)
    names = [short(table.names[at], 22) for at in chosen]
    size = len(names)
    label = 0.25 + 0.085 * max(map(len, names))
    side = float(np.clip(0.34 * size, 3.2, 8.5))
    width, height = label + side + 0.9, label + side + 0.55
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((label / width, 0.1 / height, side / width, side / height))
    ruler = figure.add_axes(((label + side + 0.15) / width, 0.1 / height, 0.15 / width, side / height))
    picture = axes.imshow(counts / support[:, None], cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, cax=ruler)
    axes.xaxis.tick_top()
    axes.set_xticks(range(size), names, rotation=90, fontsize=9)
    axes.set_yticks(range(size), names, fontsize=9)
    axes.tick_params(length=0)
    for row, column in np.argwhere(counts) if size <= WRITTEN else ():
        colour = "white" if counts[row, column] > support[row] / 2 else "#24292f"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    some = "" if size == len(table.names) else f", {size} of {len(table.names)} classes: those with most wrong answers"
    figure.text(0.1 / width, 1 - 0.08 / height, f"{title}: class (rows) called (columns){some}", fontsize=10, va="top")
    return figure


def choose(table: ClassTable) -> tuple[list[int], np.ndarray]:
    """Choose the classes to draw, in their order, and count what was called what among them: int [k, k]."""
    assert table.pairs is not None
    c = len(table.names)
    true, said, count = table.pairs.unbind(1)
    wrong = torch.where(true == said, 0, count)
    mistakes = torch.zeros(c, dtype=torch.int64).index_add_(0, true, wrong).index_add_(0, said, wrong)
    chosen = mistakes.sort(descending=True, stable=True).indices[:MOST].sort().values if c > MOST else torch.arange(c)
    place = torch.full((c,), -1).index_copy_(0, chosen, torch.arange(len(chosen)))
    there = (place[true] >= 0) & (place[said] >= 0)
    counts = torch.zeros(len(chosen), len(chosen), dtype=torch.int64)
    counts[place[true[there]], place[said[there]]] = count[there]
    return chosen.tolist(), counts.numpy()
