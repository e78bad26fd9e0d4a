"""Pictures of embeddings: arrays, images and texts in, a matplotlib figure or pixels out.

The trap: pyplot keeps every figure alive in a global list and picks a window system; figures here are built without
it and drawn by Agg, so they work in any process and are freed like other objects.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, INK = "#1a7f37", "#8c959f", "#24292f"
DPI = 110


class Answer(NamedTuple):
    """One retrieved item."""

    item: Any
    """a PIL image or a text"""
    score: float
    correct: bool


def heat_map(scores: Float[np.ndarray, "q c"], rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Scores of queries (rows) with candidates (columns), with a colour bar."""
    figure = Figure(figsize=(11.5, 10.5), dpi=DPI)
    axes, ruler = figure.add_axes((0.155, 0.02, 0.755, 0.79)), figure.add_axes((0.925, 0.02, 0.018, 0.79))
    picture = axes.imshow(scores, cmap="viridis", interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    figure.colorbar(picture, cax=ruler)
    ruler.set_title("score", fontsize=11)
    # plain texts and fixed margins: ticks, and a layout solved around them, take three times as long
    size = float(np.clip(520 / max(1, len(rows)), 6, 11))
    for at, label in enumerate(rows):
        axes.text(-0.8, at, short(label, 26), fontsize=size, ha="right", va="center")
    for at, label in enumerate(columns):
        axes.text(at, -0.8, short(label, 26), fontsize=size, ha="center", va="bottom", rotation=90)
    figure.text(0.01, 0.985, title, fontsize=13, va="top")
    return figure


def retrieved_texts(queries: Sequence[tuple[Any, str]], answers: Sequence[Sequence[Answer]], title: str) -> Figure:
    """A card for each query image: the image with its name, its best texts below, right ones in green."""
    columns = min(3, len(queries))
    lines = -(-len(queries) // columns)
    figure = Figure(figsize=(3.7 * columns, 0.5 + 3.7 * lines), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=14, color=INK, x=0.02, ha="left")
    grid = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=[1.5, 1.0] * lines)
    for axes in grid.flat:
        axes.set_axis_off()
    for at, ((image, name), found) in enumerate(zip(queries, answers, strict=True)):
        line, column = divmod(at, columns)
        picture, texts = grid[2 * line, column], grid[2 * line + 1, column]
        _show(picture, image)
        picture.set_title(short(name, 28), fontsize=12.5, color=INK)
        for rank, answer in enumerate(found):
            place = 1 - (rank + 0.5) / len(found)
            style: dict[str, Any] = {"fontsize": 12.5, "va": "center", "color": RIGHT if answer.correct else WRONG}
            weight = "bold" if answer.correct else "normal"
            texts.text(0.02, place, f"{answer.score:.2f}", family="monospace", **style)
            texts.text(0.2, place, short(answer.item, 28), weight=weight, **style)
    return figure


def retrieved_images(queries: Sequence[str], answers: Sequence[Sequence[Answer]], title: str) -> Figure:
    """A row for each query text: its best images, right ones in a green frame."""
    width = max(map(len, answers))
    figure = Figure(figsize=(2.6 + 1.45 * width, 0.5 + 1.6 * len(queries)), dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=14, color=INK, x=0.02, ha="left")
    grid = figure.subplots(len(queries), width + 1, squeeze=False, width_ratios=[1.8] + [1.0] * width)
    for axes in grid[:, 0]:
        axes.set_axis_off()
    for row, query, found in zip(grid, queries, answers, strict=True):
        row[0].text(0.97, 0.5, textwrap.fill(short(query, 60), 18), fontsize=13, ha="right", va="center", color=INK)
        for axes, answer in zip(row[1:], found, strict=True):
            _show(axes, answer.item)
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"{answer.score:.2f}", fontsize=11, color=RIGHT if answer.correct else WRONG, labelpad=2)
            for spine in axes.spines.values():
                spine.set(color=RIGHT if answer.correct else "#d0d7de", linewidth=4 if answer.correct else 1)
    return figure


def pixels(figure: Figure) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a figure."""
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for a letter the font lacks
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def thumbnail(item: Any, size: int) -> Float[np.ndarray, "3 s s"]:
    """A square of an image, or of a text on white; values in [0, 1]."""
    tile = Image.new("RGB", (size, size), "white")
    if isinstance(item, Image.Image):
        picture = item.convert("RGB")
        picture.thumbnail((size, size))
        tile.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    else:
        letters = max(6, size // 5)
        text = "\n".join(textwrap.wrap(str(item), letters)[: size // 11])
        draw = ImageDraw.Draw(tile)
        draw.multiline_text((size / 2, size / 2), text, INK, ImageFont.load_default(9), "mm", spacing=1, align="center")
    return np.asarray(tile, dtype=np.float32).transpose(2, 0, 1) / 255


def short(text: str, length: int) -> str:
    """At most so many letters, on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _show(axes: Axes, image: Any) -> None:
    axes.imshow(np.asarray(image.convert("RGB")), interpolation="nearest" if max(image.size) < 128 else "antialiased")
