"""The three softmax losses over several positives: their values, and their gradients on chunks of logits.

Letters: S = t X Y^T; P_ij = 1 where i and j are positives; n_i, m_j = positives of row i, of column j; a_i, b_j =
weights of the row and column means; row_i, column_j = log-sum-exps. The loss is sum_i a_i l_i + sum_j b_j l'_j.

 1. The dense part of G = dL/dS is the same for all:  G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j), where
    the log-sum-exps run over everything (mean, logsum) or over the negatives (each).
 2. mean    l_i = row_i - (1/n_i) sum_p S_ip.          SupCon's L_out (arXiv 2004.11362, eq. 2); its floor is log n_i.
            G_ij -= P_ij (a_i/n_i + b_j/m_j): no function of S, so it can reach dL/dX and dL/dY as segment sums.
 3. logsum  l_i = row_i - row+_i, row+ over the positives.      MIL-NCE (arXiv 1912.06430, eq. 1); its floor is 0.
            G_ij -= P_ij [a_i exp(S_ij - row+_i) + b_j exp(S_ij - column+_j)].
 4. each    l_i = (1/n_i) sum_p [log(e^S_ip + e^row_i) - S_ip] = (1/n_i) sum_p softplus(row_i - S_ip), row over the
            negatives: NT-Xent (arXiv 2002.05709) for each positive alone; its floor is 0.
            With B_i = sum_p sigmoid(row_i - S_ip), dl_i/drow_i = B_i/n_i: the negatives carry a_i B_i/n_i in the place
            of a_i in step 1, and  G_ip = -(a_i/n_i) sigmoid(row_i - S_ip) - (b_p/m_p) sigmoid(column_p - S_ip).

Trap: over a group, sums over rows are complete only after a reduction, which every rank must join whatever its data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kernels.chunked.contrast import Contrast
from kernels.chunked.elementwise import softplus
from kernels.chunked.logits import ByChunk, Logits, Operands, Products
from kernels.chunked.lse import LogSumExp
from kernels.chunked.positives import OneToOne, Positives
from kernels.chunked.reduction import FirstPass
from kernels.distributed import lse_over, sum_over
from kernels.linear import Everything, Finish, attract, smooth_labels
from kernels.means import Means, dot, weigh_means

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup


class Solution(NamedTuple):
    """Holds a loss and what the pass over S that multiplies its gradient needs."""

    value: Callable[[], Float[Tensor, ""]]
    """makes the loss; where only rows count, `gradient` has to have been given every chunk before"""
    gradient: ByChunk
    """(rows, S[rows]) -> G[rows], in the memory of S"""
    finish: Finish | None = None
    """adds to (G Y, t G^T X), where they are wanted, what is not in `gradient`"""


class Begun(NamedTuple):
    """Holds what a loss wants of its first pass over S, and how it goes on from there."""

    first: FirstPass
    solve: Callable[[LogSumExp], Solution]


def weigh(contrast: Contrast) -> Means:
    """Makes the weights of the row and column means, by the short way where every row weighs the same."""
    problem, P, rows, columns = contrast.problem, contrast.P, contrast.rows, contrast.columns
    half = 0.5 if problem.symmetric else 0.0
    if isinstance(P, OneToOne) and rows.uniform and columns.uniform and problem.group is None:
        a, b = (s.z.new_full((s.num,), f / max(s.num, 1)) for s, f in ((rows, 1 - half), (columns, half)))
        means = Means(a, b, a, b, 0.0)
    else:
        means = weigh_means(P.row_count, P.column_count, rows.weight, columns.weight, problem.symmetric, problem.group)
    return means.smooth(problem.positives, problem.label_smoothing)


def smooth(contrast: Contrast, logits: Logits, w: Means) -> tuple[Float[Tensor, ""], Finish]:
    """Computes what label smoothing takes from a loss, and what subtracts its gradient from the products."""
    everything = Everything(torch.ones_like(w.a), torch.ones_like(w.b), contrast.itself)
    return smooth_labels(contrast.problem, logits.left, logits.right, contrast.P, everything, w)


def begin(positives: str, logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Begun:
    """Begins a loss. It has two passes over S: the first ends in the log-sum-exps, the second multiplies G."""
    return _LOSS[positives](logits, P, w, group)


def solve(
    positives: str, logits: Logits, P: Positives | OneToOne, w: Means, operands: Operands, group: ProcessGroup | None
) -> tuple[Float[Tensor, ""], Products]:
    """Computes a loss, and the products of its gradient with the operands."""
    first, go_on = begin(positives, logits, P, w, group)
    loss = go_on(logits.reduce_lse(group, first, keep=True))
    if all(z is None for z in operands):
        return loss.value(), (None, None)
    products = logits.multiply_gradient(loss.gradient, *operands)
    if loss.finish is not None:
        loss.finish(*products)
    return loss.value(), products


def _mean(logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Begun:
    """Solves `mean` for few positives: they are read from S, so that no rounding parts them from the log-sum-exps."""
    if not P.few:
        return _mean_by_segments(logits, P, w, group)
    attraction = torch.zeros_like(logits.t)  # sum of P_ij (a_i/n_i + b_j/m_j) S_ij

    def read_positives(rows: slice, S: Tensor) -> None:
        i, j = P.list_pairs(rows)
        share = (w.an[rows][i] + w.bm[j]) @ S[i, j]
        with logits.in_turn(rows, "attraction"):
            attraction.add_(share)

    def go_on(lse: LogSumExp) -> Solution:
        (local,) = sum_over(group, dot(w.a, lse.row) - attraction)
        # The loss is a small difference of large sums near its end: rounding may take it below its floor, which the
        # exact value never is
        value = (local + dot(w.b, lse.column)).clamp_min(w.floor)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            i, j = P.list_pairs(rows)
            G = lse.write_gradient(rows, S, w.a, w.b)
            G[i, j] -= w.an[rows][i] + w.bm[j]  # (i, j) are distinct pairs, so that no subtraction is lost
            return G

        return Solution(lambda: value, gradient)

    return Begun(FirstPass(read=read_positives, exponential=True), go_on)


def _mean_by_segments(logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Begun:
    """Solves `mean` for any number of positives: they never meet S, only X and Y."""

    def go_on(lse: LogSumExp) -> Solution:
        attraction, finish = attract(logits.left, logits.right, P, w.an, w.bm)
        (local,) = sum_over(group, dot(w.a, lse.row) - attraction)
        value = (local + dot(w.b, lse.column)).clamp_min(w.floor)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            return lse.write_gradient(rows, S, w.a, w.b)

        return Solution(lambda: value, gradient, finish)

    return Begun(FirstPass(exponential=True), go_on)


def _logsum(logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Begun:
    """Solves `logsum`: the first pass sums over everything and, of the same logits, over the positives alone."""
    row_positive = torch.full_like(w.a, -torch.inf)
    column_positive = torch.full_like(w.b, -torch.inf)

    def read_positives(rows: slice, S: Tensor) -> None:
        i, j = P.list_pairs(rows)
        s = S[i, j]
        # As with all of S: a row is whole in its chunk, a column is merged over the chunks
        row_positive[rows] = softmax_by_segment(s, i, S.shape[0])[0]
        of_columns = softmax_by_segment(s, j, S.shape[1])[0]
        with logits.in_turn(rows, "positives"):
            torch.logaddexp(column_positive, of_columns, out=column_positive)

    def go_on(lse: LogSumExp) -> Solution:
        column_top = lse_over(group, column_positive)
        # Without a positive the difference is infinite or no number; rounding may take it below 0
        row = torch.where(w.a > 0, lse.row - row_positive, 0.0).clamp_min(0.0)
        column = torch.where(w.b > 0, lse.column - column_top, 0.0).clamp_min(0.0)
        rest = 1 - w.kept
        (local,) = sum_over(group, w.a @ row + rest * dot(w.a, row_positive))
        value = local + w.b @ column + rest * dot(w.b, column_top)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            i, j = P.list_pairs(rows)
            s = S[i, j]
            # Of the logits before they turn into G, in whose memory they are
            from_row = w.a[rows][i] * (s - row_positive[rows][i]).exp()
            from_column = w.b[j] * (s - column_top[j]).exp()
            pull = (from_row + from_column) * w.kept
            G = lse.write_gradient(rows, S, w.a, w.b)
            G[i, j] -= pull
            return G

        return Solution(lambda: value, gradient)

    return Begun(FirstPass(read=read_positives), go_on)


def _each(logits: Logits, P: Positives | OneToOne, w: Means, group: ProcessGroup | None) -> Begun:
    """Solves `each`, in which a positive meets its row's and its column's log-sum-exp over the negatives.

    Those are known only after the first pass. So its positive logits are kept, one number a pair, where they are few.
    Where they are many, that would be a matrix again, and S is formed once more instead.
    """
    few: dict[int, Tensor] = {}

    def keep_positives(rows: slice, S: Tensor) -> None:
        few[rows.start] = S[P.list_pairs(rows)]

    def go_on(negatives: LogSumExp) -> Solution:
        value, B, C = _weigh_negatives(logits, P, w, negatives, few, group)

        def gradient(rows: slice, S: Tensor) -> Tensor:
            i, j = P.list_pairs(rows)
            s = S[i, j]
            S[i, j] = -torch.inf  # the dense part is of the negatives alone
            G = negatives.write_gradient(rows, S, w.an * B, w.bm * C)
            from_row, from_column = negatives.row[rows][i] - s, negatives.column[j] - s
            G[i, j] = -w.an[rows][i] * from_row.sigmoid() - w.bm[j] * from_column.sigmoid()
            return G

        return Solution(lambda: value, gradient)

    return Begun(FirstPass(read=keep_positives if P.few else None, without=P.list_pairs), go_on)


def _weigh_negatives(
    logits: Logits,
    P: Positives | OneToOne,
    w: Means,
    negatives: LogSumExp,
    few: Mapping[int, Tensor],
    group: ProcessGroup | None,
) -> tuple[Float[Tensor, ""], Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Returns the value of `each`, and how much each row's and each column's negatives weigh: B and C of step 4.

    `few` has the positive logits of each chunk by its first row, where they were kept.
    """
    B, C = torch.zeros_like(w.a), torch.zeros_like(w.b)
    value = torch.zeros_like(logits.t)

    def weigh_negatives(rows: slice, s: Tensor) -> None:
        i, j = P.list_pairs(rows)
        from_row, from_column = negatives.row[rows][i] - s, negatives.column[j] - s
        B[rows] = B[rows].index_add(0, i, from_row.sigmoid())
        cost = w.an[rows][i] @ softplus(from_row) + w.bm[j] @ softplus(from_column)
        with logits.in_turn(rows):
            C.index_add_(0, j, from_column.sigmoid())
            value.add_(cost)

    if P.few:
        logits.each_slice(lambda rows: weigh_negatives(rows, few[rows.start]))
    else:
        logits.each_chunk(lambda rows, S: weigh_negatives(rows, S[P.list_pairs(rows)]))
    # Of a row, B is whole; of a column it has this rank's rows only, as has the value
    value, C = sum_over(group, value, C)
    return value, B, C


_LOSS = {"mean": _mean, "logsum": _logsum, "each": _each}


def softmax_by_segment(
    s: Float[Tensor, " k"], segment: Int64[Tensor, " k"], num: int
) -> tuple[Float[Tensor, " num"], Float[Tensor, " k"]]:
    """Returns the log-sum-exp of s over each segment, -inf where that is empty, and the softmax of s in its segment."""
    top = s.new_full((num,), -torch.inf).scatter_reduce_(0, segment, s, "amax")
    e = (s - top[segment]).exp()
    total = torch.zeros_like(top).index_add_(0, segment, e)
    return top + total.log(), e.div_(total[segment])
