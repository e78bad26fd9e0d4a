"""The backend `triton`: the losses as kernels over tiles of logits (kernels.tiles), with no M x N matrix and no wait.

The same mathematics as kernels.chunked, whose letters it keeps; what differs is that absent items stay in place under a
key that matches nothing, because taking them out would make the host wait for their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.autograd import Gradients, full_precision
from kernels.distributed import lse_over, sum_over
from kernels.means import Means, dot, means_of
from kernels.tiles.gradient import EACH, LOGSUM, MEAN, NONE
from kernels.tiles.khatri_rao_launch import khatri_rao_gradients, khatri_rao_lse
from kernels.tiles.launch import Gradient, Tiles
from kernels.tiles.tile import ALL, NEGATIVES, POSITIVES

if TYPE_CHECKING:
    from jaxtyping import Float, Int32, Int64

__all__ = ["infonce", "khatri_rao_gradients", "khatri_rao_lse", "lse", "lse_gradients", "sigmoid"]

LN_2 = math.log(2.0)


def infonce(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
    *,
    positives: str,
    exclude_self: bool,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    symmetric: bool,
    x_offset: int,
    group: Any,
    wanted: tuple[bool, ...],
) -> tuple[Float[Tensor, ""], Gradients]:
    """As kernels.multi_positive_infonce, with the gradients of what is wanted of x, y, scale."""
    with _on(x):
        rows, columns = _Side.of(x, x_weight, -1), _Side.of(y, y_weight, -2)
        P = _Positives(x_ids, y_ids, rows, columns, x_offset if exclude_self else None)
        w = means_of(P.row_count, P.column_count, rows.weight, columns.weight, symmetric, group)
        tiles = Tiles(rows.z, columns.z, scale, P.x_key, P.y_key, x_offset if exclude_self else None)
        value, of = _SOFTMAX[positives](tiles, w, group)
        return value, _gradients(tiles, wanted, len(x), lambda for_y, for_x: tiles.products(of, for_y, for_x))


def sigmoid(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    bias: Float[Tensor, ""],
    x_ids: Int64[Tensor, " m"],
    y_ids: Int64[Tensor, " n"],
    *,
    exclude_self: bool,
    x_weight: Tensor | None,
    y_weight: Tensor | None,
    x_offset: int,
    group: Any,
    wanted: tuple[bool, ...],
) -> tuple[Float[Tensor, ""], Gradients]:
    """As kernels.multi_positive_sigmoid, with the gradients of what is wanted of x, y, scale, bias."""
    with _on(x):
        rows, columns = _Side.of(x, x_weight, -1), _Side.of(y, y_weight, -2)
        P = _Positives(x_ids, y_ids, rows, columns, x_offset if exclude_self else None)
        (total,) = sum_over(group, rows.weight.sum())
        w = rows.weight / total.clamp_min(torch.finfo(total.dtype).tiny)
        tiles = Tiles(rows.z, columns.z, scale, P.x_key, P.y_key, x_offset if exclude_self else None)
        for_x, for_y, for_scale, for_bias = wanted
        cost, db, GY, GX = tiles.sigmoid(w, columns.weight, bias, for_x or for_scale, for_y)
        (value,) = sum_over(group, cost)
        gradients = _gradients(tiles, (for_x, for_y, for_scale), len(x), lambda *_: (GY, GX))
        return value, (*gradients, db if for_bias else None)


def lse(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    *,
    exclude: str,
    x_ids: Int64[Tensor, " m"] | None,
    y_ids: Int64[Tensor, " n"] | None,
    x_offset: int,
    group: Any,
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """As kernels.contrast_lse."""
    with _on(x):
        tiles = _unweighted(x, y, scale, exclude, x_ids, y_ids, x_offset)
        of = tiles.lse(NEGATIVES if exclude == "group" else ALL)
        return of.row[: len(x)] * LN_2, lse_over(group, of.column * LN_2)


def lse_gradients(
    x: Float[Tensor, "m d"],
    y: Float[Tensor, "n d"],
    scale: Float[Tensor, ""],
    row: Float[Tensor, " m"],
    column: Float[Tensor, " n"],
    g: Float[Tensor, " m"],
    h: Float[Tensor, " n"],
    *,
    exclude: str,
    x_ids: Int64[Tensor, " m"] | None,
    y_ids: Int64[Tensor, " n"] | None,
    x_offset: int,
    wanted: tuple[bool, ...],
) -> Gradients:
    """The gradients of g . row + h . column for the log-sum-exps of `lse`."""
    with _on(x):
        tiles = _unweighted(x, y, scale, exclude, x_ids, y_ids, x_offset)
        g, row = (torch.nn.functional.pad(v, (0, tiles.M - len(v))) for v in (g, row))
        of = Gradient(g.contiguous(), h.contiguous(), row / LN_2, column / LN_2, NONE, g, h)
        distinct = exclude == "group"
        return _gradients(
            tiles, wanted, len(x), lambda for_y, for_x: tiles.products(of, for_y, for_x, distinct=distinct)
        )


def _mean(tiles: Tiles, w: Means, group: Any) -> tuple[Tensor, Gradient]:
    of = tiles.lse(ALL, pull=(w.an, w.bm))
    column = lse_over(group, of.column * LN_2)
    (local,) = sum_over(group, dot(w.a, of.row * LN_2) - of.pull)
    # rounding may take the difference below its floor; the exact value never is
    value = (local + dot(w.b, column)).clamp_min(w.floor)
    return value, Gradient(w.a, w.b, of.row, column / LN_2, MEAN, w.an, w.bm)


def _logsum(tiles: Tiles, w: Means, group: Any) -> tuple[Tensor, Gradient]:
    of, plus = tiles.lse(ALL), tiles.lse(POSITIVES)
    column, column_plus = (lse_over(group, v * LN_2) for v in (of.column, plus.column))
    # without a positive the difference is infinite or no number; rounding may take it below 0
    rows = torch.where(w.a > 0, (of.row - plus.row) * LN_2, 0.0).clamp_min(0.0)
    columns = torch.where(w.b > 0, column - column_plus, 0.0).clamp_min(0.0)
    (local,) = sum_over(group, w.a @ rows)
    return local + w.b @ columns, Gradient(w.a, w.b, of.row, column / LN_2, LOGSUM, plus.row, column_plus / LN_2)


def _each(tiles: Tiles, w: Means, group: Any) -> tuple[Tensor, Gradient]:
    of = tiles.lse(NEGATIVES)
    column = lse_over(group, of.column * LN_2) / LN_2
    B, C, value = tiles.each(w.an, w.bm, of.row, column)
    value, C = sum_over(group, value, C)
    return value, Gradient(w.an * B, w.bm * C, of.row, column, EACH, w.an, w.bm)


_SOFTMAX = {"mean": _mean, "logsum": _logsum, "each": _each}


def _gradients(tiles: Tiles, wanted: tuple[bool, ...], num_rows: int, products: Any) -> Gradients:
    """dL/dx, dL/dy and dL/dscale from products(for_y, for_x) -> (G Y, G^T X)."""
    for_x, for_y, for_scale = wanted
    if not any(wanted):
        return None, None, None
    GY, GX = products(for_x or for_scale, for_y)
    # <G Y, X>: through the left argument alone, which is all of dL/dscale also where x is y
    dt = (GY * tiles.x[:, : tiles.D]).sum() if for_scale else None
    return GY.mul_(tiles.t)[:num_rows] if for_x else None, GX.mul_(tiles.t) if for_y else None, dt


@dataclass
class _Side:
    """The items of one side, absent ones as zeros; at least one row, as a rank's strip may be empty."""

    z: Float[Tensor, "n d"]
    weight: Float[Tensor, " n"]
    absent: int
    """the key of an item whose weight is 0"""

    @classmethod
    def of(cls, z: Tensor, weight: Tensor | None, absent: int) -> _Side:
        if len(z) == 0:
            z, weight = z.new_zeros(1, z.shape[1]), z.new_zeros(1, dtype=torch.float32)
        if weight is None:
            return cls(z, z.new_ones(len(z), dtype=torch.float32), absent)
        return cls(torch.where(weight[:, None] > 0, z, 0.0), weight.contiguous(), absent)


