"""The logits S = t X Y^T + b by chunks of rows: the one place where M x N numbers exist, a bounded number at a time.

All that a loss needs of S is row and column log-sum-exps and the products of G = dL/dS with X and Y. Both passes ask
for S chunk by chunk and forget it, so memory is O((M + N) D + chunk N), and the second pass computes S again.

What is fast on a CPU: matrix products of many rows (hence chunks) whose beginnings do not fall on the same cache lines
(hence PAD), elementwise passes over what a cache holds (hence blocks of a chunk), and one exponential of each logit,
exp(S - reference), for its row and its column alike.

Traps
- Chunks share their memory: one is gone when the next is asked for. Only a loss's last pass may overwrite them, as the
  first of them are kept from pass to pass.
- t is folded into X in the accumulation dtype (float32 or float64), never in the inputs' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.distributed import lse_over

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup

CELLS = 2**23
"""logits in a chunk: 32 MiB in float32"""
MIN_ROWS = 512
"""fewer rows than this make the matrix products slow, however many columns there are"""
BLOCK_CELLS = 2**19
"""logits that elementwise passes take at a time: 2 MiB in float32, which a core's own cache holds"""
PAD, ALIASING = 48, 1024
"""Rows of a multiple of ALIASING numbers get PAD numbers between them: 4 KiB apart, all their beginnings would share
a few lines of each cache, and products with them take up to twice the time."""
KEPT_CELLS = 2**24
"""so many logits are not computed again: 64 MiB in float32, and all of them in batches up to 4096"""
LOG2_E = 1 / math.log(2.0)
SMALLEST, LARGEST = -50.0, 65.0
"""log-sum-exps, relative to the reference, that one exponential serves. Above, a / exp(lse) would leave float32; below,
terms of exp(lse) would: those lost are less than e^-37 of it."""

BELOW = 55.0
"""With unit rows no logit exceeds |t|. Up to this, exp(S) and all sums of it stay within float32, which ends at e^88;
above, subtracting a reference brings the largest back to e^55."""

