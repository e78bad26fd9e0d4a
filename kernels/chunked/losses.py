"""The losses in linear memory on any device: logits by chunks of rows, positives without a mask, gradients by hand.

With S = t X Y^T + b and G = dL/dS:  dL/dX = t G Y,  dL/dY = t G^T X,  dL/dt = <G Y, X>,  dL/db = sum_ij G_ij.
A loss computes its gradients together with its value, and backward only multiplies. S is formed once for the
log-sum-exps and once more for G (8 MND FLOPs; `each` three times where positives are many, 10 MND); once where only
rows count, and for the sigmoid (6 MND).
contrast_lse, whose upstream gradient is a vector, forms S once forward and once backward; of a small batch
kernels.direct keeps the exponentials instead.

Traps
- When x is y, both arguments' gradients are returned and autograd adds them; <G Y, X> is dL/dt through the left alone.
- It reads a few numbers back from the device (which exponential is safe, which rows are present): on CUDA it is
  correct, and slower than it could be.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from kernels.autograd import Gradients, Wanted, accumulation_dtype, without_autocast
from kernels.chunked import prefixes, rows_only, small, softmax
from kernels.chunked.contrast import Contrast
from kernels.chunked.khatri_rao import khatri_rao_gradients, khatri_rao_lse
from kernels.chunked.logits import Logits, Operands, count_chunks
from kernels.chunked.lse import LogSumExp
from kernels.chunked.positives import OneToOne, Positives, find_positives
from kernels.chunked.present import Present, find_self_columns
from kernels.chunked.sigmoid import Sigmoid, weigh_pairs
from kernels.chunked.softmax import smooth, weigh
from kernels.chunked.threads import run_on_threads
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float

Loss = TypeVar("Loss", bound=Callable[..., object])

__all__ = ["infonce", "khatri_rao_gradients", "khatri_rao_lse", "lse", "lse_gradients", "sigmoid"]


def _on_threads(loss: Loss) -> Loss:
    """Gives the chunks of a loss as many threads as torch has, each chunk one."""

    @wraps(loss)
    def compute(problem: Problem, *args: Tensor, **kwargs: Tensor) -> object:
        return run_on_threads(lambda: loss(problem, *args, **kwargs), count_chunks(problem.x, problem.y))

    return cast(Loss, compute)


@_on_threads
def infonce(problem: Problem) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes kernels.multi_positive_infonce and its wanted gradients."""
    with without_autocast(problem.x):
        contrast = _select_present(problem)
        if problem.prefixes:
            return prefixes.infonce(contrast)
        rows, columns, P = contrast.rows, contrast.columns, contrast.P
        if solved := _solve_small(problem, rows, columns, P):
            return solved
        logits, means = contrast.make_logits(rows.z, columns.z), weigh(contrast)
        # Where only rows count, a chunk's gradient needs no other chunk: one pass over S in the place of two
        solve = softmax.solve if problem.symmetric else rows_only.solve
        operands = _choose_operands(logits, problem.wanted)
        value, products = solve(problem.positives, logits, P, means, operands, problem.group)
        if problem.label_smoothing:
            share, finish = smooth(contrast, logits, means)
            value = value - share
            finish(*products)
        dx, dy, dt = _finish_gradients(logits, problem.wanted, *products)
        return value, Gradients(rows.restore_absent(dx), columns.restore_absent(dy), dt)


def _solve_small(
    problem: Problem, rows: Present, columns: Present, P: Positives | OneToOne
) -> tuple[Tensor, Gradients] | None:
    """Solves a small symmetric problem of one positive an item, whatever the average of one is called; else None."""
    simple = isinstance(P, OneToOne) and rows.uniform and columns.uniform and problem.group is None
    plain = problem.symmetric and not problem.label_smoothing and problem.log_weights is None
    plain = plain and problem.false_negative_margin is None and not problem.hardness
    if not simple or not plain or not 0 < rows.num**2 <= small.CELLS:
        return None
    return small.solve_one_to_one(rows.z, columns.z, problem.scale, problem.wanted)


