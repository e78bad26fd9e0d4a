"""The logits S = t X Y^T + b by chunks of rows: the one place where M x N numbers exist, a bounded number at a time.

All that a loss needs of S is row and column log-sum-exps and the products of G = dL/dS with X and Y. Both passes ask
for S chunk by chunk and forget it, so memory is O((M + N) D + chunk N), and the second pass computes S again.

Traps
- Only a loss's last pass may overwrite the chunks: where S is small, it is computed once and kept.
- t is folded into X in the accumulation dtype (float32 or float64), never in the inputs' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.distributed import lse_over

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

CELLS = 2**21
"""logits in a chunk: 8 MiB in float32, which a CPU's last-level cache holds"""
MIN_ROWS = 256
"""fewer rows than this make the matrix products slow, however many columns there are"""
KEPT_CELLS = 2**22
"""an S of no more is not computed again: 16 MiB in float32, and every batch up to 2048"""

ByChunk = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> another matrix of that shape"""


class Logits:
    """S for x [M, D] and y [N, D] in the accumulation dtype. Iterating gives (rows, S[rows]).

    -inf stands where row i is itself column `self_column[i]`, and where the ids of `distinct` are equal.
    """

    def __init__(
        self,
        x: Float[Tensor, "m d"],
        y: Float[Tensor, "n d"],
        t: Float[Tensor, ""],
        *,
        bias: Float[Tensor, ""] | None = None,
        self_column: Int64[Tensor, " m"] | None = None,
        distinct: tuple[Int64[Tensor, " m"], Int64[Tensor, " n"]] | None = None,
    ):
        self.x, self.y, self.t, self.tx = x, y, t, x * t
        self._bias, self._self_column, self._distinct = bias, self_column, distinct
        self._kept: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "rows n"]]]:
        num_rows, num_columns = self.x.shape[0], self.y.shape[0]
        step = max(CELLS // max(num_columns, 1), MIN_ROWS)
        for start in range(0, max(num_rows, 1), step):
            rows = slice(start, min(start + step, num_rows))
            S = self._kept[start] if start in self._kept else self._compute(rows)
            if num_rows * num_columns <= KEPT_CELLS:
                self._kept[start] = S
            yield rows, S

    def _compute(self, rows: slice) -> Float[Tensor, "rows n"]:
        S = self.tx[rows] @ self.y.T
        if self._bias is not None:
            S.add_(self._bias)
        if self._self_column is not None:
            column = self._self_column[rows]
            row = (column >= 0).nonzero().squeeze(1)
            S[row, column[row]] = -torch.inf
        if self._distinct is not None:
            x_ids, y_ids = self._distinct
            S.masked_fill_(x_ids[rows, None] == y_ids, -torch.inf)
        return S

    def lse(self, group: Any, select: ByChunk | None = None) -> LogSumExp:
        """Row and column log-sum-exps of S, or of what `select` makes of it; columns' over all rows of the group."""
        parts, column, moderate = [], None, True
        for rows, S in self:
            row_part, column_part, moderate_part = _lse(S if select is None else select(rows, S))
            parts.append(row_part)
            column = column_part if column is None else torch.logaddexp(column, column_part)
            moderate = moderate and moderate_part
        assert column is not None  # no rows are one chunk of none
        return LogSumExp(parts[0] if len(parts) == 1 else torch.cat(parts), lse_over(group, column), moderate)

    def products(
        self,
        G: ByChunk,
        y: Float[Tensor, "n d"] | None,
        tx: Float[Tensor, "m d"] | None,
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """(G y, G^T tx) for G given by chunks; without an operand, None for its product.

        With y = Y and tx = t X they are dL/dX / t and dL/dY. The first has not met t, which may be 0, because
        dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>.
        """
        Gy, Gx = None if y is None else torch.empty_like(self.x), None
        for rows, S in self:
            chunk = G(rows, S)
            if y is not None and Gy is not None:
                torch.mm(chunk, y, out=Gy[rows])
            if tx is not None:
                Gx = chunk.T @ tx[rows] if Gx is None else Gx.addmm_(chunk.T, tx[rows])
        return Gy, Gx


@dataclass(frozen=True)
class LogSumExp:
    """The log-sum-exp of every row and column, -inf where everything is excluded."""

    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]
    moderate: bool
    """whether exp(S) can be formed as it is"""

    def gradient(
        self, rows: slice, S: Float[Tensor, "rows n"], a: Float[Tensor, " m"], b: Float[Tensor, " n"]
    ) -> Float[Tensor, "rows n"]:
        """G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j), in the memory of S.

        The gradient of sum_i a_i row_i + sum_j b_j column_j; 0 in a row or column in which everything is excluded.
        """
        row, column, a = self.row[rows], self.column, a[rows]
        if self.moderate:
            return S.exp_().mul_((a / row.exp())[:, None] + b / column.exp())
        # -inf - -inf would be NaN; -inf - inf is as good as no logit at all
        row, column = (v.masked_fill(v.isneginf(), torch.inf) for v in (row, column))
        return (S - column).exp_().mul_(b).add_(S.sub_(row[:, None]).exp_().mul_(a[:, None]))


def _lse(S: Float[Tensor, "m n"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"], bool]:
    """Row and column log-sum-exp of one chunk, and whether one exponential of S without a reference served for both.

    It does when all of them are within (-40, 40): then no exponential overflows, and those that underflow are below
    e^-47 of their row's and their column's sum. -inf, inf and NaN are not.
    """
    E = S.exp()
    row, column = E.sum(1).log_(), E.sum(0).log_()
    if S.numel() > 0:
        least, most = torch.cat([row, column]).aminmax()
        if float(least) > -40 and float(most) < 40:
            return row, column, True
    return S.logsumexp(1), S.logsumexp(0), False
