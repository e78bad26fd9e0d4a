"""The backend `triton`: the losses as kernels over tiles of logits (kernels.tiles), with no M x N matrix and no wait.

The same mathematics as kernels.chunked, whose letters it keeps; what differs is that absent items stay in place under a
key that matches nothing, because taking them out would make the host wait for their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.autograd import Gradients, without_autocast
from kernels.distributed import lse_over, sum_over
from kernels.linear import Everything, Finish, append_log_weights, limit_cosines, smooth_labels
from kernels.means import Means, dot, weigh_means
from kernels.problem import Problem
from kernels.tiles import rows_only
from kernels.tiles.gradient import EACH, LOGSUM, MEAN, NONE
from kernels.tiles.khatri_rao_launch import khatri_rao_gradients, khatri_rao_lse
from kernels.tiles.launch import Tiles
from kernels.tiles.order import Arranged, keep_order, restore, sort_by_ids
from kernels.tiles.positives import Keys, Silenced
from kernels.tiles.softmax_launch import Gradient, SoftmaxTiles
from kernels.tiles.tile import ALL, NEGATIVES, POSITIVES

if TYPE_CHECKING:
    from jaxtyping import Float, Int32
    from torch.distributed import ProcessGroup

__all__ = ["infonce", "khatri_rao_gradients", "khatri_rao_lse", "lse", "lse_gradients", "sigmoid"]

Multiply = Callable[[bool, bool], tuple[Tensor | None, Tensor | None]]
"""(for_y, for_x) -> (G Y, G^T X), None in the place of one that is not wanted"""
LN_2 = math.log(2.0)
"""turns the kernels' base-2 log-sum-exps into nats"""


def infonce(problem: Problem) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes kernels.multi_positive_infonce and its wanted gradients."""
    with _on_device_of(problem.x):
        arranged = sort_by_ids(problem)
        problem = arranged.problem
        rows, columns, keys = _prepare(arranged)
        tiles = _make_softmax_tiles(problem, _list_items(arranged, rows, columns, keys.of_x, keys.of_y))
        w = weigh_means(
            keys.row_count, keys.column_count, rows.weight, columns.weight, problem.symmetric, problem.group
        ).smooth(problem.positives, problem.label_smoothing)
        if problem.false_negative_margin is not None:
            # Those of the operands as they were rounded, from which the kernels take the cosines, too
            x, y = (z.float() for z in tiles.guides or (tiles.x, tiles.y))
            tiles.limits = limit_cosines(x, y, keys, problem)
        value, multiply = _solve(problem, tiles, w)
        finish = None
        if problem.label_smoothing:
            share, finish = _smooth(arranged, tiles, rows, columns, keys, w)
            value = value - share
        return value, arranged.restore(_finish_gradients(problem, tiles, multiply, finish))


def sigmoid(problem: Problem) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes kernels.multi_positive_sigmoid and its wanted gradients, all in one pass over the tiles."""
    wanted, bias = problem.wanted, problem.bias
    assert bias is not None
    with _on_device_of(problem.x):
        arranged = sort_by_ids(problem)
        rows, columns, keys = _prepare(arranged)
        tiles = Tiles(*_list_items(arranged, rows, columns, keys.of_x, keys.of_y))
        (total,) = sum_over(problem.group, rows.weight.sum())
        w = rows.weight / total.clamp_min(torch.finfo(total.dtype).tiny)
        cost, db, GY, GX = tiles.sigmoid(w, columns.weight, bias, wanted.x or wanted.scale, wanted.y)
        (value,) = sum_over(problem.group, cost)
        gradients = arranged.restore(_finish_gradients(problem, tiles, lambda for_y, for_x: (GY, GX)))
        return value, gradients._replace(bias=db if wanted.bias else None)