@_on_threads
def sigmoid(problem: Problem) -> tuple[Float[Tensor, ""], Gradients]:
    """Computes kernels.multi_positive_sigmoid and its wanted gradients, in one pass over S."""
    wanted = problem.wanted
    with without_autocast(problem.x):
        contrast = _select_present(problem)
        if problem.prefixes:
            return prefixes.sigmoid(contrast)
        rows, columns = contrast.rows, contrast.columns
        logits = contrast.make_logits(rows.z, columns.z)
        loss = Sigmoid(contrast, logits, *weigh_pairs(contrast))
        GY, GX = logits.multiply_gradient(
            loss.write_gradient, loss.vy if wanted.x or wanted.scale else None, loss.wx if wanted.y else None
        )
        loss.finish(GY, GX)
        # Each product has met the weights of the side that it sums over; those of its own side are still missing
        GY = None if GY is None else GY.mul_(loss.w[:, None])
        GX = None if GX is None else GX.mul_(loss.v[:, None])
        dx, dy, dt = _finish_gradients(logits, wanted, GY, GX)
        value, db = loss.complete()
        return value, Gradients(rows.restore_absent(dx), columns.restore_absent(dy), dt, db if wanted.bias else None)


@_on_threads
def lse(problem: Problem) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes kernels.contrast_lse: (row, column)."""
    if small_lse := small.reduce_small(problem):
        return small_lse.lse
    with without_autocast(problem.x):
        found = _make_unweighted_logits(problem).reduce_lse(problem.group)
    return found.row, found.column


@_on_threads
def lse_gradients(
    problem: Problem,
    row: Float[Tensor, " m"],
    column: Float[Tensor, " n"],
    g: Float[Tensor, " m"],
    h: Float[Tensor, " n"],
) -> Gradients:
    """Computes the wanted gradients of g . row + h . column.

    G_ij = g_i exp(S_ij - row_i) + h_j exp(S_ij - column_j), with the log-sum-exps of the forward pass.
    """
    # As kernels.direct does, so that a compiled program has the same bits; but a strip's columns are summed over others
    if (solved := small.reduce_small(problem)) and all(map(torch.equal, solved.lse, (row, column))):
        return solved.differentiate(problem.x, problem.y, problem.scale, g, h, problem.wanted)
    with without_autocast(problem.x):
        logits, found = _make_unweighted_logits(problem), LogSumExp(row, column)

        def write_gradient(chunk: slice, S: Tensor) -> Tensor:
            return found.write_gradient(chunk, S, g, h)

        GY, GX = logits.multiply_gradient(write_gradient, *_choose_operands(logits, problem.wanted))
        return Gradients(*_finish_gradients(logits, problem.wanted, GY, GX))


def _select_present(problem: Problem) -> Contrast:
    """Selects the rows and columns that are present, and finds which of them are positives."""
    dtype = accumulation_dtype(problem.x, problem.y)
    x_ids, y_ids = problem.ids
    r, c = problem.log_weights or (None, None)
    rows = Present(problem.x, x_ids, problem.x_weight, r, dtype)
    columns = Present(problem.y, y_ids, problem.y_weight, c, dtype)
    itself = find_self_columns(rows, columns, problem.x_offset) if problem.exclude == "self" else None
    return Contrast(problem, rows, columns, itself, find_positives(rows.ids, columns.ids, itself))


def _make_unweighted_logits(problem: Problem) -> Logits:
    """Makes the logits of contrast_lse, in which every item is present and excluded pairs are -inf."""
    x, y, scale, offset = problem.x, problem.y, problem.scale, problem.self_offset
    itself = None if offset is None else torch.arange(offset, offset + len(x), device=x.device)
    distinct = problem.ids if problem.exclude == "group" else None
    return Logits(x.to(scale.dtype), y.to(scale.dtype), scale, self_column=itself, distinct=distinct)


def _choose_operands(logits: Logits, wanted: Wanted) -> Operands:
    """Chooses what G has to be multiplied with: Y for dL/dx and dL/dscale, t X for dL/dy."""
    return logits.y if wanted.x or wanted.scale else None, logits.tx if wanted.y else None


def _finish_gradients(
    logits: Logits, wanted: Wanted, GY: Tensor | None, GX: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Makes (dL/dx, dL/dy, dL/dscale) of the items that are present out of (G Y, t G^T X)."""
    dt = (GY * logits.x).sum() if GY is not None and wanted.scale else None
    return GY.mul_(logits.t) if GY is not None and wanted.x else None, GX, dt