ByChunk = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> another matrix of that shape"""


class Logits:
    """Computes S for x [M, D] and y [N, D] in the accumulation dtype. Iterating gives (rows, S[rows]).

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
        # t meets the M x D numbers of X once, in the place of the M x N numbers of S in every pass
        self.x, self.y, self.t, self.tx = x, y, t, x * t
        self._bias, self._self_column, self._distinct = bias, self_column, distinct
        self._kept: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[tuple[slice, Float[Tensor, "rows n"]]]:
        return self._split_chunks(keep=False)

    def _split_chunks(self, keep: bool) -> Iterator[tuple[slice, Float[Tensor, "rows n"]]]:
        """Yields S by chunks; with `keep`, the first KEPT_CELLS logits stay for the next pass."""
        num_rows, num_columns = self.x.shape[0], self.y.shape[0]
        step = max(CELLS // max(num_columns, 1), MIN_ROWS)
        shared = None
        for start in range(0, max(num_rows, 1), step):
            rows = slice(start, min(start + step, num_rows))
            if (S := self._kept.get(start)) is None:
                if keep and rows.stop * num_columns <= KEPT_CELLS:
                    S = self._kept[start] = self._compute(rows, make_room(self.x, rows.stop - start, num_columns))
                else:
                    # One piece of memory for all chunks that are not kept: fresh pages would cost a pass over them
                    shared = make_room(self.x, rows.stop - start, num_columns) if shared is None else shared
                    S = self._compute(rows, shared[: rows.stop - start])
            yield rows, S

    def _compute(self, rows: slice, S: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
        """Writes these rows of the logits into S."""
        torch.mm(self.tx[rows], self.y.T, out=S)
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

    def reduce_lse(
        self,
        group: ProcessGroup | None,
        *,
        read: Callable[[slice, Tensor], None] | None = None,
        without: Callable[[slice], tuple[Tensor, Tensor]] | None = None,
        keep: bool = False,
    ) -> LogSumExp:
        """Computes row and column log-sum-exps of S, the columns' over all rows of the group.

        `read` is shown each chunk, which saves the losses a pass of their own over S; the pairs that `without` lists
        are left out; `keep` promises another pass.
        """
        reference = max(abs(float(self.t)) - BELOW, 0.0)
        row_lse, column = [], None
        for rows, S in self._split_chunks(keep):
            if read is not None:
                read(rows, S)
            if without is None:
                of_rows, of_columns = _reduce_chunk(S, reference)
            else:
                # S may be kept for the next pass, so what is hidden from the sums is put back
                pairs = without(rows)
                hidden = S[pairs]
                S[pairs] = -torch.inf
                of_rows, of_columns = _reduce_chunk(S, reference)
                S[pairs] = hidden
            # A row is whole in its chunk; a column is merged over the chunks here, and over the ranks at the end
            row_lse.append(of_rows)
            column = of_columns if column is None else torch.logaddexp(column, of_columns)
        assert column is not None  # no rows are one chunk of none
        return LogSumExp(row_lse[0] if len(row_lse) == 1 else torch.cat(row_lse), lse_over(group, column))

    def multiply_gradient(
        self,
        G: ByChunk,
        y: Float[Tensor, "n d"] | None,
        tx: Float[Tensor, "m d"] | None,
    ) -> tuple[Float[Tensor, "m d"] | None, Float[Tensor, "n d"] | None]:
        """Computes (G y, G^T tx) for G given by chunks, and None in the place of a product without an operand.

        With y = Y and tx = t X they are dL/dX / t and dL/dY. The first has not met t, which may be 0, because
        dL/dt = sum_ij G_ij <x_i, y_j> = <G Y, X>.
        """
        Gy, Gx = None if y is None else torch.empty_like(self.x), None
        for rows, S in self:
            # G takes the place of S, and both products are formed while the chunk is at hand: it is never seen again
            chunk = G(rows, S)
            if y is not None and Gy is not None:
                torch.mm(chunk, y, out=Gy[rows])
            if tx is not None:
                Gx = chunk.T @ tx[rows] if Gx is None else Gx.addmm_(chunk.T, tx[rows])
        return Gy, Gx


def make_room(x: Tensor, num_rows: int, num_columns: int) -> Float[Tensor, "rows n"]:
    """Makes memory for logits of x's dtype and device, its rows padded where that is faster."""
    if num_columns % ALIASING:
        return x.new_empty(num_rows, num_columns)
    return x.new_empty(num_rows, num_columns + PAD)[:, :num_columns]


@dataclass(frozen=True)
class LogSumExp:
    """Holds the log-sum-exp of every row and column, -inf where everything is excluded."""

    row: Float[Tensor, " m"]
    column: Float[Tensor, " n"]

    @cached_property
    def reference(self) -> float | None:
        """Finds the number c for which float32 holds exp(S - c) and every exp(lse - c), in rows and columns alike.

        c is 0 wherever that will do, which saves the subtraction. It is None where the log-sum-exps lie too far apart
        for any c: rows and columns then need an exponential each.
        """
        if self.row.numel() == 0 or self.column.numel() == 0:
            return 0.0
        least, most = map(float, torch.cat([self.row, self.column]).aminmax())
        return min(max(most - LARGEST, 0.0), least - SMALLEST) if most - LARGEST < least - SMALLEST else None

    def write_gradient(
        self, rows: slice, S: Float[Tensor, "rows n"], a: Float[Tensor, " m"], b: Float[Tensor, " n"]
    ) -> Float[Tensor, "rows n"]:
        """Writes G_ij = a_i exp(S_ij - row_i) + b_j exp(S_ij - column_j) into the memory of S, and returns it.

        It is the gradient of sum_i a_i row_i + sum_j b_j column_j, and 0 in a row or column in which everything is
        excluded.
        """
        row, column, reference, a = self.row[rows], self.column, self.reference, a[rows]
        if reference is not None:
            # exp(S - c) (a_i / exp(row_i - c) + b_j / exp(column_j - c)): one exponential a logit, and the exponentials
            # of the log-sum-exps are M + N only
            if reference != 0:
                S, row, column = S.sub_(reference), row - reference, column - reference
            a, b = a / row.exp(), b / column.exp()
            for block, a_block in split_blocks(S, a):
                exp_(block).mul_(a_block[:, None] + b)
            return S
        # -inf - -inf would be NaN; -inf - inf is as good as no logit at all
        row, column = (v.masked_fill(v.isneginf(), torch.inf) for v in (row, column))
        for block, row_block, a_block in split_blocks(S, row, a):
            from_column = exp_(block - column).mul_(b)
            exp_(block.sub_(row_block[:, None])).mul_(a_block[:, None]).add_(from_column)
        return S


def exp_(S: Tensor) -> Tensor:
    """Writes exp(S) into S. torch takes its exp from MKL, which on AMD is three times as slow as its own exp2."""
    return S.mul_(LOG2_E).exp2_()


def softplus(S: Tensor) -> Tensor:
    """Computes log(1 + exp S) = max(S, 0) + 2 artanh(u / (2 + u)) with u = exp -|S|.

    That is as exact as S, whose own rounding weighs as much, in a quarter of the time of torch's, which takes log1p.
    """
    u = exp_(S.abs().neg_())
    return S.clamp_min(0.0).add_(u.div_(u + 2).atanh_(), alpha=2)


def split_blocks(S: Float[Tensor, "m n"], *per_row: Float[Tensor, " m"]) -> Iterator[tuple[Tensor, ...]]:
    """Yields a few rows at a time of S and of vectors with an entry for each of its rows, as views of their memory.

    An elementwise loss is several passes over a block. They find it in the cache, where passes over a whole chunk would
    each fetch it from memory again.
    """
    step = max(BLOCK_CELLS // max(S.shape[1], 1), 1)
    if S.shape[0] <= step:
        return iter([(S, *per_row)])
    return zip(*(v.split(step) for v in (S, *per_row)), strict=True)


def _reduce_chunk(S: Float[Tensor, "m n"], reference: float) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    """Computes row and column log-sum-exps of one chunk, by one exponential for both where it serves."""
    row_sums, column = [], None
    for (block,) in split_blocks(S):
        E = torch.mul(block, LOG2_E).exp2_() if reference == 0 else exp_(block - reference)
        row_sums.append(E.sum(1))
        column = E.sum(0) if column is None else column.add_(E.sum(0))
    assert column is not None  # no rows are one block of none
    row = (row_sums[0] if len(row_sums) == 1 else torch.cat(row_sums)).log_()
    column.log_()
    if S.numel() > 0:
        # A sum that is too small has lost terms, one that is inf has lost everything: whether that happened is seen in
        # the result, so that the usual case pays for no maxima
        least, most = torch.cat([row, column]).aminmax()
        if float(least) > SMALLEST and float(most) < torch.inf:  # -inf and NaN are not
            return (row, column) if reference == 0 else (row.add_(reference), column.add_(reference))
    row = torch.cat([block.logsumexp(1) for (block,) in split_blocks(S)])
    return row, reduce(torch.logaddexp, (block.logsumexp(0) for (block,) in split_blocks(S)))
