"""Ten outlines as signed distances, negative inside: an edge is then as soft as a pixel at any size and rotation.

The trap: a union or a difference of distances is exact at the outline only, which is all that rendering needs.
Coordinates: x to the right, y up; an outline fits the unit disc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

    Plane = Float64[np.ndarray, "*n h w"]
    Distance = Callable[[Plane, Plane], Plane]


def disc(x: Plane, y: Plane, centre: tuple[float, float] = (0, 0), radius: float = 0.85) -> Plane:
    return np.hypot(x - centre[0], y - centre[1]) - radius


def polygon(*corners: tuple[float, float]) -> Distance:
    """Make a closed polygon; where its edges cross, the even-odd rule says what is inside."""
    start = np.array(corners, dtype=float)
    (x0, y0), (x1, y1) = start.T, np.roll(start, -1, axis=0).T
    dx, dy = x1 - x0, y1 - y0
    slope = np.divide(dx, dy, out=np.zeros_like(dx), where=dy != 0)  # of x over y; a level edge meets no level ray

    def distance(x: Plane, y: Plane) -> Plane:
        x, y = x[..., None], y[..., None]  # ... x edges
        along = np.clip(((x - x0) * dx + (y - y0) * dy) / (dx**2 + dy**2), 0, 1)
        nearest = np.hypot(x - x0 - along * dx, y - y0 - along * dy).min(-1)
        crossed = ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * slope)
        return np.where(crossed.sum(-1) % 2 == 1, -nearest, nearest)

    return distance


def ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.66) - 0.26


def moon(x: Plane, y: Plane) -> Plane:
    return np.maximum(disc(x, y, (-0.05, 0), 0.95), -disc(x, y, (0.4, 0.15), 0.75))


def heart(x: Plane, y: Plane) -> Plane:
    lobes = np.minimum(disc(x, y, (-0.42, 0.32), 0.46), disc(x, y, (0.42, 0.32), 0.46))
    return np.minimum(lobes, _POINT(x, y))


_TIPS = [(r * np.sin(k * np.pi / 5), r * np.cos(k * np.pi / 5)) for k, r in enumerate([0.95, 0.4] * 5)]
_POINT = polygon((-0.79, 0.04), (0, -0.95), (0.79, 0.04), (0.42, 0.32), (0, 0.5), (-0.42, 0.32))

OUTLINES: dict[str, Distance] = {
    "circle": disc,
    "square": polygon((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
    "triangle": polygon((-0.86, -0.5), (0.86, -0.5), (0, 0.99)),
    "star": polygon(*_TIPS),
    "cross": polygon(
        *[(0.3, 0.95), (0.3, 0.3), (0.95, 0.3), (0.95, -0.3), (0.3, -0.3), (0.3, -0.95)],
        *[(-0.3, -0.95), (-0.3, -0.3), (-0.95, -0.3), (-0.95, 0.3), (-0.3, 0.3), (-0.3, 0.95)],
    ),
    "heart": heart,
    "ring": ring,
    "moon": moon,
    "arrow": polygon((-0.94, 0.32), (0.05, 0.32), (0.05, 0.8), (0.95, 0), (0.05, -0.8), (0.05, -0.32), (-0.94, -0.32)),
    "hourglass": polygon((-0.69, 0.72), (0.69, 0.72), (-0.69, -0.72), (0.69, -0.72)),
}
