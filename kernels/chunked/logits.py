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

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.lse import LogSumExp, reduce_chunk
from kernels.distributed import lse_over
from kernels.linear import append_log_weights

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup

    from kernels.chunked.false_negatives import FalseNegatives

CELLS = 2**23
"""logits in a chunk: 32 MiB in float32"""
MIN_ROWS = 512
"""fewer rows than this make the matrix products slow, however many columns there are"""
PAD, ALIASING = 48, 1024
"""Rows of a multiple of ALIASING numbers get PAD numbers between them: 4 KiB apart, all their beginnings would share
a few lines of each cache, and products with them take up to twice the time."""
KEPT_CELLS = 2**24
"""so many logits are not computed again: 64 MiB in float32, and all of them in batches up to 4096"""
BELOW = 55.0
"""With unit rows no logit exceeds |t|. Up to this, exp(S) and all sums of it stay within float32, which ends at e^88;
above, subtracting a reference brings the largest back to e^55."""

ByChunk = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> another matrix of that shape"""
ListPairs = Callable[[slice], tuple[Tensor, Tensor]]
"""rows -> pairs (i, j), where i counts from the first of the rows"""


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
        log_weights: tuple[Float[Tensor, " m"], Float[Tensor, " n"]] | None = None,
        false_negatives: FalseNegatives | None = None,
        hardness: float = 0.0,
        list_pairs: ListPairs | None = None,
    ):
        # t meets the M x D numbers of X once, in the place of the M x N numbers of S in every pass
        self.x, self.y, self.t, self.tx = x, y, t, x * t
        # Log-weights are two dimensions more of a product, in the place of two passes over S
        self.left, self.right = append_log_weights(self.tx, y, log_weights)
        self._log_weights, self._false_negatives = log_weights, false_negatives
        self._hardness, self._list_pairs = hardness, list_pairs
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
        if self._hardness and self._list_pairs is not None:
            # The cosines come first, of which positives have t times and all others t + hardness times theirs
            pairs = self._list_pairs(rows)
            own = torch.mm(self.x[rows], self.y.T, out=S)[pairs] * self.t
            S.mul_(self.t + self._hardness)[pairs] = own
            if self._log_weights is not None:
                S.add_(self._log_weights[0][rows, None]).add_(self._log_weights[1])
        else:
            torch.mm(self.left[rows], self.right.T, out=S)
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
        without: ListPairs | None = None,
        keep: bool = False,
    ) -> LogSumExp:
        """Computes row and column log-sum-exps of S, the columns' over all rows of the group.

        `read` is shown each chunk, which saves the losses a pass of their own over S; the pairs that `without` lists
        are left out; `keep` promises another pass.
        """
        peak = abs(float(self.t)) + self._hardness
        if self._log_weights is not None and self.x.numel() > 0:
            peak += sum(float(v.max()) for v in self._log_weights)
        reference = max(peak - BELOW, 0.0)
        row_lse, column = [], None
        for rows, S in self._split_chunks(keep):
            if read is not None:
                read(rows, S)
            dropped = self.find_dropped(rows, S)
            if without is None:
                of_rows, of_columns = reduce_chunk(S, reference, *dropped)
            else:
                # S may be kept for the next pass, so what is hidden from the sums is put back
                pairs = without(rows)
                hidden = S[pairs]
                S[pairs] = -torch.inf
                of_rows, of_columns = reduce_chunk(S, reference, *dropped)
                S[pairs] = hidden
            # A row is whole in its chunk; a column is merged over the chunks here, and over the ranks at the end
            row_lse.append(of_rows)
            column = of_columns if column is None else torch.logaddexp(column, of_columns)
        assert column is not None  # no rows are one chunk of none
        row = row_lse[0] if len(row_lse) == 1 else torch.cat(row_lse)
        return LogSumExp(row, lse_over(group, column), self.find_dropped)

    def find_dropped(self, rows: slice, S: Float[Tensor, "rows n"]) -> tuple[Tensor, ...]:
        """Returns which pairs leave their rows' denominators and which their columns', or nothing where none may."""
        return () if self._false_negatives is None else self._false_negatives.find(rows, S)

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
