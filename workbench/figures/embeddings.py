"""Pictures of embeddings: arrays, images and texts in, a matplotlib figure or pixels out.

The trap: pyplot keeps every figure alive in a global list and picks a window system; figures here are built without
it and drawn by Agg, so they work in any process and are freed like other objects. matplotlib is imported where
something is drawn: half a second that a run would else spend before its first step.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from workbench.figures.glimpses import INK, glimpse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG = "#1a7f37", "#8c959f"
DPI = 110
GLIMPSE = 240
"""pixels a side of what is drawn of an item that is no picture"""
T = TypeVar("T")


class Answer(NamedTuple):
    """One retrieved item."""

    item: Any
    """a text, or a raw item of any other kind"""
    score: float
    correct: bool


def heat_map(scores: Float[np.ndarray, "q c"], rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Draw the scores of queries (rows) with candidates (columns), with a colour bar."""
    from matplotlib.figure import Figure

    rows, columns = ([short(label, 26) for label in labels] for labels in (rows, columns))
    size = float(np.clip(520 / max(1, len(rows)), 6, 11))
    # plain texts and computed margins: ticks, and a layout solved around them, take three times as long
    left, top = (0.4 + 0.0085 * size * max(map(len, labels), default=0) for labels in (rows, columns))
    side, top = 8.5, top + 0.4
    width, height = left + side + 1.0, top + side + 0.2
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((left / width, 0.2 / height, side / width, side / height))
    ruler = figure.add_axes(((left + side + 0.2) / width, 0.2 / height, 0.2 / width, side / height))
    picture = axes.imshow(scores, cmap="viridis", interpolation="nearest", aspect="auto")
    axes.set(xticks=[], yticks=[])
    figure.colorbar(picture, cax=ruler)
    ruler.set_title("score", fontsize=11)
    for at, label in enumerate(rows):
        _text(axes, -0.5 - len(columns) / 200, at, label, fontsize=size, ha="right", va="center")
    for at, label in enumerate(columns):
        _text(axes, at, -0.5 - len(rows) / 200, label, fontsize=size, ha="center", va="bottom", rotation=90)
    figure.text(0.12 / width, 1 - 0.12 / height, title, fontsize=13, va="top")
    return figure