def lse(problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes kernels.contrast_lse: (row, column), in nats."""
    with _on_device_of(problem.x):
        arranged = _arrange_unweighted(problem)
        found = _make_unweighted_tiles(arranged).lse(NEGATIVES if problem.exclude == "group" else ALL)
        row, column = found.row[: len(problem.x)] * LN_2, lse_over(problem.group, found.column * LN_2)
        return restore(row, arranged.x_order), restore(column, arranged.y_order)


def lse_gradients(
    problem: Problem,
    row: Float[Tensor, " m"],
    column: Float[Tensor, " n"],
    g: Float[Tensor, " m"],
    h: Float[Tensor, " n"],
) -> Gradients:
    """Computes the wanted gradients of g . row + h . column, for the log-sum-exps that `lse` returned."""
    with _on_device_of(problem.x):
        arranged = _arrange_unweighted(problem)
        tiles = _make_unweighted_tiles(arranged)
        (g, row), (h, column) = (
            [v if order is None else v[order] for v in pair]
            for pair, order in (((g, row), arranged.x_order), ((h, column), arranged.y_order))
        )
        # An empty strip has one row all the same, which gets no gradient
        g, row = (torch.nn.functional.pad(v, (0, tiles.M - len(v))) for v in (g, row))
        gradient = Gradient(g.contiguous(), h.contiguous(), row / LN_2, column / LN_2, NONE, g, h)

        def multiply(for_y: bool, for_x: bool) -> tuple[Tensor | None, Tensor | None]:
            return tiles.multiply_gradient(gradient, for_y, for_x, distinct=problem.exclude == "group")

        return arranged.restore(_finish_gradients(problem, tiles, multiply))


def _solve(problem: Problem, tiles: SoftmaxTiles, w: Means) -> tuple[Tensor, Multiply]:
    """Computes a softmax loss, and returns what computes (G Y, G^T X): where only rows count, both from one pass."""
    for_y, for_x = problem.wanted.x or problem.wanted.scale, problem.wanted.y
    if problem.symmetric or not (for_y or for_x) or tiles.x.dtype == torch.float16:
        value, gradient = _SOFTMAX[problem.positives](tiles, w, problem.group)
        return value, partial(tiles.multiply_gradient, gradient)
    found = rows_only.solve(tiles, problem.positives, w, for_y, for_x)
    (value,) = sum_over(problem.group, found.value)
    floor = w.floor if problem.positives == "mean" or w.kept < 1 else 0.0
    return value.clamp_min(floor), lambda for_y, for_x: (found.GY, found.GX)


def _smooth(
    arranged: Arranged, tiles: SoftmaxTiles, rows: Silenced, columns: Silenced, keys: Keys, w: Means
) -> tuple[Tensor, Finish]:
    """Computes what label smoothing takes from the loss; it is linear in S, so that no kernel knows of it."""
    itself = None if tiles.itself is None else tiles.itself.long()
    tx, y = tiles.x[:, : tiles.D].float() * tiles.t, tiles.y[:, : tiles.D].float()
    tx, y = append_log_weights(tx, y, tiles.log_weights)
    everything = Everything((rows.weight > 0).float(), (columns.weight > 0).float(), itself)
    tx, y = tx * everything.has_row, y * everything.has_column  # nothing of absent items, their log-weights neither
    return smooth_labels(arranged.problem, tx, y, keys, everything, w)


# Each of the three softmax losses makes its passes for log-sum-exps here and returns (value, what the gradient kernel
# has to compute). Nothing waits: value and log-sum-exps are numbers that only the device knows.


def _mean(tiles: SoftmaxTiles, w: Means, group: ProcessGroup | None) -> tuple[Tensor, Gradient]:
    # The positives' logits are summed by the same kernel, from the very tiles that the log-sum-exps are summed from
    found = tiles.lse(ALL, pull=(w.an, w.bm))
    column = lse_over(group, found.column * LN_2)
    (local,) = sum_over(group, dot(w.a, found.row * LN_2) - found.pull)
    # Rounding may take the difference below its floor; the exact value never is
    value = (local + dot(w.b, column)).clamp_min(w.floor)
    return value, Gradient(w.a, w.b, found.row, column / LN_2, MEAN, w.an, w.bm)


def _logsum(tiles: SoftmaxTiles, w: Means, group: ProcessGroup | None) -> tuple[Tensor, Gradient]:
    # The second pass multiplies only where a tile may hold positives
    found, plus = tiles.lse(ALL), tiles.lse(POSITIVES)
    column, column_plus = (lse_over(group, v * LN_2) for v in (found.column, plus.column))
    # Without a positive the difference is infinite or no number; rounding may take it below 0
    rows = torch.where(w.a > 0, (found.row - plus.row) * LN_2, 0.0).clamp_min(0.0)
    columns = torch.where(w.b > 0, column - column_plus, 0.0).clamp_min(0.0)
    rest, fold = 1 - w.kept, math.log2(w.kept)
    (local,) = sum_over(group, w.a @ rows + rest * dot(w.a, plus.row * LN_2))
    value = local + w.b @ columns + rest * dot(w.b, column_plus)
    p, q = plus.row - fold, column_plus / LN_2 - fold  # what is left to the positives, folded into their log-sum-exps
    return value, Gradient(w.a, w.b, found.row, column / LN_2, LOGSUM, p, q)


def _each(tiles: SoftmaxTiles, w: Means, group: ProcessGroup | None) -> tuple[Tensor, Gradient]:
    # A positive meets whole rows and columns of negatives, so their log-sum-exps come first, over all ranks; then the
    # tiles that may hold positives are formed once more for B, C and the value
    found = tiles.lse(NEGATIVES)
    column = lse_over(group, found.column * LN_2) / LN_2
    B, C, value = tiles.sum_each(w.an, w.bm, found.row, column)
    value, C = sum_over(group, value, C)
    return value, Gradient(w.an * B, w.bm * C, found.row, column, EACH, w.an, w.bm)


_SOFTMAX = {"mean": _mean, "logsum": _logsum, "each": _each}


def _finish_gradients(
    problem: Problem,
    tiles: Tiles,
    multiply: Multiply,
    finish: Finish | None = None,
) -> Gradients:
    """Makes dL/dx, dL/dy and dL/dscale out of multiply(for_y, for_x) -> (G Y, G^T X).

    `finish` subtracts from (G Y, t G^T X) what is not in G.
    """
    wanted = problem.wanted
    if not (wanted.x or wanted.y or wanted.scale):
        return Gradients(None, None, None)
    GY, GX = multiply(wanted.x or wanted.scale, wanted.y)
    GX = None if GX is None else GX.mul_(tiles.t)
    if finish is not None:
        finish(GY, GX)
    # <G Y, X>: through the left argument alone, which is all of dL/dscale also where x is y
    dt = (GY * tiles.x[:, : tiles.D]).sum() if GY is not None and wanted.scale else None
    dx = GY.mul_(tiles.t)[: len(problem.x)] if GY is not None and wanted.x else None
    return Gradients(dx, GX if wanted.y else None, dt)


def _prepare(arranged: Arranged) -> tuple[Silenced, Silenced, Keys]:
    problem = arranged.problem
    rows, columns = Silenced.build(problem.x, problem.x_weight), Silenced.build(problem.y, problem.y_weight)
    return rows, columns, Keys(*problem.ids, rows, columns, arranged.itself)


class Items(NamedTuple):
    """Holds the first arguments of Tiles."""

    x: Float[Tensor, "m d"]
    y: Float[Tensor, "n d"]
    t: Float[Tensor, ""]
    x_key: Int32[Tensor, " m"]
    y_key: Int32[Tensor, " n"]
    itself: Int32[Tensor, " m"] | None


def _list_items(arranged: Arranged, rows: Silenced, columns: Silenced, x_key: Tensor, y_key: Tensor) -> Items:
    itself = arranged.itself
    if itself is not None:  # the row that stands for an empty strip is no column
        itself = torch.nn.functional.pad(itself.int(), (0, len(rows.z) - len(itself)), value=-1)
    return Items(rows.z, columns.z, arranged.problem.scale, x_key, y_key, itself)


def _make_softmax_tiles(problem: Problem, items: Items) -> SoftmaxTiles:
    log_weights, guides = problem.log_weights, None
    if log_weights is not None and len(problem.x) == 0:
        log_weights = torch.zeros_like(items.x_key, dtype=torch.float32), log_weights[1]  # of an empty strip's row
    if problem.x_guide is not None and problem.y_guide is not None:
        given = (problem.x_guide, problem.x_weight), (problem.y_guide, problem.y_weight)
        x_guide, y_guide = (Silenced.build(guide, weight).z for guide, weight in given)
        guides = x_guide, y_guide
    return SoftmaxTiles(*items, log_weights=log_weights, guides=guides, hardness=problem.hardness)


def _arrange_unweighted(problem: Problem) -> Arranged:
    return sort_by_ids(problem) if problem.exclude == "group" else keep_order(problem)


def _make_unweighted_tiles(arranged: Arranged) -> SoftmaxTiles:
    """Makes the tiles of contrast_lse, in which every item is present."""
    problem = arranged.problem
    rows, columns = Silenced.build(problem.x, None), Silenced.build(problem.y, None)
    if problem.exclude == "group":
        keys = Keys(*problem.ids, rows, columns, None)
        return SoftmaxTiles(*_list_items(arranged, rows, columns, keys.of_x, keys.of_y))
    x_key, y_key = (side.weight.int() - 1 for side in (rows, columns))  # 0, and -1 for the row of an empty strip
    return SoftmaxTiles(*_list_items(arranged, rows, columns, x_key, y_key))


@contextmanager
def _on_device_of(x: Tensor) -> Iterator[None]:
    """Runs on the device of x, where kernels are launched, and out of autocast's reach."""
    with without_autocast(x), torch.cuda.device_of(x):
        yield
