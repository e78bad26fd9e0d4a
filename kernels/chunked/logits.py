"""The logits S = t X Y^T + b by chunks of rows: the one place where M x N numbers exist, a bounded number at a time.

All that a loss needs of S is row and column log-sum-exps and the products of G = dL/dS with X and Y. Both passes ask
for S chunk by chunk and forget it, so memory is O((M + N) D + chunk N), and the second pass computes again what was not
kept.

What is fast on a CPU: chunks side by side, a thread each (kernels.chunked.threads), matrix products of many rows whose
beginnings do not fall on the same cache lines (hence PAD), elementwise passes over what a cache holds (hence blocks of
a chunk), and one exponential of each logit, exp(S - reference), for its row and its column and both passes alike.

Traps
- Several chunks are at work at a time. What adds up over chunks does so `in_turn`, or its bits depend on the threads.
- Chunks share memory: one is gone when its work returns. Only a loss's last pass may overwrite them, as the first of
  them are kept from pass to pass.
- t is folded into X in the accumulation dtype (float32 or float64), never in the inputs' own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kernels.chunked.lse import LogSumExp, reduce_exactly, sum_exponentials
from kernels.chunked.threads import Turns, run_each
from kernels.distributed import lse_over
from kernels.linear import append_log_weights

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch.distributed import ProcessGroup

    from kernels.chunked.false_negatives import FalseNegatives

CELLS = 2**19
"""logits in a chunk, 2 MiB in float32, unless there are more columns than MIN_ROWS such rows have"""
MIN_ROWS = 256
"""fewer rows than this make the matrix products slow, however many columns there are"""
BLOCKS, MIN_COLUMNS = 8, 512
"""Products that are summed over chunks are so many, or as many as have so many columns: while one chunk is added to one
of them, others are added to the others."""
PAD, ALIASING = 48, 1024
"""Rows of a multiple of ALIASING numbers get PAD numbers between them: 4 KiB apart, all their beginnings would share
a few lines of each cache, and products with them take up to twice the time."""
WORTH_THREADS = 2**21
"""so many logits take as long as starting threads does ten times"""
KEPT_CELLS = 2**26
"""so many logits are not computed again: 256 MiB in float32, and all of them in batches up to 8192"""
BELOW = 55.0
"""With unit rows no logit exceeds |t|. Up to this, exp(S) and all sums of it stay within float32, which ends at e^88;
above, subtracting a reference brings the largest back to e^55."""

ByChunk = Callable[[slice, Tensor], Tensor]
"""(rows, S[rows]) -> another matrix of that shape"""
ListPairs = Callable[[slice], tuple[Tensor, Tensor]]
"""rows -> pairs (i, j), where i counts from the first of the rows"""


class Logits:
    """Computes S for x [M, D] and y [N, D] in the accumulation dtype, by chunks of rows.

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
        self._rooms: list[Tensor] = []

    def each_slice(self, work: Callable[[slice], object]) -> None:
        """Calls `work` with the rows of each chunk, several at once where there are threads."""
        num_rows, step, self._turns = self.x.shape[0], count_rows(self.y.shape[0]), Turns()
        slices = [slice(start, min(start + step, num_rows)) for start in range(0, max(num_rows, 1), step)]
        run_each(slices, work, self._turns)

    def each_chunk(self, work: Callable[[slice, Tensor], object], *, keep: bool = False) -> None:
        """Calls `work` with (rows, S[rows]) for each chunk, several at once where there are threads.

        With `keep`, the first KEPT_CELLS logits stay for the next pass.
        """
        num_columns = self.y.shape[0]
        num_rows = min(count_rows(num_columns), self.x.shape[0])

        def form(rows: slice) -> None:
            if (S := self._kept.get(rows.start)) is not None:
                work(rows, S)
            elif keep and rows.stop * num_columns <= KEPT_CELLS:
                S = self._kept[rows.start] = make_room(self.x, rows.stop - rows.start, num_columns)
                work(rows, self._compute(rows, S))
            else:
                # Chunks that are not kept take turns in as much memory as there are threads: fresh pages would cost a
                # pass over them
                room = self._rooms.pop() if self._rooms else make_room(self.x, num_rows, num_columns)
                work(rows, self._compute(rows, room[: rows.stop - rows.start]))
                self._rooms.append(room)

        self.each_slice(form)

    def in_turn(self, rows: slice, gate: str | int = "") -> AbstractContextManager[None]:
        """Has a chunk wait for all chunks before it: what is added up in here is added up in the order of the rows."""
        return self._turns.take(rows, gate)

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
        exponential: bool = False,
    ) -> LogSumExp:
        """Computes row and column log-sum-exps of S, the columns' over all rows of the group.

        `read` is shown each chunk, which saves the losses a pass of their own over S; the pairs that `without` lists
        are left out; `keep` promises another pass, and `exponential` that it only asks for
        LogSumExp.write_gradient: chunks that are kept then hold exp(S - reference).
        """
        peak = abs(float(self.t)) + self._hardness
        if self._log_weights is not None and self.x.numel() > 0:
            peak += sum(float(v.max()) for v in self._log_weights)
        reference = max(peak - BELOW, 0.0)
        row, column = self.x.new_empty(self.x.shape[0]), self.y.new_full((self.y.shape[0],), -torch.inf)
        exponentials: set[int] = set()

        def reduce(rows: slice, S: Tensor) -> None:
            if read is not None:
                read(rows, S)
            dropped, kept, hidden = self.find_dropped(rows, S), rows.start in self._kept, None
            if without is not None:
                hidden = (pairs := without(rows)), S[pairs]
                S[pairs] = -torch.inf
            overwrite = hidden is None and (not kept or (exponential and not dropped))
            if (found := sum_exponentials(S, reference, *dropped, overwrite=overwrite)) is None:
                found = reduce_exactly(self._compute(rows, S) if overwrite else S, *dropped)
            elif overwrite and kept:
                exponentials.add(rows.start)
            if hidden is not None:  # S may be kept for the next pass
                S[hidden[0]] = hidden[1]
            # A row is whole in its chunk; a column is merged over the chunks here, and over the ranks at the end
            row[rows] = found[0]
            with self.in_turn(rows):
                torch.logaddexp(column, found[1], out=column)

        self.each_chunk(reduce, keep=keep)
        found = LogSumExp(row, lse_over(group, column), self.find_dropped, exponentials, reference)
        if exponentials and found.reference != reference:  # rare: log-sum-exps that are far apart
            for start in exponentials:
                del self._kept[start]
            exponentials.clear()
        return found

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
        Gy = None if y is None else torch.empty_like(self.x)
        Gx = None if tx is None else torch.empty_like(self.y)
        width = max(-(-self.y.shape[0] // BLOCKS), MIN_COLUMNS)

        def multiply(rows: slice, S: Tensor) -> None:
            # G takes the place of S, and both products are formed while the chunk is at hand: it is never seen again
            chunk = G(rows, S)
            if y is not None and Gy is not None:
                torch.mm(chunk, y, out=Gy[rows])
            if tx is None or Gx is None:
                return
            for columns in range(0, self.y.shape[0], width):
                part, sums = chunk[:, columns : columns + width].T, Gx[columns : columns + width]
                with self.in_turn(rows, columns):
                    if rows.start == 0:
                        torch.mm(part, tx[rows], out=sums)
                    else:
                        sums.addmm_(part, tx[rows])

        self.each_chunk(multiply)
        return Gy, Gx


def count_rows(num_columns: int) -> int:
    """Returns the rows of a chunk: the same for any number of threads, as then the results are."""
    return max(CELLS // max(num_columns, 1), MIN_ROWS)


def count_chunks(x: Float[Tensor, "m d"], y: Float[Tensor, "n d"]) -> int:
    """Returns how many chunks are worth a thread each: one where there is little to compute, and on other devices."""
    worth = x.device.type == "cpu" and len(x) * len(y) >= WORTH_THREADS
    return -(-len(x) // count_rows(len(y))) if worth else 1


def make_room(x: Tensor, num_rows: int, num_columns: int) -> Float[Tensor, "rows n"]:
    """Makes memory for logits of x's dtype and device, its rows padded where that is faster."""
    if num_columns % ALIASING:
        return x.new_empty(num_rows, num_columns)
    return x.new_empty(num_rows, num_columns + PAD)[:, :num_columns]
