"""The logits S = t X Y^T + b by chunks of rows: the one place where M x N numbers exist, a bounded number at a time.

Everything the losses need of S is a row or column log-sum-exp, or a product with G = dL/dS. Both passes ask for S chunk
by chunk and forget it, so that memory is O((M + N) D + chunk N); what a second pass needs is computed again.

Traps
- Only a loss's last pass may overwrite the chunks: a single chunk is computed once and kept.
- t is folded into X in the accumulation dtype (float32 or float64), never in the inputs' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CELLS = 2**21
"""logits in a chunk: 8 MiB in float32, what stays in a CPU's last-level cache"""
MIN_ROWS = 256
"""fewer rows than this make the matrix products slow, however many columns there are"""

Select = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> S[rows] with -inf in the pairs to leave out, not in place"""


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
        self._chunk = max(CELLS // max(len(y), 1), MIN_ROWS)

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "rows n"]]]:
        if len(self.x) <= self._chunk:
            yield slice(0, len(self.x)), self._single
            return
        for start in range(0, len(self.x), self._chunk):
            rows = slice(start, min(start + self._chunk, len(self.x)))
            yield rows, self._compute(rows)

    @cached_property
    def _single(self) -> Float[Tensor, "m n"]:
        return self._compute(slice(0, len(self.x)))

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

    def lse(self, select: Select | None = None) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
        """Row and column log-sum-exp, of all of S or of what `select` leaves; -inf where nothing is left."""
        row, column = self.tx.new_empty(len(self.tx)), self.y.new_full((len(self.y),), -torch.inf)
        for rows, S in self:
            row[rows], part = _lse(S if select is None else select(rows, S))
            column = torch.logaddexp(column, part)
        return row, column

    def products(
        self, gradient: Callable[[slice, Tensor], Tensor], left: bool = True, right: bool = True
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """(G Y, t G^T X) with G = gradient(rows, S[rows]): dL/dX is t times the first, dL/dY is the second.

        dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>, from the first before it meets t (which may be 0).
        """
        GY = torch.empty_like(self.x) if left else None
        GX = torch.zeros_like(self.y) if right else None
        for rows, S in self:
            G = gradient(rows, S)
            if GY is not None:
                torch.mm(G, self.y, out=GY[rows])
            if GX is not None:
                GX.addmm_(G.T, self.tx[rows])
        return GY, GX


def _lse(S: Float[Tensor, "m n"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Row and column log-sum-exp of one chunk, from one exponential where float32 allows."""
    E = S.exp()
    row, column = E.sum(1).log_(), E.sum(0).log_()
    return (row, column) if _moderate(row, column) else (S.logsumexp(1), S.logsumexp(0))


def _moderate(row: Tensor, column: Tensor) -> bool:
    """Whether exp(S) needs no reference: with every log-sum-exp inside (-40, 40) no row's or column's terms overflow,
    and those that underflow are below e^-47 of their sum. False for -inf, inf and NaN."""
    return bool(torch.cat([row, column]).abs_().amax() < 40)


def softmax_gradient(
    S: Float[Tensor, "m n"],
    row: Float[Tensor, " m"],
    column: Float[Tensor, " n"],
    a: Float[Tensor, " m"],
    b: Float[Tensor, " n"] | None,
) -> Float[Tensor, "m n"]:
    """G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j), in the memory of S.

    The gradient of sum_i a_i row_i + sum_j b_j column_j. Without b, of the first sum. A row or column in which everything
    is excluded (log-sum-exp -inf) has gradient 0.
    """
    if b is not None and _moderate(row, column):
        factor = (a * (-row).exp())[:, None] + b * (-column).exp()
        return S.exp_().mul_(factor)
    G = 0.0 if b is None else (S - _filled(column)).exp_().mul_(b)
    return S.sub_(_filled(row)[:, None]).exp_().mul_(a[:, None]).add_(G)


def _filled(lse: Tensor) -> Tensor:
    """-inf becomes +inf, so that exp(-inf - lse) is 0 and not NaN."""
    return lse.masked_fill(lse.isneginf(), torch.inf)
