"""The three softmax losses over several positives: their values, and their gradients on chunks of logits.

Letters: S = t X Y^T; P_ij = 1 where i and j are positives; n_i, m_j = positives of row i, of column j; a_i, b_j = weights of
the row and column means; row_i, column_j = log-sum-exps. The loss is sum_i a_i l_i + sum_j b_j l'_j.

 1. The dense part of G = dL/dS is the same for all:  G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j), where the
    log-sum-exps run over everything (mean, logsum) or over the negatives (each).
 2. mean    l_i = row_i - (1/n_i) (P S')_i.       SupCon's L_out (arXiv 2004.11362, eq. 2); its floor is log n_i.
            G_ij -= P_ij (a_i/n_i + b_j/m_j): not a function of S, so it reaches dL/dX and dL/dY as segment sums.
 3. logsum  l_i = row_i - row+_i, row+ over the positives.      MIL-NCE (arXiv 1912.06430, eq. 1); its floor is 0.
            G_ij -= P_ij (a_i exp(S_ij - row+_i) + b_j exp(S_ij - column+_j)).
 4. each    l_i = (1/n_i) sum_p [log(e^S_ip + e^row_i) - S_ip] = (1/n_i) sum_p softplus(row_i - S_ip), row over the negatives.
            NT-Xent (arXiv 2002.05709) for each positive alone; its floor is 0. With B_i = sum_p sigmoid(row_i - S_ip):
            dl_i/drow_i = B_i/n_i, so the negatives carry a_i B_i/n_i in the place of a_i in step 1, and
            G_ip = -(a_i/n_i) sigmoid(row_i - S_ip) - (b_p/m_p) sigmoid(column_p - S_ip).

Trap: over a group, sums over rows are complete only after a reduction, which every rank must join whatever its data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import softplus

from kernels.distributed import lse_over, sum_over
from kernels.logits import Logits, softmax_gradient
from kernels.positives import Positives


class Problem(NamedTuple):
    """sum_i a_i l_i + sum_j b_j l'_j; a and b are 0 where there is no positive, and b is when only rows count."""

    logits: Logits
    P: Positives
    a: Float[Tensor, " m"]
    b: Float[Tensor, " n"]
    n: Float[Tensor, " m"]
    """positives of each row, at least 1"""
    m: Float[Tensor, " n"]
    """positives of each column in all strips, at least 1"""
    group: Any


class Solution(NamedTuple):
    value: Float[Tensor, ""]
    gradient: Callable[[slice, Tensor], Tensor]
    """(rows, S[rows]) -> G[rows], in the memory of S"""
    finish: Callable[[Tensor | None, Tensor | None], None] | None = None
    """adds to (G Y, t G^T X), where they are wanted, what is not in `gradient`"""


def mean(p: Problem) -> Solution:
    row, column = p.logits.lse()
    column = lse_over(p.group, column)
    an, bm = p.a / p.n, p.b / p.m
    tx, y = p.logits.tx, p.logits.y
    PY = p.P.rows(y).mul(an[:, None]).add_(p.P.rows(y, bm))
    local, floor = sum_over(p.group, _dot(p.a, row) - (tx * PY).sum(), _dot(p.a, p.n.log()))
    value = local + _dot(p.b, column)
    # Rounding may take the difference below what it is at perfect agreement; the exact value never is.
    value = torch.maximum(value, floor + _dot(p.b, p.m.log()))

    def gradient(rows: slice, S: Tensor) -> Tensor:
        return softmax_gradient(S, row[rows], column, p.a[rows], p.b)

    def finish(GY: Tensor | None, GX: Tensor | None) -> None:
        if GY is not None:
            GY.sub_(PY)
        if GX is not None:
            GX.sub_(p.P.columns(tx, an)).addcmul_(p.P.columns(tx), bm[:, None], value=-1)

    return Solution(value, gradient, finish)


def logsum(p: Problem) -> Solution:
    row_positive = torch.full_like(p.a, -torch.inf)
    column_positive = torch.full_like(p.b, -torch.inf)

    def read_positives(rows: slice, S: Tensor) -> Tensor:
        i, j = p.P.pairs(rows)
        s = S[i, j]
        row_positive[rows] = _segment_lse(s, i, len(S))
        column_positive.copy_(torch.logaddexp(column_positive, _segment_lse(s, j, len(p.b))))
        return S

    row, column = p.logits.lse(read_positives)
    column, column_positive = lse_over(p.group, column), lse_over(p.group, column_positive)
    (local,) = sum_over(p.group, _dot(p.a, (row - row_positive).clamp_min(0.0)))
    value = local + _dot(p.b, (column - column_positive).clamp_min(0.0))

    def gradient(rows: slice, S: Tensor) -> Tensor:
        i, j = p.P.pairs(rows)
        s, a = S[i, j], p.a[rows]
        G = softmax_gradient(S, row[rows], column, a, p.b)
        G[i, j] -= a[i] * (s - row_positive[rows][i]).exp() + p.b[j] * (s - column_positive[j]).exp()
        return G

    return Solution(value, gradient)


def each(p: Problem) -> Solution:
    row, column = p.logits.lse(lambda rows, S: S.index_put(p.P.pairs(rows), S.new_tensor(-torch.inf)))
    column = lse_over(p.group, column)
    an, bm = p.a / p.n, p.b / p.m
    B, C = torch.zeros_like(p.a), torch.zeros_like(p.b)
    cost = p.a.new_zeros(())
    for rows, S in p.logits:
        i, j = p.P.pairs(rows)
        from_row, from_column = row[rows][i] - S[i, j], column[j] - S[i, j]
        B[rows].index_add_(0, i, from_row.sigmoid())
        C.index_add_(0, j, from_column.sigmoid())
        cost += _dot(an[rows][i], softplus(from_row, threshold=40.0))
        cost += _dot(bm[j], softplus(from_column, threshold=40.0))
    value, C = sum_over(p.group, cost, C)

    def gradient(rows: slice, S: Tensor) -> Tensor:
        i, j = p.P.pairs(rows)
        s = S[i, j]
        S[i, j] = -torch.inf
        G = softmax_gradient(S, row[rows], column, (an * B)[rows], bm * C)
        G[i, j] = -an[rows][i] * (row[rows][i] - s).sigmoid() - bm[j] * (column[j] - s).sigmoid()
        return G

    return Solution(value, gradient)


def _dot(weight: Tensor, value: Tensor) -> Float[Tensor, ""]:
    """sum of weight * value; a weight of 0 silences whatever stands there, infinite or not a number."""
    return (weight * torch.where(weight > 0, value, 0.0)).sum()


def _segment_lse(s: Float[Tensor, " k"], segment: Int64[Tensor, " k"], num: int) -> Float[Tensor, " num"]:
    """log-sum-exp of s over each segment, -inf where it is empty."""
    top = s.new_full((num,), -torch.inf).scatter_reduce_(0, segment, s, "amax")
    return top + torch.zeros_like(top).index_add_(0, segment, (s - top[segment]).exp()).log_()