class _Positives:
    """Keys of the ids, and how many positives each row and column has; all on the device."""

    def __init__(self, x_ids: Tensor, y_ids: Tensor, rows: _Side, columns: _Side, x_offset: int | None):
        x_ids = x_ids if len(x_ids) else y_ids[:1]  # the absent row of an empty strip
        order = torch.cat([x_ids, y_ids]).sort().values
        self.x_key, self.y_key = (
            torch.searchsorted(order, ids.contiguous(), out_int32=True).masked_fill(side.weight <= 0, side.absent)
            for ids, side in ((x_ids, rows), (y_ids, columns))
        )
        self.row_count, self.column_count = _count(self.x_key, self.y_key), _count(self.y_key, self.x_key)
        if x_offset is not None:
            own = self.y_key[x_offset : x_offset + len(self.x_key)]
            itself = (own == self.x_key[: len(own)]).long()
            self.row_count[: len(own)] -= itself
            self.column_count[x_offset : x_offset + len(own)] -= itself


def _count(keys: Int32[Tensor, " m"], among: Int32[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """How often each key is found among others."""
    order = among.sort().values
    return torch.searchsorted(order, keys, right=True) - torch.searchsorted(order, keys)


def _unweighted(
    x: Tensor, y: Tensor, scale: Tensor, exclude: str, x_ids: Tensor | None, y_ids: Tensor | None, x_offset: int
) -> Tiles:
    rows, columns = _Side.of(x, None, -1), _Side.of(y, None, -2)
    itself = x_offset if exclude == "self" else None
    if x_ids is not None and y_ids is not None:
        P = _Positives(x_ids, y_ids, rows, columns, None)
        x_key, y_key = P.x_key, P.y_key
    else:
        x_key, y_key = (side.weight.int() - 1 for side in (rows, columns))  # 0, and -1 for the row of an empty strip
    return Tiles(rows.z, columns.z, scale, x_key, y_key, itself)


@contextmanager
def _on(x: Tensor) -> Iterator[None]:
    """On the device of x, where kernels are launched, and out of autocast's reach."""
    with full_precision(x), torch.cuda.device_of(x):
        yield
