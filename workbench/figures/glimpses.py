"""Small square pictures of raw items that are no pictures: a text, a sound, a vector, a sequence of frames.

The trap is the scale: numbers in units of their own have none that suits all. So each item, and each channel of a
sequence, is drawn on a scale of its own; two glimpses compare in shape, not in size.
"""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

INK, UP, DOWN = "#24292f", "#2166ac", "#b2182b"


def glimpse(item: object, size: int) -> Image.Image:
    """Draw a raw item of any kind: a picture is returned as it is, everything else becomes a square of `size` pixels.

    A sound (waveform, rate) is drawn as its envelope, a vector as bars, blue above 0 and red below, frames [l, d] as a
    map with the time from left to right.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, tuple):
        return _envelope(_numbers(item[0]).flatten(), size)
    if isinstance(item, torch.Tensor | ndarray | list):
        numbers = _numbers(item)
        return _map(numbers, size) if numbers.ndim == 2 else _bars(numbers.flatten(), size)
    return _text(str(item), size)


def _numbers(item: object) -> ndarray:
    return np.nan_to_num(torch.as_tensor(item).detach().cpu().double().numpy(), posinf=0, neginf=0)


def _text(text: str, size: int) -> Image.Image:
    height = max(9, size // 10)
    letters = max(6, size * 9 // (5 * height))
    tile = Image.new("RGB", (size, size), "white")
    lines = "\n".join(textwrap.wrap(text, letters)[: size // (height + 2)])
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(height)
    draw.multiline_text((size / 2, size / 2), lines, INK, font, "mm", spacing=1, align="center")
    return tile


def _envelope(waveform: Float[ndarray, " n"], size: int) -> Image.Image:
    """Draw the smallest and the largest sample of each column's stretch of time, the loudest at the border."""
    places = np.arange(size) * len(waveform) // size
    low, high = np.minimum.reduceat(waveform, places), np.maximum.reduceat(waveform, places)
    return _columns(low, high, size, INK, INK)


def _bars(numbers: Float[ndarray, " d"], size: int) -> Image.Image:
    """Draw a bar for each number, or for the mean of neighbours where there are more than columns."""
    if len(numbers) > size:
        places = np.arange(size) * len(numbers) // size
        numbers = np.add.reduceat(numbers, places) / np.diff(places, append=len(numbers))
    column = np.arange(size) * len(numbers) // size
    shown = numbers[column]
    if len(numbers) <= size // 4:  # with a gap between them
        shown = np.where(np.diff(column, append=-1) != 0, 0, shown)
    return _columns(np.minimum(shown, 0), np.maximum(shown, 0), size, UP, DOWN)


def _columns(low: Float[ndarray, " s"], high: Float[ndarray, " s"], size: int, above: str, below: str) -> Image.Image:
    """Draw a line in each column from its low to its high; zero is in the middle."""
    largest = max(np.abs(low).max(), np.abs(high).max()) or 1.0
    height = (np.arange(size) + 0.5)[::-1, None] / size * 2 - 1  # of each row of pixels, from 1 down to -1
    half = 1 / size
    inside = (height >= low / largest - half) & (height <= high / largest + half)
    tile = np.full((size, size, 3), 255, np.uint8)
    for mask, colour in ((inside & (height >= 0), above), (inside & (height < 0), below)):
        tile[mask] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return Image.fromarray(tile)


def _map(frames: Float[ndarray, "l d"], size: int) -> Image.Image:
    """Draw a row for each number of a frame, from its smallest over time (dark) to its largest (bright)."""
    from matplotlib import colormaps  # imported where something is drawn: it takes half a second

    low, high = frames.min(0), frames.max(0)
    shares = np.where(high > low, (frames - low) / np.where(high > low, high - low, 1), 0.5)
    colours = colormaps["viridis"](shares.T)[..., :3]
    return Image.fromarray((255 * colours).astype(np.uint8)).resize((size, size), Image.Resampling.BOX)