def retrieved_texts(queries: Sequence[tuple[Any, str]], answers: Sequence[Sequence[Answer]], title: str) -> Figure:
    """Draw a card for each query that is no text: it with its name, its best texts below, right ones in green."""
    columns, lines = min(3, len(queries)), -(-len(queries) // 3)
    width, line = 3.7, 0.24
    height = 2.75 + line * max(map(len, answers))
    figure, axes = _sheet(width * columns, 0.5 + height * lines, title)
    for at, ((image, name), found) in enumerate(zip(queries, answers, strict=True)):
        x, y = width * (at % columns), 0.5 + height * (at // columns)
        _text(axes, x + width / 2, y + 0.2, short(name, 28), fontsize=12.5, ha="center", va="center", color=INK)
        _place(axes, image, x + (width - 2) / 2, y + 0.4, 2)
        for rank, answer in enumerate(found):
            colour, below = RIGHT if answer.correct else WRONG, y + 2.6 + line * rank
            weight = "bold" if answer.correct else "normal"
            _text(axes, x + 0.15, below, f"{answer.score:.2f}", fontsize=12, va="center", color=colour)
            _text(axes, x + 0.75, below, short(answer.item, 28), fontsize=12, va="center", color=colour, weight=weight)
    return figure


def retrieved_images(queries: Sequence[str], answers: Sequence[Sequence[Answer]], title: str) -> Figure:
    """Draw a row for each query text: its best items of another kind, right ones in a green frame."""
    from matplotlib.patches import Rectangle

    left, side, step = 2.3, 1.3, 1.6
    figure, axes = _sheet(left + step * max(map(len, answers)), 0.5 + step * len(queries), title)
    for row, (query, found) in enumerate(zip(queries, answers, strict=True)):
        y, label = 0.5 + step * row, textwrap.fill(short(query, 54), 18)
        _text(axes, left - 0.2, y + side / 2, label, fontsize=13, ha="right", va="center", color=INK)
        for rank, answer in enumerate(found):
            x = left + step * rank
            _place(axes, answer.item, x, y, side)
            frame = {"color": RIGHT, "linewidth": 4} if answer.correct else {"color": "#d0d7de", "linewidth": 1}
            axes.add_patch(Rectangle((x, y), side, side, fill=False, zorder=2, **frame))
            colour = RIGHT if answer.correct else WRONG
            _text(
                axes,
                x + side / 2,
                y + side + 0.13,
                f"{answer.score:.2f}",
                fontsize=11,
                ha="center",
                va="center",
                color=colour,
            )
    return figure


def contact_sheet(cards: Sequence[tuple[Any, str, Sequence[str]]], title: str) -> Figure:
    """Draw a card for each item: a picture of it, a line on it, then its captions; all cards of a row are as high."""
    from matplotlib.patches import Rectangle

    across, width, line = min(6, len(cards)), 2.5, 0.19
    said = [[row for text in texts for row in textwrap.wrap(short(text, 90), 29)[:3]][:7] for _, _, texts in cards]
    rows = [range(begin, min(begin + across, len(cards))) for begin in range(0, len(cards), across)]
    heights = [2.75 + line * max(len(said[at]) for at in row) for row in rows]
    figure, axes = _sheet(width * max(across, 3), 0.5 + sum(heights), title)
    y = 0.5
    for row, height in zip(rows, heights, strict=True):
        for at, (image, about, _) in ((at, cards[at]) for at in row):
            x = width * (at - row.start) + 0.15
            axes.add_patch(Rectangle((x, y), width - 0.3, width - 0.3, color="#f6f8fa", zorder=0))
            _place(axes, image, x + 0.05, y + 0.05, width - 0.4)
            _text(axes, x, y + width - 0.18, about, fontsize=7.5, va="center", color=WRONG)
            for below, words in enumerate(said[at]):
                _text(axes, x, y + width + 0.03 + line * below, words, fontsize=9, va="center", color=INK)
        y += height
    return figure


def _text(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """Write a text as it is."""
    # two dollar signs in a caption would make a formula of what lies between, and an error of most
    axes.text(x, y, text, parse_math=False, **look)


def _sheet(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Make an empty page, measured in inches from its upper left corner."""
    from matplotlib.figure import Figure

    # one pair of axes for all: many small ones take ten times as long
    figure = Figure(figsize=(width, height), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    _text(axes, 0.12, 0.22, title, fontsize=14, va="center", color=INK)
    return figure, axes


def _place(axes: Axes, item: Any, x: float, y: float, side: float) -> None:
    """Draw an item in the middle of a square whose upper left corner is (x, y)."""
    image = glimpse(item, GLIMPSE)
    w, h = (side * length / max(image.size) for length in image.size)
    x, y = x + (side - w) / 2, y + (side - h) / 2
    axes.imshow(np.asarray(image.convert("RGB")), extent=(x, x + w, y + h, y), aspect="auto")


def pixels(figure: Figure) -> UInt8[np.ndarray, "h w 3"]:
    """Draw a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box stands for a letter the font lacks
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def thumbnail(item: Any, size: int) -> Float[np.ndarray, "3 s s"]:
    """Draw a square of a raw item of any kind, a picture on white; values in [0, 1]."""
    tile = Image.new("RGB", (size, size), "white")
    picture = glimpse(item, size).convert("RGB")
    picture.thumbnail((size, size))
    tile.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(tile, dtype=np.float32).transpose(2, 0, 1) / 255


def short(text: str, length: int) -> str:
    """Cut a text to at most so many letters, on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def spread(items: Sequence[T], room: int) -> list[T]:
    """Choose at most `room` of them, evenly spaced, in their order."""
    count = min(room, len(items))
    return [items[i * len(items) // count] for i in range(count)]
