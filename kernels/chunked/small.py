"""Losses of a small batch in which no item has two positives, as in CLIP and Symile: the dense way, in few operations.

At 256 x 256 an operation of torch takes about as long to start as to run, and the general way, with its chunks, blocks
and lists of pairs, starts many more. With c a number that keeps E_ij = exp(S_ij - c) in range,
    row_i = c + log r_i,  r_i = sum_j E_ij;      column_j = c + log k_j,  k_j = sum_i E_ij.
InfoNCE is that of kernels.chunked.softmax with P = I, n_i = m_j = 1 and equal weights a_i = b_j = a:
    loss = a sum_i row_i + a sum_j column_j - 2 a sum_i S_ii;      G = E (a / r_i + a / k_j) - 2 a I.
For upstream gradients g of row and h of column:                   G = E (g_i / r_i + h_j / k_j).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.autograd import Gradients, Wanted, without_autocast
from kernels.chunked.elementwise import LOG2_E
from kernels.chunked.logits import BELOW, make_room
from kernels.chunked.lse import LARGEST, SMALLEST
from kernels.chunked.positives import are_one_to_one
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float

LEAST_SUM, MOST_SUM = math.exp(SMALLEST), math.exp(LARGEST)
"""beyond these a sum, or an upstream gradient divided by it, may leave float32's normal numbers"""
CELLS = 2**20
"""logits of the largest batch that is small: 1024 x 1024, 4 MiB"""


class Exponentials(NamedTuple):
    """Holds E and its sums."""

    E: Float[Tensor, "m n"]
    row_sum: Float[Tensor, " m"]
    column_sum: Float[Tensor, " n"]
    own: float | None
    """sum_i S_ii, where it was asked for"""
    reference: float
    """c"""

    @property
    def lse(self) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
        """Computes the log-sum-exps of S: (row, column)."""
        c, row, column = self.reference, self.row_sum.log(), self.column_sum.log()
        return (row.add_(c), column.add_(c)) if c else (row, column)

    def differentiate(
        self,
        x: Float[Tensor, "m d"],
        y: Float[Tensor, "n d"],
        t: Float[Tensor, ""],
        g: Float[Tensor, " m"] | None,
        h: Float[Tensor, " n"] | None,
        wanted: Wanted,
    ) -> Gradients:
        """Computes the wanted gradients of g . row + h . column.

        Where one of both is None, G is E but for a factor a row, or a column: that meets the operands or the products.
        """
        x, y, factor, G = x.to(t.dtype), y.to(t.dtype), float(t), self.E
        left = None if g is None else (g / self.row_sum)[:, None]
        right = None if h is None else (h / self.column_sum)[:, None]
        if left is not None and right is not None:
            G, left, right = G * (left + right.T), None, None  # E is kept: a graph may be asked for its gradients twice
        GY = GX = None
        with without_autocast(x):
            if wanted.x or wanted.scale:
                GY = G @ (y if right is None else y * right)
                # Not in place: a batch of upstream gradients makes a batch of `left` alone
                GY = GY if left is None else GY * left
            if wanted.y:
                GX = G.T @ (x * factor if left is None else x * (left * factor))
                GX = GX if right is None else GX * right
        dt = (GY * x).sum() if GY is not None and wanted.scale else None
        return Gradients(GY.mul_(factor) if GY is not None and wanted.x else None, GX, dt)


def solve_one_to_one(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], t: Float[Tensor, ""], wanted: Wanted
) -> tuple[Float[Tensor, ""], Gradients] | None:
    """Computes the symmetric loss of rows i and columns i, and its wanted gradients.

    Returns None where one c does not serve all of S.
    """
    a, factor = 0.5 / x.shape[0], float(t)
    if (found := _exponentiate(x, y, factor, sum_own=True)) is None:
        return None
    assert found.own is not None
    row, column = found.lse
    lse = float(row.sum()) + float(column.sum())
    # The loss is a small difference of large sums near its end: rounding may take it below 0, the exact value never is
    value = torch.full_like(t, max(a * (lse - 2 * found.own), 0.0))
    if not any(wanted):
        return value, Gradients(None, None, None)
    G = found.E.mul_((a / found.row_sum)[:, None] + a / found.column_sum)
    G.diagonal().sub_(2 * a)
    GY = G @ y if wanted.x or wanted.scale else None
    # dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>
    dt = (GY * x).sum() if GY is not None and wanted.scale else None
    dx = GY.mul_(factor) if GY is not None and wanted.x else None
    return value, Gradients(dx, G.T @ (x * factor) if wanted.y else None, dt)


def reduce_small(problem: Problem) -> Exponentials | None:
    """Computes what kernels.contrast_lse of a small problem needs; None where it is not small, or one c does not do.

    Pairs of equal ids are left out where they are rows i and columns i; others, and an item itself, in the general way.
    """
    x, y, dtype = problem.x, problem.y, problem.scale.dtype
    diagonal = problem.exclude == "group"
    if problem.group is not None or problem.exclude == "self" or not 0 < x.shape[0] * y.shape[0] <= CELLS:
        return None
    if diagonal and not are_one_to_one(*problem.ids):
        return None
    with without_autocast(x):
        return _exponentiate(x.to(dtype), y.to(dtype), float(problem.scale), without_own=diagonal)


def _exponentiate(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], t: float, *, sum_own: bool = False, without_own: bool = False
) -> Exponentials | None:
    """Computes E for S = t X Y^T, less its diagonal where asked.

    Returns None where one c does not serve all of S, which takes the maximum of every row and column: rows that are no
    unit vectors, or a scale of hundreds; or where nothing is left of a row.
    """
    c = max(abs(t) - BELOW, 0.0)
    # In units of log 2, so that no pass over S changes its base: exp2 is faster than exp (kernels.chunked.elementwise)
    S = torch.mm(x * (t * LOG2_E), y.T, out=make_room(x, x.shape[0], y.shape[0]))
    own = float(S.diagonal().sum()) / LOG2_E if sum_own else None
    E = (S.sub_(c * LOG2_E) if c else S).exp2_()
    if without_own:
        E.diagonal().zero_()
    row_sum, column_sum = E.sum(1), E.sum(0)
    for sums in (row_sum, column_sum):
        least, most = sums.aminmax()
        if not (float(least) > LEAST_SUM and float(most) < MOST_SUM):  # NaN is not
            return None
    return Exponentials(E, row_sum, column_sum, own, c)
