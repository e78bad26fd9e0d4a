"""Sums that are linear in the logits S = t X Y^T, over positives or over all pairs: no logit is formed for them.

With P_ij = 1 for the pairs that are summed over, sum_ij P_ij (u_i + v_j) S_ij = sum_i <t x_i, A_i>, where
A_i = sum_j P_ij (u_i + v_j) y_j is two sums of rows of Y. Its gradient in t X is A, and that in Y is the same with rows
and columns exchanged: O((M + N) D) for any number of pairs.

Label smoothing (arXiv 1512.00567, section 7) by e gives every candidate of a row e / (their number) of the target, and
the positives 1 - e of it. With N_i the columns that count for row i, and n_i its positives, row i's loss becomes
    mean     row_i - (1-e)/n_i sum_p S_ip  - e/N_i sum_j S_ij
    logsum   row_i - (1-e) row+_i          - e/N_i sum_j S_ij
    each     (1/n_i) sum_p [log(e^S_ip + sum of e^S over the negatives) - (1-e) S_ip - e/K_i (S_ip + sum of the
             negatives' S)], with K_i = N_i - n_i + 1 candidates beside each positive: with the sums of all, it is
             l_i + e [(1 - 1/K_i)/n_i + 1/K_i] sum_p S_ip - e/K_i sum_j S_ij, l_i the loss without smoothing.
Each is the cross-entropy of torch with label_smoothing=e where n_i = 1. All that is added is linear in S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from kernels.distributed import sum_over
from kernels.means import Means
from kernels.problem import Problem

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Finish = Callable[[Tensor | None, Tensor | None], None]
"""subtracts from (G Y, t G^T X), where they are wanted, the products of a gradient that never met S"""


class Pairs(Protocol):
    """Multiplies with a matrix of zeros and ones that is never written out."""

    def sum_per_row(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Sums z over the columns of each row's pairs."""
        ...

    def sum_per_column(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Sums z over the rows of each column's pairs."""
        ...


class Positives(Pairs, Protocol):
    """Multiplies with the positives, and has counted them: of a column, those in this rank's strip."""

    row_count: Int64[Tensor, " m"]
    column_count: Int64[Tensor, " n"]


class Everything:
    """Stands for all pairs of items that are there (1, else 0), but for those of an item with itself.

    `self_column[i]` is the column that row i itself is, -1 for none.
    """

    def __init__(
        self, has_row: Float[Tensor, " m"], has_column: Float[Tensor, " n"], self_column: Int64[Tensor, " m"] | None
    ):
        self.has_row, self.has_column = has_row[:, None], has_column[:, None]
        self._itself = None if self_column is None else (self_column.clamp_min(0), (self_column >= 0)[:, None])

    def sum_per_row(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
        """Sums z over all columns, less each row's own; z is 0 where a column is absent."""
        total = z.sum(0) * self.has_row
        if self._itself is None:
            return total
        own, has_own = self._itself
        return total - z[own] * has_own * self.has_row

    def sum_per_column(self, z: Float[Tensor, "m d"]) -> Float[Tensor, "n d"]:
        """Sums z over all rows, less each column's own; z is 0 where a row is absent."""
        total = z.sum(0) * self.has_column
        if self._itself is None:
            return total
        own, has_own = self._itself
        # A column is at most one row's own, so that nothing is added in an order that may change
        return total.index_add_(0, own, z * has_own, alpha=-1).mul_(self.has_column)


def append_log_weights(
    tx: Float[Tensor, "m d"], y: Float[Tensor, "n d"], log_weights: tuple[Tensor, Tensor] | None
) -> tuple[Float[Tensor, "m e"], Float[Tensor, "n e"]]:
    """Appends to t X and Y what makes their products S_ij + r_i + c_j, for log-weights (r, c): two dimensions each."""
    if log_weights is None:
        return tx, y
    r, c = (v.to(tx.dtype)[:, None] for v in log_weights)
    return torch.cat([tx, r, torch.ones_like(r)], 1), torch.cat([y, torch.ones_like(c), c], 1)


def attract(
    tx: Float[Tensor, "m e"], y: Float[Tensor, "n e"], P: Pairs, u: Float[Tensor, " m"], v: Float[Tensor, " n"]
) -> tuple[Float[Tensor, ""], Finish]:
    """Computes sum_ij P_ij (u_i + v_j) S_ij, and returns what subtracts its gradient from the products of G.

    tx and y may have log-weights appended, which get no gradient: the products of G are narrower then.
    """
    A = torch.addcmul(P.sum_per_row(y * v[:, None]), P.sum_per_row(y), u[:, None])

    def finish(GY: Tensor | None, GX: Tensor | None) -> None:
        if GY is not None:
            GY.sub_(A[:, : GY.shape[1]])
        if GX is not None:
            own = tx[:, : GX.shape[1]]
            GX.sub_(P.sum_per_column(own * u[:, None])).addcmul_(P.sum_per_column(own), v[:, None], value=-1)

    return (tx * A).sum(), finish


def smooth_labels(
    problem: Problem,
    tx: Float[Tensor, "m e"],
    y: Float[Tensor, "n e"],
    P: Positives,
    everything: Everything,
    w: Means,
) -> tuple[Float[Tensor, ""], Finish]:
    """Computes what label smoothing takes from a loss whose Means were smoothed, and what subtracts its gradient.

    tx and y are 0 where an item is absent.
    """
    smoothing, group = problem.label_smoothing, problem.group
    N = everything.sum_per_row(everything.has_column)[:, 0]
    (M,) = sum_over(group, everything.sum_per_column(everything.has_row)[:, 0])
    if problem.positives == "each":
        (column_count,) = sum_over(group, P.column_count)
        N, M = N - P.row_count + 1, M - column_count + 1
    # Where nothing counts there is no positive either, and the weight is 0
    N, M = N.clamp_min(1.0), M.clamp_min(1.0)
    share, finish = attract(tx, y, everything, smoothing * w.a / N, smoothing * w.b / M)
    if problem.positives == "each":
        u, v = (-smoothing * (at * (1 - 1 / count) + a / count) for at, a, count in ((w.an, w.a, N), (w.bm, w.b, M)))
        of_positives, finish_positives = attract(tx, y, P, u, v)
        share, finish = share + of_positives, _both(finish, finish_positives)
    (share,) = sum_over(group, share)
    return share, finish


def limit_cosines(
    x: Float[Tensor, "m d"], y: Float[Tensor, "n d"], P: Positives, problem: Problem
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes the cosine above which a candidate is a false negative, for each row and each column.

    It is the mean over the positives, which is linear, and the margin; inf where there is no positive.
    """
    # A copy of a positive is as near as it is: whether rounding puts it above or below must not decide
    margin, tie = problem.false_negative_margin, 16 * torch.finfo(x.dtype).eps
    assert margin is not None

    def limit(total: Tensor, count: Tensor) -> Tensor:
        mean = total / count
        top = mean + margin * (mean.abs() if problem.relative_margin else 1.0) + tie
        return torch.where(count > 0, top, torch.inf)

    of_row, of_column = (x * P.sum_per_row(y)).sum(1), (y * P.sum_per_column(x)).sum(1)
    of_column, column_count = sum_over(problem.group, of_column, P.column_count.to(x.dtype))
    return limit(of_row, P.row_count), limit(of_column, column_count)


def _both(first: Finish, second: Finish) -> Finish:
    def finish(GY: Tensor | None, GX: Tensor | None) -> None:
        first(GY, GX)
        second(GY, GX)

    return finish
