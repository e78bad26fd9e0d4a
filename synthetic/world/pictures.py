"""A picture world: an outline in a colour and a texture on grey, somewhere, at some size and angle.

What a picture shows and how it shows it are apart. The how is the nuisance: one integer per sample, drawn independently
of what is shown, and never so large that it hides it: no rotation turns rows into columns.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from synthetic.world.outlines import OUTLINES
from synthetic.world.textures import TEXTURES

if TYPE_CHECKING:
    from jaxtyping import Float, Int64, UInt8

COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (1.00, 1.00, 1.00),
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.00),
    "yellow": (1.00, 0.95, 0.15),
    "green": (0.10, 0.60, 0.15),
    "cyan": (0.20, 0.95, 0.95),
    "blue": (0.15, 0.20, 0.95),
    "purple": (0.50, 0.10, 0.65),
    "pink": (1.00, 0.60, 0.80),
    "brown": (0.55, 0.32, 0.08),
}
GREY, BLACK = 0.5, 0.03
RADIUS = (0.6, 0.8)
"""smallest and largest radius of an outline's disc, in half widths of the picture"""
ANGLE = math.pi / 12
"""largest rotation, either way"""
LEVELS = 2**10
"""of each of the four digits of a nuisance"""
NUISANCES = LEVELS**4
EXTENT = 1.1
"""half width of the tables of distances, in radii"""
ROWS = 256
"""pictures drawn at once: bounds the memory"""


class Pictures:
    """Pictures of `size` x `size` pixels.

    Raises ValueError when `size` is below 32: the textures would be finer than the pixels.
    """

    def __init__(self, size: int) -> None:
        if size < 32:
            raise ValueError(f"size ({size}) is too small for the textures to be seen: give 32 pixels or more")
        self.size = size

    def __call__(
        self,
        outline: Int64[Tensor, " n"],
        colour: Int64[Tensor, " n"],
        texture: Int64[Tensor, " n"],
        nuisance: Int64[Tensor, " n"],
    ) -> UInt8[Tensor, "n size size 3"]:
        """Draw pictures in RGB. The digits of `nuisance` to base 1024 are position (x, y), size and angle; that of 0 is
        centred, upright and of medium size."""
        rows = zip(*(x.split(ROWS) for x in (outline, colour, texture, nuisance)), strict=True)
        return torch.cat([self._draw(*some) for some in rows])

    def _draw(
        self,
        outline: Int64[Tensor, " n"],
        colour: Int64[Tensor, " n"],
        texture: Int64[Tensor, " n"],
        nuisance: Int64[Tensor, " n"],
    ) -> UInt8[Tensor, "n size size 3"]:
        digits = nuisance[:, None] // LEVELS ** torch.arange(4) % LEVELS
        right, down, larger, turn = ((digits / LEVELS + 0.5) % 1).unbind(1)  # 0.5 for the digit 0
        radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * larger
        room = 1 - radius
        grid = self._frame((2 * right - 1) * room, (2 * down - 1) * room, radius, (2 * turn - 1) * ANGLE)
        pixels = radius[:, None, None] * self.size / 2  # to the unit of distance
        cover, ink = (
            (0.5 + pixels * _read(table[code], grid)).clamp(0, 1)
            for table, code in zip(_tables(), (outline, texture), strict=True)
        )
        paint = BLACK + ink[..., None] * (torch.tensor(list(COLOURS.values()))[colour, None, None] - BLACK)
        return (255 * (GREY + (paint - GREY) * cover[..., None])).round().byte()

    def _frame(
        self,
        right: Float[Tensor, " n"],
        down: Float[Tensor, " n"],
        radius: Float[Tensor, " n"],
        angle: Float[Tensor, " n"],
    ) -> Float[Tensor, "n size size 2"]:
        """Compute where each pixel lies in the tables: the outline's own frame, -1 to 1 over their extent."""
        cos, sin = angle.cos() / radius / EXTENT, angle.sin() / radius / EXTENT
        rows = [[cos, sin, -(cos * right + sin * down)], [-sin, cos, sin * right - cos * down]]
        affine = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
        return F.affine_grid(affine, [len(angle), 1, self.size, self.size], align_corners=False)


def _read(table: Float[Tensor, "n 1 r r"], grid: Float[Tensor, "n size size 2"]) -> Float[Tensor, "n size size"]:
    """Read a table by bilinear interpolation; beyond its edge a table goes on as at its edge, which lies outside of
    every outline."""
    return F.grid_sample(table, grid, padding_mode="border", align_corners=True)[:, 0]


@cache
def _tables(points: int = 176) -> tuple[Float[Tensor, "o 1 r r"], Float[Tensor, "t 1 r r"]]:
    """Sample the signed distances of every outline (positive inside) and texture, once."""
    place = np.linspace(-EXTENT, EXTENT, points)
    x, y = np.meshgrid(place, -place)
    outlines, textures = (np.stack([f(x, y) for f in each.values()]) for each in (OUTLINES, TEXTURES))
    return torch.from_numpy(-outlines).float()[:, None], torch.from_numpy(textures).float()[:, None]
