"""Fixed positions of tokens, on a line or a grid, as sines and cosines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def sincos(places: Int64[Tensor, " l"], frequencies: int) -> Float[Tensor, "l c"]:
    """Compute sine and cosine of each place, at frequencies 1 ... 1/10000 (Vaswani et al. 2017, section 3.5)."""
    angles = places[:, None] * 10_000 ** -(torch.arange(frequencies, device=places.device) / frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def grid_positions(grid: Sequence[int], dim: int, prefix: int, device: torch.device) -> Float[Tensor, "l d"]:
    """Compute positions of which half of the channels tell a patch's column, and half its row.

    They are zero for the `prefix` tokens before the patches, and in channels left over when 4 does not divide `dim`.
    """
    rows, columns = (torch.arange(size, device=device) for size in grid)
    column, row = columns.repeat(len(rows)), rows.repeat_interleave(len(columns))
    positions = torch.cat([sincos(column, dim // 4), sincos(row, dim // 4)], dim=1)
    return F.pad(positions, (0, dim % 4, prefix, 0))


def line_positions(length: int, dim: int, device: torch.device) -> Float[Tensor, "l d"]:
    """Compute positions on a line; a channel that is left over when 2 does not divide `dim` is zero."""
    return F.pad(sincos(torch.arange(length, device=device), dim // 2), (0, dim % 2))
