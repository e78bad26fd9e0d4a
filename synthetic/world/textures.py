"""Ten textures as signed distances to the edge of their ink, positive where the colour shows and negative on black.

The trap: a texture must survive the smallest picture, so a period is half an outline's radius: five pixels at 32 x 32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from synthetic.world.outlines import Distance, Plane

PERIOD = 0.5


def wave(u: Plane, period: float = PERIOD) -> Plane:
    """Make bands of equal width: distance to the nearest edge, positive on every other band; 0 is inside a band."""
    return period / 4 - np.abs((u / period + 0.5) % 1 - 0.5) * period


def checks(x: Plane, y: Plane) -> Plane:
    return wave(x + PERIOD / 4) * wave(y + PERIOD / 4) * 4 / PERIOD


def dots(x: Plane, y: Plane) -> Plane:
    return np.hypot(_cell(x), _cell(y)) - 0.16


def grid(x: Plane, y: Plane) -> Plane:
    return PERIOD / 2 - np.maximum(np.abs(_cell(x)), np.abs(_cell(y))) - 0.06


def sectors(x: Plane, y: Plane, number: int = 6) -> Plane:
    return np.hypot(x, y) * np.sin(number * np.arctan2(y, x)) / number


def zigzag(x: Plane, y: Plane) -> Plane:
    return wave(y + 1.2 * np.abs((x / 0.7) % 1 - 0.5) * 0.7, 0.55) / 1.5


def _cell(u: Plane) -> Plane:
    """Compute the position in a cell of the lattice, from its centre."""
    return ((u / PERIOD) % 1 - 0.5) * PERIOD


TEXTURES: dict[str, Distance] = {
    "solid": lambda x, y: np.ones_like(x),
    "rows": lambda x, y: wave(y),
    "columns": lambda x, y: wave(x),
    "slanted": lambda x, y: wave((x + y) / np.sqrt(2)),
    "checks": checks,
    "dots": dots,
    "grid": grid,
    "target": lambda x, y: wave(np.hypot(x, y)),
    "sectors": sectors,
    "zigzag": zigzag,
}
