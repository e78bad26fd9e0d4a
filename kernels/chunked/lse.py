"""Row and column log-sum-exps of chunks of logits, and what their gradient is on a chunk.

exp(S - reference) serves a row and a column alike wherever one reference keeps all their sums within float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.elementwise import LOG2_E, exp_, split_blocks

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

SMALLEST, LARGEST = -50.0, 65.0
"""log-sum-exps, relative to the reference, that one exponential serves. Above, a / exp(lse) would leave float32; below,
terms of exp(lse) would: those lost are less than e^-37 of it."""


@dataclass(frozen=True)
class LogSumExp:
    """Holds the log-sum-exp of every row and column, -inf where everything is excluded."""

    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    find_dropped: Callable[[slice, Tensor], tuple[Tensor, ...]] = lambda rows, S: ()
    """kernels.chunked.logits.Logits.find_dropped"""
    exponentials: Collection[int] = ()
    """the first rows of chunks that hold exp(S - formed_with) in the place of S"""
    formed_with: float = 0.0

    @cached_property
    def reference(self) -> float | None:
        """Finds the number c for which float32 holds exp(S - c) and every exp(lse - c), in rows and columns alike.

        c is `formed_with` wherever that will do: 0, which saves the subtraction, or that of kept exponentials.
        It is None where the log-sum-exps lie too far apart for any c: rows and columns then need an exponential each.
        """
        if self.row.numel() == 0 or self.column.numel() == 0:
            return 0.0
        least, most = map(float, torch.cat([self.row, self.column]).aminmax())
        if most - LARGEST <= self.formed_with <= least - SMALLEST:
            return self.formed_with
        return min(max(most - LARGEST, 0.0), least - SMALLEST) if most - LARGEST < least - SMALLEST else None

    def write_gradient(
        self, rows: slice, S: Float[Tensor, "rows n"], a: Float[Tensor, " m"], b: Float[Tensor, " n"]
    ) -> Float[Tensor, "rows n"]:
        """Writes G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j) into the memory of S, and returns it.

        It is the gradient of sum_i a_i row_i + sum_j b_j column_j, and 0 in a row or column in which everything is
        excluded.
        """
        dropped = self.find_dropped(rows, S)
        row, column, reference, a = self.row[rows], self.column, self.reference, a[rows]
        if reference is not None:
            # exp(S - c) (a_i / exp(row_i - c) + b_j / exp(column_j - c)): one exponential a logit, and the exponentials
            # of the log-sum-exps are M + N only
            if reference != 0:
                row, column = row - reference, column - reference
            a, b = a / row.exp(), b / column.exp()
            formed = rows.start in self.exponentials
            for block, a_block, *out in split_blocks(S, a, *dropped):
                if not formed:
                    exp_(block.sub_(reference) if reference else block)
                if out:
                    # A logit that counts for neither may be too large for an exponential, and inf 0 is NaN
                    block.masked_fill_(out[0] & out[1], 0.0)
                    block.mul_(torch.where(out[0], 0.0, a_block[:, None]).add_(torch.where(out[1], 0.0, b)))
                else:
                    block.mul_(a_block[:, None] + b)
            return S
        # -inf - -inf would be NaN; -inf - inf is as good as no logit at all
        row, column = (v.masked_fill(v.isneginf(), torch.inf) for v in (row, column))
        for block, row_block, a_block, *out in split_blocks(S, row, a, *dropped):
            from_column = exp_(block - column).mul_(b)
            from_row = exp_(block.sub_(row_block[:, None])).mul_(a_block[:, None])
            for part, drop in zip((from_row, from_column), out, strict=False):
                part.masked_fill_(drop, 0.0)
            from_row.add_(from_column)
        return S


def sum_exponentials(
    S: Float[Tensor, "m n"], reference: float, *dropped: Bool[Tensor, "m n"], overwrite: bool
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]] | None:
    """Computes row and column log-sum-exps of one chunk by one exponential for both, or None where that does not serve.

    What is `dropped` leaves the rows' sums (the first of the two) or the columns' (the second). With `overwrite`,
    exp(S - reference) takes the place of S.
    """
    row_sums, column = [], None
    for block, *out in split_blocks(S, *dropped):
        if overwrite:
            E = exp_(block.sub_(reference) if reference else block)
        else:
            E = exp_(block - reference) if reference else torch.mul(block, LOG2_E).exp2_()
        of_rows, of_columns = (E.masked_fill(drop, 0.0) for drop in out) if out else (E, E)
        row_sums.append(of_rows.sum(1))
        column = of_columns.sum(0) if column is None else column.add_(of_columns.sum(0))
    assert column is not None  # no rows are one block of none
    row = (row_sums[0] if len(row_sums) == 1 else torch.cat(row_sums)).log_()
    column.log_()
    if S.numel() > 0:
        # A sum that is too small has lost terms, one that is inf has lost everything: whether that happened is seen in
        # the result, so that the usual case pays for no maxima
        least, most = torch.cat([row, column]).aminmax()
        if not (float(least) > SMALLEST and float(most) < torch.inf):  # -inf and NaN are not
            return None
    return (row, column) if reference == 0 else (row.add_(reference), column.add_(reference))


def reduce_exactly(
    S: Float[Tensor, "m n"], *dropped: Bool[Tensor, "m n"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes row and column log-sum-exps of one chunk by exponentials of each row and of each column."""
    rows, columns = (S.masked_fill(drop, -torch.inf) for drop in dropped) if dropped else (S, S)
    row = torch.cat([block.logsumexp(1) for (block,) in split_blocks(rows)])
    return row, reduce(torch.logaddexp, (block.logsumexp(0) for (block,) in split_blocks(columns)))
